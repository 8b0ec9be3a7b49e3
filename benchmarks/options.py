"""Options of the library beside their controls, on the 8 x 8 digits: what does each bring?

    python -m benchmarks.options [names ..] [--seeds 0 1 2] [--json docs/results/options.json]

Without names all groups run; the rows of others in the file stay. All variants of a group start
from the same seed, are trained for some seconds and scored on test images:

    ll            Parzen LL of 1,000 samples, nats; its bandwidth is chosen on validation images
    read_out      accuracy of a logistic regression of the standardised top code, %
    label ..      test error of labels, %
    top from ..   squared error per pixel of the top half
    unexplained   squared error of real outputs as a share of their variance

Levels and weights are defaults, those of configs/, or round numbers: none was chosen by these
scores. Updates are as many as a benchmark has time for, not as a good model needs.
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
from benchmarks.stability import measures, trainer_of
from gendae.metrics.parzen import parzen_score
from gendae.models.classifier import error_of

DATA = gendae.Digits()
SAMPLES = 1000
EPOCHS = 40
JOINT_EPOCHS = 60
PRIOR_EVERY = 50  # updates between two fits of a prior that losses use: an epoch has 12
#: Penalties of ridge regression, of which it chooses one by leaving out training images.
PENALTIES = np.logspace(-3, 3, 13)

#: About as many codes as there are training images: to fit the latest 5,000 would take longest.
window = partial(gendae.ParzenPrior, capacity=1000)

#: Name -> generator of (variant, scores) for a seed.
GROUPS = {}


def group(function):
    GROUPS[function.__name__.replace("_", "-")] = function
    return function


def rates(f=3e-3, g=3e-3):
    return gendae.Rates(f=f, g=g, hold=0.5)


def autoencoder(*sizes, **options):
    activations = ["tanh"] * (len(sizes) - 2) + ["linear"]
    options |= {"observation": "bernoulli", "init": "orthogonal"}
    return gendae.deep_autoencoder(sizes, activations, prior=window(), **options)


def compared(variants, scores, seed, epochs, data=DATA):
    """(variant, scores) of rules that are made, and trained, from the same seed."""
    for name, make in variants.items():
        seed_everything(seed, verbose=False)
        rule = make()
        trainer_of(epochs, []).fit(rule, data)

        yield name, scores(rule.stack)


@torch.no_grad()
def of_samples(stack, seed, sampler):
    """LL of samples, from a prior that is fitted on the codes of all training images."""
    train, valid, test = (DATA.split(name).x for name in ("train", "valid", "test"))
    stack.prior.fit(stack.encode(train)[-1])
    x = gendae.generate(stack, SAMPLES, sampler, seed=seed)

    return {"ll": parzen_score(x, test, valid)["ll"]}


def of_stack(stack, seed):
    read_out = measures(stack, DATA.split("train"), DATA.split("test"))["read_out"]
    return of_samples(stack, seed, gendae.AncestralSampler()) | {"read_out": read_out}


def generative(variants, seed):
    return compared(variants, partial(of_stack, seed=seed), seed, EPOCHS)


# -- priors in the cost, loops and noise ---------------------------------------------------------

SIZES = (64, 60, 20)
NETWORKS = {
    "one pair": partial(autoencoder, 64, 8, hidden_f=[200], hidden_g=[200], noise=0.5),
    "two pairs": partial(autoencoder, *SIZES, noise=0.3),
}


def by_kl(make, prior, tied=False):
    stack = make()
    if tied:  # no noise of the top's own
        *below, top = stack.pairs
        top = gendae.Pair(top.f, top.g, observation=top.observation)
        stack = gendae.stack_of([*below, top], stack.prior)

    return gendae.KLRule(
        stack, training_prior=prior, tie_noise=tied, rates=rates(), prior_every=PRIOR_EVERY
    )


@group
def parzen_cost(seed):
    """KLRule under N(0, I) or a Parzen window; all are sampled from a window of their own.

    One pair is that of configs/digits-kl.yaml, with alpha = 1; two have the default, 0.01. The
    bonus of the bandwidth is half the width of the code.
    """
    for network, make in NETWORKS.items():
        bonus = gendae.HeldOut(bonus=make().sizes[-1] / 2)
        variants = {
            "N(0, I)": partial(by_kl, make, gendae.GaussianPrior("identity", 1.0)),
            "Parzen": partial(by_kl, make, window()),
            "Parzen, bonus": partial(by_kl, make, window(held_out=bonus)),
            "Parzen, tied noise": partial(by_kl, make, window(), tied=True),
            "Parzen, tied noise, bonus": partial(by_kl, make, window(held_out=bonus), tied=True),
        }
        for variant, scores in generative(variants, seed):
            yield f"{network}, {variant}", scores


def by_targets(loop, corruption=None, **of_rates):
    stack = autoencoder(*SIZES)
    return gendae.TargetPropRule(
        stack, loop, corruption, rates=rates(**of_rates), prior_every=PRIOR_EVERY
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
    variants = {
        name: partial(by_targets, gendae.PairLoops(), [noise] * len(SIZES))
        for name, noise in noises.items()
    }
    return generative(variants, seed)


# -- pairs ---------------------------------------------------------------------------------------


def by_printed_loops(pairs, prior, **of_rates):
    loop = gendae.ShortAndLongLoops(pace=1.0)
    stack = gendae.stack_of(pairs, prior)
    return gendae.TargetPropRule(stack, loop, rates=gendae.Rates(**of_rates))


def same_size(rate, invertible=True):
    """configs/digits-invertible.yaml, or affine pairs in the place of its own."""
    if invertible:
        pairs = [gendae.InvertiblePair(64, "svd"), gendae.InvertiblePair(64, activation="linear")]
    else:
        pairs = list(gendae.deep_autoencoder([64, 64, 64], ["tanh", "linear"], "linear").pairs)

    return by_printed_loops(pairs, gendae.GaussianPrior("full", 1.0), f=rate, g=3e-4)


def of_mlps(kind, rate=3e-4):
    """configs/digits-optimized.yaml, or a plain pair of the same maps."""
    f = gendae.MLP(64, [100], 16, "tanh")
    g = gendae.MLP(16, [100], 64, "sigmoid")

    return by_printed_loops([kind(f, g)], window(), f=rate)


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
    return generative(variants, seed)


# -- classifiers, and noise on the way down ------------------------------------------------------


def classifier(rule, **options):
    stack = gendae.deep_classifier([64, 60, 60, 60])
    return rule(stack, rates=rates(1e-3, 1e-3), **options)


@group
def iterated_targets(seed):
    """Rounds of difference target propagation, beside back-propagation."""
    x, y, _ = DATA.split("test")
    of_rounds = partial(classifier, gendae.DifferenceTargetPropRule)
    variants = {"back-propagation": partial(classifier, gendae.BackpropRule)}
    for given in ((1, 0.0), (3, 0.0), (5, 0.0), (3, 0.5), (5, 0.5)):
        name = "rounds={}, reconstruct={:g}".format(*given)
        variants[name] = partial(of_rounds, iterations=gendae.Iterations(*given))

    def scores(stack):
        return {"label": 100 * error_of(stack.predict(x), y).item()}

    return compared(variants, scores, seed, EPOCHS)


@group
def ancestral_noise(seed):
    """Noise of the hidden conditionals: in the shipped model, and in that of digits-targetprop.

    The shipped model is one: its seed is that of sampling. The conditionals have unit variance, so
    that noise is a deviation in units of h.
    """
    seed_everything(seed, verbose=False)
    stack = autoencoder(64, 100, 100, 10)
    rule = gendae.TargetPropRule(stack, gendae.DifferenceLoop(start=500), rates=rates())
    trainer_of(2 * EPOCHS, []).fit(rule, DATA)

    models = {"digits-variational-em": gendae.load("digits-variational-em"), "targetprop": stack}
    for name, model in models.items():
        for noise in (0.0, 0.1, 0.3, 1.0):
            scores = of_samples(model, seed, gendae.AncestralSampler(noise))
            yield f"{name}, noise={noise:g}", scores


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
    prior = window()
    stack = gendae.joint_autoencoder(modalities, [60], hidden_f=[100], hidden_g=[100], prior=prior)
    own = 0.0 if frozen else 1e-3
    weights = gendae.JointWeights(target=0.1, pair=0.1, long=0.0)
    return gendae.JointTargetPropRule(stack, weights=weights, rates=gendae.Rates(f=[own, 1e-3]))


def jointly(modalities, scores, seed, data):
    make = partial(joint, modalities)
    variants = {"learned": make, "encoders frozen": partial(make, frozen=True)}
    return compared(variants, scores, seed, JOINT_EPOCHS, data)


def ridge(seen, wanted, unseen):
    """Predictions of ridge regression."""
    found = RidgeCV(PENALTIES).fit(seen.numpy(), wanted.numpy()).predict(unseen.numpy())
    return torch.from_numpy(found).float()


def parts_of(data, split):
    """Values of each modality, by name."""
    values = data.split(split).x.split(list(data.modalities.values()), 1)
    return dict(zip(data.modalities, values, strict=True))


def of_parts(predict, test):
    """Scores of a function (names of what is given, name of what is wanted) -> predictions."""
    scores = {}
    for given, wanted in PREDICTIONS:
        found = predict(given, wanted)
        name = f"{wanted} from {' + '.join(given) or 'none'}"
        scores[name] = (found - test[wanted]).square().mean().item()
        if wanted == "label":
            scores[name] = 100 * error_of(found, test[wanted].argmax(1)).item()

    return scores


@torch.no_grad()
def blind(stack, wanted):
    """A modality where the junction sees nothing, which `predict` refuses."""
    codes = torch.zeros(1, stack.sizes[stack.level])
    observed = torch.zeros(1, len(stack.names), dtype=torch.bool)

    return stack.separate(stack.x_of(stack.loop(codes, observed)))[wanted]


@group
def three_modalities(seed):
    """Top half, bottom half and label in one model."""
    data = gendae.Multimodal(DATA, ["top", "bottom", "label"])
    train = parts_of(data, "train")
    test = parts_of(data, "test")

    def average(given, wanted):
        return train[wanted].mean(0).expand_as(test[wanted])

    def regression(given, wanted):
        if not given:
            return average(given, wanted)

        seen, unseen = (torch.cat([x[name] for name in given], 1) for x in (train, test))
        return ridge(seen, train[wanted], unseen)

    def scores(stack):
        def predict(given, wanted):
            if not given:
                return blind(stack, wanted).expand_as(test[wanted])

            return stack.predict({name: test[name] for name in given}, wanted)

        return of_parts(predict, test)

    half = {"sizes": [32, 20], "activations": ["linear"], "hidden_g": [60]}
    half["observation"] = "bernoulli"
    modalities = {"top": half, "bottom": half, "label": {"sizes": [10], "kind": "onehot"}}

    yield "training mean", of_parts(average, test)
    yield "ridge regression", of_parts(regression, test)
    yield from jointly(modalities, scores, seed, data)


def moments(images):
    """Means and covariance of row and column of each image's ink, (n, 5), standardised."""
    ink = images.reshape(-1, 64)
    ink = ink / ink.sum(1, keepdims=True)
    places = np.indices((8, 8)).reshape(2, 64)

    centres = ink @ places.T
    offsets = places - centres[:, :, None]
    rows = offsets[:, 0]
    columns = offsets[:, 1]
    products = np.stack([rows**2, columns**2, rows * columns], 1)
    values = np.concatenate([centres, (ink[:, None] * products).sum(2)], 1)

    return (values - values.mean(0)) / values.std(0)


@group
def real_outputs(seed):
    """Five real numbers beside the image, from files: no linear functions of the pixels."""
    arrays = {"image": load_digits().images / 16}
    arrays["moments"] = moments(arrays["image"])
    with tempfile.TemporaryDirectory() as folder:
        files = {name: f"{folder}/{name}.npy" for name in arrays}
        for name, array in arrays.items():
            np.save(files[name], array)
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
    modalities = {"image": image, "moments": {"sizes": [5], "kind": "real"}}
    yield "ridge regression", unexplained(ridge(train["image"], train["moments"], test["image"]))
    yield from jointly(modalities, scores, seed, data)


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
