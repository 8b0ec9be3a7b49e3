"""Classifiers of trees by targets, by back-propagation through structure, and with frozen codes.

    python -m benchmarks.trees [--tasks digits listops ast mnist] [--seeds 0 1 2]
                               [--rules targets bpts ..] [--rate F] [--epochs N]
                               [--examples N] [--accelerator cpu] [--json FILE]

The same network from the same weights, the same batches and rates: "targets" (TreeTargetPropRule),
"transpose" (the same, where g learns the transpose of f's Jacobian), "loops" (with long loops),
"reconstructions" (without the difference), "bpts" (back-propagation through structure) and
"frozen" (the read-out alone learns). The checkpoint of the least validation error is tested, once.
"majority", "parent" and "neighbours" count: the type that is most frequent, below this parent, and
between these neighbours (fewer of them where they were never seen). The test error of "listops" is
told by depth, too.

    python -m benchmarks.trees --tasks completion [--figure FILE.png] [--seeds 0 1 2] ..

A quarter of each test digit is completed given the rest, by auto-encoders of quadtrees ("targets":
TargetPropRule with TreeLoop; "frozen": the same, whose codes are left as they were), and, for
comparison, by the mean of the training digits, by linear regression, and by the nearest one:
squared error of a quarter, mean over digits and quarters.
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
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from gendae import (
    MNIST,
    BackpropRule,
    Digits,
    ListOps,
    Quadtree,
    Rates,
    Stack,
    StandardLibrary,
    TargetPropRule,
    Telling,
    TreeLoop,
    TreeTargetPropRule,
    complete_trees,
    plots,
    tree_classifier,
    tree_pair,
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
    "transpose": partial(TreeTargetPropRule, telling=Telling("transpose")),
    "loops": partial(TreeTargetPropRule, telling=Telling(long=0.1)),
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


class Told(Callback):
    """The validation error of each epoch, printed."""

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            error = trainer.callback_metrics["val/error"].item()
            print(f"epoch {trainer.current_epoch}: validation error {error:.2%}", flush=True)


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
            callbacks=[best, Told()],
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


# -- completion ----------------------------------------------------------------------------------

SHAPE = (8, 8)
QUARTERS = 4
SHOWN = 8  # digits in the figure


def quarter(number):
    """Pixels that are given without a quarter, and nodes."""
    rows = torch.arange(8)[:, None] // 4
    columns = torch.arange(8)[None] // 4
    pixels = (2 * rows + columns != number).flatten()

    return pixels, torch.arange(Quadtree(SHAPE, 2).nodes) != number + 1


def told_by_training_digits(x, pixels, train):
    """Missing pixels by what the training digits have there."""
    given = torch.cat([train[:, pixels], torch.ones(len(train), 1)], 1)
    weights = torch.linalg.lstsq(given, train[:, ~pixels], driver="gelsd").solution
    nearest = torch.cdist(x[:, pixels], train[:, pixels]).argmin(1)

    return {
        "mean": train[:, ~pixels].mean(0).expand(len(x), -1),
        "regression": torch.cat([x[:, pixels], torch.ones(len(x), 1)], 1) @ weights,
        "nearest": train[nearest][:, ~pixels],
    }


def autoencoder(seed, rate, epochs):
    """A stack of one tree pair, trained on digits of which subtrees are hidden."""
    seed_everything(seed, verbose=False)
    stack = Stack(tree_pair(Quadtree(SHAPE, 2), 128))
    module = TargetPropRule(stack, TreeLoop(), rates=Rates(f=rate, g=RATE, hold=0.5))
    trainer = Trainer(
        max_epochs=epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(module, Digits(50))

    return module.stack


def completion(seed, epochs=None, figure=None, rounds=2):
    """Squared error of a missing quarter, by what completes it."""
    data = Digits(50)
    train = data.split("train").x
    x = data.split("test").x
    stacks = {
        name: autoencoder(seed, rate, epochs or 60)
        for name, rate in (("targets", RATE), ("frozen", 0.0))
    }

    errors = defaultdict(list)
    pictures = []
    for number in range(QUARTERS):
        pixels, nodes = quarter(number)
        told = told_by_training_digits(x, pixels, train)
        for name, stack in stacks.items():
            filled = complete_trees(stack, x, nodes, rounds)
            told[name] = filled[:, ~pixels]
            if name == "targets":
                pictures.append((pixels, filled))

        for name, values in told.items():
            errors[name].append((values - x[:, ~pixels]).square().sum(1).mean().item())

    if figure is not None:
        plots.save(completed(x[:SHOWN], [(p, filled[:SHOWN]) for p, filled in pictures]), figure)

    return {name: sum(values) / QUARTERS for name, values in errors.items()}


def completed(x, pictures):
    """Digits in rows: as they are, and without each quarter (grey) beside what is told of it."""
    columns = {"original": x}
    for number, (pixels, filled) in enumerate(pictures, 1):
        columns[f"given {number}"] = torch.where(pixels, x, torch.full_like(x, 0.5))
        columns[f"filled {number}"] = filled

    return plots.side_by_side(columns, SHAPE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = [*COUNTED, *RULES]
    tasks = [*TASKS, "completion"]
    parser.add_argument("--tasks", nargs="+", default=tasks, choices=tasks)
    parser.add_argument("--rules", nargs="+", default=names, choices=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--examples", type=int)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    rows = []
    if "completion" in args.tasks:
        for seed in args.seeds:
            rows.append({"task": "completion", "seed": seed})
            rows[-1] |= completion(seed, args.epochs, args.figure)
            print(rows[-1], flush=True)
            keep(rows, args.json)

    for task in (task for task in args.tasks if task != "completion"):
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
                keep(rows, args.json)

            errors = torch.tensor([row["test_error"] for row in rows[-len(seeds) :]])
            spread = errors.std().item() if len(errors) > 1 else 0.0
            print(f"{task}, {rule}: {errors.mean():.2%} +- {spread:.2%}", flush=True)


def keep(rows, path):
    if path is not None:
        path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
