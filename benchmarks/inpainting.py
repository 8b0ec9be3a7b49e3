"""Inpainting error of each half against the training mean and 5 nearest neighbours: test images.

python -m benchmarks.inpainting MODEL [MODEL ..] [--images 500]
"""

import argparse

from benchmarks.mnist import inpainting_errors
from gendae import load
from gendae.commands.data import data_of


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=500)
    args = parser.parse_args()

    for model in args.models:
        stack = load(model)
        for half, row in inpainting_errors(stack, data_of(stack), args.images).items():
            print(model, half, {k: round(v, 3) for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
