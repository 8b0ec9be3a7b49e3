"""Fuzz data files, masks, descriptions, configurations and commands, and count how each ended.

    python -m benchmarks.fuzz [--cases 3000] [--seed N] [--targets images commands] [--json FILE]

A case works, is refused with one clear line, or is anything else: that is printed, made as small
as can be. Hypothesis is needed.
"""

import argparse
import json
import logging
import sys
import time
import traceback
import warnings
from pathlib import Path

from benchmarks.fuzz.oracle import TALLY
from benchmarks.fuzz.targets import TARGETS, fuzz

HEAD = f"{'what':<16}{'cases':>7}{'worked':>9}{'refused':>9}{'anything else':>15}{'seconds':>9}"


def line(name: str, row: dict) -> str:
    """A row of the table; the number of failures counts different ones, not cases."""
    counts = f"{row['cases']:>7}{row['worked']:>9}{row['refused']:>9}"
    return f"{name:<16}{counts}{len(row['failures']):>15}{row['seconds']:>9.1f}"


def measured(name: str, cases: int, seed: int | None) -> dict:
    """How the cases of one target ended."""
    start = time.perf_counter()
    failures = []
    try:
        fuzz(name, cases, seed)
    except Exception as error:  # noqa: BLE001 - whatever it is: it is what is counted
        failures = list(getattr(error, "exceptions", [error]))
        traceback.print_exc()

    return {
        "target": name,
        "cases": TALLY[name].total(),
        "worked": TALLY[name]["worked"],
        "refused": TALLY[name]["refused"],
        "failures": [f"{type(failure).__name__}: {failure}"[:300] for failure in failures],
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=3000, help="over all targets")
    parser.add_argument("--seed", type=int, help="other cases than the fixed ones")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), help="by default all")
    parser.add_argument("--json")
    args = parser.parse_args()

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    print(HEAD)
    rows = []
    for name in args.targets or TARGETS:
        rows.append(measured(name, args.cases, args.seed))
        print(line(name, rows[-1]), flush=True)

    total = {key: sum(row[key] for row in rows) for key in ("cases", "worked", "refused")}
    total["seconds"] = sum(row["seconds"] for row in rows)
    total["failures"] = [failure for row in rows for failure in row["failures"]]
    print(line("all", total))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))

    return int(bool(total["failures"]))


if __name__ == "__main__":
    sys.exit(main())
