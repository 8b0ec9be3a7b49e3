"""gendae.estimators beside scikit-learn's: missing cells, labels, densities and codes.

    python -m benchmarks.estimators impute --seeds 0 1 2
    python -m benchmarks.estimators impute --gaps-in-fit --seeds 0 1 2
    python -m benchmarks.estimators impute --data mnist --seeds 0
    python -m benchmarks.estimators classify density --seeds 0 1 2

Fillings: root mean square error of hidden pixels in [0, 1] of which 20, 50 and 80 % are missing,
each at random. What has choices is chosen on validation rows with half of their pixels hidden.
Seconds are of the processor: a fit, with the choice, and filling 80 %. IterativeImputer learns of
missing cells only from rows that lack some, so that it is fitted on the rows to fill, too.
"""

import argparse
import time
import warnings
from dataclasses import replace

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes the next one there
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.neural_network import BernoulliRBM, MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gendae
from gendae.estimators import DAEImputer, ParzenDensity, StackedDAE, TargetPropClassifier
from gendae.metrics.parzen import parzen_score
from gendae.rules.differences import DifferenceLoop
from gendae.rules.feedback import Exact

SHARES = (0.2, 0.5, 0.8)
#: Rows to choose on, and to fill or to test with.
VALIDATION = 200
TEST = 500
#: Rows of MNIST to fit.
FIT = 2000
SAMPLES = 2000


# -- data ---------------------------------------------------------------------------------------


def digits(seed):
    """All 1,797 digits: to fit, to choose on, and to test with, each (x, y)."""
    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(seed).permutation(len(x))
    return parts(x[order] / 16.0, y[order], len(x) - VALIDATION - TEST)


def mnist(seed):
    """2,000 training images to fit, 200 to choose on, and 500 test images."""
    data = gendae.MNIST(download=False)
    train = data.split("train")
    order = np.random.RandomState(seed).permutation(len(train.x))[: FIT + VALIDATION]
    test = data.split("test")

    x = torch.cat([train.x[order], test.x[:TEST]]).double().numpy()
    y = torch.cat([train.y[order], test.y[:TEST]]).numpy()
    return parts(x, y, FIT)


def parts(x, y, fit):
    ends = [fit, fit + VALIDATION]
    return list(zip(np.split(x, ends), np.split(y, ends), strict=True))


DATA = {"digits": digits, "mnist": mnist}


def with_gaps(x, share, seed):
    """A copy in which each cell is missing with this chance."""
    return np.where(np.random.RandomState(seed).rand(*x.shape) < share, np.nan, x)


# -- imputers -----------------------------------------------------------------------------------


class Frozen(DAEImputer):
    """The same with encoders as they are at random: what learning them is worth."""

    def _rates(self):
        return replace(super()._rates(), f=0.0)


class Backprop(DAEImputer):
    """The same loss and network by back-propagation: the loop with exact feedback."""

    def _loop(self, rows):
        return DifferenceLoop(Exact(), prior_weight=0.0, start=0)


class Model(BaseEstimator):
    """Base class of the models that fill by what they know of the law of complete rows."""

    def transform(self, x):
        return np.where(np.isnan(x), np.clip(self.filled(x), 0.0, 1.0), x)


class Mixture(Model):
    """The mean of what is missing given the rest, under a mixture of Gaussians.

    With a PCA as the model that is probabilistic PCA: one Gaussian, of which PCA gives the
    covariance.
    """

    def __init__(self, model):
        self.model = model

    def fit(self, x):
        model = clone(self.model).fit(x)
        if isinstance(model, PCA):
            self.laws = [(1.0, model.mean_, model.get_covariance())]
            return self

        self.laws = list(zip(model.weights_, model.means_, model.covariances_, strict=True))
        return self

    def filled(self, x):
        return np.stack([self.row(row) for row in x])

    def row(self, row):
        seen = ~np.isnan(row)
        scores = []
        means = []
        for weight, mean, covariance in self.laws:
            log_p, mean_now = given(row, seen, mean, covariance)
            scores.append(np.log(weight) + log_p)
            means.append(mean_now)

        weights = np.exp(np.array(scores) - max(scores))
        return weights @ np.array(means) / weights.sum()


def given(row, seen, mean, covariance):
    """log p of what is seen, up to a constant, and the mean of all given that, under a Gaussian.

    A covariance of one axis holds the variances of independent cells.
    """
    lack = row[seen] - mean[seen]
    if covariance.ndim == 1:
        variance = covariance[seen]
        return -(np.square(lack) / variance + np.log(variance)).sum() / 2, mean

    among = covariance[np.ix_(seen, seen)]
    solved = np.linalg.solve(among, lack)
    _, log_volume = np.linalg.slogdet(among)

    return -(lack @ solved + log_volume) / 2, mean + covariance[:, seen] @ solved


class Boltzmann(Model):
    """Clamped mean-field rounds of a restricted Boltzmann machine."""

    def __init__(self, model, rounds=20):
        self.model = model
        self.rounds = rounds

    def fit(self, x):
        self.fitted = clone(self.model).fit(x)
        self.mean = x.mean(0)
        return self

    def filled(self, x):
        missing = np.isnan(x)
        rows = np.where(missing, self.mean, x)
        for _ in range(self.rounds):
            rows = np.where(missing, around(self.fitted, rows), rows)

        return rows


def around(machine, x):
    """Visible probabilities given hidden probabilities given x."""
    logits = machine.transform(x) @ machine.components_ + machine.intercept_visible_
    return 1.0 / (1.0 + np.exp(-logits))


class Iterative(Model):
    """IterativeImputer, fitted on complete rows and those to fill together."""

    def fit(self, x):
        self.rows = x
        return self

    def filled(self, x):
        imputer = IterativeImputer(n_nearest_features=30, max_iter=3, random_state=0)
        return imputer.fit_transform(np.concatenate([self.rows, x]))[len(self.rows) :]


def imputers(seed, features):
    """Candidates of each method, of which validation rows choose one."""
    full = [GaussianMixture(k, reg_covar=1e-2, random_state=seed) for k in (3, 10)]
    diagonal = [
        GaussianMixture(k, covariance_type="diag", reg_covar=1e-2, random_state=seed)
        for k in (30, 100)
    ]
    mixtures = [*full, *diagonal] if features < 100 else diagonal
    machines = [
        BernoulliRBM(200, learning_rate=rate, n_iter=50, random_state=seed) for rate in (0.01, 0.1)
    ]

    return {
        "mean": [SimpleImputer(keep_empty_features=True)],
        "KNNImputer": [KNNImputer(n_neighbors=k) for k in (3, 5, 10, 20)],
        "IterativeImputer": [Iterative()],
        "PCA (Gaussian)": [Mixture(PCA(k)) for k in (10, 20, 40)],
        "GaussianMixture": [Mixture(mixture) for mixture in mixtures],
        "BernoulliRBM": [Boltzmann(machine) for machine in machines],
        "DAEImputer": [DAEImputer(random_state=seed)],
        "- by back-propagation": [Backprop(random_state=seed)],
        "- encoders frozen": [Frozen(random_state=seed)],
    }


#: Those that take rows with gaps in `fit`, without the controls of one.
TAKE_GAPS = (SimpleImputer, KNNImputer, Iterative, DAEImputer)


def error(imputer, gaps, x):
    missing = np.isnan(gaps)
    return float(np.sqrt(np.square(imputer.transform(gaps) - x)[missing].mean()))


def impute(data, seed, gaps_in_fit=False):
    """{method: {column: value}} of one seed."""
    (x, _), (valid, _), (test, _) = DATA[data](seed)
    shares = (0.5,) if gaps_in_fit else SHARES

    rows = {}
    for name, candidates in imputers(seed, x.shape[1]).items():
        if gaps_in_fit and type(candidates[0]) not in TAKE_GAPS:
            continue

        began = time.process_time()
        rows_to_fit = with_gaps(x, 0.5, seed + 100) if gaps_in_fit else x
        fitted = [candidate.fit(rows_to_fit) for candidate in candidates]
        if len(fitted) > 1:
            hidden = with_gaps(valid, 0.5, seed + 200)
            fitted.sort(key=lambda imputer: error(imputer, hidden, valid))
        fit = time.process_time() - began

        row = {}
        for share in shares:
            began = time.process_time()
            row[f"{share:.0%}"] = error(fitted[0], with_gaps(test, share, seed + 300), test)
            fill = time.process_time() - began
        rows[name] = {**row, "s to fit": fit, "s to fill": fill}
        print(f"  {data}, seed {seed}: {name} {rows[name]}", flush=True)

    return rows


# -- labels -------------------------------------------------------------------------------------


def classify(seed):
    """Share of wrong labels in percent, and seconds."""
    (x, y), (valid, names), (test, labels) = digits(seed)
    logistic = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        for c in (0.01, 0.1, 1.0)
    ]
    candidates = {
        "LogisticRegression": logistic,
        "MLPClassifier": [MLPClassifier((200, 200), random_state=seed)],
        "TargetPropClassifier": [
            TargetPropClassifier(corruption=c, random_state=seed) for c in (0.0, 0.3)
        ],
    }

    rows = {}
    for name, models in candidates.items():
        began = time.process_time()
        fitted = [model.fit(x, y) for model in models]
        seconds = (time.process_time() - began) / len(fitted)
        best = max(fitted, key=lambda model: model.score(valid, names))
        rows[name] = {"error, %": 100 * (1 - best.score(test, labels)), "s to fit": seconds}

    return rows


# -- densities, samples and codes -----------------------------------------------------------------


def density(seed):
    """Nats of test rows, Parzen nats of samples, and what 20 codes tell a linear classifier."""
    (x, y), (valid, _), (test, labels) = digits(seed)
    width = best_of([ParzenDensity(s) for s in np.geomspace(0.05, 0.5, 12)], x, valid)
    mixture = best_of(
        [
            GaussianMixture(k, reg_covar=c, random_state=seed)
            for k in (3, 10)
            for c in (1e-3, 1e-2)
        ],
        x,
        valid,
    )
    pca = PCA(20).fit(x)
    stacked = StackedDAE(random_state=seed).fit(x)
    machine = BernoulliRBM(20, learning_rate=0.1, n_iter=50, random_state=seed).fit(x)

    def score_of(samples):
        tensors = [torch.as_tensor(rows) for rows in (samples, test, valid)]
        return parzen_score(*tensors)["ll"]

    def told(codes):
        logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        return 100 * (1 - logistic.fit(codes(x), y).score(codes(test), labels))

    tree = KernelDensity(bandwidth=width.bandwidth).fit(x)
    gaussian = np.random.RandomState(seed).multivariate_normal(
        pca.mean_, pca.get_covariance(), SAMPLES
    )
    return {
        "ParzenDensity": {
            "nats": width.score(test) / len(test),
            "nats of samples": score_of(width.sample(SAMPLES, seed)),
        },
        "KernelDensity": {"nats": tree.score(test) / len(test)},
        "GaussianMixture": {
            "nats": mixture.score(test),
            "nats of samples": score_of(mixture.sample(SAMPLES)[0]),
        },
        "PCA, 20": {
            "nats": pca.score(test),
            "nats of samples": score_of(gaussian),
            "error by codes, %": told(pca.transform),
        },
        "BernoulliRBM, 20": {
            "nats of samples": score_of(gibbs(machine, x, seed)),
            "error by codes, %": told(machine.transform),
        },
        "StackedDAE": {
            "nats": stacked.score(test),
            "nats of samples": score_of(stacked.sample(SAMPLES)),
            "error by codes, %": told(stacked.transform),
        },
    }


def best_of(models, x, valid):
    return max((model.fit(x) for model in models), key=lambda model: model.score(valid))


def gibbs(machine, x, seed, rounds=200):
    """Means after so many rounds of a chain that begins at rows."""
    rows = x[np.random.RandomState(seed).randint(len(x), size=SAMPLES)]
    for _ in range(rounds):
        rows = machine.gibbs(rows)

    return around(machine, rows)


# -- tables ---------------------------------------------------------------------------------------


def table(runs):
    """Lines of Markdown: mean over seeds, and their standard deviation where there are several."""
    columns = list(dict.fromkeys(column for row in runs[0].values() for column in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in runs[0]:
        cells = [cell([run[name].get(column) for run in runs]) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    return lines


def cell(values):
    if values[0] is None:
        return ""

    digits = 4 if max(map(abs, values)) < 1.0 else 2
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{digits}f}"

    return text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=["impute", "classify", "density"])
    parser.add_argument("--data", choices=list(DATA), default="digits", help="of impute")
    parser.add_argument("--gaps-in-fit", action="store_true", help="half of the cells, of impute")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")

    for part in options.parts:
        if part == "impute":
            runs = [impute(options.data, s, options.gaps_in_fit) for s in options.seeds]
        else:
            runs = [{"classify": classify, "density": density}[part](s) for s in options.seeds]
        print("\n".join(table(runs)), flush=True)


if __name__ == "__main__":
    main()
