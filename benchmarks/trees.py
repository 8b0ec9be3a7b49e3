"""Classifiers of trees by targets, by back-propagation through structure, and with frozen codes.

    python -m benchmarks.trees [--tasks digits listops ast mnist] [--seeds 0 1 2]
                               [--rules targets bpts ..] [--rate F] [--epochs N]
                               [--examples N] [--accelerator cpu] [--json FILE]

The same network from the same weights, the same batches and rates: "targets"
(TreeTargetPropRule), "loops" (the same with long loops), "reconstructions" (the same without the
difference), "bpts" (back-propagation through structure) and "frozen" (the read-out alone learns).
The checkpoint of the least validation error is tested, once. "majority", "parent" and "neighbours" count: the type that is
most frequent, below this parent, and between these neighbours (fewer of them where they were never
seen). The test error of "listops" is told by depth, too.
"""

import argparse
import json
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from gendae import (
    MNIST,
    BackpropRule,
    Digits,
    ListOps,
    Quadtree,
    Rates,
    StandardLibrary,
    TreeLoops,
    TreeTargetPropRule,
    tree_classifier,
)
from gendae.data.trees import NEXT, PARENT, PREVIOUS, TYPES

DEPTHS = [1, 2, 3, 4, 5, 6]
#: Data, layout, classes, width of a code, and epochs.
TASKS = {
    "digits": (lambda n: Digits(50), lambda data: Quadtree([8, 8], 2), 10, 64, 30),
    "listops": (
        lambda n: ListOps(DEPTHS, n or 60_000),
        lambda data: data.layout,
        10,
        128,
        20,
    ),
    "ast": (
        lambda n: StandardLibrary(n=n or 50_000),
        lambda data: data.layout,
        len(TYPES),
        128,
        10,
    ),
    "mnist": (
        lambda n: MNIST(batch_size=100),
        lambda data: Quadtree([28, 28], 4),
        10,
        200,
        20,
    ),
}
RATE = 3e-3
RULES = {
    "targets": TreeTargetPropRule,
    "loops": partial(TreeTargetPropRule, loops=TreeLoops(long=0.1)),
    "reconstructions": partial(TreeTargetPropRule, difference=False),
    "bpts": BackpropRule,
    "frozen": BackpropRule,
}
#: Which neighbours of the hidden node are looked at; as many of the first as have been seen.
COUNTED = {
    "majority": (),
    "parent": (PARENT,),
    "neighbours": (PARENT, PREVIOUS, NEXT),
}


def rates(rule, f):
    f = [0.0, RATE] if rule == "frozen" else f
    return Rates(f=f, g=RATE, hold=0.5, clip=1.0)


def trained(task, rule, seed, rate=RATE, epochs=None, examples=None, accelerator="cpu"):
    make, layout, classes, state, usual = TASKS[task]
    data = make(examples)

    seed_everything(seed, verbose=False)
    network = tree_classifier(layout(data), state, classes)
    module = RULES[rule](network, rates=rates(rule, rate))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val/error")
        trainer = Trainer(
            max_epochs=epochs or usual,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator=accelerator,
            callbacks=[best],
        )
        trainer.fit(module, data)
        seconds = time.perf_counter() - start
        (tested,) = trainer.test(module, data, ckpt_path=best.best_model_path, verbose=False)
        found = {"validation_error": best.best_model_score.item(), "seconds": seconds}

    found |= {"test_error": tested["test/error"], "rate": rate}
    if task == "listops":
        found["by_depth"] = by_depth(module.stack, data)

    return found


def by_depth(stack, data):
    """Test error of expressions of each depth."""
    x, y, _ = data.split("test")
    wrong = stack.predict(x.to(stack.device)).argmax(1).cpu() != y

    depths = torch.tensor([len(data.layout.trees(row[None]).heights) - 1 for row in x])
    return {depth: wrong[depths == depth].float().mean().item() for depth in DEPTHS}


def counted(task, rule):
    """The error of counting what stands between the same neighbours in the training examples."""
    data = TASKS[task][0](None)
    looked_at = COUNTED[rule] if task == "ast" else ()

    counts = defaultdict(Counter)
    for context, label in examples_of(data, looked_at, "train"):
        for seen in range(len(context) + 1):
            counts[context[:seen]][label] += 1

    wrong = []
    for context, label in examples_of(data, looked_at, "test"):
        known = max(seen for seen in range(len(context) + 1) if context[:seen] in counts)
        ((guess, _),) = counts[context[:known]].most_common(1)
        wrong.append(guess != label)

    return {"test_error": sum(wrong) / len(wrong)}


def examples_of(data, looked_at, split):
    """The symbols of some neighbours of the root, -1 where there is none, and the label."""
    x, y, _ = data.split(split)
    if not looked_at:
        return [((), label) for label in y.tolist()]

    nodes = x.unflatten(1, (data.nodes, -1)).long()
    symbols = nodes[:, :, -1]
    columns = []
    for place in looked_at:
        child = nodes[:, 0, place]
        symbol = symbols.gather(1, child[:, None])[:, 0]
        columns.append(torch.where(child > 0, symbol, -1).tolist())

    return list(zip(zip(*columns, strict=True), y.tolist(), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = [*COUNTED, *RULES]
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--rules", nargs="+", default=names, choices=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--examples", type=int)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    rows = []
    for task in args.tasks:
        for rule in args.rules:
            seeds = args.seeds if rule in RULES else [None]
            for seed in seeds:
                row = {"task": task, "rule": rule, "seed": seed}
                if rule in RULES:
                    options = (args.rate, args.epochs, args.examples, args.accelerator)
                    row |= trained(task, rule, seed, *options)
                else:
                    row |= counted(task, rule)
                rows.append(row)
                print(row, flush=True)
                if args.json:
                    args.json.write_text(json.dumps(rows, indent=1) + "\n")

            errors = torch.tensor([row["test_error"] for row in rows[-len(seeds) :]])
            spread = errors.std().item() if len(errors) > 1 else 0.0
            print(f"{task}, {rule}: {errors.mean():.2%} +- {spread:.2%}", flush=True)


if __name__ == "__main__":
    main()
