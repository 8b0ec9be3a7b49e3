"""Whether chains over missing halves are calibrated and sharp: coverage, CRPS, error, spread.

    python -m benchmarks.calibration MODEL --split valid --starts 1 1.5 2 3 --rounds 2 3 5 20
    python -m benchmarks.calibration MODEL --split test --json docs/results/calibration.json

The first line tries schedules of a chain, from a starting temperature down to 1, on validation
images. The second takes the model's own completer, and looks at test images once. A MODEL is
anything that gendae.load reads, or a run folder; --config is that of benchmarks/joint.py.

Intervals lie between equally many samples on both sides, and ties are broken at random: values are
those of 8 bits, and many pixels are 0 in truth and in samples alike. Single pixels are those that
vary among training images (deviation above 0.1). CRPS = E |s - y| - 1/2 E |s - s'| is less the
closer to the truth and the sharper the samples are; it is that of an infinite number of samples.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.joint import model_at, parts
from gendae import complete, generate
from gendae.completion.annealing import Annealing
from gendae.completion.completer import Completer

LEVELS = (0.5, 0.8, 0.95)
BLOCK = 50  # images measured at a time


def crps(samples, truth):
    """Fair CRPS of each value: samples (n, k, d), truth (n, d)."""
    k = samples.shape[1]
    distance = (samples - truth[:, None]).abs().mean(1)

    ordered = samples.sort(1).values
    weights = 2.0 * torch.arange(1, k + 1) - k - 1
    between = 2.0 * (ordered * weights[:, None]).sum(1) / (k * (k - 1))

    return distance - 0.5 * between


def ranks(samples, truth, generator):
    """Share of samples below the truth, uniform in [0, 1] for draws of the truth's own law."""
    below = (samples < truth[:, None]).sum(1)
    ties = (samples == truth[:, None]).sum(1)
    draw = torch.rand(below.shape, generator=generator)

    return (below + draw * (ties + 1)) / (samples.shape[1] + 1)


def coverage(rank):
    """Shares of truths within central intervals."""
    return {
        str(level): ((rank - 0.5).abs() <= level / 2).double().mean().item() for level in LEVELS
    }


def bytes_of(x):
    return (x.clamp(0, 1) * 255).round() / 255


def measured(samples_of, truth, varies):
    """All measures of a method; `samples_of(rows)` gives samples (rows, k, pixels)."""
    generator = torch.Generator().manual_seed(0)
    sums = {"mse of the mean": 0.0, "mse of a sample": 0.0, "variance": 0.0, "crps": 0.0}
    of_sum = []
    of_pixels = []
    crps_of_sum = 0.0

    for rows in torch.arange(len(truth)).split(BLOCK):
        s = bytes_of(samples_of(rows))
        y = truth[rows]
        weight = len(rows) / len(truth)
        several = s.shape[1] > 1

        sums["mse of the mean"] += weight * (s.mean(1) - y).square().mean().item()
        sums["mse of a sample"] += weight * (s - y[:, None]).square().mean().item()
        if not several:
            continue

        total = s.sum(2, keepdim=True)
        total_y = y.sum(1, keepdim=True)
        sums["variance"] += weight * s.var(1).mean().item()
        sums["crps"] += weight * crps(s, y).mean().item()
        crps_of_sum += weight * crps(total, total_y).mean().item()
        of_sum.append(ranks(total, total_y, generator))
        of_pixels.append(ranks(s[..., varies], bytes_of(y)[:, varies], generator).flatten())

    if not of_sum:
        return {name: sums[name] for name in ("mse of the mean", "mse of a sample")}

    return {
        **sums,
        "crps of the sum": crps_of_sum,
        "sum covers": coverage(torch.cat(of_sum)),
        "pixels cover": coverage(torch.cat(of_pixels)),
    }


def by_chain(stack, given, name, wanted, samples, completer):
    def draw(rows):
        values = complete(
            stack, {name: given[rows]}, n=samples, completer=completer, seed=int(rows[0])
        ).values
        return values[wanted].view(len(rows), samples, -1)

    return draw


def others(stack, train, given, name, wanted, samples):
    """One pass, nearest neighbours, and draws that know nothing of the given half."""
    pool = stack.separate(generate(stack, 5000, seed=0))[wanted]
    real = train[wanted]
    generator = torch.Generator().manual_seed(0)

    def among(values):
        def draw(rows):
            index = torch.randint(len(values), (len(rows), samples), generator=generator)
            return values[index]

        return draw

    def neighbours(rows):
        distance = torch.cdist(given[rows], train[name])
        return real[distance.topk(24, largest=False).indices]

    return {
        "one pass": lambda rows: stack.predict({name: given[rows]}, wanted)[:, None],
        "24 nearest neighbours": neighbours,
        "unconditional samples": among(pool),
        "other training images": among(real),
    }


def chains(stack, starts, rounds):
    """Schedules to try, or the model's own completer beside the default of 50 rounds."""
    if starts:
        return {
            f"{count} rounds from {start:g}": Completer(count, Annealing(start, 1.0))
            for start in starts
            for count in rounds
        }

    own = stack.settings.completer
    temperatures = [round(t, 2) for t in own.annealing.temperatures(own.rounds)]
    return {f"own chain, temperatures {temperatures}": own, "mcmc, 50 rounds": Completer.mcmc(50)}


def table(rows):
    lines = []
    for name, row in rows.items():
        line = f"{name:<40} error of the mean {row['mse of the mean']:.4f}"
        if "crps" in row:
            cover = [
                " ".join(f"{100 * share:.0f}" for share in row[key].values())
                for key in ("sum covers", "pixels cover")
            ]
            line += (
                f"  spread {row['variance'] ** 0.5:.3f}  CRPS {row['crps']:.4f}, of the sum "
                f"{row['crps of the sum']:.2f}  sum {cover[0]}  pixels {cover[1]}"
            )
        lines.append(line)

    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--split", default="valid", choices=["valid", "test"])
    parser.add_argument("--given", default="bottom")
    parser.add_argument("--wanted", default="top")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--starts", nargs="*", type=float, help="temperatures to begin at")
    parser.add_argument("--rounds", nargs="*", type=int, default=[3])
    parser.add_argument("--config", help="measure widths under the noise of this configuration")
    parser.add_argument("--json")
    args = parser.parse_args()

    stack = model_at(args.model, args.config)
    train = parts(stack, "train")
    values = parts(stack, args.split)
    given = values[args.given][: args.images]
    truth = values[args.wanted][: args.images]
    varies = train[args.wanted].std(0) > 0.1

    methods = others(stack, train, given, args.given, args.wanted, args.samples)
    for name, completer in chains(stack, args.starts, args.rounds).items():
        methods[name] = by_chain(stack, given, args.given, args.wanted, args.samples, completer)

    rows = {}
    for name, samples_of in methods.items():
        rows[name] = measured(samples_of, truth, varies)
        print(table({name: rows[name]}), flush=True)

    if args.json:
        content = {"model": args.model, "split": args.split, "images": len(truth)}
        content |= {"samples": args.samples, "pixels": int(varies.sum()), "rows": rows}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
