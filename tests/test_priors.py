import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from gendae.priors import GaussianPrior, parzen_log_prob
from tests.conftest import small_stack

COVARIANCES = ["diagonal", "full"]


def codes(n=500, d=4):
    mix = torch.randn(d, d, dtype=torch.float64)
    return torch.randn(n, d, dtype=torch.float64) @ mix + 1.0


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_log_prob_is_that_of_the_fitted_gaussian(scale):
    h, x = codes(), codes(20)
    diagonal = GaussianPrior("diagonal", scale).fit(h)
    full = GaussianPrior("full", scale).fit(h)
    expected = Normal(h.mean(0), (scale * h.var(0)).sqrt()).log_prob(x).sum(-1)
    assert torch.allclose(diagonal.log_prob(x), expected, rtol=1e-3)
    expected = MultivariateNormal(h.mean(0), scale * torch.cov(h.T)).log_prob(x)
    assert torch.allclose(full.log_prob(x), expected, rtol=1e-3)  # the jitter's share


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_score_is_the_gradient_of_log_prob(covariance):
    prior = GaussianPrior(covariance, 4.0).fit(codes())
    x = codes(7).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(x).sum(), x)
    assert torch.allclose(prior.score(x), gradient)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_samples_have_the_fitted_mean_and_scaled_variance(covariance):
    h = codes()
    prior = GaussianPrior(covariance, 4.0).fit(h)
    s = prior.sample(200_000, torch.Generator().manual_seed(0))
    assert torch.allclose(s.mean(0), h.mean(0), atol=0.05)
    expected = 4 * torch.cov(h.T) if covariance == "full" else torch.diag(4 * h.var(0))
    assert torch.allclose(torch.cov(s.T), expected, rtol=0.05, atol=0.2)


def test_dead_units_leave_the_prior_usable():
    h = codes()
    h[:, 1] = 0.3
    for covariance in COVARIANCES:
        prior = GaussianPrior(covariance).fit(h)
        assert torch.isfinite(prior.log_prob(h)).all()
        assert (prior.sample(100)[:, 1] - 0.3).abs().max() < 0.1


@pytest.mark.parametrize("use", [lambda p: p.sample(2), lambda p: p.log_prob(torch.zeros(1, 4)),
                                 lambda p: p.score(torch.zeros(1, 4))])
def test_use_before_fit_is_refused(use):
    with pytest.raises(ValueError, match="not fitted"):
        use(GaussianPrior())


@pytest.mark.parametrize(("make", "words"), [
    (lambda: GaussianPrior("banded"), "diagonal, full"),
    (lambda: GaussianPrior(variance_scale=0.0), "variance_scale"),
    (lambda: GaussianPrior().fit(torch.zeros(1, 3)), "two rows"),
    (lambda: GaussianPrior().fit(torch.full((3, 3), math.nan)), "9 NaN"),
])
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_state_dict_brings_its_shapes_along():
    stack = small_stack()
    other = type(stack)(*small_stack().pairs)
    other.load_state_dict(stack.state_dict())
    assert torch.equal(other.prior.mean, stack.prior.mean)


def oracle(x, samples, sigma):
    """Explicit differences in float64."""
    d2 = (x.double()[:, None] - samples.double()[None]).square().sum(-1)
    d = x.shape[1]
    return (torch.logsumexp(-d2 / (2 * sigma**2), 1) - math.log(len(samples))
            - d * math.log(sigma * math.sqrt(2 * math.pi)))


@pytest.fixture
def hostile_settings():
    """Low matmul precision everywhere, restored afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("sigma", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_parzen_is_exact_at_784_dimensions_whatever_the_settings(sigma, autocast, hostile_settings):
    x, samples = torch.rand(40, 784), torch.rand(300, 784)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = parzen_log_prob(x, samples, sigma)
    assert got.dtype == torch.float64
    assert (got - oracle(x, samples, sigma)).abs().max() < 1e-6


def test_parzen_with_several_sigmas_and_blocks(monkeypatch):
    monkeypatch.setattr("gendae.priors.BLOCK_ENTRIES", 100)
    x, samples = torch.rand(17, 5), torch.rand(30, 5)
    got = parzen_log_prob(x, samples, [0.1, 0.3])
    assert torch.allclose(got[0], oracle(x, samples, 0.1))
    assert torch.allclose(got[1], oracle(x, samples, 0.3))


def test_parzen_density_integrates_to_one():
    grid = torch.linspace(-6, 7, 2001, dtype=torch.float64)[:, None]
    density = parzen_log_prob(grid, torch.rand(5, 1).double(), 0.4).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("x", "samples", "sigma", "words"), [
    (torch.zeros(2, 3), torch.zeros(2, 4), 0.2, r"\(2, 3\)"),
    (torch.zeros(2, 3), torch.zeros(0, 3), 0.2, "empty"),
    (torch.full((2, 3), math.inf), torch.zeros(2, 3), 0.2, "x holds 6"),
    (torch.zeros(2, 3), torch.full((1, 3), math.nan), 0.2, "samples holds 3"),
    (torch.zeros(2, 3), torch.zeros(2, 3), 0.0, "sigma=0.0"),
])
def test_parzen_refuses_bad_input(x, samples, sigma, words):
    with pytest.raises(ValueError, match=words):
        parzen_log_prob(x, samples, sigma)
