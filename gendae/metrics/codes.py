"""The top-level prior on its own: how its samples and its density fit codes held out.

What images show of a prior they show through the decoder: decoded codes are smooth, and so nearer
to training images than test images are, however fresh the codes. The prior itself is judged by the
codes: by the three-sample test of copying between training codes, test codes and the prior's
samples, and by log p(h_L) of training codes against that of test codes. What its samples can reach
in images at best is what decoded held-out codes reach (`decoded`).
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gendae import checks
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.priors.copying import DataCopying
from gendae.sampling.samplers import BATCH, seeded

#: Codes of a split whose log p(h_L) is taken, and how many where the density is slow.
DENSITY_CODES = 2000
FEW_CODES = 250


class Codes(NamedTuple):
    """h_L = f(x) of the images of each split, (n, width of h_L)."""

    train: Tensor
    valid: Tensor
    test: Tensor


@checks.takes_arrays
@torch.no_grad()
def codes_of(stack: Stack, train: Tensor, valid: Tensor, test: Tensor) -> Codes:
    """The feed-forward codes of images, (n, pixels) each, on the stack's device.

    Raises:
        ValueError: for images of another width.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> x = torch.rand(9, 8)
        >>> codes_of(deep_autoencoder([8, 4]), x, x[:5], x[5:]).test.shape
        torch.Size([4, 4])
    """
    parts = []
    for images in (train, valid, test):
        batches = [stack.encode(x.to(stack.device))[-1] for x in images.split(BATCH)]
        parts.append(torch.cat(batches))

    return Codes(*parts)


@torch.no_grad()
def decoded(stack: Stack, codes: Tensor) -> Tensor:
    """Images of codes, as ancestral samples are decoded: means all the way down, (n, pixels)."""
    return torch.cat([stack.decode(h) for h in codes.split(BATCH)])


@torch.no_grad()
def copying_of_codes(prior: Prior, codes: Codes, n: int, seed: int = 0) -> tuple[float, float]:
    """C_T of codes against training codes, with test codes as what is fresh.

    Args:
        prior: a fitted prior.
        codes: of one stack.
        n: how many samples of the prior, or held-out codes, stand for each.
        seed: of the samples and of k-means.

    Returns:
        That of the prior's samples, and that of validation codes, which cannot be copies.

    Example:
        >>> from gendae import ParzenPrior
        >>> h = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
        >>> codes = Codes(h[:2000], h[2000:2500], h[2500:])
        >>> copies = ParzenPrior(0.01, noise_scale=1.0).fit(codes.train)
        >>> of_copies, fresh = copying_of_codes(copies, codes, 500)
        >>> of_copies < -5, abs(fresh) < 3
        (True, True)
    """
    copying = DataCopying(codes.train, codes.test, seed=seed)
    samples = prior.sample(n, seeded(seed))

    return copying(samples), copying(codes.valid[:n])


@torch.no_grad()
def log_prob_of_codes(prior: Prior, codes: Codes, n: int | None = None) -> dict[str, Any]:
    """log p(h_L) of the first training and test codes, or why there is none.

    A gap between the two is what the prior remembers of its training codes. A stored code is
    scored without its own term, where the prior leaves it out.

    Args:
        prior: a fitted prior.
        codes: of one stack.
        n: most codes of each split; 2,000 if None, or 250 of a prior whose density is slow.

    Returns:
        `log_prob` by the names of the codes: mean and standard error (se) in nats, and n. It is
        None where `log_prob_missing` says why.

    Example:
        >>> from gendae import GaussianPrior
        >>> h = torch.randn(30, 2)
        >>> prior = GaussianPrior("identity", 1.0).fit(h)
        >>> log_prob_of_codes(prior, Codes(h, h, h[:9]))["log_prob"]["test codes"]["n"]
        9
    """
    if n is None:
        n = FEW_CODES if prior.slow_density else DENSITY_CODES

    try:
        prior.require_density()
        log_p = {
            "training codes": prior.log_prob(codes.train[:n]),
            "test codes": prior.log_prob(codes.test[:n]),
        }
    except ValueError as error:
        return {"log_prob": None, "log_prob_missing": str(error)}

    return {"log_prob": {name: _mean(values.double()) for name, values in log_p.items()}}


def _mean(values: Tensor) -> dict[str, float]:
    n = len(values)
    return {
        "mean": values.mean().item(),
        "se": values.std(correction=0).item() / math.sqrt(n),
        "n": n,
    }
