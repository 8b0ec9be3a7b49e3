"""Sampling from any level: the exact stationary law of a linear chain, starts and files."""

import pytest
import torch

from gendae import generate
from gendae.corruption import GaussianNoise
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.autoencoder import AutoencoderPrior, Learning
from gendae.priors.gaussian import GaussianPrior
from gendae.sampling.level import LevelSampler, chain_states
from gendae.sampling.samplers import AncestralSampler, seeded


def linear_stack(gain=0.5):
    """One 1-1 pair with g(f(h)) = gain * h."""
    f = Affine(1, 1)
    g = Affine(1, 1)

    with torch.no_grad():
        f.weight.fill_(1.0)
        g.weight.fill_(gain)

    stack = Stack(Pair(f, g), prior=GaussianPrior("identity", 1.0))
    return stack.double()


@pytest.mark.parametrize("residual", [0.0, 1.0])
def test_chain_has_the_stationary_law_of_its_autoregression(residual):
    """x <- a (x + s xi) + r eta: variance (a^2 s^2 + r^2) / (1 - a^2), autocorrelation a."""
    a = 0.5
    s = 0.7
    r = 0.4
    stack = linear_stack(a)
    stack.residuals = torch.tensor([r], dtype=torch.float64)
    sampler = LevelSampler(level=0, corruption=GaussianNoise(s), residual=residual)
    states = torch.stack(list(chain_states(stack, sampler, 20_000, 30, seeded(0))))[20:]
    variance = (a**2 * s**2 + (residual * r) ** 2) / (1 - a**2)

    assert states.var().item() == pytest.approx(variance, rel=0.03)

    lagged = (states[1:] * states[:-1]).mean() / states.square().mean()
    assert lagged.item() == pytest.approx(a, abs=0.02)


def test_residuals_are_what_reconstructions_from_the_top_miss_by():
    torch.manual_seed(0)
    stack = deep_autoencoder([9, 7, 5]).double()
    x = torch.rand(50, 9, dtype=torch.float64)
    h = stack.encode(x)
    h1 = stack.pairs[1].g(h[2])

    expected = [
        (stack.pairs[0].g(h1) - x).square().mean().sqrt(),
        (h1 - h[1]).square().mean().sqrt(),
    ]

    assert torch.allclose(stack.fit_residuals(x), torch.stack(expected))


@pytest.mark.parametrize("level", [0, 1])
def test_no_rounds_are_ancestral_sampling(level):
    stack = deep_autoencoder([9, 7, 5])
    stack.prior.fit(torch.rand(20, 5))
    none = generate(stack, 6, LevelSampler(level, rounds=0), seed=1)
    some = generate(stack, 6, LevelSampler(level, rounds=4), seed=1)

    assert torch.equal(none, generate(stack, 6, AncestralSampler(), seed=1))
    assert not torch.equal(none, some)


def test_the_top_runs_the_prior_s_own_chain():
    torch.manual_seed(0)
    prior = AutoencoderPrior([8], 4, learning=Learning(1))
    stack = deep_autoencoder([9, 5], prior=prior)
    stack.prior.fit(torch.rand(50, 5))
    sampler = LevelSampler()
    h = sampler.start(stack, prior.sample(4, seeded(0)), None)
    new = sampler.step(stack, h, seeded(1))

    assert torch.equal(new[-1], prior.chain(h[-1], 1, seeded(1))[-1])
    assert torch.equal(new[0], stack.decode(new[-1]))
