"""Batches that nobody listens to: the same training as Lightning's own loop makes, bit for bit."""

import csv

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.loggers import CSVLogger

from gendae.models.architectures import deep_classifier
from gendae.rules import updates
from gendae.rules.backprop import BackpropRule
from tests.training.resuming import EPOCHS, RULES, UPDATES, differences, keepers, train

SAMPLE = ["em", "difference", "joint"]


@pytest.fixture
def heard(monkeypatch):
    """Lightning takes all batches."""

    def listen():
        monkeypatch.setattr(updates, "nobody_listens", lambda *_: False)

    return listen


@pytest.fixture
def quiet(monkeypatch):
    """The indices of the batches that were taken quietly."""
    indices = []
    update = updates.QuietBatches._update

    def noted(self, batch, index):
        indices.append(index)
        update(self, batch, index)

    monkeypatch.setattr(updates.QuietBatches, "_update", noted)
    return indices


def content(path):
    checkpoint = torch.load(path, weights_only=False)
    return {name: checkpoint[name] for name in ("global_step", "epoch", "loops", "callbacks")}


def same_both_ways(case, folder, heard, quiet):
    ours = train(case, callbacks=keepers(folder))
    assert len(quiet) == UPDATES - 2 * EPOCHS  # all but the first and last of each epoch
    saved = {path.name: content(path) for path in folder.glob("*.ckpt")}

    heard()
    theirs = train(case, callbacks=keepers(folder / "heard"))
    assert differences(ours, theirs) == []
    assert len(quiet) == UPDATES - 2 * EPOCHS

    for name, parts in saved.items():
        other = content(folder / "heard" / name)
        assert parts["loops"] == other["loops"], name
        assert parts["global_step"] == other["global_step"], name


@pytest.mark.parametrize("case", SAMPLE)
def test_a_training_is_the_same_with_and_without_listeners(case, tmp_path, heard, quiet):
    same_both_ways(case, tmp_path, heard, quiet)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", sorted(set(RULES) - set(SAMPLE)))
def test_every_training_is_the_same_with_and_without_listeners(case, tmp_path, heard, quiet):
    same_both_ways(case, tmp_path, heard, quiet)


def test_each_way_goes_on_from_checkpoints_of_the_other(tmp_path, heard, quiet):
    whole = train("em", callbacks=keepers(tmp_path))
    done = len(quiet)

    heard()
    for step in (2, 3):
        resumed = train(
            "em", 99, tmp_path / f"batch={step}.ckpt", callbacks=keepers(tmp_path / "b")
        )
        assert differences(whole, resumed) == []
    assert len(quiet) == done


def test_checkpoints_of_lightning_s_loop_go_on_quietly(tmp_path, heard, quiet, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(updates, "nobody_listens", lambda *_: False)
        whole = train("em", callbacks=keepers(tmp_path))
    assert quiet == []

    for step in (2, 3):
        resumed = train("em", 99, tmp_path / f"batch={step}.ckpt")
        assert differences(whole, resumed) == []
    assert quiet != []


class Gradients(Callback):
    """Looks at gradients."""

    def __init__(self):
        self.seen = 0

    def on_after_backward(self, trainer, rule):
        self.seen += 1


#: Options and callbacks that may listen to any batch.
LISTENING = {
    "gradients": {"callbacks": [Gradients()]},
    "steps": {"callbacks": [LambdaCallback(on_before_optimizer_step=lambda *_: None)]},
    "profiler": {"profiler": "simple"},
    "half precision": {"precision": "bf16-mixed"},
    "double precision": {"precision": "64-true"},
    "trial": {"fast_dev_run": 3},
}


@pytest.mark.parametrize("options", LISTENING.values(), ids=LISTENING)
def test_lightning_takes_all_batches_where_somebody_may_listen(options, quiet):
    train("backprop", **options)
    assert quiet == []


def test_a_callback_sees_every_gradient(quiet):
    listener = Gradients()
    train("backprop", callbacks=[listener])
    assert listener.seen == UPDATES


class Own(BackpropRule):
    """A rule with a training step of its own."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class Logging(BackpropRule):
    """A rule that logs, at some updates, what it computes."""

    def losses(self, batch, moment):
        losses = super().losses(batch, moment)
        if moment.update in (2, 5, 6):
            self.log("mean", batch[0].mean(), on_step=True, on_epoch=False)

        return losses


def made(cls, **options):
    torch.manual_seed(0)
    return cls(deep_classifier([64, 8], 10), **options)


def test_a_training_step_of_one_s_own_is_lightning_s(quiet, monkeypatch):
    monkeypatch.setitem(RULES, "own", lambda: made(Own))
    assert train("own")["step"] == UPDATES
    assert quiet == []


def rows(folder):
    (path,) = folder.rglob("metrics.csv")
    return list(csv.DictReader(path.open()))


def test_what_a_rule_logs_in_a_quiet_batch_is_written(quiet, heard, monkeypatch, tmp_path):
    monkeypatch.setitem(RULES, "logging", lambda: made(Logging))
    train("logging", log_every_n_steps=1, logger=CSVLogger(tmp_path / "quiet"))
    assert quiet != []
    heard()
    train("logging", log_every_n_steps=1, logger=CSVLogger(tmp_path / "heard"))

    ours, theirs = (
        [(row["step"], row["mean"]) for row in rows(tmp_path / way) if row.get("mean")]
        for way in ("quiet", "heard")
    )
    assert {"2", "5", "6"} <= {step for step, _ in ours}
    assert ours == theirs
