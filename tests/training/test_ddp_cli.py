"""`gendae fit` in two processes: one run."""

import os
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "configs" / "digits-targetprop.yaml"


ONE_RUN = """
0001/checkpoints/best.ckpt
0001/checkpoints/last.ckpt
0001/config.yaml
0001/metrics.csv
0001/pictures/inpainting_0002.png
0001/pictures/reconstructions_0002.png
0001/pictures/samples_0002.png
0001/samples.png
"""


def test_two_processes_are_one_run(tmp_path):
    short = ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"]
    quick = ["--trainer.limit_train_batches", "3", "--parzen.n", "50"]
    processes = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    root = ["--trainer.default_root_dir", str(tmp_path)]
    command = [sys.executable, "-m", "gendae.cli", "fit", "--config", str(CONFIG)]

    done = subprocess.run(
        [*command, *short, *quick, *processes, *quiet, *root],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("run folder: ") == 1

    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(map(str, files)) == ONE_RUN.split()

    log = (tmp_path / "0001/metrics.csv").read_text().splitlines()
    assert len(log) == 1 + 2 * 2  # each epoch's losses and scores, once
