"""Trainings stopped anywhere and resumed, compared bit for bit with uninterrupted ones.

    python -m benchmarks.resume [--quick]

Every rule and every kill point is tried. First, in one process: each case of tests/resuming.py
goes on from a checkpoint of every batch and of every epoch, in a fresh rule with another seed.
Then `gendae fit` in processes of its own, killed by SIGKILL before every update, with checkpoints
after every batch and after every epoch, and resumed by `--ckpt_path`. Weights, prior, optimizer
state, noise, rates, counters and the order of the images are compared.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.training.resuming import RULES, UPDATES, differences, keepers, quiet, train

FIT = """
    import os, signal, sys
    from gendae import cli
    from gendae.rules import Rule
    kill, own = int(os.environ["KILL_AT"]), Rule.on_train_batch_start
    def start(self, batch, index):
        if self.global_step == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        own(self, batch, index)
    Rule.on_train_batch_start = start
    sys.exit(cli.main(sys.argv[1:]))
"""
CONFIG = """
trainer: {max_epochs: 2, enable_progress_bar: false, enable_model_summary: false, logger: false}
model:
  class_path: gendae.TargetPropRule
  init_args:
    stack: {class_path: gendae.deep_autoencoder, init_args: {sizes: [64, 20, 8]}}
    top_target: prior
    prior_every: 3
    warmup: 5
data: {class_path: gendae.Digits, init_args: {batch_size: 299}}
parzen: {n: 50, grid: [0.3], picture: false}
"""


def row(what, often, bad):
    outcome = "DIFFERENT: " + "; ".join(bad) if bad else "bit-equal"
    print(f"| {what} | {often} | {outcome} |", flush=True)


def one_process(case):
    """How many checkpoints of a case were resumed, and from which the training ended otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(case, callbacks=keepers(folder))
        points = sorted(Path(folder).iterdir())
        unequal = {p.name: differences(whole, train(case, 99, p)) for p in points}

    return len(points), [f"{name} ({parts[0]}, ..)" for name, parts in unequal.items() if parts]


def fit(folder, seed, *arguments, kill=-1):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        textwrap.dedent(FIT),
        "fit",
        "--config",
        f"{folder}/c.yaml",
        "--trainer.default_root_dir",
        folder,
        "--seed_everything",
        str(seed),
        *map(str, arguments),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "KILL_AT": str(kill)},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = 0 if kill < 0 else -signal.SIGKILL
    if done.returncode != expected:
        raise RuntimeError(done.stderr[-2000:])

    return max(p for p in Path(folder).iterdir() if p.name.isdigit()) / "checkpoints"


#: what a checkpoint keeps, without times, paths and the counters of callbacks
COMPARED = (
    "state_dict",
    "optimizer_states",
    "generator",
    "recent_codes",
    "global_step",
    "epoch",
)


def end(folder):
    """What is compared of the last checkpoint of a run."""
    content = torch.load(folder / "last.ckpt", weights_only=True)
    return {k: content[k] for k in COMPARED}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def killed(every, points):
    """Kill points of the command line after which the training ended otherwise.

    Checkpoints are written after every batch or every epoch.
    """
    options = {"batch": ["--last.every_n_train_steps", "1"], "epoch": []}[every]
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "c.yaml").write_text(CONFIG)
        whole = end(fit(folder, 1, *options))
        for point in points:
            last = fit(folder, 1, *options, kill=point) / "last.ckpt"
            seed = 1  # without a checkpoint it begins again
            resume = []
            if last.is_file():
                seed = 99
                resume = ["--ckpt_path", last]

            if not equal(end(fit(folder, seed, *options, *resume)), whole):
                bad.append(f"killed before update {point + 1}")

    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="two kill points of the command line instead of all"
    )
    args = parser.parse_args()

    quiet()
    print("| what was tried | resumed from | outcome |\n|---|---|---|")

    total = 0
    failed = 0
    for case in RULES:
        often, bad = one_process(case)
        name = type(RULES[case]()).__name__
        row(f"{name}: {case}", f"{often} checkpoints", bad)
        total += often
        failed += len(bad)

    points = [2, 5] if args.quick else range(UPDATES)
    for every in ("batch", "epoch"):
        bad = killed(every, points)
        what = f"gendae fit, SIGKILL, a checkpoint after every {every}"
        row(what, f"{len(points)} kill points", bad)
        total += len(points)
        failed += len(bad)

    print(
        f"\n{total} resumed trainings, {failed} of them ended otherwise than the uninterrupted one"
    )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
