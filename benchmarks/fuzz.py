"""Fuzz data files, masks, descriptions, configurations and command lines: how often it worked, was refused, or failed.

    python benchmarks/fuzz.py [--cases 3000] [--seed N] [--targets images commands] [--json FILE]

Runs the properties of tests/test_fuzz.py with more cases than pytest does (strategies: tests/fuzz*.py; hypothesis is
needed). A case that neither works nor is refused with one clear line is printed, made as small as can be.
"""

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path


def run(names, tests, tally, verbose):
    """One row for each target; the number of failures counts different ones, not cases."""
    rows = []
    for name in names:
        start, failures = time.perf_counter(), []
        try:
            tests[name]()
        except Exception as error:  # noqa: BLE001 - whatever it is: it is what is counted
            failures = list(getattr(error, "exceptions", [error]))
            if verbose:
                traceback.print_exc()
        rows.append(
            {
                "target": name,
                "cases": sum(tally[name].values()),
                **{k: tally[name][k] for k in ("worked", "refused")},
                "failures": [f"{type(f).__name__}: {f}"[:300] for f in failures],
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
        print(
            f"{name:<16}{rows[-1]['cases']:>7}{rows[-1]['worked']:>9}{rows[-1]['refused']:>9}{len(failures):>15}"
            f"{rows[-1]['seconds']:>9}",
            flush=True,
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=3000, help="over all targets")
    parser.add_argument("--seed", type=int, help="other cases than the fixed ones")
    parser.add_argument("--targets", nargs="+", help="by default all")
    parser.add_argument("--json")
    args = parser.parse_args()
    os.environ["GENDAE_FUZZ_CASES"] = str(args.cases)
    if args.seed is not None:
        os.environ["GENDAE_FUZZ_SEED"] = str(args.seed)
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import logging
    import warnings

    from tests import fuzz, test_fuzz

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    tests = {name: getattr(test_fuzz, f"test_{name}") for name in fuzz.SHARES}
    names = args.targets or list(tests)
    print(
        f"{'what':<16}{'cases':>7}{'worked':>9}{'refused':>9}{'anything else':>15}{'seconds':>9}"
    )
    rows = run(names, tests, fuzz.TALLY, verbose=True)
    total = [sum(row[key] for row in rows) for key in ("cases", "worked", "refused")]
    print(
        f"{'all':<16}{total[0]:>7}{total[1]:>9}{total[2]:>9}{sum(len(row['failures']) for row in rows):>15}"
        f"{sum(row['seconds'] for row in rows):>9.1f}"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    sys.exit(1 if any(row["failures"] for row in rows) else 0)


if __name__ == "__main__":
    main()
