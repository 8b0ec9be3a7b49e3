"""Recurrent classifiers by targets, by back-propagation through time, and with a state left alone.

    python -m benchmarks.recurrent [--tasks digits temporal-order-50 mnist ..] [--seeds 0 1 2]
                                   [--rules targets bptt ..] [--epochs N] [--json FILE]
                                   [--f RATE] [--g RATE] [--scale S] [--accelerator gpu]

The same network from the same weights, the same batches and rates: "targets"
(RecurrentTargetPropRule), "transposes" (its feedback learns the transpose), "weights"
(TransposeFeedbackRule), "reconstructions" (no difference), "inversion" (RegularizedInversionRule),
"bptt" (back-propagation through time), "truncated-1", "truncated-10", and "reservoir" (the
read-out alone learns); "lstm" is a long short-term memory of as many units by back-propagation.
The checkpoint of the least validation error is tested, once; that of "adding" is a squared one,
and beside it stands the fraction of sums that are off by more than 0.04. A task is a name of the
table, or that of a long dependency with its number of steps.
"""

import argparse
import json
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from gendae import (
    MNIST,
    BackpropRule,
    Digits,
    Graphs,
    LongDependencies,
    Rates,
    RecurrentTargetPropRule,
    RegularizedInversionRule,
    TransposeFeedbackRule,
    TruncatedBackpropRule,
    lstm_classifier,
    recurrent_classifier,
)

#: Data, width and scale of the state, and epochs.
TASKS = {
    "digits": (lambda: Digits(50), 64, None, 30),
    "mnist": (lambda: MNIST(batch_size=100), 200, 0.3, 10),
}
#: Of long dependencies: sequences, scale of the state, epochs.
LONG = (20_000, 0.03, 25)
#: Chosen on validation data, for targets and for back-propagation alike.
RATE = 1e-3
TARGETS = {
    "targets": RecurrentTargetPropRule,
    "transposes": partial(RecurrentTargetPropRule, learns="transpose"),
    "weights": TransposeFeedbackRule,
    "reconstructions": partial(RecurrentTargetPropRule, difference=False),
    "inversion": RegularizedInversionRule,
}
BY_GRADIENTS = {
    "bptt": BackpropRule,
    "truncated-1": partial(TruncatedBackpropRule, horizon=1),
    "truncated-10": partial(TruncatedBackpropRule, horizon=10),
    "reservoir": partial(BackpropRule, fixed=1),
    "lstm": BackpropRule,
}
RULES = TARGETS | BY_GRADIENTS


def task_of(name):
    if name in TASKS:
        return TASKS[name]

    kind, _, steps = name.rpartition("-")
    n, scale, epochs = LONG
    return partial(LongDependencies, kind, int(steps), n), 100, scale, epochs


def network_of(rule, data, state, scale):
    """Classes or values, at the end or at every step, as the data have it."""
    steps, width = data.shape
    y = data.split("train").y
    values = y.is_floating_point()
    classes = 1 if values else int(y.max()) + 1

    if rule == "lstm":
        return lstm_classifier(width, steps, state, classes)
    if rule == "inversion":  # of affine steps
        scale = None

    return recurrent_classifier(
        width,
        steps,
        state,
        classes,
        scale=scale,
        every_step=y.ndim == 2,
        predicts="values" if values else "classes",
    )


def off(network, split):
    """Fraction of numbers that are told more than 0.04 off; nothing for classes."""
    if not split.y.is_floating_point():
        return {}

    wrong = (network.predict(split.x)[:, 0] - split.y).abs() > 0.04
    return {"off": wrong.float().mean().item()}


def one_run(task, rule, seed, args):
    make, state, scale, epochs = task_of(task)
    scale = scale if args.scale is None else args.scale
    data = make()
    rates = Rates(f=args.f, g=args.g, hold=0.5, clip=1.0)

    seed_everything(seed, verbose=False)
    network = network_of(rule, data, state, scale or None)
    module = RULES[rule](network, rates=rates)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val/error")
        graphs = [Graphs()] if args.accelerator == "gpu" else []
        trainer = Trainer(
            max_epochs=args.epochs or epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator=args.accelerator,
            callbacks=[best, *graphs],
        )
        trainer.fit(module, data)
        seconds = time.perf_counter() - start
        (tested,) = trainer.test(module, data, ckpt_path=best.best_model_path, verbose=False)

    return {
        "task": task,
        "rule": rule,
        "seed": seed,
        "scale": scale or None,
        "f": args.f,
        "g": args.g,
        "epochs": args.epochs or epochs,
        "validation_error": best.best_model_score.item(),
        "test_error": tested["test/error"],
        **off(network, data.split("test")),
        "seconds": seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--f", type=float, default=RATE)
    parser.add_argument("--g", type=float, default=RATE)
    parser.add_argument("--scale", type=float, help="0 for a state made anew at each step")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    rows = []
    for task in args.tasks:
        for rule in args.rules:
            for seed in args.seeds:
                rows.append(one_run(task, rule, seed, args))
                print(rows[-1], flush=True)
                if args.json:
                    args.json.write_text(json.dumps(rows, indent=1) + "\n")

            errors = torch.tensor([row["test_error"] for row in rows[-len(args.seeds) :]])
            spread = errors.std().item() if len(errors) > 1 else 0.0
            print(f"{task}, {rule}: {errors.mean():.2%} +- {spread:.2%}", flush=True)


if __name__ == "__main__":
    main()
