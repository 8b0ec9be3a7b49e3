"""Rows of benchmarks/tops.py or questions.py as a Markdown table: mean +- standard deviation over seeds.

python benchmarks/table.py docs/results/tops.json --by config prior
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
    spread = f" +- {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def table(rows, by, columns):
    rows = [prepare(row) for row in rows]
    lines = [
        "| " + " | ".join([*by, "seeds", *(COLUMNS[c][0] for c in columns)]) + " |",
        "|" + "---|" * (len(by) + 1 + len(columns)),
    ]
    order = list(dict.fromkeys(tuple(str(row[k]) for k in by) for row in rows))
    rows.sort(key=lambda row: order.index(tuple(str(row[k]) for k in by)))
    for key, group in groupby(rows, key=lambda row: tuple(str(row[k]) for k in by)):
        group = list(group)
        cells = [cell([row[c] for row in group], COLUMNS[c][1]) for c in columns]
        lines.append("| " + " | ".join([*key, str(len(group)), *cells]) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--by", nargs="+", default=["config", "prior"])
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    args = parser.parse_args()
    rows = [row for file in args.files for row in json.loads(Path(file).read_text())]
    print("\n".join(table(rows, args.by, args.columns)))


if __name__ == "__main__":
    main()
