"""The importance-weighted bound by back-propagation: closed forms in float64."""

import pytest
import torch

from gendae.laws import Bernoulli, LearnedGaussian
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.rules.importance_weighted import ImportanceWeightedRule
from gendae.rules.kl import KLRule
from tests.conftest import at, exact_encoder, linear_stack, posterior


@pytest.mark.parametrize("given", [None, 12])
def test_one_draw_is_the_variational_auto_encoder(given, monkeypatch):
    """Loss and gradients: `KLRule` has KL(q || p) in closed form, which is of squares of noise.

    At noise of -1 and of 1 in all units, the mean over squares is exact.
    """
    law = LearnedGaussian(4, 0.5, given=given)
    pair = Pair(MLP(12, [9], 4), MLP(4, [9], 12, "sigmoid"), Bernoulli(), law)
    stack = Stack(pair, prior=GaussianPrior("identity", 1.0)).double()
    x = torch.rand(7, 12, dtype=torch.float64)

    results = {}
    for rule in (ImportanceWeightedRule(stack, samples=1), KLRule(stack, alpha=1.0)):
        stack.zero_grad()
        total = 0.0
        for sign in (-1.0, 1.0):
            monkeypatch.setattr(
                "gendae.laws.normal_like", lambda like, *_, sign=sign: torch.full_like(like, sign)
            )
            total = total + rule.total_loss((x,)) / 2.0

        results[type(rule)] = [total, *torch.autograd.grad(total, list(stack.parameters()))]

    for ours, theirs in zip(*results.values(), strict=True):
        assert ours.abs().sum() > 0
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def gaussian_stack():
    """A linear stack whose posterior has independent units, and q equal to it."""
    stack = linear_stack((3, 2))
    pair = stack.pairs[0]
    with torch.no_grad():
        pair.g.weight.copy_(torch.linalg.qr(torch.randn(3, 2, dtype=torch.float64))[0] * 0.8)

    exact_encoder(stack)
    covariance, _ = posterior(stack)
    pair.recognition = LearnedGaussian(2).double()
    with torch.no_grad():
        pair.recognition.log_sigma.copy_(covariance.diagonal().log() / 2.0)

    return stack


def log_p(stack, x):
    """N(x; b, W W' + sigma^2 I)."""
    g = stack.pairs[0].g
    noise = stack.pairs[0].observation.sigma ** 2 * torch.eye(3, dtype=torch.float64)
    covariance = g.weight @ g.weight.T + noise
    return torch.distributions.MultivariateNormal(g.bias, covariance).log_prob(x)


@pytest.mark.parametrize("samples", [1, 3])
def test_bound_is_the_likelihood_where_q_is_the_posterior(samples):
    stack = gaussian_stack()
    x = torch.randn(5, 3, dtype=torch.float64)
    loss = ImportanceWeightedRule(stack, samples).total_loss((x,), at(1))

    assert torch.allclose(-loss, log_p(stack, x).mean(), rtol=0, atol=1e-10)


def test_bound_and_its_gradients_come_to_those_of_the_likelihood():
    """From a q of another width: the gap falls with K, and at 100,000 draws it is gone."""
    stack = gaussian_stack()
    stack.pairs[0].recognition.log_sigma.data += 0.4
    x = torch.randn(1, 3, dtype=torch.float64)
    exact = log_p(stack, x).mean()

    gaps = []
    for samples, copies in ((1, 20_000), (8, 20_000), (100_000, 1)):
        rule = ImportanceWeightedRule(stack, samples)
        bound = -rule.total_loss((x.expand(copies, 3),), at(1))
        gaps.append((exact - bound).item())

    # KL(q || p) of two units: each exp(0.8) / 2 - 1 / 2 - 0.4
    assert gaps[0] == pytest.approx(torch.tensor(0.8).exp().item() - 1.0 - 0.8, abs=0.03)
    assert gaps[0] > 4 * gaps[1] > 0
    assert abs(gaps[2]) < 0.01

    decoder = list(stack.pairs[0].g.parameters())
    ours = torch.autograd.grad(bound, decoder)
    for one, other in zip(ours, torch.autograd.grad(exact, decoder), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=0.02)
