"""Table of classifiers that `gendae fit` trained: errors of each run's best epoch, mean +- sd over seeds.

    python benchmarks/classifiers.py dtp-tanh=runs/dtp-tanh bp-tanh=runs/bp-tanh --json docs/results/classifiers.json

NAME=FOLDER: all numbered runs in the folder are one row. Training error is that of the last epoch on all training
images, clean; test images are looked at once for each run, with the weights of its best validation error.
"""

import argparse
import json
from pathlib import Path

from gendae.commands.common import data_of
from gendae.commands.compare import HEADER, Run, curves, markdown, measure, summary, table
from gendae.commands.predict import error_rate, load_classifier
from gendae.plots import learning_curves, save


def training_error(run: Run, data, samples: int) -> float:
    x, y, _ = data.split("train")
    return error_rate(
        load_classifier(Path(run.folder) / "checkpoints/last.ckpt").predict(x, samples), y
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--json")
    parser.add_argument("--curves", help="PNG of the validation errors against the epoch")
    parser.add_argument(
        "--samples", type=int, default=10, help="draws of stochastic units for training errors"
    )
    args = parser.parse_args()
    results, runs = {}, {}
    for row in args.rows:
        name, folder = row.split("=")
        folders = sorted(
            p for p in Path(folder).iterdir() if (p / "checkpoints/last.ckpt").is_file()
        )
        data = data_of(load_classifier(folders[0] / "checkpoints/last.ckpt"))
        runs[name] = sorted((measure(f, data) for f in folders), key=lambda run: run.seed)
        results[name] = summary(runs[name], []) | {
            "command": load_classifier(folders[0] / "checkpoints/best.ckpt").facts["command"],
            "training_errors": [training_error(run, data, args.samples) for run in runs[name]],
        }
    header = [*HEADER, "training error, last", "best epochs"]
    rows = [
        [
            *line,
            ", ".join(f"{100 * e:.2f}" for e in result["training_errors"]) + " %",
            ", ".join(str(run["epoch"]) for run in result["runs"]),
        ]
        for line, result in zip(table(results), results.values(), strict=True)
    ]
    print(markdown([header, *rows]))
    if args.curves:
        save(learning_curves(curves(runs)), args.curves)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
