"""A ladder network by back-propagation: the control of few labels on MNIST.

    python -m benchmarks.ladder [--labels 100 600] [--draws 0 1] [--updates 12000] [--json FILE]

Fully connected, 784-1000-500-250-250-250-10, noise 0.3 in every layer, weights 1000, 10 and 0.1 of
the squared errors of its decoder, Adam 2e-3 with a linear decline over the last third; batches of
100 labelled and 250 other images. The published ones have 90,000 updates of 100 images.
Source: Rasmus et al. 2015, "Semi-supervised learning with ladder networks", Algorithm 1.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from gendae import MNIST, FewLabels

SIZES = (784, 1000, 500, 250, 250, 250, 10)
WEIGHTS = (1000.0, 10.0, 0.1, 0.1, 0.1, 0.1, 0.1)
NOISE = 0.3


def standard(z):
    """Batch normalisation without parameters, with its mean and width."""
    mean = z.mean(0)
    width = (z.var(0, unbiased=False) + 1e-6).sqrt()
    return (z - mean) / width, mean, width


class Combinator(nn.Module):
    """z^ of the noisy z and the signal u from above, both (batch, width)."""

    def __init__(self, width):
        super().__init__()
        start = [0.0, 1.0, 0.0, 0.0, 0.0]
        self.a = nn.Parameter(torch.tensor([start, start])[..., None].repeat(1, 1, width))

    def forward(self, z, u):
        mean, v = (a[0] * torch.sigmoid(a[1] * u + a[2]) + a[3] * u + a[4] for a in self.a)
        return (z - mean) * v + mean


class Ladder(nn.Module):
    def __init__(self):
        super().__init__()
        pairs = list(pairwise(SIZES))
        self.up = nn.ModuleList(nn.Linear(low, high, bias=False) for low, high in pairs)
        self.down = nn.ModuleList(nn.Linear(high, low, bias=False) for low, high in pairs)
        self.beta = nn.ParameterList(torch.zeros(high) for high in SIZES[1:])
        self.gamma = nn.Parameter(torch.ones(SIZES[-1]))
        self.combine = nn.ModuleList(Combinator(width) for width in SIZES)
        for layer in [*self.up, *self.down]:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def encode(self, x, noise, split):
        """Logits, and z, mean and width of each layer; labelled rows are normalised apart."""
        z = x + noise * torch.randn_like(x)
        layers = [(z, torch.zeros_like(z[0]), torch.ones_like(z[0]))]
        h = z
        for level, layer in enumerate(self.up):
            raw = layer(h)
            parts = [part for part in (raw[:split], raw[split:]) if len(part)]
            normalised = [standard(part) for part in parts]
            z = torch.cat([part[0] for part in normalised])
            _, mean, width = normalised[-1]
            z = z + noise * torch.randn_like(z)
            layers.append((z, mean, width))
            h = z + self.beta[level]
            h = F.relu(h) if level < len(self.up) - 1 else self.gamma * h

        return h, layers

    def losses(self, x, y):
        """The cross-entropy of the labelled rows, which come first, and the ladder's costs."""
        split = len(y)
        noisy_logits, noisy = self.encode(x, NOISE, split)
        _, clean = self.encode(x, 0.0, split)
        loss = F.cross_entropy(noisy_logits[:split], y)

        u = standard(noisy_logits[split:].softmax(1))[0]
        for level in reversed(range(len(SIZES))):
            estimate = self.combine[level](noisy[level][0][split:], u)
            z, mean, width = clean[level]
            error = ((estimate - mean) / width - z[split:]).square().mean()
            loss = loss + WEIGHTS[level] * error
            if level > 0:
                u = standard(self.down[level - 1](estimate))[0]

        return loss

    @torch.no_grad()
    def errors(self, x, y):
        """The test error, normalised by the images that are tested."""
        logits, _ = self.encode(x, 0.0, 0)
        return (logits.argmax(1) != y).float().mean().item()


def train(count, draw, updates, device):
    torch.manual_seed(draw)
    data = MNIST()
    x, y, _ = (part if part is None else part.to(device) for part in data.split("train"))
    keep = FewLabels(count, seed=draw).drawn(y.cpu(), 10).to(device)

    model = Ladder().to(device)
    adam = torch.optim.Adam(model.parameters(), 2e-3)
    decline = torch.optim.lr_scheduler.LambdaLR(adam, lambda i: min(1.0, 3 * (1 - i / updates)))
    start = time.perf_counter()
    for _ in range(updates):
        labelled = keep[torch.randperm(len(keep), device=device)[:100]]
        rest = torch.randint(len(x), (250,), device=device)
        adam.zero_grad()
        model.losses(torch.cat([x[labelled], x[rest]]), y[labelled]).backward()
        adam.step()
        decline.step()

    row = {"labels": count, "draw": draw, "updates": updates}
    for name in ("valid", "test"):
        held_x, held_y, _ = data.split(name)
        row[name] = model.errors(held_x.to(device), held_y.to(device))
    return row | {"seconds": time.perf_counter() - start}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", nargs="+", type=int, default=[100])
    parser.add_argument("--draws", nargs="+", type=int, default=[0])
    parser.add_argument("--updates", type=int, default=12_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    rows = []
    for count in args.labels:
        for draw in args.draws:
            rows.append(train(count, draw, args.updates, args.device))
            print(rows[-1], flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
