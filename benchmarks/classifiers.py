"""Table of classifiers that `gendae fit` trained: errors of best epochs, mean +- sd over seeds.

    python -m benchmarks.classifiers dtp-tanh=runs/dtp-tanh bp-tanh=runs/bp-tanh --json FILE

NAME=FOLDER: all numbered runs in the folder are one row. Training error is that of the last epoch
on all training images, clean; test images are looked at once for each run, with the weights of
its best validation error.
"""

import argparse
import json
from pathlib import Path

from gendae.commands.common import markdown
from gendae.commands.compare import HEADER, Run, curves, measure, summary, table
from gendae.commands.data import data_of
from gendae.commands.predict import load_classifier
from gendae.models.classifier import error_of
from gendae.plots import learning_curves, save


def training_error(run: Run, data, samples: int) -> float:
    x, y, _ = data.split("train")
    classifier = load_classifier(Path(run.folder) / "checkpoints/last.ckpt")
    return error_of(classifier.predict(x, samples), y).item()


def row_of(folder, samples):
    """The runs of a folder, by seed, and the summary of their errors."""
    folders = sorted(p for p in Path(folder).iterdir() if (p / "checkpoints/last.ckpt").is_file())
    data = data_of(load_classifier(folders[0] / "checkpoints/last.ckpt"))
    runs = sorted((measure(f, data) for f in folders), key=lambda run: run.seed)

    best = load_classifier(folders[0] / "checkpoints/best.ckpt")
    result = summary(runs, []) | {
        "command": best.facts["command"],
        "training_errors": [training_error(run, data, samples) for run in runs],
    }
    return runs, result


def lines_of(results):
    """The table, header first: that of `gendae compare` and two more columns."""
    lines = [[*HEADER, "training error, last", "best epochs"]]
    for line, result in zip(table(results), results.values(), strict=True):
        training_errors = ", ".join(f"{100 * e:.2f}" for e in result["training_errors"])
        best_epochs = ", ".join(str(run["epoch"]) for run in result["runs"])
        lines.append([*line, f"{training_errors} %", best_epochs])

    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--json")
    parser.add_argument("--curves", help="PNG of the validation errors against the epoch")
    parser.add_argument(
        "--samples", type=int, default=10, help="draws of stochastic units for training errors"
    )
    args = parser.parse_args()

    runs = {}
    results = {}
    for row in args.rows:
        name, folder = row.split("=")
        runs[name], results[name] = row_of(folder, args.samples)

    print(markdown(lines_of(results)))

    if args.curves:
        save(learning_curves(curves(runs)), args.curves)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
