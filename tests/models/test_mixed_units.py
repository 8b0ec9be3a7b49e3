"""Real and discrete units in one layer (2014, section 2.2.6)."""

import pytest
import torch

import gendae
from gendae.rules.loops import PairLoops, ShortAndLongLoops
from tests.conftest import at

NOISE = gendae.EachModality([gendae.GaussianNoise(0.3), gendae.FlipNoise(0.1, "binary")], [20, 10])


def mixed_stack():
    """h_1 has 20 real units and 10 bits."""
    f = gendae.Heads(gendae.Affine(64, 30), ["tanh", "sigmoid"], [20, 10])
    g = gendae.Affine(30, 64, "sigmoid")
    h_1 = gendae.Laws([gendae.Gaussian(), gendae.Discrete("binary")], [20, 10])

    back = gendae.Heads(gendae.Affine(12, 30), ["tanh", "sigmoid"], [20, 10])
    upper = gendae.Pair(gendae.Affine(30, 12, "tanh"), back, observation=h_1)
    return gendae.Stack(gendae.Pair(f, g, recognition=h_1), upper)


@pytest.mark.parametrize("loop", [ShortAndLongLoops, PairLoops])
def test_a_stack_of_mixed_units_learns_from_targets_saves_and_loads(loop, digits, tmp_path):
    x = digits.split("train").x
    stack = mixed_stack()
    corruption = [gendae.GaussianNoise(0.1), NOISE, gendae.GaussianNoise(0.1)]
    rule = gendae.TargetPropRule(stack, loop(), corruption, rates=gendae.Rates(1e-3, 3e-3))
    before = (stack.reconstruct(x) - x).square().mean()

    optimizer = rule.configure_optimizers()
    for step in range(150):
        optimizer.zero_grad()
        rows = x[100 * (step % 10) :][:100]
        sum(rule.losses((rows,), at(step)).values()).backward()
        optimizer.step()

    with torch.no_grad():
        codes = stack.encode(x)
        stack.prior.fit(codes[-1])
        after = (stack.reconstruct(x) - x).square().mean()

    assert after < x.var(0).mean() < before  # better than the mean image
    assert set(codes[1][:, 20:].unique().tolist()) == {0.0, 1.0}
    assert codes[1][:, :20].unique().numel() > 1000

    again = gendae.load(gendae.save(stack, tmp_path / "m.safetensors"))
    assert torch.equal(again.reconstruct(x), stack.reconstruct(x))
    assert repr(again) == repr(stack)
