"""Japanese vowels: who of nine men says /ae/, from 12 coefficients over 7 to 29 steps.

    python -m benchmarks.vowels --train JapaneseVowels_TRAIN.ts --test JapaneseVowels_TEST.ts
                                [--rules targets inverse bptt reservoir] [--seeds 0 1 2]
                                [--tune] [--json FILE]

270 utterances train, 370 test (Kudo et al. 1999). The same network from the same weights:
"targets" (RecurrentTargetPropRule), "inverse" (RegularizedInversionRule), "bptt" (back-propagation
through time) and "reservoir" (the read-out alone learns). Hyper-parameters were chosen with
--tune, on a fifth of the training utterances; for the test all but two of them train.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import torch
from pytorch_lightning import Trainer, seed_everything

from gendae import (
    BackpropRule,
    Rates,
    RecurrentTargetPropRule,
    RegularizedInversionRule,
    Sequences,
    recurrent_classifier,
)
from gendae.data.loader import joined
from gendae.models.classifier import error_of

SPEAKERS = 9
RULES = ("targets", "inverse", "bptt", "reservoir")


class NoisySequences(Sequences):
    """Training sequences in ten copies, with noise in the steps that are there."""

    COPIES = 10
    noise = 0.0

    def read(self):
        splits, shape = super().read()
        train = joined([splits["train"]] * self.COPIES)

        steps = train.x.unflatten(1, shape)
        there = steps[..., :1]
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(steps[..., 1:].shape, generator=generator)
        noisy = steps[..., 1:] + self.noise * noise * there

        x = torch.cat([there, noisy], 2).flatten(1)
        return {**splits, "train": train._replace(x=x)}, shape


def rule_of(name, stack, args):
    options = {"rates": rates(args.rate, args.rate_g)}
    if name == "targets":
        own = {"step": args.step, "learns": args.learns, "sigma": args.sigma}
        return RecurrentTargetPropRule(stack, **own, **options)
    if name == "inverse":
        return RegularizedInversionRule(stack, step=args.step, damping=args.damping, **options)
    if name == "reservoir":
        options["rates"] = rates([0.0, args.rate_reservoir], args.rate_g)

    return BackpropRule(stack, **options)


def rates(f, g):
    return Rates(f=f, g=g, hold=0.5, clip=1.0)


def one_run(name, seed, args):
    data = NoisySequences(
        args.train,
        args.test,
        valid_fraction=0.2 if args.tune else 0.01,
        standardise=True,
        batch_size=args.batch_size,
        seed=seed,
    )
    data.noise = args.noise
    steps, width = data.shape
    seed_everything(seed, verbose=False)
    stack = recurrent_classifier(width - 1, steps, args.state, SPEAKERS, masked=True)

    start = time.perf_counter()
    trainer = Trainer(
        max_epochs=args.epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
        limit_val_batches=0,
    )
    trainer.fit(rule_of(name, stack, args), data)
    seconds = time.perf_counter() - start

    split = "valid" if args.tune else "test"
    x, y, _ = data.split(split)
    return {
        "rule": name,
        "seed": seed,
        "state": args.state,
        "epochs": args.epochs,
        f"{split}_error": error_of(stack.predict(x), y).item(),
        "seconds": seconds,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--state", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.4)
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--learns", default="inverse", choices=["inverse", "transpose"])
    parser.add_argument("--damping", type=float, default=0.1)
    parser.add_argument("--sigma", type=float, default=0.3)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--rate-g", type=float, default=3e-3)
    parser.add_argument("--rate-reservoir", type=float, default=3e-3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")

    rows = []
    for name in args.rules:
        for seed in args.seeds:
            rows.append(one_run(name, seed, args))
            print(rows[-1], flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
