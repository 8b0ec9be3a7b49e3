"""Time and memory of an update and of GENERATE against what makes them larger.

    python -m benchmarks.scaling [--out docs/scaling.png] [--json FILE]

An update is measured against depth, width, batch and inference steps, GENERATE against the number
of samples. Each point is a process of its own: the median time of some calls, and how far the
process's peak memory lies above what it had before the model was built. The exponent is the slope
of a line through the logarithms of the upper half of the points, where constant costs no longer
hide it.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import linear_regression, median

import torch

from gendae import TargetPropInference, VariationalEMRule, deep_autoencoder, generate, plots
from gendae.plots import Figure

#: What varies, its values, and what is expected of time and memory.
AXES = {
    "depth": [1, 2, 4, 8, 16],
    "width": [250, 500, 1000, 2000, 4000],
    "batch": [25, 50, 100, 200, 400, 800, 1600],
    "steps": [4, 8, 15, 30, 60, 120],
    "samples": [125, 250, 500, 1000, 2000, 4000],
}
CALLS = 5


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def sizes(depth=2, width=1000):
    return [784, *([width] * (depth - 1)), 100]


def update(depth=2, width=1000, batch=100, steps=15):
    stack = deep_autoencoder(sizes(depth, width))
    rule = VariationalEMRule(stack, inference=TargetPropInference(steps))
    optimizer = rule.configure_optimizers()
    x = torch.rand(batch, 784)

    def call():
        optimizer.zero_grad(set_to_none=True)
        sum(rule.losses((x,)).values()).backward()
        optimizer.step()

    return call


def generating(n):
    stack = deep_autoencoder(sizes())
    stack.prior.fit(torch.rand(200, 100))
    return lambda: generate(stack, n, seed=0)


def point(axis, value):
    torch.manual_seed(0)
    torch.rand(100, 100) @ torch.rand(100, 100)  # what the libraries allocate for themselves

    before = peak()
    call = generating(value) if axis == "samples" else update(**{axis: value})

    times = []
    for _ in range(1 + CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)

    return {"seconds": median(times[1:]), "mib": peak() - before}


def exponent(values, measured):
    few = len(values) < 5
    upper = slice(len(values) // 2 - few, None)
    logs = [[math.log(v) for v in list(column)[upper]] for column in (values, measured)]
    return linear_regression(*logs).slope


def figure(curves):
    """Time (left axis) and memory (right axis) against each quantity, with fitted exponents."""
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    canvas = Figure(figsize=(4.4 * columns, 3.4 * rows), layout="constrained")
    canvas.get_layout_engine().set(wspace=0.08, hspace=0.06)
    panels = canvas.subplots(rows, columns, squeeze=False).flatten()
    for unused in panels[len(curves) :]:
        unused.set_axis_off()

    for axes, (name, curve) in zip(panels, curves.items(), strict=False):
        memory = axes.twinx()
        draw(axes, curve, "seconds", "time [s]", curve["time_exponent"], "C0")
        draw(memory, curve, "mib", "memory [MiB]", curve["memory_exponent"], "C1")
        memory.set_ylim(*decades(curve["mib"]))
        axes.set(xlabel=name, xticks=curve["values"], xticklabels=curve["values"])
        axes.minorticks_off()
        for each in (axes, memory):
            plots.plain_ticks(each)

    return canvas


def draw(axes, curve, key, what, exponent, colour):
    axes.loglog(curve["values"], curve[key], "o-", color=colour, markersize=4)
    axes.set_ylabel(f"{what}, exponent {exponent:.2f}", color=colour)


def decades(values):
    """Limits of an axis: a decade or more, so that noise stays small."""
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)))
    return low, high


def curve_of(axis):
    """Time and memory for all values of an axis, each point in its own process."""
    rows = []
    for value in AXES[axis]:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scaling", "--point", axis, str(value)],
            check=True,
            capture_output=True,
            text=True,
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))

    seconds, mib = ([row[key] for row in rows] for key in ("seconds", "mib"))
    return {
        "values": AXES[axis],
        "seconds": seconds,
        "mib": mib,
        "time_exponent": exponent(AXES[axis], seconds),
        "memory_exponent": exponent(AXES[axis], mib),
    }


def described(axis, curve):
    """A line of text for a curve."""
    columns = zip(curve["values"], curve["seconds"], curve["mib"], strict=True)
    points = ", ".join(f"{v}: {1e3 * s:.1f} ms {m:.0f} MiB" for v, s, m in columns)
    return (
        f"{axis:8} time ~ {axis}^{curve['time_exponent']:.2f}, "
        f"memory ~ {axis}^{curve['memory_exponent']:.2f}; {points}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--out", default="docs/scaling.png")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(point(args.point[0], int(args.point[1]))))
        return

    curves = {}
    for axis in args.axes:
        curves[axis] = curve_of(axis)
        print(described(axis, curves[axis]), flush=True)

    plots.save(figure(curves), args.out)
    if args.json:
        args.json.write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    main()
