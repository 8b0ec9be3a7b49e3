"""Updates as static functions: equal to plain ones, of one shape, never waiting for the device."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from gendae.corruption import GaussianNoise, RelativeNoise
from gendae.data.images import Digits
from gendae.data.loader import Split
from gendae.inference import TargetPropInference
from gendae.models.architectures import deep_autoencoder, deep_classifier
from gendae.models.convolutional import lenet
from gendae.priors.gaussian import GaussianPrior
from gendae.rules.backprop import BackpropRule, FeedbackAlignmentRule
from gendae.rules.backstep import BackStepRule
from gendae.rules.by_feedback import FeedbackRule
from gendae.rules.difference import DifferenceTargetPropRule, InverseLearning
from gendae.rules.differences import DifferenceLoop
from gendae.rules.kl import KLRule
from gendae.rules.loops import ShortAndLongLoops
from gendae.rules.moment import Moment
from gendae.rules.stdp import STDPRule
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.variational_em import VariationalEMRule
from gendae.training.graphs import CompiledLoop, Graphs, StaticUpdate
from tests.conftest import at, small_stack
from tests.rules.test_base import trainer

SIZES = [64, 20, 8]
RULES = {
    "VariationalEMRule": lambda: VariationalEMRule(deep_autoencoder(SIZES), warmup=8),
    "STDPRule": lambda: STDPRule(deep_autoencoder(SIZES), warmup=8),
    "KLRule": lambda: KLRule(
        deep_autoencoder(
            SIZES, ["softplus", "linear"], noise=0.3, prior=GaussianPrior("identity", 1.0)
        )
    ),
    "TargetPropRule": lambda: TargetPropRule(
        deep_autoencoder(SIZES), DifferenceLoop(start=5, align=3)
    ),
    "TargetPropRule, Algorithm 2": lambda: TargetPropRule(
        deep_autoencoder(SIZES), ShortAndLongLoops(warmup=5)
    ),
    "DifferenceTargetPropRule": lambda: DifferenceTargetPropRule(
        deep_classifier(SIZES), inverses=InverseLearning(warmup=4)
    ),
    "BackStepRule": lambda: BackStepRule(deep_autoencoder([64, 20], ["sigmoid"])),
    "BackpropRule": lambda: BackpropRule(deep_classifier(SIZES)),
    "FeedbackAlignmentRule": lambda: FeedbackAlignmentRule(deep_classifier(SIZES)),
    "FeedbackRule": lambda: FeedbackRule(lenet((1, 8, 8), [3], 3, [1], sizes=[8]), align=4),
}


def trained(make, *callbacks):
    torch.manual_seed(0)
    rule = make()
    seen = []

    class Losses(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append({k: v.item() for k, v in trainer.callback_metrics.items() if "loss" in k})

    trainer(max_epochs=2, callbacks=[*callbacks, Losses()]).fit(rule, Digits())
    return torch.cat([p.detach().flatten() for p in rule.stack.parameters()]), seen


@pytest.mark.parametrize("name", RULES)
def test_a_static_fit_equals_a_plain_one(name):
    """Also through warm-ups and their phases; decaying noise follows a tensor, not a number."""
    plain, losses = trained(RULES[name])
    static, static_losses = trained(RULES[name], Graphs())

    assert torch.allclose(plain, static, atol=2e-5)
    assert not torch.equal(plain, torch.zeros_like(plain))
    assert [list(row) for row in losses] == [list(row) for row in static_losses]


class Watch(TorchDispatchMode):
    """Records operations and their shapes; refuses those that wait for a value of the device."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "is_nonzero",
        "item",
        "equal",
        "unique",
        "masked_select",
    )

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{func} waits for the device"

        out = func(*args, **(kwargs or {}))
        self.operations.append(
            (str(func), tuple(out.shape) if isinstance(out, torch.Tensor) else None)
        )

        return out


@pytest.mark.parametrize("name", RULES)
def test_two_updates_of_a_phase_launch_the_same_operations_and_wait_for_nothing(name):
    rule = RULES[name]()
    # labels of a Trainer's batches have been looked at before
    rule._trainer = SimpleNamespace(world_size=1, accumulate_grad_batches=1)
    rule.manual_backward = lambda loss: loss.backward()
    update = StaticUpdate(rule)
    noise = torch.Generator().manual_seed(0)

    seen = []
    for progress in (0.1, 0.3, 0.7):
        batch = (torch.rand(10, 64), torch.randint(10, (10,)))
        with Watch() as watch:
            update(batch, Moment(progress, noise, 100))
        seen.append(watch.operations)

    assert len(seen[1]) > 20
    assert seen[1] == seen[2]  # the first also clones the batch
    assert len(update._recordings) == 1


def test_the_watch_sees_what_waits():
    with pytest.raises(AssertionError, match="waits"), Watch():
        bool(torch.rand(3).sum() > 0)


def test_each_phase_has_a_recording_and_batches_are_copied_into_it():
    rule = VariationalEMRule(small_stack(), warmup=30, corruption=[GaussianNoise(0.0)] * 4)
    rule.manual_backward = lambda loss: loss.backward()
    update = StaticUpdate(rule)
    x = torch.rand(5, 8)

    for number, steps in ((0, 0), (10, 5), (11, 5), (30, 15), (1000, 15)):
        moment = Moment(update=number)
        expected = {name: loss.item() for name, loss in rule.losses((x,), moment).items()}
        losses = update((x,), moment)

        assert rule.inference_steps(moment) == steps
        assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)

    assert len(update._recordings) == 3

    kept = next(iter(update._recordings.values()))
    kept(Split(x + 1))

    assert torch.equal(kept.batch[0], x + 1)
    assert kept.batch[0] is not x


def test_what_cannot_be_repeated_runs_as_it_is():
    """A prior that is fitted anew has other tensors after each epoch."""
    rule = KLRule(deep_autoencoder([8, 4], ["linear"], noise=0.3, prior=GaussianPrior("full")))
    x = torch.rand(20, 8)
    rule.fit_prior([(x,)])
    rule.manual_backward = lambda loss: loss.backward()
    update = StaticUpdate(rule)

    losses = update((x,), at(0))

    assert rule.phase(Moment()) is None
    assert torch.isfinite(sum(losses.values()))
    assert update._recordings == {}
    phases = partial(TargetPropRule, small_stack())
    assert phases(ShortAndLongLoops(top_target="prior")).phase(Moment()) is None
    assert phases(ShortAndLongLoops()).phase(Moment()) == ()
    assert phases(ShortAndLongLoops(warmup=9)).phase(Moment(update=3)) is None
    assert phases().phase(Moment(update=1)) != phases().phase(Moment(update=10**4))

    pulled = TargetPropInference(use_prior=True)
    assert VariationalEMRule(small_stack(), pulled).phase(Moment()) is None


@pytest.mark.parametrize(
    "noise",
    [
        GaussianNoise(0.5, decay=0.2),
        GaussianNoise(0.5, half_life=0.3),
        RelativeNoise(0.4, decay=0.5),
        GaussianNoise(0.0),
    ],
)
def test_noise_follows_progress_as_a_tensor(noise):
    h = torch.rand(6, 5, dtype=torch.float64)
    a, b = (
        noise(h, progress, torch.Generator().manual_seed(0))
        for progress in (0.7, torch.tensor(0.7, dtype=torch.float64))
    )
    assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "bf16-mixed"}, "precision='bf16-mixed'"),
        ({"precision": "16-mixed"}, "static updates"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2: static updates"),
    ],
)
def test_what_a_recording_cannot_hold_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        trainer(callbacks=[Graphs()], **options).fit(RULES["VariationalEMRule"](), Digits())


def test_a_fit_leaves_the_rule_as_it_was():
    rule = RULES["VariationalEMRule"]()
    t = trainer(callbacks=[Graphs(compile=True)], max_epochs=0)
    t.fit(rule, Digits())

    assert rule.recorded is None
    assert rule.inference.compiled is None


def test_a_compiled_loop_is_the_same_loop():
    """With the eager backend: the same operations through torch.compile's front end."""
    stack = small_stack()
    x = torch.rand(7, 8)
    mask = torch.arange(8) < 4
    inference = TargetPropInference(4)
    plain = [inference(stack, x, steps=steps) for steps in (4, 2)]
    masked = inference(stack, x, mask)

    inference.compiled = CompiledLoop(TargetPropInference(4), backend="eager")
    compiled = [inference(stack, x, steps=steps) for steps in (4, 2)]

    for a, b in zip(plain, compiled, strict=True):
        assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(a, b, strict=True))
    assert sorted(inference.compiled._loops) == [2, 4]
    assert all(map(torch.equal, masked, inference(stack, x, mask)))  # masks take the plain loop

    with pytest.raises(ValueError, match="temperature=0.1"):
        CompiledLoop(TargetPropInference(4, temperature=0.1))
