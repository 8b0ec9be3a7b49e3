"""A training that was stopped and resumed ends as if it had not been: bit for bit, for every rule."""

import inspect
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from gendae import load, rules
from gendae.data.images import Digits
from gendae.data.loader import Split, TensorLoader
from gendae.rules import base, supervised
from gendae.rules.resume import continue_noise
from tests.rules.test_base import trainer
from tests.training.resuming import (
    BATCHES,
    EPOCHS,
    RULES,
    UPDATES,
    FewDigits,
    differences,
    keepers,
    train,
)

ROOT = Path(__file__).parents[2]


class Crash(Callback):
    """A failure of the training after an update, once its checkpoint is written."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("stopped by the test")


@pytest.mark.parametrize("case", RULES)
def test_every_rule_resumes_bit_equal(case, tmp_path):
    """In the middle of an epoch, before and after a validation; in a fresh rule, with another seed."""
    whole = train(case, callbacks=keepers(tmp_path))
    assert (whole["step"], whole["epoch"]) == (UPDATES, EPOCHS)
    middle = (
        2 + list(RULES).index(case) % BATCHES
    )  # updates 2 .. 5: each rule at another one, and before a validation
    for name in {f"batch={middle}", "batch=4", "epoch=0"}:
        resumed = train(case, 99, tmp_path / f"{name}.ckpt")
        assert differences(whole, resumed) == [], name
        assert len(resumed["diary"]) == UPDATES - (
            BATCHES if name == "epoch=0" else int(name.split("=")[1])
        )


def test_every_rule_is_among_the_cases():
    classes = {c for c in vars(rules).values() if inspect.isclass(c) and issubclass(c, base.Rule)}
    assert classes - {base.Rule, supervised.SupervisedRule} == {
        type(make()) for make in RULES.values()
    }


def test_another_seed_trains_otherwise():
    """What `differences` compares does depend on the seed: without a checkpoint nothing is equal."""
    found = differences(train("em", 1), train("em", 99))
    assert {"noise", "weights stack.pairs.0.f.weight", "state 0.exp_avg", "update 1"} <= set(found)


@pytest.mark.parametrize("case", ["em", "difference in phases"])
def test_a_crashed_training_resumes_bit_equal(case, tmp_path):
    """The checkpoint of a run that ended there, not of one that went on."""
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True, save_top_k=0)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(case, callbacks=[keep, Crash(3)])
    assert differences(train(case), train(case, 99, tmp_path / "last.ckpt")) == []


@pytest.mark.parametrize("case, stop", [("target prop under a prior", 5)])
def test_a_killed_process_resumes_bit_equal_in_another(case, stop, tmp_path):
    def process(step):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.training.resuming",
            case,
            str(tmp_path),
            str(step),
        ]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT
        )

    assert process(stop).returncode == -signal.SIGKILL
    resumed = process(-1)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert differences(train(case), torch.load(tmp_path / "end.pt", weights_only=True)) == []


def test_double_precision_resumes_bit_equal(tmp_path):
    whole = train("em", callbacks=keepers(tmp_path), precision="64-true")
    assert whole["weights"]["stack.pairs.0.f.weight"].dtype == torch.float64
    for name in ("batch=3", "epoch=0"):
        assert (
            differences(whole, train("em", 99, tmp_path / f"{name}.ckpt", precision="64-true"))
            == []
        )


def test_validation_within_an_epoch_resumes_bit_equal(tmp_path):
    """From the batch before a validation, that does not take place once more: the prior it fits is there all the same."""
    options = {"val_check_interval": 2}
    whole = train("target prop under a prior", callbacks=keepers(tmp_path), **options)
    for step in (2, 3, 6):
        resumed = train(
            "target prop under a prior", 99, tmp_path / f"batch={step}.ckpt", **options
        )
        assert differences(whole, resumed) == [], step


def test_a_run_whose_epochs_are_cut_short_resumes_bit_equal(tmp_path):
    options = {"limit_train_batches": 3}
    whole = train("em", callbacks=keepers(tmp_path), **options)
    assert whole["step"] == 6
    for name in ("batch=1", "batch=2", "batch=4", "epoch=0"):
        assert differences(whole, train("em", 99, tmp_path / f"{name}.ckpt", **options)) == [], (
            name
        )


def test_a_finished_training_goes_on_with_the_next_epoch_s_order(tmp_path):
    train("em", callbacks=keepers(tmp_path))
    assert train("em", 99, tmp_path / "epoch=1.ckpt")["diary"] == {}
    longer = train("em", 99, tmp_path / "epoch=1.ckpt", max_epochs=3)["diary"]
    whole = train("em", max_epochs=3)["diary"]  # at other rates, since they fall until the end
    assert {step: page[:2] for step, page in longer.items()} == {
        step: whole[step][:2] for step in range(9, 13)
    }


def test_a_second_fit_of_a_resumed_rule_starts_anew(tmp_path):
    """Noise, latest codes and losses of the training before are not taken up again."""
    torch.manual_seed(1)
    rule = RULES["em"]()
    first = trainer(max_epochs=1)
    first.fit(rule, FewDigits())
    first.save_checkpoint(tmp_path / "m.ckpt")
    trainer(max_epochs=2).fit(rule, FewDigits(), ckpt_path=tmp_path / "m.ckpt")
    torch.manual_seed(5)
    assert rule._ledger.filled == 0
    start = trainer(max_epochs=1, limit_train_batches=0)
    start.fit(rule, FewDigits())
    assert torch.equal(rule.generator.get_state(), torch.Generator().manual_seed(5).get_state())


def test_facts_of_a_resumed_training_are_those_of_all_of_it(tmp_path):
    torch.manual_seed(1)
    run = trainer(max_epochs=1)
    run.fit(RULES["em"](), FewDigits())
    run.save_checkpoint(tmp_path / "a.ckpt")
    torch.manual_seed(99)
    rest = trainer(max_epochs=2)
    rest.fit(RULES["em"](), FewDigits(), ckpt_path=tmp_path / "a.ckpt")
    rest.save_checkpoint(tmp_path / "b.ckpt")
    a, b = load(tmp_path / "a.ckpt").facts, load(tmp_path / "b.ckpt").facts
    assert (a["seed"], b["seed"]) == (1, 1)
    assert b["seconds"] >= a["seconds"]
    assert b["updates"] == 8


def test_each_process_goes_on_with_its_own_noise():
    states = torch.stack([torch.Generator().manual_seed(seed).get_state() for seed in (3, 4)])
    for rank, seed in enumerate((3, 4, 99)):  # a third process has no noise to go on with
        generator = torch.Generator().manual_seed(99)
        continue_noise(generator, states, rank)
        assert torch.equal(
            torch.rand(5, generator=generator),
            torch.rand(5, generator=torch.Generator().manual_seed(seed)),
        )


def test_noise_of_another_device_starts_anew():
    generator = torch.Generator().manual_seed(99)
    with pytest.warns(UserWarning, match="another kind of device"):
        continue_noise(generator, torch.zeros(16, dtype=torch.uint8), 0)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(99).get_state())


# -- the order of the data -----------------------------------------------------------------------------


def numbered(batch_size=3, **options):
    return TensorLoader(Split(torch.arange(10.0)[:, None]), batch_size, shuffle=True, **options)


def orders(loader, epochs):
    return [[batch[0].flatten().tolist() for batch in loader] for _ in range(epochs)]


def test_the_order_is_a_function_of_seed_and_epoch():
    first = orders(numbered(seed=4), 3)
    torch.manual_seed(123)  # nothing else counts
    assert orders(numbered(seed=4), 3) == first
    assert first[0] != first[1] != first[2]
    assert orders(numbered(seed=5), 1)[0] != first[0]
    for epoch in range(3):  # not even the epochs before
        loader = numbered(seed=4)
        loader.load_state_dict({"epoch": epoch, "position": 0})
        assert orders(loader, 1)[0] == first[epoch]


@pytest.mark.parametrize("passes", [1, 2])
def test_a_loader_goes_on_from_every_batch(passes):
    whole = orders(numbered(passes=passes), 3)
    flat = [batch for epoch in whole for batch in epoch]
    per_epoch = 3 * passes
    assert [len(epoch) for epoch in whole] == 3 * [per_epoch]
    for stop in range(3 * per_epoch):
        loader, seen = numbered(passes=passes), 0
        while seen < stop:
            for _ in loader:
                seen += 1
                if seen == stop:
                    break
        again = numbered(passes=passes)
        again.load_state_dict(loader.state_dict())
        rest = [batch[0].flatten().tolist() for _ in range(3) for batch in again][
            : len(flat) - stop
        ]
        assert rest == flat[stop:], stop


def test_digits_come_in_the_same_order_in_every_process():
    def first():
        return next(iter(Digits(batch_size=20, seed=3).train_dataloader()))[0]

    assert torch.equal(first(), first())
    assert not torch.equal(
        first(), next(iter(Digits(batch_size=20, seed=4).train_dataloader()))[0]
    )
