"""Every block of code in README and on the site runs as printed, page by page, in an empty folder.

Blocks of `console` wait for a person, another machine or a GPU, and are not run.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "docs" / "index.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    *sorted((ROOT / "docs" / "explanation").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = {"sh": ["bash", "-euo", "pipefail"], "python": [sys.executable]}
LANGUAGES = {*RUN, "console", "text", "bash"}


def blocks(page):
    """Language and text of each block of a page, in order."""
    return [(match[1], match[2]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


@pytest.mark.site
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page, tmp_path):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "agg",
        "COLUMNS": "80",
    }
    for language, text in blocks(page):
        if language not in RUN:
            continue
        ran = subprocess.run(  # noqa: PLW1510 - the test says what went wrong
            [*RUN[language], "-"],
            input=text,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, f"{text}\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_have_a_language(page):
    assert {language for language, _ in blocks(page)} <= LANGUAGES
    assert page.read_text(encoding="utf-8").count("```") % 2 == 0


SBATCH = """#!/bin/bash
# A stand-in for a SLURM cluster: srun starts its command once for each task, as slurmd would.
export SLURM_JOB_ID=1 SLURM_NNODES=1 SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2
export SLURM_JOB_NAME=gendae SLURM_NODEID=0 SLURM_NODELIST=localhost SLURM_JOB_NODELIST=localhost
exec bash "$1"
"""
SRUN = """#!/bin/bash
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" --data Digits --model.stack.sizes '[64, 20]' \\
        --trainer.accelerator cpu --trainer.max_epochs 1 --trainer.limit_train_batches 3 &
done
wait -n && wait -n
"""


@pytest.mark.site
def test_the_job_of_a_cluster_runs_under_a_stand_in(tmp_path):
    page = ROOT / "docs" / "how-to" / "several-machines.md"
    (job,) = (text for language, text in blocks(page) if language == "bash")
    (tmp_path / "train.sbatch").write_text(job)
    for name, text in {"sbatch": SBATCH, "srun": SRUN}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(  # noqa: PLW1510 - the test says what went wrong
        ["sbatch", "train.sbatch"],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert [run.name for run in (tmp_path / "runs").iterdir()] == ["0001"]
    assert (tmp_path / "runs" / "0001" / "checkpoints" / "last.ckpt").is_file()
