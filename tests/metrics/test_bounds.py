"""The bound on log p(x) against linear-Gaussian stacks, whose likelihood is known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from gendae import importance_weighted_bound
from gendae.laws import Bernoulli, Discrete, Gaussian, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.metrics import bounds
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.factorial import FactorialPrior
from gendae.sampling.samplers import seeded
from tests.conftest import exact_encoder, linear_stack, small_stack


def exact_log_prob(stack, x):
    """log p(x) of a linear-Gaussian stack: x is an affine map of independent normals."""
    mean = torch.zeros(stack.sizes[-1]).double()
    covariance = torch.eye(stack.sizes[-1]).double()
    for pair in reversed(stack.pairs):
        w = pair.g.weight.detach()
        b = pair.g.bias.detach()
        mean = w @ mean + b
        covariance = w @ covariance @ w.T + pair.observation.sigma**2 * torch.eye(len(b))

    return MultivariateNormal(mean, covariance).log_prob(x)


class Full(Gaussian):
    """N(mean, C) with a full covariance."""

    def __init__(self, covariance):
        super().__init__()
        self.factor = torch.linalg.cholesky(covariance)

    def log_prob(self, h, mean, given=None):
        return MultivariateNormal(mean, scale_tril=self.factor).log_prob(h)

    def sample(self, mean, generator=None, given=None):
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        return mean + noise @ self.factor.T


def with_posterior(stack, spread=1.0):
    """The linear stack with Q(h_l | h_{l-1}) = p(h_l | h_{l-1}), its covariance times `spread`."""
    mean = torch.zeros(stack.sizes[-1]).double()
    c = torch.eye(stack.sizes[-1]).double()
    for pair in reversed(stack.pairs):  # p(h_l) = N(mean, c)
        w = pair.g.weight.detach()
        b = pair.g.bias.detach()
        s = pair.observation.sigma
        below = w @ c @ w.T + s**2 * torch.eye(len(b))
        gain = c @ w.T @ torch.linalg.inv(below)

        with torch.no_grad():
            pair.f.weight.copy_(gain)
            pair.f.bias.copy_(mean - gain @ (w @ mean + b))

        s_h = c - gain @ w @ c
        pair.recognition = Full(spread * (s_h + s_h.T) / 2)
        mean = w @ mean + b
        c = below

    return stack


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("sizes", [(3, 2), (4, 3, 2)])
def test_equality_where_q_is_the_exact_posterior(k, sizes):
    stack = with_posterior(linear_stack(sizes))
    x = torch.randn(5, sizes[0]).double()
    expected = exact_log_prob(stack, x)
    assert torch.allclose(importance_weighted_bound(stack, x, k), expected, atol=1e-9)


@pytest.mark.parametrize("k", [1, 7])
def test_equality_of_means_where_the_top_is_drawn_from_the_exact_posterior(k):
    """p(x | g_1(g_2(h_2))) p(h_2) is the density of a model of one pair."""
    stack = linear_stack((4, 3, 2))
    low, high = stack.pairs
    one = linear_stack((4, 2))
    pair = one.pairs[0]
    with torch.no_grad():
        pair.g.weight.copy_(low.g.weight @ high.g.weight)
        pair.g.bias.copy_(low.g(high.g.bias))
        pair.observation = low.observation
        f = with_posterior(one).pairs[0].f
        low.f.weight.copy_(torch.cat([f.weight, torch.randn(1, 4).double()]))
        low.f.bias.copy_(torch.cat([f.bias, torch.randn(1).double()]))
        high.f.weight.copy_(torch.eye(2, 3))
        high.f.bias.zero_()
    high.recognition = pair.recognition

    x = torch.randn(5, 4).double()
    bound = importance_weighted_bound(stack, x, k, hidden="means")
    assert torch.allclose(bound, exact_log_prob(one, x), atol=1e-9)


def test_hidden_levels_may_be_deterministic_where_they_are_means():
    stack = with_top(Gaussian(0.5))
    stack.pairs[0].recognition = stack.pairs[1].observation = Discrete("binary")
    x = torch.rand(3, 8)

    assert torch.isfinite(importance_weighted_bound(stack, x, 4, hidden="means")).all()
    with pytest.raises(bounds.NoDensityError, match="Discrete of pair 1: deterministic units"):
        importance_weighted_bound(stack, x, 4)


@pytest.mark.parametrize("sizes", [(3, 2), (4, 3, 2)])
def test_below_log_p_and_nearer_to_it_with_more_samples(sizes):
    stack = with_posterior(linear_stack(sizes), spread=2.0)
    x = torch.randn(400, sizes[0]).double()

    exact = exact_log_prob(stack, x).mean().item()
    means = [
        importance_weighted_bound(stack, x, k, generator=seeded(0)).mean().item()
        for k in (1, 10, 100, 1000)
    ]

    assert means == sorted(means)
    assert means[0] < exact - 0.2
    assert exact - 0.02 < means[-1] < exact + 0.01


def test_one_sample_is_the_variational_bound():
    """E L_1 = E log p(x, h) - log q(h | x), in closed form for one linear pair."""
    stack = exact_encoder(linear_stack())
    x = torch.randn(1, 3).double()
    stack.pairs[0].recognition = Gaussian(0.4)
    pair = stack.pairs[0]
    s = pair.observation.sigma
    mean = pair.f(x)
    w = pair.g.weight.detach()

    fit = -((x - pair.g(mean)).square().sum() + 0.4**2 * w.square().sum()) / (2 * s**2)
    fit = fit - 1.5 * math.log(2 * math.pi * s**2)
    top = -(mean.square().sum() + 2 * 0.4**2) / 2 - math.log(2 * math.pi)
    entropy = 1 + math.log(2 * math.pi * 0.4**2)
    exact = (fit + top + entropy).item()

    draws = importance_weighted_bound(stack, x.expand(40_000, -1), 1, generator=seeded(0))
    error = draws.std().item() / 200
    assert draws.mean().item() == pytest.approx(exact, abs=5 * error)


def test_streaming_equals_one_block_and_the_stack_s_own_terms():
    stack = small_stack().double()
    x = torch.rand(1, 8).double()
    h, log_q = bounds.draw_q(stack, x, 50, seeded(3))
    again = stack.sample_q(x.expand(50, -1), seeded(3))

    assert all(torch.allclose(a, b) for a, b in zip(h, again, strict=True))
    assert torch.allclose(log_q, stack.log_q(h))

    log_w = stack.log_joint(h) - stack.log_q(h)
    expected = log_w.logsumexp(0) - math.log(50)

    for rows in (50, 1000):
        bound = importance_weighted_bound(stack, x, 50, generator=seeded(3), rows=rows)
        assert bound.item() == pytest.approx(expected.item(), abs=1e-10)

    x = torch.rand(3, 8).double()
    assert importance_weighted_bound(stack, x, 4000, generator=seeded(1), rows=7).shape == (3,)


def test_blocks_of_samples_add_up():
    stack = with_posterior(linear_stack(), spread=1.5)
    x = torch.randn(2, 3).double()
    exact = exact_log_prob(stack, x)
    for rows in (3, 130, 1000):
        bound = importance_weighted_bound(stack, x, 1000, generator=seeded(0), rows=rows)
        assert torch.allclose(bound, exact, atol=0.15)


@pytest.mark.parametrize(
    ("law", "rows"),
    [(Gaussian(0.5), 30), (Bernoulli(), 30), (LearnedGaussian(8), 60), (Full(torch.eye(8)), 60)],
    ids=["Gaussian", "Bernoulli", "no bound known", "a variant"],
)
def test_samples_that_cannot_count_are_not_decoded(law, rows, monkeypatch):
    """Every second sample of three images has a weight of e^-100."""
    above = small_stack()
    bottom = Pair(above.pairs[0].f, above.pairs[0].g, observation=law)
    stack = Stack(bottom, *above.pairs[1:], prior=above.prior)
    x = torch.rand(3, 8)
    draw_q = bounds.draw_q

    def drawn(stack, x, samples, generator=None):
        h, log_q = draw_q(stack, x, samples, seeded(0))
        return h, log_q + 100.0 * (torch.arange(len(log_q)) % 2)

    h, log_q = drawn(stack, x, 20)
    expected = (stack.log_joint(h) - log_q).double().view(3, 20).logsumexp(1) - math.log(20)

    decoded = []
    monkeypatch.setattr(bounds, "draw_q", drawn)
    bottom.g.register_forward_hook(lambda layer, h, out: decoded.append(len(out)))

    assert torch.allclose(importance_weighted_bound(stack, x, 20), expected, atol=1e-4)
    assert decoded[0] == 3
    assert decoded[1] == 60 or (decoded[1] <= rows < 60)


def test_sigma_x_replaces_the_law_of_x_alone():
    stack = with_posterior(linear_stack((4, 3, 2), sigma=0.7))
    x = torch.randn(3, 4).double()
    before = importance_weighted_bound(stack, x, 5, generator=seeded(0))
    replaced = importance_weighted_bound(stack, x, 5, 0.3, seeded(0))

    assert torch.equal(importance_weighted_bound(stack, x, 5, generator=seeded(0)), before)
    assert torch.equal(importance_weighted_bound(stack, x, 5, 0.7, seeded(0)), before)

    stack.pairs[0].observation = Gaussian(0.3)
    assert torch.equal(importance_weighted_bound(stack, x, 5, generator=seeded(0)), replaced)


@pytest.mark.parametrize("law", [Bernoulli(), Discrete("binary", stochastic=True)])
def test_bits_at_the_top_have_a_bound_under_a_prior_over_bits(law):
    """Two bits above x: the bound rises to the exact log p(x), a sum over the four codes."""
    torch.manual_seed(0)
    pair = Pair(Affine(3, 2, "sigmoid"), Affine(2, 3), Gaussian(0.5), law)
    stack = Stack(pair, prior=FactorialPrior("bernoulli")).double()
    stack.prior.fit(torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double())
    x = torch.rand(6, 3).double()

    log_p = []
    for a, b in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)):
        code = torch.tensor([[a, b]]).double()
        mean = pair.g(code).expand_as(x)
        log_p.append(stack.prior.log_prob(code) + pair.observation.log_prob(x, mean))

    exact = torch.stack(log_p).logsumexp(0)
    few, many = (importance_weighted_bound(stack, x, k, generator=seeded(0)) for k in (2, 5000))

    assert torch.allclose(many, exact, atol=0.06)
    assert few.mean() < exact.mean()


def with_top(law):
    stack = small_stack()
    stack.pairs[-1].recognition = law
    return stack


def without_density_of_the_prior():
    stack = small_stack()
    stack.prior.has_density = False
    return stack


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: with_top(Bernoulli()), "same kind of units"),
        (lambda: with_top(Discrete("binary", stochastic=True)), "same kind of units"),
        (lambda: with_top(Discrete("binary")), "recognition=Discrete of pair 3"),
        (without_density_of_the_prior, "prior=GaussianPrior"),
    ],
)
def test_models_without_a_density_say_so(make, words):
    with pytest.raises(bounds.NoDensityError, match=words):
        importance_weighted_bound(make(), torch.rand(2, 8), 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, "k=0"),
        ({"sigma_x": 0.0}, "sigma_x=0.0"),
        ({"rows": 0}, "rows=0"),
        ({"hidden": "mean"}, "hidden='mean'"),
        ({"x": torch.rand(2, 9)}, r"\(2, 9\)"),
        ({"stack": deep_autoencoder([8, 4])}, "not fitted"),
    ],
)
def test_bad_arguments(arguments, words):
    defaults = {"stack": small_stack(), "x": torch.rand(2, 8), "k": 2}
    with pytest.raises(ValueError, match=words):
        importance_weighted_bound(**{**defaults, **arguments})


@pytest.mark.parametrize("law", [Gaussian(0.5), LearnedGaussian(4)])
def test_same_generator_same_bound_and_the_global_one_is_left_alone(law):
    stack = with_top(law)
    x = torch.rand(4, 8)
    state = torch.get_rng_state()
    a, b = (importance_weighted_bound(stack, x, 9, generator=seeded(5)) for _ in range(2))

    assert torch.isfinite(a).all()
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
