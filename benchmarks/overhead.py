"""What Lightning and logging add to a step, and how long the command line takes to answer.

    python -m benchmarks.overhead [--rules VariationalEMRule BackpropRule] [--steps 100]
                                  [--rounds 6] [--json FILE]

The same rule, network, data (batches of 100) and number of updates in `Trainer.fit` (CSV log,
losses read every 50 updates, checkpoints, no bar) and in a plain loop over the same loader, in
turns; `gendae --help` in processes of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger

from benchmarks.steps import RULES
from gendae import MNIST
from gendae.rules.moment import Moment
from gendae.training.memory import keep_freed_memory

SKIPPED = 20  # updates before the clock starts


class Clock(Callback):
    """Seconds of the updates after the first ones."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index + 1 == SKIPPED:
            self.start = time.perf_counter()
        self.stop = time.perf_counter()


def with_trainer(name, data, steps):
    clock = Clock()
    rule = RULES[name]()
    rule.generative = False  # the prior is fitted after the updates, which are what is timed

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=steps + SKIPPED,
            limit_val_batches=0,
            logger=CSVLogger(folder),
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
            default_root_dir=folder,
            callbacks=[clock],
            num_sanity_val_steps=0,
        )
        trainer.fit(rule, data)

    return (clock.stop - clock.start) / steps


def plain_loop(name, data, steps):
    rule = RULES[name]()
    generator = torch.Generator().manual_seed(0)
    optimizer = rule.configure_optimizers()

    for index, batch in enumerate(data.train_dataloader()):
        moment = Moment(index / (steps + SKIPPED), generator, index, rule.learning(index, index))
        rule.begin_update(optimizer, moment)
        optimizer.zero_grad(set_to_none=True)
        sum(rule.losses(batch, moment).values()).backward()
        optimizer.step()

        if index + 1 == SKIPPED:
            start = time.perf_counter()
        if index + 1 == steps + SKIPPED:
            return (time.perf_counter() - start) / steps

    raise ValueError(f"--steps {steps} is more than an epoch")


def seconds_of_help(repeats=7):
    command = [sys.executable, "-m", "gendae.cli", "--help"]
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)

    return sorted(times)[repeats // 2]


def row_of(name, data, steps, rounds):
    """The least time of an update both ways, in milliseconds."""
    pairs = []
    for _ in range(rounds):
        pairs.append((with_trainer(name, data, steps), plain_loop(name, data, steps)))

    trainer, plain = (min(times) for times in zip(*pairs, strict=True))
    return {
        "rule": name,
        "trainer_ms": 1e3 * trainer,
        "plain_ms": 1e3 * plain,
        "overhead": trainer / plain - 1,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--rules",
        nargs="+",
        default=["VariationalEMRule", "TargetPropRule", "BackpropRule"],
        choices=list(RULES),
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    warnings.simplefilter("ignore")
    keep_freed_memory()
    data = MNIST()
    data.setup()

    rows = [{"help_seconds": seconds_of_help()}]
    print(f"gendae --help: {rows[0]['help_seconds']:.2f} s")
    for name in args.rules:
        row = row_of(name, data, args.steps, args.rounds)
        rows.append(row)
        print(
            "{rule:20} Trainer {trainer_ms:.2f} ms, plain loop {plain_ms:.2f} ms, "
            "overhead {overhead:+.1%}".format(**row),
            flush=True,
        )

    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
