"""What the measures of sample quality say of real images, and of such as are spoiled in one way.

    python -m benchmarks.spoiled [FashionMNIST MNIST] [--n 10000] [--json FILE]

10,000 images each: training and validation images as they are, and such that are blurred, noisy,
repeated, or of half the classes. FID, KID and the others are taken against test images on the
features of the shipped classifier. A measure is of use where it is best for real images, and worse
with every kind of damage that it is to see.
"""

import argparse
import json
from pathlib import Path

import torch
from scipy.ndimage import gaussian_filter

import gendae
from gendae.metrics.quality import Quality
from gendae.metrics.report import feature_network

COLUMNS = ("fid", "kid", "precision", "recall", "density", "coverage", "copying", "confidence")


def blurred(x, shape, sigma):
    images = x.reshape(-1, *shape).numpy()
    return torch.from_numpy(gaussian_filter(images, (0, sigma, sigma))).flatten(1)


def noisy(x, sigma):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + sigma * noise).clamp(0.0, 1.0)


def sets_of(data, n):
    """Images by what was done to them."""
    train = data.split("train")
    valid = data.split("valid").x[:n]
    half = train.x[train.y < 5]

    return {
        "training images": train.x[:n],
        "validation images": valid,
        "blurred, sigma 0.5 pixels": blurred(valid, data.shape, 0.5),
        "blurred, 1 pixel": blurred(valid, data.shape, 1.0),
        "blurred, 2 pixels": blurred(valid, data.shape, 2.0),
        "noise of 0.1": noisy(valid, 0.1),
        "noise of 0.2": noisy(valid, 0.2),
        "a tenth, ten times": valid[: n // 10].repeat(10, 1),
        "training images of classes 0 .. 4": half[:n],
        "mean image": train.x.mean(0).repeat(n, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", default=["FashionMNIST", "MNIST"])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    table = {}
    for name in args.data:
        data = getattr(gendae, name)()
        network, features = feature_network(data)
        judge = Quality(data.split("train").x, data.split("test").x, network)
        print(f"\n{name}: {features}\n| images | {' | '.join(COLUMNS)} |")
        for what, x in sets_of(data, args.n).items():
            row = judge(x)
            table[f"{name}: {what}"] = row
            print(f"| {what} | {' | '.join(f'{row[key]:.3f}' for key in COLUMNS)} |", flush=True)

    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
