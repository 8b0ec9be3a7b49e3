"""Feedback on one classifier: cosines with the gradient, error and time of a step.

    python -m benchmarks.feedback [--network lenet] [--rules ..] [--steps 3000] [--seeds 0]
        [--units sign] [--stochastic] [--mnist FOLDER | --fashion FOLDER] [--device cpu]
        [--jobs 1] [--json FILE]

The LeNet (16 and 32 maps of 5 x 5, max-pooled, 128 units, relu) or a fully connected network
(three layers of 256 tanh units, or two of 512 relu units), AdamW at 1e-3, constant for half of the
steps and then linear to 0, batches of 100, pixels standardised. Feedback that learns is aligned
for 500 updates first. The cosine is that of the gradients of each map's weights, by the rule and
by back-propagation of the same batch, every 25 steps; its means over the first and the last fifth
are given for all maps but the output layer, whose gradient is exact. Of discrete units, through
which no derivative passes, the reference is the straight-through estimate for the same draws.

Every row is a line of the JSON file. With several jobs each row is a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

import gendae
from gendae.rules.chain import Chain
from gendae.rules.moment import Moment

EVERY = 25  # steps between two cosines
NEVER = 10**9
ROWS = 50  # of the 100 images of a batch, from whose answers to noise feedback learns
FASHION = "/usr/share/datasets/fashion-mnist"


def by(feedback, **options):
    """A rule by feedback, over a network."""
    return lambda stack, rates: gendae.FeedbackRule(stack, feedback(**options), rates=rates)


differences = partial(by, gendae.LocalDifference, rows=ROWS)
mirror = partial(by, gendae.WeightMirror, rows=ROWS)
ALONE = {"tracks": False, "every": 1}

#: Rows of the table, and under them the controls.
RULES = {
    "back-propagation": lambda stack, rates: gendae.BackpropRule(stack, rates=rates),
    "straight-through": lambda stack, rates: gendae.StraightThroughRule(stack, rates=rates),
    "DTP": by(gendae.Inverses),
    "DRL": by(gendae.DifferenceReconstruction, rows=ROWS),
    "FW-DTP": by(gendae.FixedWeights),
    "L-DRL": differences(**ALONE),
    "L-DRL, tracking": differences(),
    "L-DRL, no derivative": differences(derivative=False, **ALONE),
    "L-DRL, no derivative, tracking": differences(derivative=False, every=1),
    "mirror": mirror(**ALONE),
    "mirror, tracking": mirror(),
    "mirror, no derivative, tracking": mirror(derivative=False),
    "sign symmetry": by(gendae.SignSymmetry),
    "sign symmetry, fixed": by(gendae.SignSymmetry, kind="fixed"),
    "sign symmetry, random": by(gendae.SignSymmetry, kind="random"),
    "feedback alignment": by(gendae.Random),
    "direct feedback alignment": by(gendae.Direct),
    "tracking alone": by(gendae.Random, tracks=True),
    "aligned once, then frozen": differences(tracks=False, every=NEVER),
    "aligned once, then tracking": differences(every=NEVER),
}

NETWORKS = {
    "lenet": gendae.lenet,
    "mlp": partial(gendae.deep_classifier, [784, 256, 256, 256], 10, "tanh"),
    "wide": partial(gendae.deep_classifier, [784, 512, 512], 10, "relu"),
}


def network_of(args):
    options = {"gain": args.gain}
    if args.units is not None:
        options |= {"units": args.units, "stochastic": args.stochastic}

    return NETWORKS[args.network](**options)


# -- data ----------------------------------------------------------------------------------------


def data_of(args):
    """{split: (x, y)} on the device; training pixels have mean 0 and variance 1."""
    data = gendae.FashionMNIST(args.fashion) if args.fashion else gendae.MNIST(args.mnist)
    splits = {name: data.split(name) for name in ("train", "valid", "test")}
    mean = splits["train"].x.mean()
    deviation = splits["train"].x.std()

    return {
        name: (((s.x - mean) / deviation).to(args.device), s.y.to(args.device))
        for name, s in splits.items()
    }


def batches(x, y, size, seed):
    """Batches without end, in a new order each time."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in order.split(size):
            if len(rows) == size:
                yield x[rows], y[rows]


# -- one row -------------------------------------------------------------------------------------


class Cosines:
    """Cosines between the gradients of a rule and of back-propagation, by map."""

    def __init__(self, rule):
        self.rule = rule
        chain = Chain.of_classifier(rule.stack, unfolded=True)
        self.weights = [link.layer.weight for link in chain if not link.fixed][:-1]
        self.steps = []
        self.values = []

    def measure(self, step, batch, moment):
        """From the gradients that the rule has left in the weights at this moment."""
        exact = torch.autograd.grad(self.rule.global_loss(batch, moment), self.weights)
        pairs = zip(self.weights, exact, strict=True)
        of_maps = [torch.cosine_similarity(w.grad.flatten(), g.flatten(), 0) for w, g in pairs]

        self.steps.append(step)
        self.values.append(torch.stack(of_maps))

    def summary(self, steps):
        """Means over the first and the last fifth of the training."""
        values = torch.stack(self.values).cpu()
        at = torch.tensor(self.steps)
        fifths = {"first": values[at < steps / 5], "last": values[at >= steps - steps / 5]}

        return {name: rounded(part.mean(0).tolist()) for name, part in fifths.items()}


def rounded(values):
    return [round(value, 3) for value in values]


@torch.no_grad()
def error(stack, x, y):
    """Wrong answers, in per cent."""
    wrong = torch.cat([stack(part)[0].argmax(1) for part in x.split(1000)]) != y
    return round(100 * wrong.double().mean().item(), 2)


class Clock:
    """Seconds, of the device too."""

    def __init__(self, device):
        self.device = torch.device(device)
        self.seconds = 0.0

    def now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

        return time.perf_counter()

    def __enter__(self):
        self.begun = self.now()

    def __exit__(self, *_):
        self.seconds += self.now() - self.begun


def row_of(name, seed, data, args):
    """Train a network by a rule, and score it."""
    torch.manual_seed(seed)
    rates = gendae.Rates(f=args.rate, feedback=args.rate, hold=0.5)
    rule = RULES[name](network_of(args), rates).to(args.device)
    for module in rule.idle():
        module.requires_grad_(False)

    optimizer = rule.configure_optimizers()
    align = getattr(rule, "align", 0)
    noise = torch.Generator(args.device).manual_seed(seed)
    cosines = Cosines(rule)
    clocks = {part: Clock(args.device) for part in ("align", "learn", "measure")}

    source = batches(*data["train"], 100, seed)
    with clocks["align"]:
        for update in range(align):
            step(rule, optimizer, next(source), Moment(0.0, noise, update))

    with clocks["learn"]:
        for done in range(args.steps):
            batch = next(source)
            moment = Moment(done / args.steps, noise, align + done)
            if done % EVERY == 0:
                with clocks["measure"]:
                    again = replace(moment, generator=noise.clone_state())

            gradients(rule, optimizer, batch, moment)
            if done % EVERY == 0:
                with clocks["measure"]:
                    cosines.measure(done, batch, again)
            optimizer.step()

    seconds = clocks["learn"].seconds - clocks["measure"].seconds
    return {
        "rule": name,
        "network": args.network,
        "units": " ".join(["drawn"] * args.stochastic + [args.units or "real"]),
        "data": "fashion" if args.fashion else "mnist",
        "seed": seed,
        "steps": args.steps,
        "rate": args.rate,
        "gain": args.gain,
        "device": args.device,
        "valid": error(rule.stack, *data["valid"]),
        "test": error(rule.stack, *data["test"]),
        "cosine": cosines.summary(args.steps),
        "ms": round(1000 * seconds / args.steps, 2),
        "align_seconds": round(clocks["align"].seconds, 2),
    }


def gradients(rule, optimizer, batch, moment):
    rule.begin_update(optimizer, moment)
    optimizer.zero_grad()
    sum(rule.losses_of(*batch, moment).values()).backward()  # without a look at the labels


def step(rule, optimizer, batch, moment):
    gradients(rule, optimizer, batch, moment)
    optimizer.step()


# -- all rows ------------------------------------------------------------------------------------


def in_processes(rows, args):
    """Each row by a process of its own, some of them at a time."""
    names = ("network", "steps", "rate", "gain", "units", "mnist", "fashion", "device", "json")
    options = [f"--{name}={value}" for name in names if (value := getattr(args, name)) is not None]
    options += ["--stochastic"] * args.stochastic

    def run(row):
        name, seed = row
        own = [f"--rules={name}", f"--seeds={seed}"]
        subprocess.run([sys.executable, "-m", "benchmarks.feedback", *options, *own], check=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, rows))


def table(rows):
    """Rows as Markdown, with means over seeds."""
    yield "| rule | validation, test error | cosine, first fifth | last fifth | ms of a step |"
    yield "|---|---|---|---|---|"
    for name in RULES:
        own = [row for row in rows if row["rule"] == name]
        if own:
            yield f"| {name} | " + " | ".join(cells(own)) + " |"


def cells(rows):
    def mean(get):
        return torch.tensor([get(row) for row in rows], dtype=torch.float64).mean(0).tolist()

    errors = mean(lambda row: [row["valid"], row["test"]])
    first, last = (mean(lambda row, part=part: row["cosine"][part]) for part in ("first", "last"))

    yield "; ".join(f"{value:.2f}" for value in errors)
    yield " ".join(f"{value:.2f}" for value in first)
    yield " ".join(f"{value:.2f}" for value in last)
    yield f"{min(row['ms'] for row in rows):.1f}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=list(NETWORKS), default="lenet")
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--gain", type=float, default=1.0, help="of the weights at the start")
    parser.add_argument("--units", choices=["sign", "binary"], help="discrete hidden units")
    parser.add_argument("--stochastic", action="store_true", help="draw them")
    parser.add_argument("--mnist", help="the folder of its files; by default the usual places")
    parser.add_argument("--fashion", nargs="?", const=FASHION, help="Fashion-MNIST, its folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--json", help="rows are added to it, one a line")
    args = parser.parse_args()
    if args.units and args.network != "lenet":
        parser.error(f"--units {args.units}: of the LeNet alone")

    return args


def main():
    args = arguments()
    rows = list(product(args.rules, args.seeds))
    if args.jobs > 1:
        in_processes(rows, args)
        if args.json:
            lines = Path(args.json).read_text().splitlines()
            print("\n".join(table([json.loads(line) for line in lines])))
        return

    done = []
    data = data_of(args)
    for name, seed in rows:
        row = row_of(name, seed, data, args)
        done.append(row)
        print(json.dumps(row), flush=True)
        if args.json:
            with Path(args.json).open("a") as file:
                file.write(json.dumps(row) + "\n")

    print("\n".join(table(done)))


if __name__ == "__main__":
    main()
