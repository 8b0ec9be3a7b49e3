"""A factorial prior: independent units, continuous and discrete (2014, 7.2 and 7.4)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like, uniform_like
from gendae.priors.base import Prior, floored
from gendae.registry import register

CONTINUOUS = ("gaussian", "laplace", "logistic")
#: The lower of a binary unit's two values; the upper one is 1.
BINARY = {"bernoulli": 0.0, "sign": -1.0}
LAWS = (*CONTINUOUS, *BINARY, "categorical")
TARGETS = ("mode", "probability")
TINY = 1e-7


class Block(NamedTuple):
    """Neighbouring units with one law; those of a `categorical` block form one one-hot group."""

    law: str
    units: slice


def log_density(law: str, z: Tensor) -> Tensor:
    """log p(z) of a continuous unit (gaussian, laplace, logistic) with location 0 and scale 1."""
    if law == "gaussian":
        return -0.5 * z.square() - 0.5 * math.log(2.0 * math.pi)
    if law == "laplace":
        return -z.abs() - math.log(2.0)
    return -z.abs() - 2.0 * F.softplus(-z.abs())  # symmetric


def slope(law: str, z: Tensor) -> Tensor:
    """d log p(z) / dz of a standard continuous unit."""
    if law == "gaussian":
        return -z
    if law == "laplace":
        return -z.sign()
    return -torch.tanh(0.5 * z)


def draw(law: str, like: Tensor, generator: Generator | None) -> Tensor:
    """Standard draws in the shape of `like`, by the inverse distribution function."""
    if law == "gaussian":
        return normal_like(like, generator)

    u = uniform_like(like, generator).clamp(TINY, 1.0 - TINY)
    if law == "logistic":
        return torch.logit(u)
    return -(u - 0.5).sign() * torch.log1p(-2.0 * (u - 0.5).abs())


def location_and_scale(law: str, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum-likelihood location and scale of continuous units.

    Logistic units have no closed estimate; theirs match the moments.
    """
    if law == "laplace":
        median = codes.median(0).values
        return median, (codes - median).abs().mean(0)

    std = codes.var(0, correction=0).sqrt()
    if law == "logistic":
        return codes.mean(0), std * (math.sqrt(3.0) / math.pi)
    return codes.mean(0), std


@register
class FactorialPrior(Prior):
    """p(h) = prod_j p_j(h_j), each unit with its own location and scale, or probability.

    Continuous units: gaussian, laplace, logistic. Discrete ones: bernoulli (0 or 1), sign
    (-1 or 1) and categorical, where each block is one one-hot group. Values of discrete units
    between their extremes count as probabilities, so that log p(h) is linear in them and its slope
    is the log odds.
    Source: Bengio et al. 2014, section 7.2; 7.4 for the cross-entropy of discrete units.

    Args:
        units: blocks [law, size] in the order of the features, such as [["gaussian", 5],
            ["bernoulli", 8], ["categorical", 10]]; or one law for all units (one one-hot group, if
            categorical), with the width taken from the stack or the codes.
        target: what `reconstruct` gives for discrete units: the "mode" of each, or the prior
            "probability" itself (7.2, which warns that modes may lie far from h).
        noise: level sigma of the denoising that `reconstruct` stands for in continuous units.
        flat: keep the discrete units' probabilities uniform (7.4, p_j = 1/2); continuous units
            start from location 0 and scale 1. Such a prior can be used before `fit`.

    Raises:
        ValueError: for an unknown law or target, or a size below 1 (2 if categorical); from `fit`
            and `log_prob`, for codes of another width or values that a discrete unit cannot take.

    Example:
        >>> prior = FactorialPrior([["gaussian", 1], ["bernoulli", 1]])
        >>> _ = prior.fit(torch.tensor([[1., 1.], [3., 1.], [1., 0.], [3., 1.]]))
        >>> prior.location                                              # (3 + 1/2) / (4 + 1)
        tensor([2.0000, 0.7000])
        >>> prior.reconstruct(torch.tensor([[2., 0.]]))
        tensor([[2., 1.]])
    """

    def __init__(
        self,
        units: Sequence[Sequence] | str = "gaussian",
        target: str = "mode",
        noise: float = 0.1,
        flat: bool = False,
    ) -> None:
        super().__init__()
        self.units = units
        if not isinstance(units, str):
            self.units = [[str(law), int(n)] for law, n in units]
        for law, size in self._sizes(2):  # a single law has no size yet; 2 suits every law
            checks.one_of("law in units", law, LAWS)
            least = 2 if law == "categorical" else 1
            checks.whole(f"size of {law} in units", size, least)

        self.target = checks.one_of("target", target, TARGETS)
        self.noise = checks.at_least("noise", noise, 0.0)
        self.flat = bool(flat)

        self.register_buffer("location", torch.empty(0))  # the probability of a discrete unit
        self.register_buffer("scale", torch.empty(0))
        if self.flat and not isinstance(units, str):
            self.prepare(sum(size for _, size in self.units))

    def _sizes(self, features: int) -> list[list]:
        """[law, size] of each block; a single law covers all features."""
        if isinstance(self.units, str):
            return [[self.units, features]]
        return self.units

    def blocks(self, features: int | None = None) -> list[Block]:
        """The units as slices of h; a ValueError if they do not add up to this width."""
        if features is None:
            features = len(self.location)

        blocks = []
        start = 0
        for law, size in self._sizes(features):
            blocks.append(Block(law, slice(start, start + size)))
            start += size

        if start != features:
            raise ValueError(
                f"units={self.units} describe {start} features, but h_L has {features}"
            )
        return blocks

    def prepare(self, features: int) -> None:
        """Check the width, and set the starting law of a flat prior."""
        blocks = self.blocks(features)
        if not self.flat or len(self.location) == features:
            return

        self.location = self.location.new_zeros(features)
        self.scale = self.scale.new_ones(features)
        for law, at in blocks:
            if law not in CONTINUOUS:
                self.location[at] = _uniform(law, at.stop - at.start)

    def estimate(self, codes: Tensor) -> None:
        """Fit each unit.

        Each value of a discrete unit gets half a count more, so that no value is impossible.
        """
        blocks = self.blocks(codes.shape[1])
        self._check_range("codes", codes, blocks)

        location = torch.empty_like(codes[0])
        scale = torch.ones_like(codes[0])
        for law, at in blocks:
            h = codes[:, at]
            if law in CONTINUOUS:
                location[at], width = location_and_scale(law, h)
                scale[at] = floored(width.square(), codes.dtype).sqrt()
            elif self.flat:
                location[at] = _uniform(law, h.shape[1])
            else:
                location[at] = self._smoothed_frequencies(law, h)

        self.location = location
        self.scale = scale

    def _smoothed_frequencies(self, law: str, h: Tensor) -> Tensor:
        """Frequencies of a discrete block's values, each with half a count more."""
        n, size = h.shape
        if law == "categorical":
            return (h.sum(0) + 0.5) / (n + 0.5 * size)
        return (self._bits(law, h).sum(0) + 0.5) / (n + 1)

    def log_prob(self, h: Tensor) -> Tensor:
        """log p(h) in nats, (batch,).

        Raises:
            ValueError: for values outside the range of a discrete unit. The check synchronises
                with the device; `cross_entropy`, for the training loop, makes none.
        """
        self.require_fitted()
        self._check_range("h", h, self.blocks())
        return self._log_prob(h, h)

    def _log_prob(self, h: Tensor, discrete: Tensor) -> Tensor:
        """Sum over the units; discrete units take values (or probabilities) from `discrete`."""
        terms = []
        for law, at in self.blocks():
            if law in CONTINUOUS:
                z = (h[:, at] - self.location[at]) / self.scale[at]
                terms.append((log_density(law, z) - self.scale[at].log()).sum(-1))
            elif law in BINARY:
                p = self.location[at]
                bits = self._bits(law, discrete[:, at])
                terms.append((bits * p.log() + (1.0 - bits) * torch.log1p(-p)).sum(-1))
            else:
                terms.append((discrete[:, at] * self.location[at].log()).sum(-1))

        return torch.stack(terms).sum(0)

    def score(self, h: Tensor) -> Tensor:
        """d log p(h) / dh, (batch, features); the log odds for discrete units."""
        self.require_fitted()

        slopes = []
        for law, at in self.blocks():
            p = self.location[at]
            if law in CONTINUOUS:
                z = (h[:, at] - p) / self.scale[at]
                slopes.append(slope(law, z) / self.scale[at])
            elif law in BINARY:
                odds = torch.logit(p) / (1.0 - BINARY[law])
                slopes.append(odds.expand_as(h[:, at]))
            else:
                slopes.append(p.log().expand_as(h[:, at]))

        return torch.cat(slopes, 1)

    def reconstruct(self, h: Tensor) -> Tensor:
        """Target of h.

        It is h + noise^2 d log p / dh for continuous units, and the mode or the probability for
        discrete ones. The step's noise^2 is noise^2 s^2 / (noise^2 + s^2), with s the unit's
        scale: it makes the Gaussian unit's denoising exact, and keeps the step bounded for units
        with hardly any variance. Where all values of a discrete unit are equally probable, the
        mode is h itself.
        """
        step = self.noise**2 * self.scale.square() / (self.noise**2 + self.scale.square())
        moved = h + step * self.score(h)

        targets = []
        for law, at in self.blocks():
            if law in CONTINUOUS:
                targets.append(moved[:, at])
            else:
                targets.append(self._discrete_target(law, at, h))

        return torch.cat(targets, 1)

    def _discrete_target(self, law: str, at: slice, h: Tensor) -> Tensor:
        p = self.location[at]
        if self.target == "probability":
            best = p
            tied = torch.zeros_like(p, dtype=torch.bool)
        elif law == "categorical":
            best = (p == p.max()).to(h.dtype)
            tied = best.sum() > 1
        else:
            best = (p > 0.5).to(h.dtype)
            tied = p == 0.5

        return torch.where(tied, h[:, at], self._values(law, best))

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, features), on the prior's device; drawn where `generator` lives."""
        self.require_fitted()

        draws = []
        for law, at in self.blocks():
            p = self.location[at]
            like = self.location.new_empty(n, at.stop - at.start)
            if law in CONTINUOUS:
                draws.append(p + self.scale[at] * draw(law, like, generator))
            elif law in BINARY:
                bits = (uniform_like(like, generator) < p).to(p)
                draws.append(self._values(law, bits))
            else:
                u = uniform_like(like[:, :1], generator)
                index = (u >= p.cumsum(0)).sum(1).clamp(max=len(p) - 1)
                draws.append(F.one_hot(index, len(p)).to(p))

        return torch.cat(draws, 1)

    def cross_entropy(
        self, sample: Tensor, mean: Tensor, variance: Tensor | None = None
    ) -> Tensor:
        """-E_Q log p(h) in nats, (batch,).

        Discrete units: -sum_j q_j log p_j + (1 - q_j) log(1 - p_j) with q_j from the mean, exact.
        Gaussian and laplace units are exact too where Q is Gaussian with this variance; otherwise
        the value is -log p(sample).
        Source: Bengio et al. 2014, section 7.4.
        """
        self.require_fitted()

        total = -self._log_prob(sample, mean)
        if variance is None:
            return total

        # The exact term takes the place of the Monte Carlo one.
        for law, at in self.blocks():
            if law in ("gaussian", "laplace"):
                z = (sample[:, at] - self.location[at]) / self.scale[at]
                m = (mean[:, at] - self.location[at]) / self.scale[at]
                v = variance.expand_as(mean)[:, at] / self.scale[at].square()
                total = total + (expected_energy(law, m, v) + log_density(law, z)).sum(-1)

        return total

    @staticmethod
    def _bits(law: str, h: Tensor) -> Tensor:
        return (h - BINARY[law]) / (1.0 - BINARY[law])

    @staticmethod
    def _values(law: str, bits: Tensor) -> Tensor:
        if law == "categorical":
            return bits
        return bits * (1.0 - BINARY[law]) + BINARY[law]

    def _check_range(self, name: str, h: Tensor, blocks: list[Block]) -> None:
        checks.width(name, h, blocks[-1].units.stop)

        for law, at in blocks:
            if law in CONTINUOUS or not len(h):
                continue

            values = h.detach()[:, at]
            low, high = torch.stack(torch.aminmax(values)).tolist()
            least = BINARY.get(law, 0.0)
            if low < least or high > 1.0:
                raise ValueError(
                    f"{name} holds values from {low:g} to {high:g} in {law} units, which lie in "
                    f"[{least:g}, 1]: clamp or threshold them, or use a continuous law"
                )

            if law == "categorical" and (values.sum(1) - 1.0).abs().max() > 1e-3:
                raise ValueError(
                    f"{name} has rows of categorical units that do not add up to 1: give one-hot "
                    "rows or probabilities"
                )

    def extra_repr(self) -> str:
        return f"{self.units}, target={self.target!r}, flat={self.flat}, fitted={self.fitted}"


def _uniform(law: str, size: int) -> float:
    """The probability at which all values of a discrete block are equally probable."""
    if law == "categorical":
        return 1.0 / size
    return 0.5


def expected_energy(law: str, m: Tensor, v: Tensor) -> Tensor:
    """-E log p(z) under z ~ N(m, v), for a standard gaussian or laplace unit."""
    if law == "gaussian":
        return 0.5 * (m.square() + v) + 0.5 * math.log(2.0 * math.pi)

    s = v.clamp(min=torch.finfo(v.dtype).tiny).sqrt()
    ratio = m / s
    return (
        s * math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * ratio.square())
        + m * torch.erf(ratio / math.sqrt(2.0))
        + math.log(2.0)
    )
