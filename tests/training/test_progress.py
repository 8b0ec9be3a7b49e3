"""One bar over all epochs on a terminal, a line for each validation elsewhere."""

import io
from types import SimpleNamespace

import pytest
import torch

from gendae.training import progress
from gendae.training.progress import EpochBar
from tests.training.resuming import EPOCHS, UPDATES, train


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    def opened(stream):
        monkeypatch.setattr(progress.sys, "stderr", stream)
        return stream

    return opened


class Counting(EpochBar):
    """Notes how far the bar was after each batch that it heard of."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def _move(self, trainer, rule, epochs):
        self.epochs.append(round(epochs, 3))
        super()._move(trainer, rule, epochs)


def test_the_bar_moves_through_all_epochs_and_hears_no_quiet_batch(stderr):
    screen = stderr(Terminal())
    bar = Counting()
    train("em", callbacks=[bar], enable_progress_bar=True)

    batches = UPDATES // EPOCHS
    heard = [epoch + part for epoch in range(EPOCHS) for part in (1 / batches, 1.0, 1.0)]
    assert bar.epochs == [round(epochs, 3) for epochs in heard]

    shown = screen.getvalue()
    last = shown.rstrip("\n").split("\r")[-1]
    assert last.startswith(f"epoch {EPOCHS} of {EPOCHS} |")
    assert shown.count("\n") == 1 and "loss " in last


def test_a_file_gets_a_line_for_each_validation(stderr):
    """With the sum of the losses, which an update follows, and the score."""
    file = stderr(io.StringIO())
    train("em", callbacks=[EpochBar()], enable_progress_bar=True)

    lines = file.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"epoch {epoch + 1} of {EPOCHS}" for epoch in range(EPOCHS)
    ]
    assert all(": loss " in line for line in lines)

    metrics = {"loss/f_1": 1.5, "loss/g_1": 2.0, "val/error": torch.tensor(0.25)}
    rule = SimpleNamespace(score=("val/error", "min"))
    trainer = SimpleNamespace(callback_metrics=metrics)

    assert progress.measures(trainer, rule) == "loss 3.5, val/error 0.25"
