"""Characters of a text: bits per character of recurrent networks, and of counts of five.

    python -m benchmarks.characters --texts FILE .. [--models targets bptt ngram ..]
                                    [--state 300] [--epochs 30] [--minutes M] [--json FILE]

The last text is held out: its first half validates, its second half tests. The same network from
the same weights: "targets" (RecurrentTargetPropRule), "inverse" (RegularizedInversionRule), "bptt"
(back-propagation through time), "reservoir" (the read-out alone learns); "ngram" is an
interpolated Kneser-Ney model. All of them tell the same characters, each after 20 others at least.
"""

import argparse
import json
import math
import tempfile
import time
import warnings
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from benchmarks.ngram import KneserNey
from gendae import (
    BackpropRule,
    Characters,
    Graphs,
    Rates,
    RecurrentTargetPropRule,
    RegularizedInversionRule,
    recurrent_classifier,
)
from gendae.data.characters import read_texts

STEPS = 100
CONTEXT = 20
ORDER = 5


def rates(f, g=3e-3):
    return Rates(f=f, g=g, hold=0.5, clip=1.0)


RULES = {
    "targets": lambda stack, args: RecurrentTargetPropRule(
        stack, learns=args.learns, sigma=args.sigma, rates=rates(args.rate)
    ),
    "inverse": lambda stack, args: RegularizedInversionRule(
        stack, damping=args.damping, rates=rates(args.rate)
    ),
    "bptt": lambda stack, args: BackpropRule(stack, rates=rates(args.rate)),
    "reservoir": lambda stack, args: BackpropRule(stack, rates=rates([0.0, args.rate])),
}
MODELS = (*RULES, "ngram")


def data_of(texts, folder, batch_size):
    """The texts one after the other, of which the last is held out."""
    read = [text for path in texts for text in read_texts(path)]
    share = len(read[-1]) / sum(map(len, read)) / 2.0
    file = Path(folder) / "texts.txt"
    file.write_text("".join(read), encoding="utf-8")

    return Characters(str(file), STEPS, CONTEXT, share, share, batch_size)


def bits(log_p, y):
    """Mean of -log2 p(y), of the steps that have a label."""
    there = y >= 0
    nats = -log_p.gather(-1, y.clamp(min=0)[..., None])[..., 0]

    return nats[there].mean().item() / math.log(2.0)


class Told(Callback):
    """Prints the validation of each epoch."""

    def on_validation_epoch_end(self, trainer, module):
        loss = trainer.callback_metrics["val/loss"].item()
        print(f"epoch {trainer.current_epoch + 1}: {loss:.4f} nats a step", flush=True)


def network_run(data, name, args):
    steps, width = data.shape
    seed_everything(args.seed, verbose=False)
    stack = recurrent_classifier(width, steps, args.state, width, every_step=True)
    module = RULES[name](stack, args)

    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val/loss")
        trainer = Trainer(
            max_epochs=args.epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_time={"minutes": args.minutes},
            accelerator=args.accelerator,
            devices=1,
            callbacks=[best, Told(), *([Graphs()] if args.graphs else [])],
        )
        trainer.fit(module, data)
        state = torch.load(best.best_model_path, weights_only=False)["state_dict"]
        module.load_state_dict(state)

    return {
        f"{split}_bits": bits(stack.cpu().answer(data.split(split).x), data.split(split).y)
        for split in ("valid", "test")
    }


def ngram_run(data):
    width = data.shape[1]
    model = KneserNey([text.tolist() for text in data.symbols()["train"]], ORDER, width)
    return {f"{split}_bits": ngram_bits(model, data, split) for split in ("valid", "test")}


def ngram_bits(model, data, split):
    x, y, _ = data.split(split)
    read = x.view(len(x), *data.shape).argmax(2)

    total = 0.0
    for row, labels in zip(read.tolist(), y.tolist(), strict=True):
        for t, label in enumerate(labels):
            if label >= 0:
                context = row[max(0, t + 2 - model.order) : t + 1]
                total -= math.log2(model.distribution(context)[label])

    return total / int((y >= 0).sum())


def one_run(data, name, args):
    start = time.perf_counter()
    found = ngram_run(data) if name == "ngram" else network_run(data, name, args)

    return {
        "model": name,
        "state": args.state,
        "epochs": args.epochs,
        "rate": args.rate,
        "seed": args.seed,
        **found,
        "seconds": time.perf_counter() - start,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", nargs="+", required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--state", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--learns", default="inverse", choices=["inverse", "transpose"])
    parser.add_argument("--sigma", type=float, default=0.03)
    parser.add_argument("--damping", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--graphs", action="store_true", help="updates as CUDA graphs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = data_of(args.texts, folder, args.batch_size)
        for name in args.models:
            rows.append(one_run(data, name, args))
            print(rows[-1], flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
