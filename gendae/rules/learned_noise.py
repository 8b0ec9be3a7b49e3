"""Noise at the top of a loop whose width is learned: the loop's loss is then a bound on log P(x).

Code:   z = m + sigma xi,   m = h_L,  sigma = sigma(h_{L-1}),  xi ~ N(0, I)
Loss:   E -log P(x | z) + beta KL(N(m, sigma^2) || N(0, I))
        = E(x, x^) + beta sum_j (m_j^2 + sigma_j^2 - 1 - 2 log sigma_j) / 2
Lack:   delta = -step dE/dz, which the feedback brings up the decoder
Learn:  f_L towards m + delta - step beta m;   sigma by |m + sigma xi - (z + delta)|^2 / (2 step)
        and by its own part of the divergence

With beta = 1 that is the variational auto-encoder. What sigma learns from is there at the unit:
the noise it had, and the displacement that came up. What sigma lacks goes no further down: where
it depends on h_{L-1}, that does not hear of it.
Source: Kingma and Welling 2014, Eq. 10; Bengio 2014, 7.4, for corruption that is learned.
"""

from torch import Tensor

from gendae.laws import LearnedGaussian
from gendae.models.stack import Stack
from gendae.rules.chain import Corrupt
from gendae.rules.moment import Moment
from gendae.rules.targets import missed


def learned_noise(stack: Stack) -> LearnedGaussian | None:
    """The law of h_L, if its width is learned."""
    law = stack.pairs[-1].recognition
    return law if isinstance(law, LearnedGaussian) else None


def divergence(law: LearnedGaussian, given: Tensor) -> Tensor:
    """sum_j (sigma_j^2 - 1) / 2 - log sigma_j, mean over the batch: what m has no part in.

    Example:
        >>> import torch
        >>> divergence(LearnedGaussian(3, sigma=1.0), torch.zeros(2, 5)).item()
        0.0
    """
    log_sigma = law.log_scale(given)
    of_units = ((2.0 * log_sigma).exp() - 1.0) / 2.0 - log_sigma

    return of_units.sum(-1).mean()


class DrawnTop:
    """Corruption of a loop, with draws of the top's law in the place of noise on h_L.

    It remembers what the law was given, and what was drawn.

    Args:
        law: of h_L.
        depth: L.
        corrupt: of the levels below.
    """

    def __init__(self, law: LearnedGaussian, depth: int, corrupt: Corrupt) -> None:
        self.law = law
        self.depth = depth
        self.corrupt = corrupt
        self.given: Tensor
        self.noise: Tensor

    def __call__(self, level: int, h: Tensor, moment: Moment) -> Tensor:
        if level < self.depth:
            self.given = self.corrupt(level, h, moment)
            return self.given

        z = self.law.sample(h, moment.generator, self.given)
        self.noise = ((z - h) / self.law.scale(h, self.given)).detach()
        return z

    def loss(self, delta: Tensor, step: float, weight: float) -> Tensor:
        """The loss of sigma, from the displacement of z."""
        spread = self.law.scale(self.noise, self.given) * self.noise
        return missed(spread, delta) / (2.0 * step) + weight * self.divergence()

    def divergence(self) -> Tensor:
        """See `divergence`."""
        return divergence(self.law, self.given)


def check_noise(named: bool, pull: str) -> None:
    """Raise a ValueError for what a top that draws cannot be trained with."""
    if named:
        raise ValueError(
            "corruption: the top draws from its own law, whose width is learned, and other noise "
            "would be in its way; accepted: None, or a top without a learned law"
        )
    if pull != "normal":
        raise ValueError(
            f"pull={pull!r}: the divergence of draws whose width is learned is that from N(0, I); "
            "accepted: normal"
        )
