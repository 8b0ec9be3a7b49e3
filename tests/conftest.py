"""Shared pieces of the tests: MNIST where it is, and linear-Gaussian stacks with a closed form.

They import what they need: the process that shares the tests out among others reads this file, and
begins seconds earlier without torch.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes test at once; theirs, too

import pytest


@pytest.fixture(autouse=True)
def seeded():
    import torch

    torch.manual_seed(0)


def at(seed=0, **options):
    """A moment with noise of its own."""
    import torch

    from gendae.rules.moment import Moment

    return Moment(generator=torch.Generator().manual_seed(seed), **options)


@pytest.fixture(scope="session")
def mnist():
    """MNIST; a failure where CI promises it, a skip where it is not on the machine."""
    from gendae.data.images import MNIST

    data = MNIST(download=False)
    if data.files() is None:
        message = "MNIST is not on this machine; set GENDAE_DATA to the folder that holds mnist/"
        if os.environ.get("CI") or os.environ.get("GENDAE_DATA"):
            pytest.fail(message)
        pytest.skip(message)

    return data


@pytest.fixture(scope="session")
def fashion():
    """Fashion-MNIST; a failure in CI, which installs it, a skip where it is not on the machine."""
    from gendae.data.images import FashionMNIST

    data = FashionMNIST(download=False)
    if data.files() is None:
        message = "Fashion-MNIST is not on this machine; apt-get install dataset-fashion-mnist"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    return data


@pytest.fixture(scope="session")
def digits():
    from gendae.data.images import Digits

    return Digits()


def linear_stack(sizes=(3, 2), sigma=0.7, dtype=None):
    """A linear-Gaussian stack: p(h_L) = N(0, I), p(h_{l-1} | h_l) = N(W h_l + b, sigma^2 I).

    Of float64, unless another type is given.
    """
    import torch

    from gendae.laws import Gaussian
    from gendae.models.architectures import deep_autoencoder
    from gendae.priors.gaussian import GaussianPrior

    dtype = dtype or torch.float64
    stack = deep_autoencoder(sizes, ["linear"] * (len(sizes) - 1), visible="linear").to(dtype)
    for pair in stack.pairs:
        pair.observation = Gaussian(sigma)
        with torch.no_grad():
            pair.g.bias.normal_()

    prior = GaussianPrior("full", variance_scale=1.0)
    prior.mean = torch.zeros(sizes[-1], dtype=dtype)
    prior.factor = torch.eye(sizes[-1], dtype=dtype)
    stack.prior = prior

    return stack


def posterior(stack):
    """Covariance S of p(h | x), and the affine map x -> mean, of a one-pair linear stack."""
    import torch

    g = stack.pairs[0].g
    sigma = stack.pairs[0].observation.sigma
    w = g.weight.detach()
    precision = torch.eye(w.shape[1], dtype=w.dtype) + w.T @ w / sigma**2
    s = torch.linalg.inv(precision)
    return s, lambda x: (x - g.bias.detach()) @ w @ s.T / sigma**2


def exact_encoder(stack):
    """The one-pair linear stack with f set to the posterior mean."""
    import torch

    s, _ = posterior(stack)
    pair = stack.pairs[0]
    w = pair.g.weight.detach()
    b = pair.g.bias.detach()
    sigma = pair.observation.sigma

    with torch.no_grad():
        pair.f.weight.copy_(s @ w.T / sigma**2)
        pair.f.bias.copy_(-s @ w.T @ b / sigma**2)

    return stack


def small_stack(sizes=(8, 6, 5, 4)):
    """A nonlinear stack of three pairs with a fitted prior."""
    import torch

    from gendae.models.architectures import deep_autoencoder

    stack = deep_autoencoder(sizes)
    stack.prior.fit(stack.encode(torch.rand(50, sizes[0]))[-1].detach())
    return stack
