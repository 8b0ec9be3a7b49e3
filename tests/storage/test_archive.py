"""Checkpoints are written whole or not at all; whatever fails leaves the last good one."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from gendae import load, save
from gendae.data.images import Digits
from gendae.models.architectures import deep_autoencoder
from gendae.rules.base import Rule
from gendae.rules.ledger import TrainingDiverged
from gendae.storage import atomic
from gendae.storage.archive import WholeFileIO, install, read
from gendae.storage.atomic import write_whole
from tests.rules.test_base import Poisoned, trainer
from tests.training.resuming import RULES, FewDigits, data_of, quiet


@pytest.fixture(autouse=True)
def silent():
    quiet()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# -- one file -------------------------------------------------------------------------------------


class FullFile:
    """An open file that cannot be written to."""

    def __init__(self, fail):
        self.write = fail

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def write_model(path, content):
    """Models are written whole, too: the length of the content is the width of a stack."""
    return save(deep_autoencoder([len(content), 4]), path)


@pytest.mark.parametrize("where", ["fsync", "replace", "write"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize(
    ("write", "name"), [(write_whole, "m.bin"), (write_model, "m.safetensors")]
)
def test_a_failure_at_any_point_leaves_the_earlier_file(
    tmp_path, monkeypatch, where, error, write, name
):
    path = write(tmp_path / name, b"earlier")
    before = path.read_bytes()

    def fail(*_):
        raise error

    def open_full(name, mode):
        open(name, mode).close()
        return FullFile(fail)

    if where == "write":
        monkeypatch.setattr(atomic, "open", open_full, raising=False)
    else:
        monkeypatch.setattr(os, where, fail)

    with pytest.raises(type(error)) as caught:
        write(path, b"later")

    monkeypatch.undo()
    assert (names(tmp_path), path.read_bytes()) == ([name], before)
    if isinstance(error, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert f"{name} was not written (No space left on device)" in str(caught.value)

    write(path, b"later")
    if write is write_model:
        assert load(path).sizes == [len(b"later"), 4]
    else:
        assert path.read_bytes() == b"later"


def test_the_content_is_on_the_disk_before_the_name_is_and_in_the_same_folder(
    tmp_path, monkeypatch
):
    """Renaming across file systems would copy, which can be cut short."""
    done = []
    flush = os.fsync
    rename = os.replace

    def flushed(descriptor):
        done.append("flushed")
        flush(descriptor)

    def renamed(a, b):
        done.append((os.path.dirname(a), os.path.dirname(b)))
        rename(a, b)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_whole(tmp_path / "deep" / "m.bin", b"x")

    folder = str(tmp_path / "deep")
    assert done == ["flushed", (folder, folder), "flushed"]  # the content, its name, the folder


@pytest.mark.parametrize("place", ["m.bin/n.bin", "x" * 300])
def test_places_that_cannot_be_written_to_are_named(tmp_path, place):
    write_whole(tmp_path / "m.bin", b"earlier")
    with pytest.raises(OSError, match="was not written"):
        write_whole(tmp_path / place, b"later")
    assert names(tmp_path) == ["m.bin"]


KILLED = """
    import os, signal, sys
    from gendae.storage import atomic
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    atomic.write_whole(sys.argv[1], b"later" * 1000)
"""


def test_what_a_killed_process_leaves_does_no_harm_and_is_removed_by_the_next(tmp_path):
    path = write_whole(tmp_path / "m.bin", b"earlier")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path)], check=False)

    assert done.returncode == -signal.SIGKILL

    partial = [name for name in names(tmp_path) if name != "m.bin"]
    assert len(partial) == 1 and partial[0].endswith(".partial")
    assert path.read_bytes() == b"earlier"

    number = int(partial[0].split("-")[-2])
    living = tmp_path / partial[0].replace(str(number), str(os.getppid()))
    other = tmp_path / ".gendae-another_machine-1-00000000.partial"
    living.write_bytes(b"being written")
    other.write_bytes(b"being written there")
    write_whole(tmp_path / "n.bin", b"x")

    assert names(tmp_path) == sorted(["m.bin", "n.bin", living.name, other.name])


def test_a_sealed_archive_is_an_archive(tmp_path):
    """Other programs read it: torch, with or without memory maps, and all that read ZIP files."""
    tensor = torch.rand(100, 10)
    path = tmp_path / "m.ckpt"
    WholeFileIO().save_checkpoint({"a": tensor}, path)

    for options in ({}, {"mmap": True}):
        assert torch.equal(torch.load(path, weights_only=True, **options)["a"], tensor)

    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"gendae sha256 ")

    assert torch.equal(read(path)["a"], tensor)


def failing(error):
    """A function that raises this error whatever it is given."""

    def fail(*_):
        raise error

    return fail


# -- with any Trainer -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["em", "backprop", "joint"])
def test_every_trainer_writes_whole_files(case, tmp_path):
    """By `configure_model`, which runs before a checkpoint is read; no rule may hide it."""
    run = trainer()
    assert type(run.strategy.checkpoint_io) is TorchCheckpointIO

    run.fit(RULES[case](), data_of(case))
    assert type(run.strategy.checkpoint_io) is WholeFileIO

    run.save_checkpoint(tmp_path / "m.ckpt")
    assert b"gendae sha256 " in (tmp_path / "m.ckpt").read_bytes()[-100:]
    assert {type(make()).configure_model for make in RULES.values()} == {Rule.configure_model}


def test_plugins_of_the_user_are_left_alone():
    class Own(TorchCheckpointIO):
        pass

    own = trainer(plugins=[Own()])
    install(own.strategy)

    assert type(own.strategy.checkpoint_io) is Own

    wrapped = trainer(plugins=[AsyncCheckpointIO()])
    install(wrapped.strategy)

    assert type(wrapped.strategy.checkpoint_io.checkpoint_io) is WholeFileIO


def test_a_disk_that_is_full_while_a_trainer_saves(tmp_path, monkeypatch):
    """Two checkpoints are written, the third fails: one line, and the second is as it was."""
    keep = ModelCheckpoint(tmp_path, "m", every_n_train_steps=1, enable_version_counter=False)
    kept = {}

    class Full(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 2:
                kept["m.ckpt"] = (tmp_path / "m.ckpt").read_bytes()
                monkeypatch.setattr(os, "fsync", failing(OSError(errno.ENOSPC, "full")))

    run = trainer(callbacks=[Full(), keep], enable_checkpointing=True)
    with pytest.raises(OSError, match=r"m.ckpt was not written \(full\)") as caught:
        run.fit(RULES["em"](), FewDigits())

    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == kept
    assert load(tmp_path / "m.ckpt").facts["updates"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"save_on_exception": True},
        {"save_on_exception": True, "save_last": True},
        {"save_on_exception": True, "save_weights_only": True},
    ],
)
@pytest.mark.parametrize("log_every", [1, 50])
def test_a_diverged_stack_is_never_saved(tmp_path, options, log_every):
    keep = ModelCheckpoint(
        tmp_path, "m", every_n_train_steps=3, enable_version_counter=False, **options
    )
    rule = Poisoned(deep_autoencoder([64, 30, 10]), log_every=log_every)
    run = trainer(max_epochs=2, callbacks=[keep], enable_checkpointing=True)

    with pytest.raises(TrainingDiverged, match="step 7"):
        run.fit(rule, Digits(batch_size=100))

    expected = ["m.ckpt"]
    if "save_last" in options:
        expected = ["last.ckpt", "m.ckpt"]

    assert names(tmp_path) == expected
    for path in tmp_path.iterdir():
        assert load(path).facts["updates"] == 6


@pytest.mark.parametrize("what", ["weights", "optimizer"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, what):
    """Even where no loss says so."""
    run = trainer()
    rule = RULES["backprop"]()
    run.fit(rule, FewDigits())
    run.save_checkpoint(tmp_path / "m.ckpt")
    before = (tmp_path / "m.ckpt").read_bytes()

    if what == "weights":
        part = rule.stack.pairs[0].f.weight
    else:
        part = next(iter(run.optimizers[0].state.values()))["momentum_buffer"]

    with torch.no_grad():
        part[0, 0] = float("inf")

    with pytest.raises(TrainingDiverged, match="nothing is saved"):
        run.save_checkpoint(tmp_path / "m.ckpt")

    assert (tmp_path / "m.ckpt").read_bytes() == before


@pytest.mark.parametrize("value", [Path("a"), np.float64(1.0), signal.SIGINT], ids=repr)
def test_what_could_not_be_read_again_is_not_written(tmp_path, value):
    class Keeping(Callback):
        def state_dict(self):
            return {"value": value}

    run = trainer(callbacks=[Keeping()])
    run.fit(RULES["back step"](), FewDigits())
    with pytest.raises(ValueError, match="Keeping: its state_dict holds .*, which no checkpoint"):
        run.save_checkpoint(tmp_path / "m.ckpt")

    assert names(tmp_path) == []


def test_a_crash_leaves_no_map_frozen():
    class Crash(Callback):
        def on_train_batch_start(self, trainer, *_):
            raise RuntimeError("stopped by the test")

    rule = RULES["backprop"]()
    with pytest.raises(RuntimeError, match="stopped by the test"):
        trainer(callbacks=[Crash()]).fit(rule, FewDigits())

    assert all(p.requires_grad for p in rule.parameters())
