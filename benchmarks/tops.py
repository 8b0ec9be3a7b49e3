"""Questions 4 and 7: trained layers under every top-level prior, scored; one row for each seed.

    python -m benchmarks.tops runs/0001 runs/0002 --priors parzen --out docs/results/kl.json
    python -m benchmarks.tops mnist-kl-parzen --seeds 0 1 2 --out docs/results/question-4.json

The layers of each run, or shipped model, are taken as they are; each prior is fitted on the
feed-forward codes of MNIST's training images. What is chosen (the variance multiplier of a
Gaussian) is chosen on validation images. A seed is that of a prior's training and of the samples;
layers of several seeds are several runs. The table at the end, mean +- sd over seeds and runs, is
that of benchmarks/table.py.

Chains draw from P(h | h~): "autoencoder-means" is the plain one without these draws, and too
narrow. "nearest" (question 7) is to be compared with "gsn", which has the same noise on its code.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import torch

from benchmarks.table import table
from gendae import MNIST, load
from gendae.commands.common import checkpoint_of
from gendae.metrics.chains import class_switches
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.parzen import choose_prior, parzen_score
from gendae.metrics.quality import Quality
from gendae.priors.autoencoder import AutoencoderPrior, Learning, Walk
from gendae.priors.criteria import NearestNeighbour, Reconstruction
from gendae.priors.factorial import FactorialPrior
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.linear import LinearAutoencoderPrior
from gendae.priors.manifold import ManifoldParzenPrior
from gendae.priors.parzen import ParzenPrior
from gendae.sampling.level import LevelSampler, chain_states
from gendae.sampling.samplers import AncestralSampler, seeded

CHAINS = 200
CHAIN_STEPS = 100


def autoencoder(seed, **options):
    learning = Learning(epochs=20, seed=seed)
    return AutoencoderPrior(hidden=[256], code=64, learning=learning, **options)


#: Each prior by its name, from a seed.
PRIORS = {
    "identity": lambda seed: GaussianPrior("identity", 1.0),
    "gaussian": None,  # covariance and multiplier chosen on validation images
    "factorial-gaussian": lambda seed: FactorialPrior("gaussian"),
    "factorial-laplace": lambda seed: FactorialPrior("laplace"),
    "factorial-logistic": lambda seed: FactorialPrior("logistic"),
    "factorial-bernoulli": lambda seed: FactorialPrior("bernoulli"),
    "linear-autoencoder": lambda seed: LinearAutoencoderPrior(),
    "parzen": lambda seed: ParzenPrior(noise_scale=1.0, seed=seed),
    "parzen-kmeans": lambda seed: ParzenPrior(choice="kmeans", noise_scale=0.25, seed=seed),
    # the noise at which held-out codes are as close to the training codes (C_T of codes)
    "parzen-kmeans-fresh": lambda seed: ParzenPrior(choice="kmeans", seed=seed),
    # the least noise at which validation images, too, are as close to the training images (C_T)
    "parzen-kmeans-wide": lambda seed: ParzenPrior(choice="kmeans", noise_scale=1.5, seed=seed),
    "manifold-parzen": lambda seed: ManifoldParzenPrior(noise_scale=1.0, seed=seed),
    "autoencoder": autoencoder,
    "autoencoder-means": lambda seed: autoencoder(seed, walk=Walk(residual=0.0)),
    "walkback": lambda seed: autoencoder(seed, criterion=Reconstruction(walkback=3)),
    "gsn": lambda seed: autoencoder(seed, hidden_noise=0.5),
    "nearest": lambda seed: autoencoder(seed, hidden_noise=0.5, criterion=NearestNeighbour()),
}
COLUMNS = ["ll", "fid", "precision", "recall", "copying", "switches"]


def fit_prior(stack, name, codes, data, n, seed):
    start = time.perf_counter()
    if name == "gaussian":
        choose_prior(stack, data.split("train").x, data.split("valid").x, n=3000)
        return time.perf_counter() - start

    stack.prior = PRIORS[name](seed)
    if isinstance(stack.prior, ParzenPrior):
        stack.prior.capacity = n

    stack.prior.prepare(stack.sizes[-1])
    stack.prior.fit(codes)
    return time.perf_counter() - start


def mixing(stack, network, seed):
    """Class switches per 100 steps of the prior's own chain; None where it is sampled directly."""
    if stack.prior.analytic:
        return None

    states = chain_states(stack, LevelSampler(), CHAINS, CHAIN_STEPS, seeded(seed))
    labels = torch.stack([network(x.clamp(0, 1)).argmax(1) for x in states])
    return class_switches(labels)


@torch.no_grad()
def rows(run, names, data, quality, n, seed, split):
    stack = load(checkpoint_of(run, "last") if Path(run).is_dir() else run)
    codes = torch.cat([stack.encode(x)[-1] for x in data.split("train").x.split(1000)])

    for name in names:
        try:
            seconds = fit_prior(stack, name, codes, data, n, seed)
        except ValueError as error:  # such as Bernoulli units for real codes
            print(f"{run} {name}: {error}", flush=True)
            continue

        x = AncestralSampler()(stack, n, seeded(seed))
        yield {
            "run": str(run),
            "seed": stack.facts["seed"],
            "prior_seed": seed,
            "split": split,
            "command": stack.facts["command"],
            "rule": stack.facts["rule"],
            "prior": name,
            "training_seconds": stack.facts.get("seconds"),
            "prior_seconds": seconds,
            "detail": repr(stack.prior),
            **scores(x, data, split),
            **quality(x),
            "switches": mixing(stack, quality.network, seed),
        }


def scores(x, data, split):
    """Parzen score on a split; the bandwidth is chosen on other validation images."""
    valid = data.split("valid").x
    if split == "test":
        return parzen_score(x, data.split("test").x, valid)

    return parzen_score(x, valid[:5000], valid[5000:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", help="run folders, files or shipped models")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    parser.add_argument("--priors", nargs="+", default=list(PRIORS), choices=list(PRIORS))
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    data = MNIST()
    held_out = data.split(args.split).x[:10_000]
    quality = Quality(data.split("train").x, held_out, load_feature_classifier())
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)

    results = []
    for run, seed in itertools.product(args.runs, args.seeds):
        for row in rows(run, args.priors, data, quality, args.n, seed, args.split):
            results.append(row)
            print(
                f"{row['rule']} seed {row['seed']} {row['prior_seed']} {row['prior']:<18}  "
                f"LL {row['ll']:7.1f}  "
                f"fid {row['fid']:6.2f}  "
                f"precision {row['precision']:.3f}  recall {row['recall']:.3f}  "
                f"copying {row['copying']:6.2f} / {row['copying_pixels']:6.2f} pixels  "
                f"confidence {row['confidence']:.3f}  switches {row['switches']}",
                flush=True,
            )
            Path(args.out).write_text(json.dumps(results, indent=1) + "\n")

    print("\n".join(table(results, ["config", "prior"], COLUMNS)))


if __name__ == "__main__":
    main()
