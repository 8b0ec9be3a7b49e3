"""One row per (rule, prior): trained layers under every top-level prior, scored on test images.

    python benchmarks/tops.py runs/0001 runs/0002 --priors parzen --out docs/results/kl.json

The layers of each run are taken as they are; each prior is fitted on the feed-forward codes of
MNIST's training images. What is chosen (the variance multiplier of a Gaussian) is chosen on
validation images.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from gendae import MNIST, load
from gendae.commands.common import checkpoint_of
from gendae.metrics.chains import class_switches
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.parzen import choose_prior, parzen_score
from gendae.metrics.quality import Quality
from gendae.priors.autoencoder import AutoencoderPrior, Learning
from gendae.priors.denoising import NearestNeighbour, Reconstruction
from gendae.priors.factorial import FactorialPrior
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.linear import LinearAutoencoderPrior
from gendae.priors.manifold import ManifoldParzenPrior
from gendae.priors.parzen import ParzenPrior
from gendae.sampling.level import LevelSampler, chain_states
from gendae.sampling.samplers import AncestralSampler, seeded

CHAINS = 200
CHAIN_STEPS = 100


def autoencoder(**options):
    return AutoencoderPrior(hidden=[256], code=64, learning=Learning(epochs=20), **options)


PRIORS = {
    "identity": lambda: GaussianPrior("identity", 1.0),
    "gaussian": None,  # covariance and multiplier chosen on validation images
    "linear-autoencoder": LinearAutoencoderPrior,
    "laplace": lambda: FactorialPrior("laplace"),
    "logistic": lambda: FactorialPrior("logistic"),
    "bernoulli": lambda: FactorialPrior("bernoulli"),
    "parzen": ParzenPrior,
    "parzen-kmeans": lambda: ParzenPrior(choice="kmeans", noise_scale=0.25),
    # the least noise at which validation images, too, are as close to the training images (C_T)
    "parzen-kmeans-wide": lambda: ParzenPrior(choice="kmeans", noise_scale=1.5),
    "manifold-parzen": ManifoldParzenPrior,
    "autoencoder": autoencoder,
    "walkback": lambda: autoencoder(criterion=Reconstruction(walkback=3)),
    "gsn": lambda: autoencoder(hidden_noise=0.5),
    "nearest": lambda: autoencoder(hidden_noise=0.5, criterion=NearestNeighbour()),
}


def fit_prior(stack, name, codes, data, n):
    start = time.perf_counter()
    if name == "gaussian":
        choose_prior(stack, data.split("train").x, data.split("valid").x, n=3000)
        return time.perf_counter() - start

    stack.prior = PRIORS[name]()
    if isinstance(stack.prior, ParzenPrior):
        stack.prior.capacity = n

    stack.prior.prepare(stack.sizes[-1])
    stack.prior.fit(codes)
    return time.perf_counter() - start


def mixing(stack, network):
    """Class switches per 100 steps of the prior's own chain; None where it is sampled directly."""
    if stack.prior.analytic:
        return None

    states = chain_states(stack, LevelSampler(), CHAINS, CHAIN_STEPS, seeded(0))
    labels = torch.stack([network(x.clamp(0, 1)).argmax(1) for x in states])
    return class_switches(labels)


@torch.no_grad()
def rows(run, names, data, quality, n):
    stack = load(checkpoint_of(run, "last"))
    codes = torch.cat([stack.encode(x)[-1] for x in data.split("train").x.split(1000)])

    for name in names:
        try:
            seconds = fit_prior(stack, name, codes, data, n)
        except ValueError as error:  # such as Bernoulli units for real codes
            print(f"{run} {name}: {error}", flush=True)
            continue

        x = AncestralSampler()(stack, n, seeded(0))
        yield {
            "run": str(run),
            "seed": stack.facts["seed"],
            "command": stack.facts["command"],
            "rule": stack.facts["rule"],
            "prior": name,
            "training_seconds": stack.facts.get("seconds"),
            "prior_seconds": seconds,
            "detail": repr(stack.prior),
            **parzen_score(x, data.split("test").x, data.split("valid").x),
            **quality(x),
            "switches": mixing(stack, quality.network),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--priors", nargs="+", default=list(PRIORS), choices=list(PRIORS))
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    data = MNIST()
    quality = Quality(data.split("train").x, data.split("test").x, load_feature_classifier())
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)

    results = []
    for run in args.runs:
        for row in rows(run, args.priors, data, quality, args.n):
            results.append(row)
            print(
                f"{row['rule']} seed {row['seed']} {row['prior']:<18} LL {row['ll']:7.1f}  "
                f"fid {row['fid']:6.2f}  "
                f"precision {row['precision']:.3f}  recall {row['recall']:.3f}  "
                f"copying {row['copying']:6.2f} / {row['copying_pixels']:6.2f} pixels  "
                f"confidence {row['confidence']:.3f}  switches {row['switches']}",
                flush=True,
            )
            Path(args.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
