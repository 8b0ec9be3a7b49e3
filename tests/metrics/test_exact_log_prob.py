"""log p(x) of a stack of perfect auto-encoders, against Gaussians, Jacobians and integrals."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from gendae import exact_log_prob
from gendae.laws import Discrete
from gendae.layers.invertible import InvertiblePair
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.autoencoder import AutoencoderPrior
from gendae.priors.factorial import FactorialPrior
from gendae.priors.gaussian import GaussianPrior


def invertible(*pairs, width=3, prior=None):
    """A stack of such pairs, (form, activation), moved away from where it starts."""
    built = [InvertiblePair(width, form, activation) for form, activation in pairs]
    stack = Stack(*built, prior=prior or FactorialPrior("gaussian")).double()
    with torch.no_grad():
        for parameter in stack.pairs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))

    stack.prior.fit(torch.randn(200, width, dtype=torch.float64))
    return stack


LINEAR = [("svd", "linear"), ("cholesky", "linear")]
MIXED = [("cholesky", "softplus"), ("svd", "tanh"), ("svd", "linear")]


def test_a_linear_stack_is_a_gaussian():
    stack = invertible(*LINEAR, prior=GaussianPrior("full", 1.0))
    x = torch.randn(5, 3, dtype=torch.float64)

    origin = torch.zeros(3, dtype=torch.float64)
    up = torch.func.jacrev(lambda x: stack.encode(x[None])[-1][0])(origin)
    offset = stack.encode(origin[None])[-1][0]
    down = torch.linalg.inv(up)

    prior = stack.prior
    covariance = prior.factor @ prior.factor.T
    mean = down @ (prior.mean - offset)
    expected = MultivariateNormal(mean, down @ covariance @ down.T).log_prob(x)

    assert torch.allclose(exact_log_prob(stack, x), expected)


@pytest.mark.parametrize("pairs", [LINEAR, MIXED], ids=["linear", "mixed"])
def test_it_is_the_change_of_variables(pairs):
    stack = invertible(*pairs)
    x = torch.randn(5, 3, dtype=torch.float64)
    jacobians = torch.vmap(torch.func.jacrev(lambda x: stack.up(x[None])[-1][0]))(x)

    volumes = torch.linalg.slogdet(jacobians).logabsdet
    expected = stack.prior.log_prob(stack.encode(x)[-1]) + volumes

    log_p = exact_log_prob(stack, x)
    assert torch.allclose(log_p, expected)

    log_p.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in stack.parameters())


@pytest.mark.parametrize("activation", ["linear", "tanh", "softplus"])
def test_it_integrates_to_the_mass_that_the_prior_has_in_the_range_of_f(activation):
    stack = invertible(("cholesky", activation), width=1)
    x = torch.linspace(-60, 60, 200_001, dtype=torch.float64)[:, None]
    total = torch.trapezoid(exact_log_prob(stack, x).exp(), x[:, 0])

    law = Normal(stack.prior.location[0], stack.prior.scale[0])
    low, high = {"linear": (-math.inf, math.inf), "tanh": (-1, 1), "softplus": (0, math.inf)}[
        activation
    ]
    low, high = (torch.tensor(float(end)).double() for end in (low, high))

    assert total.item() == pytest.approx((law.cdf(high) - law.cdf(low)).item(), abs=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: deep_autoencoder([3, 3]), "pair 1 is a Pair; log p"),
        (lambda: Stack(InvertiblePair(3, recognition=Discrete("sign"))), "of real units"),
        (lambda: Stack(InvertiblePair(3), prior=AutoencoderPrior([4], 2)), "has no density"),
        (lambda: Stack(InvertiblePair(3), prior=FactorialPrior("sign", flat=True)), "no density"),
        (lambda: Stack(InvertiblePair(3)), "fit"),
        (lambda: Stack(InvertiblePair(4)), r"\(batch, 4\)"),
    ],
)
def test_what_has_no_such_density_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        exact_log_prob(make(), torch.zeros(2, 3))
