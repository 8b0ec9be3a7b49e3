"""A process that trains alone in an environment of many; what killed runs left; nohup."""

import os
import signal

import pytest
from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_only

from gendae import cli
from gendae.training import alone
from tests.training.resuming import quiet
from tests.training.test_run import fit, names

LEFT = [
    {"NODE_RANK": "1"},
    {"GROUP_RANK": "2"},
    {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"},
    {"SLURM_NTASKS": "4", "SLURM_PROCID": "2"},  # Lightning's RuntimeError
    {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"},
    {"SLURM_NTASKS": "many", "NODE_RANK": "x"},
    {"JSM_NAMESPACE_RANK": "1"},
]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No variables before, and those of the test given back after it."""
    for name in alone.OF_ONE_PROCESS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    quiet()


def options(devices="auto", nodes=1, accelerator="cpu"):
    return Namespace(devices=devices, num_nodes=nodes, accelerator=accelerator)


@pytest.mark.parametrize("left", LEFT, ids=str)
def test_one_process_forgets_what_is_said_of_several(monkeypatch, capsys, left):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    alone.forget_others(options())

    assert not alone.OF_ONE_PROCESS.keys() & os.environ.keys()
    assert rank_zero_only.rank == 0

    (said,) = capsys.readouterr().err.splitlines()
    assert all(name in said for name in left)


@pytest.mark.parametrize("value", ["x", "", "1.5", "0x1", " "])
@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"])
def test_what_is_no_number_is_not_used_by_any_command(monkeypatch, capsys, name, value):
    """Lightning's import ended in int() of it."""
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["--version"]) == 0

    assert name not in os.environ
    assert os.environ["WORLD_SIZE"] == "2"
    assert capsys.readouterr().err == f"gendae: {name}={value!r} of the environment not used\n"


@pytest.mark.parametrize(
    ("asked", "environment"),
    [
        (options(nodes=2), {"NODE_RANK": "1"}),
        (options(2), {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}),
        (options([0, 1]), {"LOCAL_RANK": "1"}),
        (options("0,1"), {"RANK": "1"}),
        (options(), {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}),  # a job of one task
    ],
    ids=str,
)
def test_what_fits_the_options_stays(monkeypatch, capsys, asked, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    alone.forget_others(asked)

    assert environment.items() <= os.environ.items()
    assert capsys.readouterr().err == ""


def test_one_node_of_two_processes_forgets_only_nodes(monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    alone.forget_others(options("2"))

    assert "NODE_RANK" not in os.environ and os.environ["LOCAL_RANK"] == "1"


def test_a_lone_fit_has_a_folder_and_a_log_of_its_own(tmp_path, monkeypatch):
    killed = tmp_path / "runs" / "0001" / "checkpoints"
    killed.mkdir(parents=True)
    (killed / ".gendae-x-1-0a.partial").write_bytes(b"part of a checkpoint")
    os.utime(killed / ".gendae-x-1-0a.partial", (0, 0))

    for name, value in (LEFT[0] | LEFT[3]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 2)
    root = ["--trainer.default_root_dir", tmp_path / "runs", "--trainer.logger", "true"]
    assert fit(tmp_path, *root, "--trainer.max_epochs", 1, "--pictures.every", 1) == 0

    assert names(tmp_path / "runs") == ["0001", "0002"]
    files = ["checkpoints", "config.yaml", "metrics.csv", "pictures"]
    assert names(tmp_path / "runs" / "0002") == files
    assert names(killed) == []  # what a killed run left


def test_nohup_stays_in_force(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(
        "gendae.training.run.StopAtSignal._receive", lambda self, number, _: heard.append(number)
    )
    monkeypatch.setattr(
        "gendae.rules.backstep.BackStepRule.on_train_batch_start",
        lambda self, *_: os.kill(os.getpid(), signal.SIGHUP),
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert fit(tmp_path, "--trainer.max_epochs", 1) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == []
