"""Noise levels sigma: how often training meets each of them.

A law of levels is given by its quantiles: `quantile(u)` is the level below which a share u of
training's levels lies. Blocks that share the work out own equal shares of the law.

| law | quantile(u) |
|---|---|
| `LogNormalLevels` | exp(mean + deviation Phi^-1(u)) |
| `LogUniformLevels` | lowest^(1 - u) highest^u |
"""

import math

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.registry import register

#: Shares at which a law's tails end: no level is 0 or infinite.
TAIL = 1e-5


class Levels:
    """Law of the levels of noise that a denoiser learns to undo; a variant defines `quantile`.

    Example:
        >>> class TwoLevels(Levels):
        ...     def quantile(self, share):
        ...         return torch.where(share < 0.5, 0.1, 1.0)
        >>> TwoLevels().draw(4, torch.Generator().manual_seed(0))
        tensor([0.1000, 0.1000, 1.0000, 1.0000])
    """

    def quantile(self, share: Tensor) -> Tensor:
        """The level below which this share of the levels lies."""
        raise NotImplementedError(f"{type(self).__name__} must define quantile")

    def draw(
        self, n: int, generator: Generator, shares: tuple[float, float] = (0.0, 1.0)
    ) -> Tensor:
        """n levels between two quantiles, (n,), one from each n-th part of the law between them.

        Their average over n spreads less than that of independent draws.
        """
        device = generator.device
        places = torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)

        return self.between(places / n, shares)

    def between(self, places: Tensor, shares: tuple[float, float] = (0.0, 1.0)) -> Tensor:
        """The levels at places from 0 to 1 of the part of the law between two quantiles."""
        low, high = shares
        return self.quantile((low + (high - low) * places).clamp(TAIL, 1.0 - TAIL))

    def bounds(self, blocks: int) -> list[float]:
        """The levels between which blocks with equal shares change, blocks - 1 of them."""
        shares = torch.arange(1, blocks, dtype=torch.float64) / blocks
        return self.quantile(shares).tolist()


@register
class LogNormalLevels(Levels):
    """ln sigma ~ N(mean, deviation^2).

    Source: Karras et al. 2022, table 1. The defaults were chosen on codes of MNIST.

    Args:
        mean: of ln sigma, sigma in standard deviations of each unit of the codes.
        deviation: of ln sigma.

    Raises:
        ValueError: for a deviation of 0 or less, or numbers that are not finite.

    Example:
        >>> LogNormalLevels(mean=0.0).quantile(torch.tensor(0.5))
        tensor(1.)
    """

    def __init__(self, mean: float = -0.7, deviation: float = 1.4) -> None:
        self.mean = checks.real("mean", mean)
        self.deviation = checks.at_least("deviation", deviation, 0.0, strict=True)

    def quantile(self, share: Tensor) -> Tensor:
        return (self.mean + self.deviation * torch.special.ndtri(share)).exp()


@register
class LogUniformLevels(Levels):
    """ln sigma uniform between two levels.

    Args:
        lowest, highest: levels, in standard deviations of each unit of the codes.

    Raises:
        ValueError: for levels of 0 or less, or in the wrong order.

    Example:
        >>> LogUniformLevels(0.01, 100.0).quantile(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000e-02, 1.0000e+00, 1.0000e+02])
    """

    def __init__(self, lowest: float = 0.02, highest: float = 20.0) -> None:
        self.lowest, self.highest = in_order(lowest=lowest, highest=highest)

    def quantile(self, share: Tensor) -> Tensor:
        low = math.log(self.lowest)
        return (low + (math.log(self.highest) - low) * share).exp()


def in_order(**levels: float) -> tuple[float, float]:
    """Two levels by their names, the lower one first.

    Raises:
        ValueError: for a level of 0 or less, or one that is not below the second.

    Example:
        >>> in_order(stop=2.0, highest=1.0)
        Traceback (most recent call last):
        ValueError: stop=2.0, highest=1.0: stop has to be below highest
    """
    (low_name, low), (high_name, high) = levels.items()
    low = checks.at_least(low_name, low, 0.0, strict=True)
    high = checks.at_least(high_name, high, 0.0, strict=True)
    if not low < high:
        raise ValueError(
            f"{low_name}={low}, {high_name}={high}: {low_name} has to be below {high_name}"
        )

    return low, high
