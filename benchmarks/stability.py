"""Do the default settings train? Ten seeds each of three networks; failures are counted.

    python benchmarks/stability.py [--seeds 10] [--first 0] [--nets digits mnist] [--json FILE]

A run diverges if a loss is not finite or h_1 exceeds 100 anywhere on the validation images; it
collapses if the mean standard deviation of the top codes is below 0.05 (of at most 0.5), or if
reconstruction from the top is no better than the mean image.
"""

import argparse
import json
import logging
import time
import warnings

import torch
from pytorch_lightning import Trainer, seed_everything

from gendae import MNIST, Digits, VariationalEMRule, deep_autoencoder
from gendae.rules.ledger import TrainingDiverged

NETS = {
    "digits": ([64, 200, 50], Digits, 200),
    "mnist": ([784, 1000, 100], MNIST, 2),
    "mnist3": ([784, 1000, 500, 100], MNIST, 2),
}


def one_run(sizes, data, epochs, seed):
    seed_everything(seed)
    rule = VariationalEMRule(deep_autoencoder(sizes))
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="auto",
        num_sanity_val_steps=0,
        check_val_every_n_epoch=10**6,
    )

    start = time.perf_counter()
    try:
        trainer.fit(rule, data)
    except TrainingDiverged as error:
        return {"seed": seed, "diverged": True, "collapsed": False, "reason": str(error)}
    seconds = time.perf_counter() - start

    return {"seed": seed, "seconds": round(seconds, 1), **measures(rule.stack.cpu(), data)}


@torch.no_grad()
def measures(stack, data):
    """Whether a trained stack diverged or collapsed, on the validation images, and by what."""
    train = data.split("train").x
    x = data.split("valid").x
    h = stack.encode(x)
    largest = h[1].max().item()
    spread = h[-1].std(0).mean().item()
    error = (stack.reconstruct(x) - x).square().sum(1).mean().item()
    mean_image = (train.mean(0) - x).square().sum(1).mean().item()

    return {
        "h_1 max": round(largest, 2),
        "code sd": round(spread, 3),
        "reconstruction": round(error, 2),
        "mean image": round(mean_image, 2),
        "diverged": largest > 100,
        "collapsed": spread < 0.05 or error >= mean_image,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--json")
    args = parser.parse_args()

    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    results = {}
    for name in args.nets:
        sizes, source, epochs = NETS[name]
        data = source()
        results[name] = []
        for seed in range(args.first, args.first + args.seeds):
            row = one_run(sizes, data, epochs, seed)
            results[name].append(row)
            print(name, row, flush=True)

        diverged, collapsed = (
            sum(row[outcome] for row in results[name]) for outcome in ("diverged", "collapsed")
        )
        print(f"{name}: {diverged} diverged, {collapsed} collapsed of {args.seeds}", flush=True)

    if args.json:
        with open(args.json, "w") as stream:
            json.dump(results, stream, indent=1)


if __name__ == "__main__":
    main()
