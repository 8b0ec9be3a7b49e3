"""Training by difference target propagation: phases, resume, wrong labels, what is learned."""

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from gendae.corruption import GaussianNoise
from gendae.data.base import Data
from gendae.data.images import Digits
from gendae.data.loader import Split
from gendae.models.architectures import deep_classifier
from gendae.models.settings import Settings
from gendae.rules.difference import DifferenceTargetPropRule, Inverses, Iterations
from gendae.rules.rates import Rates
from tests.rules.test_base import trainer
from tests.rules.test_difference import KINDS


class Wrong(Data):
    """Digits whose labels are out of range in one split."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def read(self):
        splits, shape = Digits().read()
        if self.where == "none":
            return {name: Split(split.x) for name, split in splits.items()}, shape

        split = splits[self.where]
        splits[self.where] = Split(split.x, split.y + 5)
        return splits, shape


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("train", "labels of the train images holds labels from 5 to 14"),
        ("valid", "labels of the valid images"),
        ("none", "no labels"),
    ],
)
def test_wrong_labels_stop_training_before_the_first_update(where, words):
    rule = DifferenceTargetPropRule(deep_classifier([64, 8, 8]))
    run = trainer()

    with pytest.raises(ValueError, match=words):
        run.fit(rule, Wrong(where))

    assert run.global_step == 0


def snapshot(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Watch(Callback):
    """What moved in each batch, and which images it held."""

    def __init__(self):
        self.moved = []
        self.images = []

    def on_train_batch_start(self, trainer, rule, batch, batch_idx):
        self.images.append(batch[0].sum(1))
        self.before = [snapshot(m) for m in self.maps(rule)]

    def on_train_batch_end(self, trainer, rule, *args):
        after = [snapshot(m) for m in self.maps(rule)]
        pairs = zip(self.before, after, strict=True)
        self.moved.append(tuple(not torch.equal(a, b) for a, b in pairs))

    @staticmethod
    def maps(rule):
        return [*rule.stack.encoders, *(pair.g for pair in rule.stack.pairs[1:])]


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_alternate_phases_move_inverses_first_and_encoders_then_with_the_same_images(optimizer):
    watch = Watch()
    stack = deep_classifier([64, 20, 20])
    rates = Rates(optimizer=optimizer, decay_f=0.1, decay_g=0.1)
    rule = DifferenceTargetPropRule(
        stack, inverses=Inverses(schedule="alternate"), rates=rates, log_every=2
    )

    t = trainer(max_epochs=2, callbacks=[watch])
    t.fit(rule, Digits(batch_size=300))

    inverses = (False, False, False, True)
    encoders = (True, True, True, False)
    assert t.global_step == 12
    assert watch.moved == 2 * (3 * [inverses] + 3 * [encoders])
    for epoch in (watch.images[:6], watch.images[6:]):
        assert all(torch.equal(a, b) for a, b in zip(epoch[:3], epoch[3:], strict=True))
    assert not torch.equal(watch.images[0], watch.images[6])
    assert len(rule.losses((torch.rand(5, 64), torch.arange(5)))) == 4  # outside a Trainer, both


def test_joint_training_moves_everything_in_every_batch():
    watch = Watch()
    rule = DifferenceTargetPropRule(deep_classifier([64, 20, 20]))
    trainer(callbacks=[watch]).fit(rule, Digits(batch_size=300))
    assert watch.moved == 3 * [(True,) * 4]


@pytest.mark.parametrize("step", [2, 4, 9])
def test_alternate_training_resumes_in_the_middle_of_an_epoch(tmp_path, step):
    def fit(seed, path=None, **options):
        torch.manual_seed(seed)
        stack = deep_classifier([64, 12, 8], stochastic=True)
        inverses = Inverses(schedule="alternate", half_life=0.1)
        noise = GaussianNoise(0.1)
        rule = DifferenceTargetPropRule(
            stack, inverses=inverses, input_corruption=noise, samples=2
        )

        t = trainer(max_epochs=2, **options)
        t.fit(rule, Digits(batch_size=300), ckpt_path=path)

        assert t.global_step == 12

        return snapshot(rule)

    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(1, callbacks=[keep], enable_checkpointing=True)

    assert torch.equal(fit(2, str(tmp_path / f"step={step}.ckpt")), whole)


def fit_digits(rule, epochs):
    t = trainer(max_epochs=epochs)
    t.fit(rule, Digits())
    return t.callback_metrics["val/error"].item()


def test_digits_are_learned_and_the_same_seed_gives_the_same_weights():
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        rule = DifferenceTargetPropRule(deep_classifier([64, 60, 60, 60]), rates=Rates(f=3e-3))
        error = fit_digits(rule, 15)
        weights.append(snapshot(rule))

    assert error < 0.06
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("kind", "options", "epochs"),
    [
        ("stochastic", {"samples": 3}, 25),
        ("bits", {"step": 0.3}, 15),
        ("tanh", {"iterations": Iterations(rounds=3, reconstruct=0.1)}, 8),
        ("tanh", {"inverses": Inverses(schedule="alternate"), "scaled": False}, 8),
    ],
)
def test_every_kind_of_network_and_schedule_learns(kind, options, epochs):
    stack = deep_classifier([64, 60, 60], settings=Settings(samples=10), **KINDS[kind])
    rule = DifferenceTargetPropRule(stack, rates=Rates(f=5e-3), **options)
    before = stack.pairs[0].f.weight.detach().clone()

    assert fit_digits(rule, epochs) < 0.2
    assert (stack.pairs[0].f.weight - before).norm() > 0.1  # targets pass bits and draws
