"""Codes held out of a Parzen prior, and its bandwidth, chosen by their likelihood."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gendae import checks
from gendae.registry import register

#: Most codes held out.
MOST = 1000
#: Fewest codes held out of which can be told whether samples are copies.
FEWEST = 100


@register
@dataclass
class HeldOut:
    """Codes set aside, whose mean log-likelihood plus a bonus is highest at the bandwidth.

    bandwidth = argmax_sigma  1/n sum_i log p_sigma(h_i) + bonus * log sigma

    Source: Bengio et al. 2014, section 7.3, for the bonus: a "regularizer that pushes the
    variances of each component to be as large as possible".

    Args:
        fraction: share of the codes held out (1000 at most).
        bonus: nats for each unit of log sigma. Keep it below the width of h.

    Raises:
        ValueError: for a fraction outside (0, 1), or a negative bonus.

    Example:
        >>> log_likelihood = lambda sigma: -sigma.log() - 0.5 / sigma**2    # of a standard normal
        >>> round(HeldOut().best(log_likelihood, 1.0), 2)
        0.99
    """

    fraction: float = 0.1
    bonus: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction < 1.0:
            raise ValueError(f"fraction={self.fraction} is a share: between 0 and 1")
        checks.at_least("bonus", self.bonus, 0.0)

    def rows(self, n: int) -> int:
        """How many of n codes are held out."""
        held = min(MOST, max(1, round(self.fraction * n)))
        if n - held < 2:
            raise ValueError(f"codes has {n} rows; bandwidth=None needs at least three")

        return held

    def best(self, log_likelihood: Callable[[Tensor], Tensor], spread: float) -> float:
        """The best bandwidth on a logarithmic grid, refined once around its maximum.

        Args:
            log_likelihood: mean over held-out codes for each bandwidth of a grid, (k,) -> (k,).
            spread: deviation of the codes; bandwidths from 1/1000 to twice of it are tried.
        """
        coarse = torch.logspace(-3, 0.3, 28, dtype=torch.float64) * spread
        best = self._best_of(coarse, log_likelihood)

        low = coarse[max(best - 1, 0)].log10().item()
        high = coarse[min(best + 1, len(coarse) - 1)].log10().item()
        fine = torch.logspace(low, high, 9, dtype=torch.float64)

        return fine[self._best_of(fine, log_likelihood)].item()

    def _best_of(self, grid: Tensor, log_likelihood: Callable[[Tensor], Tensor]) -> int:
        values = log_likelihood(grid) + self.bonus * grid.log()
        return int(values.argmax())
