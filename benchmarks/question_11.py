"""Question 11: is corruption necessary in the lower layers? Three pairs, noise here and there.

    python -m benchmarks.question_11 [--seeds 0] [--rate 1e-3] [--kl 0.01]
        docs/results/question-11.json

784-500-500-20 of `benchmarks.depth` on MNIST, trained by `TargetPropRule` with its default loop.
Noise is relative to each representation's spread. While pairs learn by themselves, at the start,
each has the noise of the top on its own code. Scores on test images, as in `benchmarks.depth`;
everything else is as there.
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

from pytorch_lightning import seed_everything

import gendae
from benchmarks.depth import (
    BATCH,
    EPOCHS,
    START,
    TopNoiseAtStart,
    network,
    of_codes,
    of_samples,
)
from benchmarks.stability import trainer_of

DEPTH = 3

#: Variant -> (noise of x, of h_1 and h_2, of h_3; options of the rule).
VARIANTS = {
    "all levels": ((0.3, 0.3, 0.3), {}),
    "x and the top": ((0.3, 0.0, 0.3), {}),
    "top only": ((0.0, 0.0, 0.3), {}),
    "none": ((0.0, 0.0, 0.0), {}),
    "none, contractive 0.001": ((0.0, 0.0, 0.0), {"contractive": 1e-3}),
    "none, contractive 0.01": ((0.0, 0.0, 0.0), {"contractive": 1e-2}),
    "none, sparsity 0.001": ((0.0, 0.0, 0.0), {"sparsity": 1e-3}),
    "none, sparsity 0.01": ((0.0, 0.0, 0.0), {"sparsity": 1e-2}),
}


def rule_of(name, rate, kl):
    (of_x, inside, top), options = VARIANTS[name]
    corruption = [gendae.RelativeNoise(s) for s in (of_x, inside, inside, top)]
    rates = gendae.Rates(f=rate, g=rate, hold=0.5)
    loop = TopNoiseAtStart(prior_weight=kl, start=START)

    return gendae.TargetPropRule(network(DEPTH), loop, corruption, rates=rates, **options)


def trained(name, args, seed, data):
    seed_everything(seed, verbose=False)
    rule = rule_of(name, args.rate, args.kl)
    start = time.process_time()
    trainer_of(args.epochs, batches=args.batches).fit(rule, data)

    return rule.stack, round(time.process_time() - start, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--kl", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batches", type=int, help="of an epoch; all if not given")
    parser.add_argument("--out", type=Path, default=Path("docs/results/question-11.json"))
    args = parser.parse_args()

    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    data = gendae.MNIST(batch_size=BATCH)

    rows = []
    for seed in args.seeds:
        for name in args.variants:
            stack, seconds = trained(name, args, seed, data)
            row = {"variant": name, "seed": seed, "rate": args.rate, "kl": args.kl}
            row |= {"epochs": args.epochs, "seconds": seconds}
            row |= of_codes(stack, data, "test") | of_samples(stack, data, seed)
            rows.append(row)
            print(row, flush=True)
            args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
