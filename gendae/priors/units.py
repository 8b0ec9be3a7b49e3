"""Laws of independent top-level units, continuous and discrete: what a factorial prior is made of.

Each law is set by a location m and a scale s for each unit. Discrete units have their probability
p in the place of m. Their values between the extremes count as probabilities, so that log p(h) is
linear in them and its slope is the log odds.

| law | log p(h) | values |
|---|---|---|
| gaussian | -z^2 / 2 - log s sqrt(2 pi), z = (h - m) / s | real |
| laplace | -abs(z) - log 2 s | real |
| logistic | -abs(z) - 2 log(1 + exp(-abs(z))) - log s | real |
| bernoulli | b log p + (1 - b) log(1 - p), b = h | 0 or 1 |
| sign | the same, b = (h + 1) / 2 | -1 or 1 |
| categorical | sum_j h_j log p_j, one group | one-hot |

Source: Bengio et al. 2014, section 7.2; 7.4 for the cross-entropy.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gendae.corruption import normal_like, uniform_like
from gendae.priors.base import floored

#: Distance from 0 and 1 at which uniform draws are cut off: the inverse distribution is finite.
TINY = 1e-7


class Units:
    """Neighbouring units of h_L with one law.

    Args:
        location: of each unit; its probability, if it is discrete, (size,).
        scale: of each unit, (size,); 1 if it is discrete.

    Attributes:
        name: of the law, as configurations say it.
        discrete: whether the law gives probabilities, not a density.
        least: fewest units that make a block.
    """

    name: str
    discrete = False
    least = 1

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        self.location = location
        self.scale = scale

    @classmethod
    def check(cls, argument: str, h: Tensor) -> None:
        """Raise a ValueError for values that the units cannot take."""

    @classmethod
    def flat(cls, size: int) -> float:
        """The location of units that prefer no value, before any fit."""
        return 0.0

    @classmethod
    def fit(cls, h: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of the units, from codes (n, size)."""
        raise NotImplementedError

    def log_prob(self, h: Tensor) -> Tensor:
        """log p(h) in nats, summed over the units, (batch,)."""
        raise NotImplementedError

    def score(self, h: Tensor) -> Tensor:
        """d log p(h) / dh, (batch, size)."""
        raise NotImplementedError

    def target(self, h: Tensor, noise: Tensor | float, aim: str) -> Tensor:
        """The denoised h, (batch, size), see `FactorialPrior.reconstruct`."""
        raise NotImplementedError

    def sample(self, n: int, generator: Generator | None) -> Tensor:
        """n draws, (n, size)."""
        raise NotImplementedError

    def expected_log_prob(self, sample: Tensor, mean: Tensor) -> Tensor:
        """E_Q log p(h), (batch,): the value at the sample, unless the mean gives it exactly."""
        return self.log_prob(sample)

    def correction(self, sample: Tensor, mean: Tensor, variance: Tensor) -> Tensor | float:
        """What makes -`expected_log_prob` exact under Q = N(mean, variance), (batch,).

        It is 0 where no closed form is known.
        """
        return 0.0

    def _empty(self, n: int) -> Tensor:
        return self.location.new_empty(n, len(self.location))


# -- continuous units --------------------------------------------------------------------------


class Continuous(Units):
    """Units with a density of z = (h - location) / scale; a law defines it for z."""

    @staticmethod
    def log_density(z: Tensor) -> Tensor:
        """log p(z) at location 0 and scale 1."""
        raise NotImplementedError

    @staticmethod
    def slope(z: Tensor) -> Tensor:
        """d log p(z) / dz at location 0 and scale 1."""
        raise NotImplementedError

    @staticmethod
    def draw(like: Tensor, generator: Generator | None) -> Tensor:
        """Draws at location 0 and scale 1, in the shape of `like`."""
        raise NotImplementedError

    @staticmethod
    def moments(h: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of location and scale; the scale may be zero."""
        raise NotImplementedError

    @classmethod
    def fit(cls, h: Tensor) -> tuple[Tensor, Tensor]:
        location, scale = cls.moments(h)
        return location, floored(scale.square(), h.dtype).sqrt()

    def standardised(self, h: Tensor) -> Tensor:
        return (h - self.location) / self.scale

    def log_prob(self, h: Tensor) -> Tensor:
        z = self.standardised(h)
        return (self.log_density(z) - self.scale.log()).sum(-1)

    def score(self, h: Tensor) -> Tensor:
        z = self.standardised(h)
        return self.slope(z) / self.scale

    def target(self, h: Tensor, noise: Tensor | float, aim: str) -> Tensor:
        step = noise**2 * self.scale.square() / (noise**2 + self.scale.square())
        return h + step * self.score(h)

    def sample(self, n: int, generator: Generator | None) -> Tensor:
        return self.location + self.scale * self.draw(self._empty(n), generator)


class Exact(Continuous):
    """Continuous units whose cross-entropy to a Gaussian has a closed form."""

    @staticmethod
    def expected_energy(m: Tensor, v: Tensor) -> Tensor:
        """-E log p(z) under z ~ N(m, v), at location 0 and scale 1."""
        raise NotImplementedError

    def correction(self, sample: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        z = self.standardised(sample)
        m = self.standardised(mean)
        v = variance / self.scale.square()
        return (self.expected_energy(m, v) + self.log_density(z)).sum(-1)


class Gaussian(Exact):
    """N(location, scale^2)."""

    name = "gaussian"

    @staticmethod
    def log_density(z: Tensor) -> Tensor:
        return -0.5 * z.square() - 0.5 * math.log(2.0 * math.pi)

    @staticmethod
    def slope(z: Tensor) -> Tensor:
        return -z

    @staticmethod
    def draw(like: Tensor, generator: Generator | None) -> Tensor:
        return normal_like(like, generator)

    @staticmethod
    def moments(h: Tensor) -> tuple[Tensor, Tensor]:
        return h.mean(0), h.var(0, correction=0).sqrt()

    @staticmethod
    def expected_energy(m: Tensor, v: Tensor) -> Tensor:
        return 0.5 * (m.square() + v) + 0.5 * math.log(2.0 * math.pi)


class Laplace(Exact):
    """exp(-abs(z)) / (2 scale)."""

    name = "laplace"

    @staticmethod
    def log_density(z: Tensor) -> Tensor:
        return -z.abs() - math.log(2.0)

    @staticmethod
    def slope(z: Tensor) -> Tensor:
        return -z.sign()

    @staticmethod
    def draw(like: Tensor, generator: Generator | None) -> Tensor:
        u = uniform_like(like, generator).clamp(TINY, 1.0 - TINY)
        return -(u - 0.5).sign() * torch.log1p(-2.0 * (u - 0.5).abs())

    @staticmethod
    def moments(h: Tensor) -> tuple[Tensor, Tensor]:
        median = h.median(0).values
        return median, (h - median).abs().mean(0)

    def target(self, h: Tensor, noise: float, aim: str) -> Tensor:
        target = super().target(h, noise, aim)

        # the slope jumps at the median: a step past it would make h less probable
        passed = (target - self.location) * (h - self.location) < 0.0
        return torch.where(passed, self.location, target)

    @staticmethod
    def expected_energy(m: Tensor, v: Tensor) -> Tensor:
        s = v.clamp(min=torch.finfo(v.dtype).tiny).sqrt()
        ratio = m / s
        return (
            s * math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * ratio.square())
            + m * torch.erf(ratio / math.sqrt(2.0))
            + math.log(2.0)
        )


class Logistic(Continuous):
    """exp(-z) / (scale (1 + exp(-z))^2); its scale has no closed estimate, and matches moments."""

    name = "logistic"

    @staticmethod
    def log_density(z: Tensor) -> Tensor:
        return -z.abs() - 2.0 * F.softplus(-z.abs())  # symmetric

    @staticmethod
    def slope(z: Tensor) -> Tensor:
        return -torch.tanh(0.5 * z)

    @staticmethod
    def draw(like: Tensor, generator: Generator | None) -> Tensor:
        u = uniform_like(like, generator).clamp(TINY, 1.0 - TINY)
        return torch.logit(u)

    @staticmethod
    def moments(h: Tensor) -> tuple[Tensor, Tensor]:
        std = h.var(0, correction=0).sqrt()
        return h.mean(0), std * (math.sqrt(3.0) / math.pi)


# -- discrete units ----------------------------------------------------------------------------


class Discrete(Units):
    """Units with probabilities; a law defines its mode and how probabilities become values.

    Attributes:
        low: the lower of a unit's two values; the upper one is 1.
    """

    discrete = True
    low = 0.0

    @classmethod
    def check(cls, argument: str, h: Tensor) -> None:
        low, high = torch.stack(torch.aminmax(h)).tolist()
        if low < cls.low or high > 1.0:
            raise ValueError(
                f"{argument} holds values from {low:g} to {high:g} in {cls.name} units, which lie "
                f"in [{cls.low:g}, 1]: clamp or threshold them, or use a continuous law"
            )

    @classmethod
    def frequencies(cls, h: Tensor) -> Tensor:
        """Share of each value, with half a count more for each, so that none is impossible."""
        raise NotImplementedError

    @classmethod
    def fit(cls, h: Tensor) -> tuple[Tensor, Tensor]:
        p = cls.frequencies(h)
        return p, torch.ones_like(p)

    def values(self, p: Tensor) -> Tensor:
        """Values of the units whose probabilities, or bits, are p."""
        return p

    def mode(self, h: Tensor) -> Tensor:
        """The most probable values; of several, h itself if it is one of them."""
        raise NotImplementedError

    def target(self, h: Tensor, noise: Tensor | float, aim: str) -> Tensor:
        if aim == "mode":
            return self.mode(h)

        return self.values(self.location).expand_as(h)

    def expected_log_prob(self, sample: Tensor, mean: Tensor) -> Tensor:
        return self.log_prob(mean)  # linear in h


class Binary(Discrete):
    """Units with two values, `low` and 1, whose upper one has probability p."""

    @classmethod
    def flat(cls, size: int) -> float:
        return 0.5

    @classmethod
    def bits(cls, h: Tensor) -> Tensor:
        return (h - cls.low) / (1.0 - cls.low)

    @classmethod
    def frequencies(cls, h: Tensor) -> Tensor:
        return (cls.bits(h).sum(0) + 0.5) / (len(h) + 1)

    def values(self, p: Tensor) -> Tensor:
        return p * (1.0 - self.low) + self.low

    def log_prob(self, h: Tensor) -> Tensor:
        p = self.location
        bits = self.bits(h)
        return (bits * p.log() + (1.0 - bits) * torch.log1p(-p)).sum(-1)

    def score(self, h: Tensor) -> Tensor:
        odds = torch.logit(self.location) / (1.0 - self.low)
        return odds.expand_as(h)

    def mode(self, h: Tensor) -> Tensor:
        bits = (self.location > 0.5).to(h.dtype)
        tied = self.location == 0.5

        return torch.where(tied, h, self.values(bits))

    def sample(self, n: int, generator: Generator | None) -> Tensor:
        p = self.location
        bits = (uniform_like(self._empty(n), generator) < p).to(p)
        return self.values(bits)


class Bernoulli(Binary):
    """0 or 1."""

    name = "bernoulli"


class Sign(Binary):
    """-1 or 1."""

    name = "sign"
    low = -1.0


class Categorical(Discrete):
    """One one-hot group."""

    name = "categorical"
    least = 2

    @classmethod
    def check(cls, argument: str, h: Tensor) -> None:
        super().check(argument, h)
        if (h.sum(1) - 1.0).abs().max() > 1e-3:
            raise ValueError(
                f"{argument} has rows of categorical units that do not add up to 1: give one-hot "
                "rows or probabilities"
            )

    @classmethod
    def flat(cls, size: int) -> float:
        return 1.0 / size

    @classmethod
    def frequencies(cls, h: Tensor) -> Tensor:
        n, size = h.shape
        return (h.sum(0) + 0.5) / (n + 0.5 * size)

    def log_prob(self, h: Tensor) -> Tensor:
        return (h * self.location.log()).sum(-1)

    def score(self, h: Tensor) -> Tensor:
        return self.location.log().expand_as(h)

    def mode(self, h: Tensor) -> Tensor:
        best = self.location == self.location.max()
        inside = h.masked_fill(best, 0.0).sum(-1, keepdim=True) == 0.0

        nearest = h.masked_fill(~best, -1.0).argmax(-1)
        one_hot = F.one_hot(nearest, h.shape[-1]).to(h.dtype)

        return torch.where(inside, h, one_hot)

    def sample(self, n: int, generator: Generator | None) -> Tensor:
        p = self.location
        u = uniform_like(self._empty(n)[:, :1], generator)
        index = (u >= p.cumsum(0)).sum(1).clamp(max=len(p) - 1)
        return F.one_hot(index, len(p)).to(p)


#: All laws, by name.
LAWS: dict[str, type[Units]] = {
    law.name: law for law in (Gaussian, Laplace, Logistic, Bernoulli, Sign, Categorical)
}
