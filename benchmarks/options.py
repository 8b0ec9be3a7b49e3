"""Options of the library beside their controls, on the 8 x 8 digits: what does each bring?

    python -m benchmarks.options [names ..] [--seeds 0 1 2] [--json docs/results/options.json]

Without names all groups run; groups that do not stay in the file as they are. Every variant of a
group starts from the same seed, is trained for a few seconds and scored on test images:

    ll               Parzen LL of 1,000 samples, nats; its bandwidth is chosen on validation images
    read_out         accuracy of a logistic regression of the standardised top code, %
    error            of labels, %
    .. from ..       squared error per pixel of one part of the images, predicted from others
    unexplained      squared error of real outputs as a share of their variance

Levels and weights are defaults, those of the configurations in configs/, or round numbers; none
was chosen by these scores. The number of updates is that of a benchmark, not of a good model.
"""

import argparse
import json
import logging
import tempfile
import warnings
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from pytorch_lightning import seed_everything
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeCV

import gendae
from benchmarks.depth import trainer_of
from benchmarks.stability import measures
from gendae.commands.predict import error_rate
from gendae.metrics.parzen import parzen_score

SIZES = [64, 60, 20]
SAMPLES = 1000
EPOCHS = 60
JOINT_EPOCHS = 100
RATE = 3e-3
#: Updates between two fits of a prior that losses use: there are 12 in an epoch.
PRIOR_EVERY = 50
#: Penalties among which ridge regression chooses, by leaving one training image out.
PENALTIES = np.logspace(-3, 3, 13)

#: Name -> generator of (variant, scores) for a seed.
GROUPS = {}


def group(function):
    GROUPS[function.__name__.replace("_", "-")] = function
    return function


def rates(f=RATE, g=RATE):
    return gendae.Rates(f=f, g=g, hold=0.5)


def compared(variants, seed, epochs, data, scores):
    """(variant, scores) of rules that are made, and trained, from the same seed."""
    for name, make in variants.items():
        seed_everything(seed, verbose=False)
        rule = make()
        trainer_of(epochs, []).fit(rule, data)

        yield name, scores(rule.stack)


@torch.no_grad()
def of_samples(stack, seed, data, sampler=None):
    """Parzen LL of samples, the prior being fitted on the codes of the training images."""
    train, valid, test = (data.split(name) for name in ("train", "valid", "test"))
    stack.prior.fit(stack.encode(train.x)[-1])
    x = gendae.generate(stack, SAMPLES, sampler or gendae.AncestralSampler(), seed=seed)

    return {"ll": parzen_score(x, test.x, valid.x)["ll"]}


def of_stack(stack, seed, data):
    """LL of samples, and what the top code holds."""
    read_out = measures(stack, data.split("train"), data.split("test"))["read_out"]
    return of_samples(stack, seed, data) | {"read_out": read_out}


def generative(variants, seed, epochs=EPOCHS):
    data = gendae.Digits()
    return compared(variants, seed, epochs, data, partial(of_stack, seed=seed, data=data))


# -- priors in the cost --------------------------------------------------------------------------


def two_pairs(**options):
    return gendae.deep_autoencoder(
        SIZES,
        ["tanh", "linear"],
        observation="bernoulli",
        init="orthogonal",
        prior=gendae.ParzenPrior(),
        **options,
    )


def one_pair():
    """The network of configs/digits-kl.yaml."""
    return gendae.deep_autoencoder(
        [64, 8],
        ["linear"],
        observation="bernoulli",
        hidden_f=[200],
        hidden_g=[200],
        noise=0.5,
        prior=gendae.ParzenPrior(),
    )


def without_top_noise(stack):
    """The stack with no noise of the top's own, so that it can be tied to a bandwidth."""
    *below, top = stack.pairs
    top = gendae.Pair(top.f, top.g, observation=top.observation)

    return gendae.stack_of([*below, top], stack.prior)


def kl(make, prior, tied=False):
    stack = make()
    if tied:
        stack = without_top_noise(stack)

    return gendae.KLRule(
        stack, training_prior=prior, tie_noise=tied, rates=rates(), prior_every=PRIOR_EVERY
    )


@group
def parzen_cost(seed):
    """KLRule under N(0, I) or a Parzen window; all are sampled from a window of their own.

    The bonus of the bandwidth is half the width of the code.
    """
    networks = {"one pair": one_pair, "two pairs": partial(two_pairs, noise=0.3)}
    for network, make in networks.items():
        bonus = gendae.HeldOut(bonus=make().sizes[-1] / 2)
        wide = partial(gendae.ParzenPrior, held_out=bonus)
        variants = {
            "N(0, I)": partial(kl, make, gendae.GaussianPrior("identity", 1.0)),
            "Parzen": partial(kl, make, gendae.ParzenPrior()),
            "Parzen, bonus": partial(kl, make, wide()),
            "Parzen, tied noise": partial(kl, make, gendae.ParzenPrior(), tied=True),
            "Parzen, tied noise, bonus": partial(kl, make, wide(), tied=True),
        }
        for variant, scores in generative(variants, seed):
            yield f"{network}, {variant}", scores


# -- loops and noise -----------------------------------------------------------------------------


def by_targets(loop, corruption=None, f=RATE):
    return gendae.TargetPropRule(
        two_pairs(), loop, corruption, rates=rates(f), prior_every=PRIOR_EVERY
    )


@group
def model_terms(seed):
    """Algorithm 2 as printed, at its default pace, with what it can ask of the prior."""
    loop = gendae.ShortAndLongLoops
    model = gendae.LoopWeights(model=1.0)
    variants = {
        "model=0": partial(by_targets, loop()),
        "model=1": partial(by_targets, loop(model)),
        "top_target=prior": partial(by_targets, loop(top_target="prior")),
        "model=1, top_target=prior": partial(by_targets, loop(model, top_target="prior")),
        "encoders frozen": partial(by_targets, loop(), f=0.0),
    }
    return generative(variants, seed)


@group
def neighbour_noise(seed):
    """Pairs that learn by themselves, under noise of several kinds and levels."""
    noises = {
        "none": gendae.GaussianNoise(0.0),
        "NeighbourNoise(0.5)": gendae.NeighbourNoise(0.5),
        "NeighbourNoise(1)": gendae.NeighbourNoise(1.0),
        "GaussianNoise(0.1)": gendae.GaussianNoise(0.1),
        "GaussianNoise(0.3)": gendae.GaussianNoise(0.3),
        "RelativeNoise(0.25)": gendae.RelativeNoise(0.25),
        "RelativeNoise(0.5)": gendae.RelativeNoise(0.5),
    }
    levels = len(SIZES)
    variants = {
        name: partial(by_targets, gendae.PairLoops(), [noise] * levels)
        for name, noise in noises.items()
    }
    return generative(variants, seed)


# -- pairs ---------------------------------------------------------------------------------------


def same_size(rate, invertible=True):
    """configs/digits-invertible.yaml, or affine pairs in the place of its own."""
    if invertible:
        pairs = [gendae.InvertiblePair(64, "svd"), gendae.InvertiblePair(64, activation="linear")]
    else:
        pairs = gendae.deep_autoencoder([64, 64, 64], ["tanh", "linear"], "linear").pairs

    stack = gendae.stack_of(list(pairs), gendae.GaussianPrior("full", 1.0))
    loop = gendae.ShortAndLongLoops(pace=1.0)
    return gendae.TargetPropRule(stack, loop, rates=gendae.Rates(f=rate, g=3e-4))


def of_mlps(kind, rate=3e-4):
    """configs/digits-optimized.yaml, or a plain pair of the same maps."""
    f = gendae.MLP(64, [100], 16, "tanh")
    g = gendae.MLP(16, [100], 64, "sigmoid")
    stack = gendae.stack_of([kind(f, g)], gendae.ParzenPrior())
    loop = gendae.ShortAndLongLoops(pace=1.0)

    return gendae.TargetPropRule(stack, loop, rates=gendae.Rates(f=rate))


@group
def pairs(seed):
    """Invertible pairs and optimised codes, beside plain pairs and frozen encoders.

    All weights of an invertible pair are its encoder's: frozen, nothing in it learns. The encoder
    of an optimised code gives its first guess.
    """
    optimizing = partial(gendae.OptimizingPair, steps=5, sparsity=0.01)
    variants = {
        "invertible": partial(same_size, 3e-4),
        "invertible, frozen": partial(same_size, 0.0),
        "affine": partial(same_size, 3e-4, invertible=False),
        "affine, encoders frozen": partial(same_size, 0.0, invertible=False),
        "optimised": partial(of_mlps, optimizing),
        "optimised, encoder frozen": partial(of_mlps, optimizing, rate=0.0),
        "MLP": partial(of_mlps, gendae.Pair),
        "MLP, encoder frozen": partial(of_mlps, gendae.Pair, rate=0.0),
    }
    return generative(variants, seed, epochs=50)


# -- classifiers, and noise on the way down ------------------------------------------------------


def classifier(rule, **options):
    stack = gendae.deep_classifier([64, 60, 60, 60])
    return rule(stack, rates=rates(1e-3, 1e-3), **options)


@group
def iterated_targets(seed):
    """Rounds of difference target propagation, beside back-propagation."""
    data = gendae.Digits()
    x, y, _ = data.split("test")
    of_rounds = partial(classifier, gendae.DifferenceTargetPropRule)
    variants = {"back-propagation": partial(classifier, gendae.BackpropRule)}
    for rounds, reconstruct in ((1, 0.0), (3, 0.0), (5, 0.0), (3, 0.5), (5, 0.5)):
        iterations = gendae.Iterations(rounds, reconstruct)
        variants[f"rounds={rounds}, reconstruct={reconstruct:g}"] = partial(
            of_rounds, iterations=iterations
        )

    def scores(stack):
        return {"error": 100 * error_rate(stack.predict(x), y)}

    return compared(variants, seed, 40, data, scores)


@group
def ancestral_noise(seed):
    """Noise of the hidden conditionals, in the shipped model and in one of digits-targetprop.

    The shipped model is one: its seed is that of sampling. Both models are of real units, whose
    conditionals have unit variance: noise is a deviation in units of h.
    """
    data = gendae.Digits()
    seed_everything(seed, verbose=False)
    stack = gendae.deep_autoencoder(
        [64, 100, 100, 10],
        ["tanh", "tanh", "linear"],
        observation="bernoulli",
        init="orthogonal",
        prior=gendae.ParzenPrior(),
    )
    rule = gendae.TargetPropRule(stack, gendae.DifferenceLoop(start=500), rates=rates())
    trainer_of(120, []).fit(rule, data)

    models = {"digits-variational-em": gendae.load("digits-variational-em"), "targetprop": stack}
    for name, model in models.items():
        for noise in (0.0, 0.1, 0.3, 1.0):
            sampler = gendae.AncestralSampler(noise)
            yield f"{name}, noise={noise:g}", of_samples(model, seed, data, sampler)


# -- joint models --------------------------------------------------------------------------------


#: What is predicted from what in `three_modalities`.
PREDICTIONS = (
    (("top", "bottom"), "label"),
    (("top",), "label"),
    (("bottom",), "label"),
    ((), "label"),
    (("bottom",), "top"),
    (("bottom", "label"), "top"),
)


def joint(modalities, frozen=False):
    """A joint model as in configs/digits-joint-halves.yaml; frozen: the modalities' encoders."""
    stack = gendae.joint_autoencoder(
        modalities, [60], hidden_f=[100], hidden_g=[100], prior=gendae.ParzenPrior()
    )
    own = 0.0 if frozen else 1e-3
    return gendae.JointTargetPropRule(
        stack,
        weights=gendae.JointWeights(target=0.1, pair=0.1, long=0.0),
        rates=gendae.Rates(f=[own, 1e-3]),
    )


def ridge(inputs, outputs, unseen):
    """Predictions of ridge regression."""
    found = RidgeCV(PENALTIES).fit(inputs.numpy(), outputs.numpy()).predict(unseen.numpy())
    return torch.from_numpy(found).float()


def parts_of(data, split):
    """Values of each modality, by name."""
    values = data.split(split).x.split(list(data.modalities.values()), 1)
    return dict(zip(data.modalities, values, strict=True))


def of_parts(predict, test):
    """Scores of (names of what is given, name of what is wanted) -> predictions."""
    scores = {}
    for given, wanted in PREDICTIONS:
        found = predict(given, wanted)
        name = f"{wanted} from {' + '.join(given) or 'none'}"
        if wanted == "label":
            scores[name] = 100 * error_rate(found, test["label"].argmax(1))
        else:
            scores[name] = (found - test[wanted]).square().mean().item()

    return scores


def of_joint(stack, test):
    def predict(given, wanted):
        if given:
            return stack.predict({name: test[name] for name in given}, wanted)

        return blind(stack, wanted).expand_as(test[wanted])

    return of_parts(predict, test)


@torch.no_grad()
def blind(stack, wanted):
    """A modality where the junction sees nothing, which `predict` refuses."""
    codes = torch.zeros(1, stack.sizes[stack.level])
    observed = torch.zeros(1, len(stack.names), dtype=torch.bool)

    return stack.separate(stack.x_of(stack.loop(codes, observed)))[wanted]


@group
def three_modalities(seed):
    """Top half, bottom half and label in one model."""
    data = gendae.Multimodal(gendae.Digits(), ["top", "bottom", "label"])
    half = {"sizes": [32, 20], "activations": ["linear"], "hidden_g": [60]}
    half["observation"] = "bernoulli"
    make = partial(
        joint, {"top": half, "bottom": half, "label": {"sizes": [10], "kind": "onehot"}}
    )
    train = parts_of(data, "train")
    test = parts_of(data, "test")

    def average(given, wanted):
        return train[wanted].mean(0).expand_as(test[wanted])

    def regression(given, wanted):
        if not given:
            return average(given, wanted)

        seen, unseen = (torch.cat([x[name] for name in given], 1) for x in (train, test))
        return ridge(seen, train[wanted], unseen)

    yield "training mean", of_parts(average, test)
    yield "ridge regression", of_parts(regression, test)
    variants = {"learned": make, "encoders frozen": partial(make, frozen=True)}
    yield from compared(variants, seed, JOINT_EPOCHS, data, partial(of_joint, test=test))


def moments(images):
    """Where the ink of each image lies: mean and covariance of its rows and columns, (n, 5)."""
    rows, columns = np.mgrid[0:8, 0:8]
    ink = images / images.sum((1, 2), keepdims=True)

    def expected(values):
        return (ink * values).sum((1, 2))

    row = expected(rows)
    column = expected(columns)
    spreads = [
        expected(rows**2) - row**2,
        expected(columns**2) - column**2,
        expected(rows * columns) - row * column,
    ]
    return np.stack([row, column, *spreads], 1)


@group
def real_outputs(seed):
    """Five real numbers beside the image, from files: the first moments of its ink.

    They are no linear functions of the pixels. All are standardised, over all images.
    """
    images = load_digits().images / 16
    real = moments(images)
    real = (real - real.mean(0)) / real.std(0)

    with tempfile.TemporaryDirectory() as folder:
        files = {"image": f"{folder}/image.npy", "moments": f"{folder}/moments.npy"}
        np.save(files["image"], images)
        np.save(files["moments"], real)
        data = gendae.Arrays(files, valid_fraction=1 / 6, test_fraction=1 / 6)
        data.setup()

    train = parts_of(data, "train")
    test = parts_of(data, "test")

    def unexplained(found):
        errors = (found - test["moments"]).square().mean(0)
        return {"unexplained": (errors / test["moments"].var(0)).mean().item()}

    def scores(stack):
        return unexplained(stack.predict({"image": test["image"]}, "moments"))

    image = {"sizes": [64, 60], "hidden_g": [60], "observation": "bernoulli"}
    make = partial(joint, {"image": image, "moments": {"sizes": [5], "kind": "real"}})
    yield "ridge regression", unexplained(ridge(train["image"], train["moments"], test["image"]))
    variants = {"learned": make, "encoders frozen": partial(make, frozen=True)}
    yield from compared(variants, seed, JOINT_EPOCHS, data, scores)


# -- the table -----------------------------------------------------------------------------------


def rows_of(name, seeds):
    """{variant: {score: values by seed}} of a group."""
    rows = {}
    for seed in seeds:
        for variant, scores in GROUPS[name](seed):
            row = rows.setdefault(variant, {})
            for score, value in scores.items():
                row.setdefault(score, []).append(round(value, 4))

    return rows


def line(name, variant, row):
    cells = []
    for score, values in row.items():
        spread = stdev(values) if len(values) > 1 else 0.0
        cells.append(f"{score} {mean(values):.4g} +- {spread:.2g}")

    return f"| {name} | {variant} | {'; '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(GROUPS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path, default=Path("docs/results/options.json"))
    args = parser.parse_args()

    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    for name in args.names:
        rows = rows_of(name, args.seeds)
        for variant, row in rows.items():
            print(line(name, variant, row), flush=True)

        found = json.loads(args.json.read_text()) if args.json.exists() else {}
        args.json.write_text(json.dumps(found | {name: rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
