"""Rows of benchmarks/tops.py or questions.py as a Markdown table: mean +- sd over seeds.

python -m benchmarks.table docs/results/tops.json --by config prior
"""

import argparse
import json
import re
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev

COLUMNS = {
    "ll": ("LL [nats]", 1),
    "fid": ("FID", 2),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "density": ("density", 2),
    "coverage": ("coverage", 3),
    "copying": ("C_T", 2),
    "copying_pixels": ("C_T pixels", 2),
    "confidence": ("confidence", 3),
    "least": ("least class %", 1),
    "switches": ("switches", 1),
    "seconds": ("seconds", 0),
}


def prepare(row):
    config = re.search(r"configs/([\w-]+)\.yaml", row["command"])
    seconds = (row["training_seconds"] or 0.0) + row["prior_seconds"]
    return row | {
        "config": config.group(1) if config else row["rule"],
        "seconds": seconds,
        "least": 100 * min(row["classes"]),
    }


def cell(values, digits):
    values = [v for v in values if v is not None]
    if not values:
        return ""

    mean = f"{fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean

    return f"{mean} +- {stdev(values):.{digits}f}"


def table(rows, by, columns):
    rows = [prepare(row) for row in rows]
    titles = [*by, "seeds", *(COLUMNS[c][0] for c in columns)]
    lines = [line(titles), "|" + "---|" * len(titles)]

    def key_of(row):
        return tuple(str(row[k]) for k in by)

    order = list(dict.fromkeys(map(key_of, rows)))
    rows.sort(key=lambda row: order.index(key_of(row)))
    for key, group in groupby(rows, key=key_of):
        group = list(group)
        cells = [cell([row[c] for row in group], COLUMNS[c][1]) for c in columns]
        lines.append(line([*key, str(len(group)), *cells]))

    return lines


def line(cells):
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--by", nargs="+", default=["config", "prior"])
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    args = parser.parse_args()

    rows = []
    for file in args.files:
        rows += json.loads(Path(file).read_text())

    print("\n".join(table(rows, args.by, args.columns)))


if __name__ == "__main__":
    main()
