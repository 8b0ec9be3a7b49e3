"""CPU seconds of commands, start to file, against what they cannot do without.

    python -m benchmarks.commands [--repeats 7] [--evaluate N] [--json FILE]

`gendae sample` cannot do without `import torch` and GENERATE's own arithmetic: the first is timed
in a process of its own, the second in this one, in turns with the command. With --evaluate,
`gendae evaluate` of N samples is timed once. Seconds are user and system time of all threads.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from gendae import generate, load
from gendae.training.memory import keep_freed_memory

MODEL = "mnist-variational-em"


def cpu_seconds(call, who=resource.RUSAGE_SELF):
    before = resource.getrusage(who)
    call()
    after = resource.getrusage(who)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def of_process(*arguments):
    def run():
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    return cpu_seconds(run, resource.RUSAGE_CHILDREN)


def sampling(repeats, n=100):
    stack = load(MODEL)
    times = {"import_torch": [], "arithmetic": [], "sample": []}
    with tempfile.TemporaryDirectory() as folder:
        command = ("-m", "gendae.cli", "sample", MODEL, "--n", str(n))
        for _ in range(repeats):
            times["import_torch"].append(of_process("-c", "import torch"))
            times["arithmetic"].append(cpu_seconds(lambda: generate(stack, n, seed=0)))
            times["sample"].append(of_process(*command, "--out", f"{folder}/samples.png"))

    best = {name: min(taken) for name, taken in times.items()}
    floor = best["import_torch"] + best["arithmetic"]
    return {"what": f"gendae sample --n {n}", **best, "ratio": best["sample"] / floor}


def evaluating(n):
    seconds = of_process("-m", "gendae.cli", "evaluate", MODEL, "--n", str(n))
    return {"what": f"gendae evaluate --n {n}", "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--evaluate", type=int, metavar="N")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_freed_memory()  # as the commands do

    rows = [sampling(args.repeats)]
    if args.evaluate is not None:
        rows.append(evaluating(args.evaluate))
    for row in rows:
        print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else v for k, v in row.items()))

    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
