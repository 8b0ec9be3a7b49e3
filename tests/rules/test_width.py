"""A learned width of P(x | h): rules fit it to the deviation of x from its reconstruction."""

import math
from functools import partial

import pytest
import torch

from gendae.corruption import GaussianNoise
from gendae.inference import TargetPropInference
from gendae.laws import Gaussian, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.rules.kl import KLRule
from gendae.rules.loops import PairLoops, ShortAndLongLoops
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.variational_em import VariationalEMRule
from tests.conftest import at

SIGMA = torch.tensor([0.3, 0.7, 1.2, 0.5], dtype=torch.float64)
GAIN = 1.5
#: Deviation of h given x where W' diag(1 / sigma^2) W = GAIN^2 I: the same for all units.
OF_CODE = 1.0 / math.sqrt(1.0 + GAIN**2)


def exact_stack(**options):
    """p(h) = N(0, I), x = W h + sigma * noise; f is the exact posterior mean; sigma is not known.

    With it x, (40,000, 4), drawn from the model.
    """
    directions, _ = torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64))
    w = GAIN * SIGMA[:, None] * directions

    observation = LearnedGaussian(4, 2.0, **options)
    pair = Pair(Affine(4, 2), Affine(2, 4), observation, Gaussian(OF_CODE))
    stack = Stack(pair, prior=GaussianPrior("identity", 1.0)).double()
    with torch.no_grad():
        pair.g.weight.copy_(w)
        pair.g.bias.zero_()
        pair.f.weight.copy_(OF_CODE**2 * w.T / SIGMA.square())
        pair.f.bias.zero_()

    h = torch.randn(40_000, 2, dtype=torch.float64)
    x = h @ w.T + SIGMA * torch.randn(40_000, 4, dtype=torch.float64)
    return stack, x


#: Each of them decodes draws of the exact posterior: without more noise on x, and that of OF_CODE
#: on the code.
NOISE = {"corruption": [GaussianNoise(0.0), GaussianNoise(OF_CODE)]}
RULES = {
    "KLRule": KLRule,
    "TargetPropRule": lambda stack: TargetPropRule(stack, ShortAndLongLoops(), **NOISE),
    "VariationalEMRule": lambda stack: VariationalEMRule(stack, TargetPropInference(0), **NOISE),
}


@pytest.mark.parametrize("per", ["unit", "layer"])
@pytest.mark.parametrize("make", RULES.values(), ids=RULES)
def test_the_fitted_width_is_that_of_the_data(make, per):
    """Draws of the exact posterior leave errors with exactly the deviation of P(x | h)."""
    stack, x = exact_stack(per=per)
    rule = make(stack)
    log_sigma = stack.pairs[0].observation.log_sigma
    assert any(
        p is log_sigma
        for group in rule.configure_optimizers().param_groups
        for p in group["params"]
    )

    optimizer = torch.optim.LBFGS([log_sigma], line_search_fn="strong_wolfe")

    def total():
        optimizer.zero_grad()
        loss = sum(rule.losses((x,), at()).values())
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(total)

    expected = SIGMA if per == "unit" else SIGMA.square().mean().sqrt().reshape(1)
    assert torch.allclose(log_sigma.exp(), expected, rtol=0.01)


@pytest.mark.parametrize(
    "make", [*RULES.values(), partial(TargetPropRule, loop=PairLoops())], ids=[*RULES, "PairLoops"]
)
def test_a_width_of_x_that_depends_on_the_code_learns(make):
    stack, x = exact_stack(given=2)
    rule = make(stack)
    sum(rule.losses((x[:50],), at()).values()).backward()

    assert all(p.grad is not None for p in stack.pairs[0].observation.parameters())


ALGORITHM_2 = partial(TargetPropRule, loop=ShortAndLongLoops())


@pytest.mark.parametrize("rule", [ALGORITHM_2, VariationalEMRule], ids=["2014", "2015"])
def test_a_learned_width_of_codes_leaves_what_f_learns_as_it_is(rule):
    """Gradients of f are those under unit variance, and sigma has one of its own."""
    gradients = []
    for law in (Gaussian(), LearnedGaussian(2, 0.05)):
        torch.manual_seed(0)
        stack, x = exact_stack()
        other = Pair(stack.pairs[0].f, stack.pairs[0].g, recognition=law.double())
        stack = Stack(other, prior=GaussianPrior("identity", 1.0))
        noisy = rule(stack, corruption=[GaussianNoise(0.3), GaussianNoise(0.1)])

        sum(noisy.losses((x[:50],), at()).values()).backward()
        gradients.append(other.f.weight.grad)

    assert torch.allclose(*gradients)
    assert law.log_sigma.grad.abs().min() > 0
