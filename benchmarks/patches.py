"""Missing pixels of images filled in, beside what needs no model: PSNR and SSIM of test images.

    python -m benchmarks.patches [MODEL ..] [--masks random left] [--seeds 0 1 2] [--json FILE]

A model is a file or a shipped model, its images are those of its own data set; without one they
are colour patches of 16 x 16 pixels (`gendae.Patches`), whose training and test images come from
different photographs. Filled in are the pixels of a random half, or of one side, in all channels.
A model's row is the mean of several draws of its own inpainter, as a mean comes nearest in squared
error. PSNR is that of missing pixels, SSIM of whole images; a seed draws mask and noise. The mean
PSNR of images is ruled by smooth ones, that of their mean error ("pooled") by the others. The
control of a model of blocks has `benchmarks.blocks.LastLayers` in the place of its
configuration's rule.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

import gendae
from benchmarks.fills import biharmonic_fill, linear_fill, mean_fill, nearest_fill
from gendae.commands.data import data_of
from gendae.metrics.fidelity import psnr, ssim

#: Training images that neighbours are looked for among.
EXAMPLES = 20_000


def baselines(data):
    """What fills in without a model, by name."""
    train = data.split("train").x[:EXAMPLES]
    return {
        "mean of training images": lambda x, given, seed: mean_fill(x, given, train),
        "5 nearest neighbours": lambda x, given, seed: nearest_fill(x, given, train),
        "linear regression": lambda x, given, seed: linear_fill(x, given, train),
        "biharmonic": lambda x, given, seed: biharmonic_fill(x, given, data.shape),
    }


def mean_of_draws(stack, draws):
    """The mean of what the stack's inpainter gives, drawn so many times."""

    def filled(x, given, seed):
        repeated = x.repeat_interleave(draws, 0)
        ends = gendae.inpaint(stack, repeated, given, seed=seed)
        return ends.view(len(x), draws, -1).mean(1)

    return filled


def scores(filler, data, mask, images, seeds):
    """Means over images, for each seed."""
    x = data.split("test").x[:images]
    runs = []
    for seed in seeds:
        given = gendae.named_mask(mask, data.shape, seed)
        filled = filler(x, given, seed)
        errors = psnr(filled, x, given)
        runs.append(
            {
                "PSNR": errors.mean().item(),
                "pooled": pooled(errors),
                "SSIM": ssim(filled, x, data.shape).mean().item(),
            }
        )

    return runs


def pooled(decibels):
    """PSNR of the mean of the images' squared errors."""
    return -10 * (10 ** (-decibels / 10)).mean().log10().item()


def told(runs):
    """Means and standard deviations over seeds."""
    cells = []
    for name, digits in (("PSNR", 2), ("pooled", 2), ("SSIM", 3)):
        values = [run[name] for run in runs]
        spread = stdev(values) if len(values) > 1 else 0.0
        cells.append(f"{name} {mean(values):.{digits}f} +- {spread:.{digits}f}")

    return " | ".join(cells)


def fillers(model, draws):
    """A data set, and what fills in its images."""
    if model is None:
        data = gendae.Patches()
        return data, baselines(data)

    stack = gendae.load(model)
    data = data_of(stack)
    if data.kind != "image":
        raise ValueError(
            f"{model} is a model of kind {data.kind!r}: what it fills in is no pixels"
        )

    return data, {Path(model).stem: mean_of_draws(stack, draws), **baselines(data)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--masks", nargs="+", default=["random", "left"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    table = {}
    for model in args.models or [None]:
        data, of_model = fillers(model, args.draws)
        for mask in args.masks:
            for name, filler in of_model.items():
                row = f"{mask}: {name}"
                if row in table:
                    continue
                table[row] = scores(filler, data, mask, args.images, args.seeds)
                print(f"| {row} | {told(table[row])} |", flush=True)

    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
