"""Denoisers at every level of noise as priors: beside a window, N(0, I) and what a decoder allows.

    python -m benchmarks.denoising models a.safetensors b.safetensors --out docs/results/x.json
    python -m benchmarks.denoising figures a.safetensors

Each model is measured with its own prior, and as `--tops` says: with one whose network is
frozen at random but for its last layer; with a Parzen window over k-means centres of its codes,
with noise at which held-out codes are as near to the training codes as samples are (C_T of
codes 0); and under N(0, I); `ceiling` is what decoded codes of held-out images get. All images
are the data set's own: samples 10,000, scores on all test images, bandwidths on validation
images, log p(h) of training and of test codes. `figures` draws, on validation images, the way
of a code from noise to a digit, and histograms of log p(h).
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from gendae import DenoisingPrior, GaussianPrior, LevelMLP, ParzenPrior, load
from gendae.commands.data import data_of
from gendae.data.mosaic import tile, write_png
from gendae.metrics.codes import codes_of
from gendae.metrics.quality import Quality
from gendae.metrics.report import feature_network, measures
from gendae.sampling.samplers import AncestralSampler, generate, sampling_steps


class RandomFeatures(nn.Module):
    """A `LevelMLP` of which only the last layer learns."""

    def prepare(self, features, condition=0):
        fixed = LevelMLP()
        fixed.prepare(features, condition)
        fixed.leave = nn.Identity()
        fixed.requires_grad_(False)

        object.__setattr__(self, "fixed", fixed)  # no part of what learns
        self.leave = nn.Linear(fixed.width, features)

    def forward(self, z, level, condition=None):
        return self.leave(self.fixed(z, level, condition))


#: What takes the place of a model's own prior.
TOPS = {
    "own": None,
    "window": lambda: ParzenPrior(choice="kmeans"),
    "frozen": lambda: DenoisingPrior(RandomFeatures()),
    "identity": lambda: GaussianPrior("identity", 1.0),
}
#: Numbers of a row that the table has.
COLUMNS = ("ll", "fid", "recall", "coverage", "copying", "copying_codes")


def row(stack, top, codes, data, judge, n, seed):
    """One model under one prior."""
    if top != "own":
        stack.prior = TOPS[top]().fit(codes.train)

    start = time.process_time()
    stack.prior.sample(n, torch.Generator().manual_seed(seed))
    seconds = time.process_time() - start

    splits = (data.split(name).x for name in ("train", "valid", "test"))
    return {
        "prior": top,
        "detail": repr(stack.prior),
        "seed": seed,
        "sampling_seconds": seconds,
        **measures(stack, *splits, n, seed, judge),
    }


def models(args):
    rows = []
    judge = None
    for seed, file in enumerate(args.models):
        for top in args.tops:
            stack = load(file)
            data = data_of(stack)
            splits = [data.split(name).x for name in ("train", "valid", "test")]
            judge = judge or Quality(splits[0], splits[2], feature_network(data)[0])
            codes = codes_of(stack, *splits)

            made = row(stack, top, codes, data, judge, args.n, seed)
            rows.append({"model": Path(file).name, "command": stack.facts["command"], **made})
            Path(args.out).parent.mkdir(parents=True, exist_ok=True)
            Path(args.out).write_text(json.dumps(rows, indent=1))
            print(line(rows[-1]), flush=True)


def line(made):
    """A row of the table, in words."""
    cells = [f"{name} {made[name]:.3f} ({made['ceiling'][name]:.3f})" for name in COLUMNS]
    for name, of_codes in (made.get("log_prob") or {}).items():
        cells.append(f"log p, {name} {of_codes['mean']:.2f}")

    return f"{made['model']} {made['prior']}: {', '.join(cells)}"


@torch.no_grad()
def figures(args):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    stack = load(args.models[0])
    shape = tuple(stack.facts["shape"])
    steps = sampling_steps(stack, 10, AncestralSampler(), seed=0)[::2]
    write_png(tile(steps.transpose(0, 1).flatten(0, 1), shape, len(steps)), args.way)
    write_png(tile(generate(stack, 100, seed=0), shape), args.samples)

    data = data_of(stack)
    codes = codes_of(stack, *(data.split(name).x for name in ("train", "valid", "test")))
    tops = {"denoiser": stack.prior, "window": ParzenPrior(choice="kmeans").fit(codes.train)}

    figure, axes = pyplot.subplots(1, len(tops), figsize=(8, 3), sharex=True, sharey=True)
    for axis, (name, prior) in zip(axes, tops.items(), strict=True):
        for kind, h in (("training codes", codes.train), ("validation codes", codes.valid)):
            log_p = prior.log_prob(h[: args.n])
            label = f"{kind}: {log_p.mean():.2f}"
            axis.hist(log_p.numpy(), 40, density=True, histtype="step", label=label)
        axis.set_title(name)
        axis.set_xlabel("log p(h) [nats]")
        axis.legend(frameon=False)

    figure.tight_layout()
    figure.savefig(args.densities, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["models", "figures"])
    parser.add_argument("models", nargs="+", help="files or shipped models")
    parser.add_argument("--tops", nargs="+", default=["own", "window"], choices=list(TOPS))
    parser.add_argument("--n", type=int, default=None)
    parser.add_argument("--out", default="docs/results/denoising.json")
    parser.add_argument("--way", default="docs/way.png")
    parser.add_argument("--samples", default="docs/samples-denoising.png")
    parser.add_argument("--densities", default="docs/log-prob-of-codes.png")
    args = parser.parse_args()

    args.n = args.n or {"models": 10_000, "figures": 1000}[args.what]
    {"models": models, "figures": figures}[args.what](args)


if __name__ == "__main__":
    main()
