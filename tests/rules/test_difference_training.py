"""Training by difference target propagation: phases, resume, wrong labels, what is learned."""

import pytest
import torch
from pytorch_lightning import Callback

from gendae.data.base import Data
from gendae.data.images import Digits
from gendae.data.loader import Split
from gendae.models.architectures import deep_classifier
from gendae.models.settings import Settings
from gendae.rules.difference import DifferenceTargetPropRule, InverseLearning, Iterations
from gendae.rules.rates import Rates
from tests.rules.test_base import trainer
from tests.rules.test_difference import KINDS

ALTERNATE = InverseLearning(schedule="alternate")


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
    rule = DifferenceTargetPropRule(stack, inverses=ALTERNATE, rates=rates, log_every=2)

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


@pytest.mark.parametrize(
    ("kind", "sizes", "options", "epochs", "bound"),
    [
        ("tanh", [64, 60, 60, 60], {"rates": Rates(f=3e-3)}, 15, 0.06),
        ("stochastic", [64, 60, 60], {"samples": 3}, 25, 0.2),
        ("bits", [64, 60, 60], {"step": 0.3}, 15, 0.2),
        ("tanh", [64, 60, 60], {"iterations": Iterations(3, reconstruct=0.1)}, 8, 0.2),
        ("tanh", [64, 60, 60], {"inverses": ALTERNATE, "scaled": False}, 8, 0.2),
    ],
)
def test_every_kind_of_network_and_schedule_learns(kind, sizes, options, epochs, bound):
    stack = deep_classifier(sizes, settings=Settings(samples=10), **KINDS[kind])
    rule = DifferenceTargetPropRule(stack, **{"rates": Rates(f=5e-3), **options})
    before = stack.pairs[0].f.weight.detach().clone()

    t = trainer(max_epochs=epochs)
    t.fit(rule, Digits())

    assert t.callback_metrics["val/error"] < bound
    assert (stack.pairs[0].f.weight - before).norm() > 0.1  # targets pass bits and draws
