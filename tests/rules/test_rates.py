"""Rates: each layer and direction has its own, one optimizer takes the step, clipping is local."""

import math

import pytest
import torch

from gendae.registry import REGISTRY, build, describe
from gendae.rules import rates as rates_module
from gendae.rules.backstep import BackStepRule
from gendae.rules.rates import DECLINES, RMSPROP, Rates
from gendae.rules.variational_em import VariationalEMRule
from tests.conftest import at, small_stack


def half(left):
    return 0.5


class Power:
    """A decline of one's own."""

    def __init__(self, power=1.0):
        self.power = power

    def __call__(self, left):
        return left**self.power


NADAM = {"class_path": "torch.optim.NAdam", "init_args": {"betas": [0.8, 0.9]}}
SQUARE = {"class_path": "tests.rules.test_rates.Power", "init_args": {"power": 2.0}}


def groups_of(optimizer):
    return {group["name"]: group for group in optimizer.param_groups}


def test_rates_and_decays_per_layer_and_direction():
    rates = Rates(f=[0.1, 0.2, 0.3], g=0.5, decay_g=[0.0, 1e-2, 0.0], hold=0.5)
    optimizer = VariationalEMRule(small_stack(), rates=rates).configure_optimizers()
    groups = groups_of(optimizer)

    assert [groups[f"f_{i}"]["lr"] for i in (1, 2, 3)] == [0.1, 0.2, 0.3]
    assert groups["g_2"]["lr"] == 0.5
    assert groups["g_2"]["weight_decay"] == 1e-2
    assert groups["f_2"]["weight_decay"] == 0.0

    rates.set(optimizer, progress=0.75)

    assert groups["f_3"]["lr"] == pytest.approx(0.15)
    assert groups["g_1"]["lr"] == 0.25


@pytest.mark.parametrize(
    ("decline", "expected"),
    [
        ("linear", [1.0, 1.0, 0.5, 0.25, 0.0]),
        ("cosine", [1.0, 1.0, 0.5, 0.5 - math.sqrt(0.125), 0.0]),
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("tests.rules.test_rates.half", [1.0, 1.0, 0.5, 0.5, 0.5]),
        ("tests.rules.test_rates.Power", [1.0, 1.0, 0.5, 0.25, 0.0]),
        (SQUARE, [1.0, 1.0, 0.25, 0.0625, 0.0]),
    ],
)
def test_the_decline_follows_what_is_left(decline, expected):
    """From `hold` on; descriptions keep a named one."""
    rates = Rates(hold=0.2, decline=decline)

    factors = [rates.factor(progress) for progress in (0.0, 0.2, 0.6, 0.8, 1.0)]

    assert factors == pytest.approx(expected)
    if decline in list(DECLINES):
        assert build(describe(rates)) == rates
    assert Rates(hold=1.0, decline=decline).factor(1.0) == 1.0


@pytest.mark.parametrize(
    ("choice", "kind", "options"),
    [
        ("adam", torch.optim.AdamW, {"betas": (0.9, 0.999), "fused": True}),
        ("rmsprop", torch.optim.RMSprop, RMSPROP),
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
        ("torch.optim.Adagrad", torch.optim.Adagrad, {"eps": 1e-10}),
        (NADAM, torch.optim.NAdam, {"betas": [0.8, 0.9]}),
        ({"class_path": "torch.optim.SGD"}, torch.optim.SGD, {"momentum": 0.0}),
        (
            {"class_path": "sgd", "init_args": {"nesterov": True}},
            torch.optim.SGD,
            {"momentum": 0.9},
        ),
    ],
)
def test_optimizers_by_name_and_by_class_path(choice, kind, options):
    """Each takes a step at the rates of the layers."""
    rates = Rates(f=1e-2, g=[0.0, 1e-2, 1e-2], optimizer=choice)
    stack = small_stack()
    rule = BackStepRule(stack, rates=rates)
    before = [parameter.detach().clone() for parameter in stack.parameters()]

    optimizer = rule.configure_optimizers()
    sum(rule.losses((torch.rand(9, 8),)).values()).backward()
    optimizer.step()

    assert type(optimizer) is kind
    assert optimizer.defaults.items() >= options.items()
    assert {group["lr"] for group in optimizer.param_groups} == {0.0, 1e-2}

    names = [name for name, _ in stack.named_parameters()]
    same = dict(zip(names, map(torch.equal, before, stack.parameters()), strict=True))
    assert {name for name, still in same.items() if still} == {
        "pairs.0.g.weight",
        "pairs.0.g.bias",
    }
    assert build(describe(rates)) == rates


@pytest.mark.parametrize(
    "named",
    [
        {"decline": "tests.rules.test_rates.half"},
        {"decline": SQUARE},
        {"decline": {"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}}},
        {"optimizer": "tests.rules.no_such_module.Optimizer"},
        {"optimizer": {"class_path": "torch.optim.lr_scheduler.StepLR"}},
        {"optimizer": "antigravity.AdamW"},
        {"optimizer": 3},
    ],
)
def test_a_description_names_no_code(monkeypatch, named):
    """Nothing is imported or called; a class that was registered is the user's own choice."""
    monkeypatch.setattr(rates_module, "import_module", lambda path: pytest.fail("imported"))

    with pytest.raises(
        ValueError, match="rates.*(may not name code|are accepted)|Rates: .*no attribute"
    ):
        build({"type": "Rates", **named})


def test_a_description_names_registered_code(monkeypatch):
    monkeypatch.setitem(REGISTRY, "Power", Power)
    rates = Rates(decline=SQUARE)

    assert build(describe(rates)) == rates


def test_clipping_scales_each_layer_and_direction_by_itself():
    """A long gradient is cut to the norm, the others keep every bit; one does not see another."""

    def gradients(clip, spoiled=1.0):
        torch.manual_seed(0)
        rule = BackStepRule(small_stack(), rates=Rates(clip=clip))
        optimizer = rule.configure_optimizers()
        sum(rule.losses((torch.rand(9, 8),), at(1)).values()).backward()
        rule.stack.pairs[1].f.weight.grad.mul_(spoiled)
        rule.rates.clip_gradients(optimizer)

        return {
            name: torch.cat([p.grad.flatten() for p in group["params"] if p.grad is not None])
            for name, group in groups_of(optimizer).items()
        }

    free = gradients(None)
    norms = {name: gradient.norm().item() for name, gradient in free.items()}
    bound = sum(sorted(norms.values())[2:4]) / 2.0  # between the shortest and the longest
    clipped = gradients(bound)

    assert min(norms.values()) < bound < max(norms.values())
    for name, gradient in free.items():
        if norms[name] <= bound:
            assert torch.equal(clipped[name], gradient), name
        else:
            scaled = gradient * (bound / norms[name])
            torch.testing.assert_close(clipped[name], scaled, rtol=1e-4, atol=1e-7)

    for name, gradient in gradients(bound, spoiled=1e6).items():
        assert torch.equal(gradient, clipped[name]) == (name != "f_2")
