"""`gendae fit` in two processes: one run."""

import os
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "configs" / "digits-targetprop.yaml"


def test_two_processes_are_one_run(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "gendae.cli",
            "fit",
            "--config",
            str(CONFIG),
            "--trainer.max_epochs",
            "2",
            "--trainer.check_val_every_n_epoch",
            "1",
            "--trainer.limit_train_batches",
            "3",
            "--parzen.n",
            "50",
            "--trainer.devices",
            "2",
            "--trainer.strategy",
            "ddp",
            "--trainer.accelerator",
            "cpu",
            "--trainer.enable_progress_bar",
            "false",
            "--trainer.default_root_dir",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("run folder: ") == 1
    files = sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    )
    assert files == [
        f"0001/{name}"
        for name in (
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "config.yaml",
            "metrics.csv",
            "samples.png",
        )
    ]
    log = (tmp_path / "0001/metrics.csv").read_text().splitlines()
    assert len(log) == 1 + 2 * 2  # each epoch's losses and scores, once
