"""Recurrent classifiers by targets, by back-propagation through time, and with a state left alone.

    python -m benchmarks.recurrent [--tasks digits temporal-order-30 mnist] [--seeds 0 1 2]
                                   [--rules targets bptt ..] [--epochs N] [--json FILE]

The same network from the same weights, the same batches and rates: "targets"
(RecurrentTargetPropRule), "reconstructions" (the same without the difference), "bptt"
(back-propagation through time) and "reservoir" (the read-out alone learns). The checkpoint of the
least validation error is tested, once.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from gendae import (
    MNIST,
    BackpropRule,
    Digits,
    LongDependencies,
    Rates,
    RecurrentTargetPropRule,
    recurrent_classifier,
)

#: Data, width of the state, and epochs.
TASKS = {
    "digits": (lambda: Digits(50), 64, 30),
    "temporal-order-30": (lambda: LongDependencies("temporal-order", 30, 20_000), 100, 30),
    "random-permutation-30": (lambda: LongDependencies("random-permutation", 30, 20_000), 100, 30),
    "mnist": (lambda: MNIST(batch_size=100), 200, 10),
}
#: Chosen on validation digits, for targets and for back-propagation.
RATE = 3e-3
RULES = {
    "targets": lambda stack: RecurrentTargetPropRule(stack, rates=rates()),
    "reconstructions": lambda stack: RecurrentTargetPropRule(
        stack, difference=False, rates=rates()
    ),
    "bptt": lambda stack: BackpropRule(stack, rates=rates()),
    "reservoir": lambda stack: BackpropRule(stack, rates=rates([0.0, RATE])),
}


def rates(f=RATE):
    return Rates(f=f, g=RATE, hold=0.5, clip=1.0)


def one_run(task, rule, seed, epochs=None):
    make, state, usual = TASKS[task]
    data = make()
    steps, width = data.shape
    classes = int(data.split("train").y.max()) + 1

    seed_everything(seed, verbose=False)
    module = RULES[rule](recurrent_classifier(width, steps, state, classes))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val/error")
        trainer = Trainer(
            max_epochs=epochs or usual,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
            callbacks=[best],
        )
        trainer.fit(module, data)
        seconds = time.perf_counter() - start
        (tested,) = trainer.test(module, data, ckpt_path=best.best_model_path, verbose=False)

    return {
        "task": task,
        "rule": rule,
        "seed": seed,
        "epochs": epochs or usual,
        "validation_error": best.best_model_score.item(),
        "test_error": tested["test/error"],
        "seconds": seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    rows = []
    for task in args.tasks:
        for rule in args.rules:
            for seed in args.seeds:
                rows.append(one_run(task, rule, seed, args.epochs))
                print(rows[-1], flush=True)

            errors = torch.tensor([row["test_error"] for row in rows[-len(args.seeds) :]])
            spread = errors.std().item() if len(errors) > 1 else 0.0
            print(f"{task}, {rule}: {errors.mean():.2%} +- {spread:.2%}", flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
