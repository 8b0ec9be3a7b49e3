"""A training that was stopped and resumed ends as if it had not been: bit for bit, every rule."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from gendae import load
from gendae.data.images import Digits
from gendae.data.loader import Split, TensorLoader
from gendae.registry import REGISTRY, import_public
from gendae.rules.base import Rule
from gendae.rules.noise import RANK_STRIDE, Noise
from tests import roles
from tests.rules.test_base import trainer
from tests.training import processes
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


class Stop(Callback):
    """The end of a training after an update."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == self.step


class Whole(NamedTuple):
    """A training of one case that nothing stopped: its end, and a checkpoint of every update."""

    case: str
    folder: Path
    end: dict


@pytest.fixture(scope="module", params=RULES)
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return Whole(request.param, folder, train(request.param, callbacks=keepers(folder)))


def test_every_rule_resumes_bit_equal(whole):
    """In mid-epoch, before and after a validation; in a fresh rule, with another seed."""
    assert (whole.end["step"], whole.end["epoch"]) == (UPDATES, EPOCHS)

    # updates 2 .. 5: each rule at another one, and before a validation
    middle = 2 + list(RULES).index(whole.case) % BATCHES
    done = {"epoch=0": BATCHES, "batch=4": 4, f"batch={middle}": middle}
    for name, updates in done.items():
        resumed = train(whole.case, 99, whole.folder / f"{name}.ckpt")
        assert differences(whole.end, resumed) == [], name
        assert len(resumed["diary"]) == UPDATES - updates


def test_the_seed_decides_all_of_a_training(whole):
    """The same seed gives the same, from the first weights on; another one nothing of it."""
    assert differences(whole.end, train(whole.case, 1)) == []

    other = train(whole.case, 99, callbacks=[Stop(1)])
    unequal = set(differences(whole.end, other))
    assert {"noise", "update 1"} <= unequal
    assert other["diary"][1][2] == whole.end["diary"][1][2]  # rates: of the same training
    assert any(name.startswith("state") for name in unequal)
    for name in whole.end["weights"]:
        if "feedback" in name or (name.startswith("stack.pairs") and name.endswith("weight")):
            assert f"weights {name}" in unequal


@pytest.mark.parametrize(
    "trained",
    [RULES.values(), processes.RULES.values(), [member.make for member in roles.RULES]],
    ids=["here", "in several processes", "among the roles"],
)
def test_every_rule_is_among_the_cases(trained):
    import_public()
    own = [cls for cls in REGISTRY.values() if cls.__module__.startswith("gendae.")]

    assert {cls for cls in own if issubclass(cls, Rule)} == {type(make()) for make in trained}


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
        python = [sys.executable, "-W", "ignore", "-m"]
        command = [*python, "tests.training.resuming", case, str(tmp_path), str(step)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT
        )

    assert process(stop).returncode == -signal.SIGKILL

    resumed = process(-1)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert differences(train(case), torch.load(tmp_path / "end.pt", weights_only=True)) == []


@pytest.mark.parametrize(
    ("case", "options", "updates", "points"),
    [
        ("em", {"precision": "64-true"}, 8, ["batch=3", "epoch=0"]),
        ("em", {"limit_train_batches": 3}, 6, ["batch=1", "batch=3", "batch=4", "epoch=0"]),
        # the batch before a validation, that does not take place once more: the prior it fits
        # is there all the same
        (
            "target prop under a prior",
            {"val_check_interval": 2},
            8,
            ["batch=2", "batch=3", "batch=6"],
        ),
    ],
    ids=["double precision", "epochs cut short", "validation within an epoch"],
)
def test_trainings_with_other_options_resume_bit_equal(case, options, updates, points, tmp_path):
    whole = train(case, callbacks=keepers(tmp_path), **options)
    double = whole["weights"]["stack.pairs.0.f.weight"].dtype == torch.float64
    assert whole["step"] == updates
    assert double == (options.get("precision") == "64-true")

    for name in points:
        resumed = train(case, 99, tmp_path / f"{name}.ckpt", **options)
        assert differences(whole, resumed) == [], name


def test_a_finished_training_goes_on_with_the_next_epoch_s_order(tmp_path):
    train("em", callbacks=keepers(tmp_path))
    assert train("em", 99, tmp_path / "epoch=1.ckpt")["diary"] == {}

    longer = train("em", 99, tmp_path / "epoch=1.ckpt", max_epochs=3)["diary"]
    whole = train("em", max_epochs=3)["diary"]  # at other rates, since they fall until the end
    images = {step: whole[step][:2] for step in range(9, 13)}
    assert {step: page[:2] for step, page in longer.items()} == images


def test_a_second_fit_of_a_resumed_rule_starts_anew(tmp_path):
    """Noise, latest codes and losses of the training before are not taken up again."""
    torch.manual_seed(1)
    rule = RULES["em"]()
    first = trainer(max_epochs=1)
    first.fit(rule, FewDigits())
    first.save_checkpoint(tmp_path / "m.ckpt")
    trainer(max_epochs=2).fit(rule, FewDigits(), ckpt_path=tmp_path / "m.ckpt")
    assert rule.ledger.filled == 0

    torch.manual_seed(5)
    start = trainer(max_epochs=1, limit_train_batches=0)
    start.fit(rule, FewDigits())
    assert torch.equal(
        rule.source_of_noise.generator.get_state(), torch.Generator().manual_seed(5).get_state()
    )


def test_facts_of_a_resumed_training_are_those_of_all_of_it(tmp_path):
    torch.manual_seed(1)
    run = trainer(max_epochs=1)
    run.fit(RULES["em"](), FewDigits())
    run.save_checkpoint(tmp_path / "a.ckpt")

    torch.manual_seed(99)
    rest = trainer(max_epochs=2)
    rest.fit(RULES["em"](), FewDigits(), ckpt_path=tmp_path / "a.ckpt")
    rest.save_checkpoint(tmp_path / "b.ckpt")

    a = load(tmp_path / "a.ckpt").facts
    b = load(tmp_path / "b.ckpt").facts
    assert (a["seed"], b["seed"]) == (1, 1)
    assert b["seconds"] >= a["seconds"]
    assert b["updates"] == 8
    assert (a["epochs"], b["epochs"]) == (1, 2)


def state(seed):
    return torch.Generator().manual_seed(seed).get_state()


#: Of two processes; of one on another kind of device.
OF_TWO = torch.stack([state(3), state(4)])
ELSEWHERE = torch.zeros(16, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("states", "rank", "seed"),
    [
        (None, 0, 99),
        (state(3), 0, 3),
        (OF_TWO, 0, 3),
        (OF_TWO, 1, 4),
        (OF_TWO, 2, 99 + 2 * RANK_STRIDE),  # a third process has no noise to go on with
        (ELSEWHERE, 0, 99),
    ],
)
def test_each_process_goes_on_with_its_own_noise(states, rank, seed, recwarn):
    torch.manual_seed(99)
    noise = Noise()

    noise.begin(SimpleNamespace(device="cpu", global_rank=rank), states)

    assert torch.equal(noise.generator.get_state(), state(seed))
    warned = any("another kind of device" in str(warning.message) for warning in recwarn)
    assert warned == (states is ELSEWHERE)


# -- the order of the data -----------------------------------------------------------------------


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
        loader = numbered(passes=passes)
        seen = 0
        while seen < stop:
            for _ in loader:
                seen += 1
                if seen == stop:
                    break

        again = numbered(passes=passes)
        again.load_state_dict(loader.state_dict())
        rest = [batch for epoch in orders(again, 3) for batch in epoch]
        assert rest[: len(flat) - stop] == flat[stop:], stop


def test_digits_come_in_the_same_order_in_every_process():
    def first(seed):
        return next(iter(Digits(batch_size=20, seed=seed).train_dataloader()))[0]

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))
