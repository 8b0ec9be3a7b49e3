"""One training step of each rule against its floor, in turns.

    python -m benchmarks.steps [--rules VariationalEMRule KLRule ..] [--batch 100] [--repeats 40]
                               [--compile] [--json FILE]

Networks have the 2015 paper's size (784-1000-100, batches of 100); classifiers have ten classes on
top, and the joint rule an image and a label. The floor is the step's own matrix products, the
noise it draws and a fused AdamW over its parameters, each alone (benchmarks/floor.py). A step is
zero_grad, losses, one backward pass and the optimizer, as `Rule.training_step` does it;
Lightning's share is measured by benchmarks.overhead. Both are timed in the same run.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch

import gendae
from benchmarks.floor import Floor, interleaved
from gendae.rules.moment import Moment
from gendae.training.graphs import CompiledLoop, StaticUpdate
from gendae.training.memory import keep_freed_memory

SIZES = (784, 1000, 100)
CLASSES = 10
#: Of the step: beyond the starts of training, and one in which feedback learns where it does so
#: every tenth time.
UPDATE = 10_000
#: Steps that follow one another in a turn.
BURST = 5


def generative(noise=None, **kwargs):
    return gendae.deep_autoencoder(SIZES, noise=noise, **kwargs)


def classifier(**kwargs):
    return gendae.deep_classifier(SIZES, classes=CLASSES, **kwargs)


RULES = {
    "VariationalEMRule": lambda: gendae.VariationalEMRule(generative()),
    "STDPRule": lambda: gendae.STDPRule(generative()),
    "KLRule": lambda: gendae.KLRule(
        gendae.deep_autoencoder(
            SIZES, ["softplus", "linear"], noise=0.3, prior=gendae.GaussianPrior("identity", 1.0)
        )
    ),
    "TargetPropRule": lambda: gendae.TargetPropRule(generative()),
    "DifferenceTargetPropRule": lambda: gendae.DifferenceTargetPropRule(classifier()),
    "BackStepRule": lambda: gendae.BackStepRule(gendae.Stack(gendae.TiedPair(784, 1000))),
    "BackpropRule": lambda: gendae.BackpropRule(classifier()),
    "FeedbackAlignmentRule": lambda: gendae.FeedbackAlignmentRule(classifier()),
    "FeedbackRule": lambda: gendae.FeedbackRule(classifier()),
    "GeneRecRule": lambda: gendae.GeneRecRule(classifier()),
    "ContrastiveHebbianRule": lambda: gendae.ContrastiveHebbianRule(classifier()),
    "StraightThroughRule": lambda: gendae.StraightThroughRule(classifier(stochastic=True)),
    "JointTargetPropRule": lambda: gendae.JointTargetPropRule(
        gendae.joint_autoencoder(
            {"image": {"sizes": SIZES[:2]}, "label": {"sizes": [CLASSES], "kind": "onehot"}},
            [SIZES[2]],
        )
    ),
}


def step_of(name, device="cpu", compile=False, rows=100):
    """The rule, a training step of it as a function without arguments, and its optimizer.

    `compile` compiles the step as `gendae.training.graphs` does.
    """
    torch.manual_seed(0)
    rule = RULES[name]().to(device)
    moment = Moment(generator=torch.Generator(device).manual_seed(0), update=UPDATE)
    optimizer = rule.configure_optimizers()
    batch = batch_for(name, device, rows)
    rule.manual_backward = lambda loss: loss.backward()

    gradients = rule.gradients
    if compile:
        gradients = StaticUpdate(rule)
        if hasattr(rule, "inference"):
            rule.inference.compiled = CompiledLoop(rule.inference)

    def step():
        gradients(batch, moment)
        optimizer.step()

    return rule, step, optimizer


def batch_for(name, device, rows):
    x = torch.rand(rows, SIZES[0], device=device)
    y = torch.randint(CLASSES, (rows,), device=device)
    if name != "JointTargetPropRule":
        return x, y

    values = torch.cat([x, torch.nn.functional.one_hot(y, CLASSES)], 1)
    observed = torch.ones(rows, 2, dtype=torch.bool, device=device)
    return values, observed


def measured(name, repeats, device="cpu", compile=False, rows=100):
    _, step, optimizer = step_of(name, device, rows=rows)
    step()
    floor = Floor(step, optimizer)

    if compile:
        _, step, _ = step_of(name, device, compile, rows)

    seconds = interleaved({"step": step, **floor.calls}, repeats, device, burst=BURST)
    total = sum(seconds[part] for part in floor.calls)
    return {
        "rule": name,
        "batch": rows,
        **{f"{part}_ms": 1e3 * taken for part, taken in seconds.items()},
        "floor_ms": 1e3 * total,
        "ratio": seconds["step"] / total,
        "gflops": floor.products.flops / seconds["step"] / 1e9,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 500])
    parser.add_argument(
        "--deep", action="store_true", help="classifiers of 784-240x7, as in the thesis"
    )
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compile", action="store_true", help="compile the loop of inference (VariationalEMRule)"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_freed_memory()  # as `gendae fit` does
    if args.deep:
        global SIZES
        SIZES = (784, *[240] * 7)

    rows = []
    for name, batch in product(args.rules, args.batch):
        row = measured(name, args.repeats, args.device, args.compile, batch)
        rows.append(row)
        print(
            "{rule:26} batch {batch:4}: step {step_ms:7.2f} ms, floor {floor_ms:7.2f} ms "
            "(products {products_ms:.2f}, optimizer {optimizer_ms:.2f}, noise {noise_ms:.2f}), "
            "ratio {ratio:.2f}, {gflops:.0f} GFLOP/s".format(**row),
            flush=True,
        )

    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
