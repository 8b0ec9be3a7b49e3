"""A training step of the 2015 model against the same rule in plain PyTorch, without gendae.

    python -m benchmarks.plain [--repeats 40] [--json FILE]

The plain version is what a reader of the paper would write: `nn.Sequential` layers, INFERENCE and
TRAIN of Algorithm 2 as printed (with the sign of TRAIN put right), torch's AdamW at its defaults.
Both start from the same weights; their losses without noise are compared before they are timed in
turns.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from benchmarks.floor import interleaved
from gendae import GaussianNoise, VariationalEMRule, deep_autoencoder
from gendae.training.memory import keep_freed_memory

SIZES = (784, 1000, 100)
N = 15
DELTA = 0.1
ALPHA = 0.001
SIGMAS = (0.5, 0.3)


class Plain:
    """Two layers, as in the paper."""

    def __init__(self, noise):
        x, a, b = SIZES
        self.f1 = nn.Sequential(nn.Linear(x, a), nn.Softplus())
        self.g1 = nn.Sequential(nn.Linear(a, x), nn.Sigmoid())
        self.f2 = nn.Sequential(nn.Linear(a, b), nn.Sigmoid())
        self.g2 = nn.Sequential(nn.Linear(b, a), nn.Softplus())
        self.noise = noise

        rates = ((self.f1, 1.2e-4), (self.f2, 1.2e-4), (self.g1, 4e-4), (self.g2, 4e-4))
        groups = [
            {"params": layer.parameters(), "lr": lr, "weight_decay": 0.0} for layer, lr in rates
        ]
        self.optimizer = torch.optim.AdamW(groups)

    @torch.no_grad()
    def infer(self, x):
        h1 = self.f1(x)
        h2 = self.f2(h1)
        for _ in range(N):
            new2 = h2 + DELTA * (self.f2(h1) - self.f2(self.g2(h2)))
            h1 = h1 + DELTA * (self.f1(x) - self.f1(self.g1(h1))) + ALPHA * (self.g2(new2) - h1)
            h2 = new2

        return h1, h2

    def losses(self, x):
        h1, h2 = self.infer(x)
        x_, h1_, h2_ = x, h1, h2
        if self.noise:
            x_ = x + SIGMAS[0] * torch.randn_like(x)
            h1_ = h1 + SIGMAS[1] * torch.randn_like(h1)
            h2_ = torch.bernoulli(h2)

        error = lambda a, b: 0.5 * (a - b).square().sum(1).mean()
        return [
            error(self.f1(x_), h1),
            error(self.g1(h1_), x),
            error(self.f2(h1_), h2),
            error(self.g2(h2_), h1),
        ]

    def step(self, x):
        self.optimizer.zero_grad()
        sum(self.losses(x)).backward()
        self.optimizer.step()


def same_weights(rule, plain):
    layers = [
        (rule.stack.pairs[0].f, plain.f1),
        (rule.stack.pairs[0].g, plain.g1),
        (rule.stack.pairs[1].f, plain.f2),
        (rule.stack.pairs[1].g, plain.g2),
    ]
    with torch.no_grad():
        for ours, theirs in layers:
            theirs[0].weight.copy_(ours.weight)
            theirs[0].bias.copy_(ours.bias)


def gap_of_losses(rule, plain, x):
    """Largest relative difference of their losses."""
    pairs = zip(rule.losses((x,)).values(), plain.losses(x), strict=True)
    return max(abs(a.item() / b.item() - 1) for a, b in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    torch.manual_seed(0)
    x = torch.rand(100, SIZES[0])
    quiet = VariationalEMRule(deep_autoencoder(SIZES), corruption=[GaussianNoise(0.0)] * 3)
    quiet_plain = Plain(noise=False)
    same_weights(quiet, quiet_plain)
    gap = gap_of_losses(quiet, quiet_plain, x)

    keep_freed_memory()
    rule = VariationalEMRule(quiet.stack)
    plain = Plain(noise=True)
    optimizer = rule.configure_optimizers()

    def ours():
        optimizer.zero_grad(set_to_none=True)
        sum(rule.losses((x,)).values()).backward()
        optimizer.step()

    seconds = interleaved({"gendae": ours, "plain": lambda: plain.step(x)}, args.repeats)
    row = {f"{name}_ms": 1e3 * s for name, s in seconds.items()}
    row["largest_relative_difference_of_losses"] = gap
    row["plain_over_gendae"] = row["plain_ms"] / row["gendae_ms"]
    print(", ".join(f"{k} {v:.4g}" for k, v in row.items()))

    if args.json:
        args.json.write_text(json.dumps([row], indent=1) + "\n")


if __name__ == "__main__":
    main()
