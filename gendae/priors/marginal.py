"""Some units of a prior, where their law has no closed form: sampled, and no more."""

from typing import NoReturn

from torch import Generator, Tensor

from gendae.priors.base import Prior


class Marginal(Prior):
    """The law of some units of h_L: draws of the whole, without the others.

    Args:
        prior: a fitted prior of the whole.
        observed: True where a unit belongs to the law, (features,).

    Example:
        >>> import torch
        >>> from gendae.priors.gaussian import GaussianPrior
        >>> whole = GaussianPrior().fit(torch.tensor([[0.0, 5.0], [1.0, 7.0]]))
        >>> Marginal(whole, torch.tensor([False, True])).sample(3).shape
        torch.Size([3, 1])
    """

    has_density = False

    def __init__(self, prior: Prior, observed: Tensor) -> None:
        super().__init__()
        self.prior = prior
        self.observed = observed

    @property
    def fitted(self) -> bool:
        return self.prior.fitted

    def require_density(self) -> NoReturn:
        """Raise a ValueError: integrating the missing units out has no closed form."""
        raise ValueError(
            f"the marginal of a {type(self.prior).__name__} is sampled only: its density is an "
            "integral over the other units, without a closed form; accepted: GaussianPrior, "
            "ParzenPrior"
        )

    def estimate(self, codes: Tensor) -> None:
        """Raise a ValueError: the whole is what is fitted."""
        raise ValueError("a marginal is not fitted itself: fit the prior, and take its marginal")

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, units)."""
        return self.prior.sample(n, generator)[:, self.observed]
