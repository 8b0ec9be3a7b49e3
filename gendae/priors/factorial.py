"""A factorial prior: independent units, continuous and discrete (2014, 7.2 and 7.4)."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.priors.base import ScaledPrior
from gendae.priors.units import LAWS, Binary, Units
from gendae.registry import register

TARGETS = ("mode", "probability")

#: A law and the slice of h that it covers.
Block = tuple[type[Units], slice]


@register
class FactorialPrior(ScaledPrior):
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
        noise: level sigma of the denoising that `reconstruct` stands for in continuous units; a
            tenth of their scale, root mean square, if None.
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

    location: Tensor
    scale: Tensor

    def __init__(
        self,
        units: Sequence[Sequence] | str = "gaussian",
        target: str = "mode",
        noise: float | None = None,
        flat: bool = False,
    ) -> None:
        super().__init__(noise)
        self.units = units
        if not isinstance(units, str):
            self.units = [[str(law), int(n)] for law, n in checks.several("units", units)]
        for law, size in self._sizes(2):  # a single law has no size yet; 2 suits every law
            checks.one_of("law in units", law, LAWS)
            checks.whole(f"size of {law} in units", size, LAWS[law].least)

        self.target = checks.one_of("target", target, TARGETS)
        self.flat = bool(flat)

        self.register_buffer("location", torch.empty(0))  # the probability of a discrete unit
        self.register_buffer("scale", torch.empty(0))
        if self.flat and not isinstance(units, str):
            self.prepare(sum(size for _, size in self.units))

    @property
    def discrete(self) -> bool:
        """Whether all units are discrete, so that p(h) is a probability and no density."""
        return all(LAWS[law].discrete for law, _ in self._sizes(0))

    @property
    def variance(self) -> Tensor:
        """Mean square of the continuous units' scales; 1 where all units are discrete."""
        if self.discrete:
            return torch.ones_like(self.scale[0])

        continuous = torch.ones_like(self.scale, dtype=torch.bool)
        for law, at in self.blocks(len(self.scale)):
            continuous[at] = not law.discrete

        return self.scale[continuous].square().mean()

    def _sizes(self, features: int) -> list[list]:
        """[law, size] of each block; a single law covers all features."""
        if isinstance(self.units, str):
            return [[self.units, features]]
        return self.units

    def blocks(self, features: int) -> list[Block]:
        """Laws and slices of h; a ValueError if they do not add up to this width."""
        blocks = []
        start = 0
        for law, size in self._sizes(features):
            blocks.append((LAWS[law], slice(start, start + size)))
            start += size

        if start != features:
            raise ValueError(
                f"units={self.units} describe {start} features, but h_L has {features}"
            )
        return blocks

    def split(self, *h: Tensor) -> list[tuple]:
        """The fitted units of each block, followed by the block's part of each h."""
        return [
            (law(self.location[at], self.scale[at]), *(x[:, at] for x in h))
            for law, at in self.blocks(len(self.location))
        ]

    def prepare(self, features: int) -> None:
        """Check the width, and set the starting law of a flat prior."""
        blocks = self.blocks(features)
        if not self.flat or len(self.location) == features:
            return

        self.location = self.location.new_zeros(features)
        self.scale = self.scale.new_ones(features)
        for law, at in blocks:
            self.location[at] = law.flat(at.stop - at.start)

    def check_units(self, lowest: Sequence[float | None]) -> None:
        """Refuse signs above units of 0 and 1, which would count as improbable ones."""
        for law, at in self.blocks(len(lowest)):
            others = {low for low in lowest[at] if low is not None}
            if issubclass(law, Binary) and others - {law.low}:
                raise ValueError(
                    f"units={self.units}: {law.name} units of the prior are {law.low:g} or 1, and "
                    f"those of the top layer lie between {others.pop():g} and 1"
                )

    def estimate(self, codes: Tensor) -> None:
        """Fit each unit; the discrete ones of a flat prior stay as they are.

        Each value of a discrete unit gets half a count more, so that no value is impossible.
        """
        blocks = self.blocks(codes.shape[1])
        self._check_range("codes", codes)

        location = torch.empty_like(codes[0])
        scale = torch.ones_like(codes[0])
        for law, at in blocks:
            if self.flat and law.discrete:
                location[at] = law.flat(at.stop - at.start)
            else:
                location[at], scale[at] = law.fit(codes[:, at])

        self.location = location
        self.scale = scale

    def log_prob(self, h: Tensor) -> Tensor:
        """log p(h) in nats, (batch,).

        Raises:
            ValueError: for values outside the range of a discrete unit. The check synchronises
                with the device; `cross_entropy`, for the training loop, makes none.
        """
        self.require_fitted()
        checks.width("h", h, len(self.location))
        self._check_range("h", h)
        return torch.stack([units.log_prob(part) for units, part in self.split(h)]).sum(0)

    def score(self, h: Tensor) -> Tensor:
        """d log p(h) / dh, (batch, features); the log odds for discrete units."""
        self.require_fitted()
        return torch.cat([units.score(part) for units, part in self.split(h)], 1)

    def reconstruct(self, h: Tensor) -> Tensor:
        """Target of h.

        It is h + noise^2 d log p / dh for continuous units, and the mode or the probability for
        discrete ones. The step's noise^2 is noise^2 s^2 / (noise^2 + s^2), with s the unit's
        scale: it makes the Gaussian unit's denoising exact, and keeps the step bounded for units
        with hardly any variance; that of a laplace unit ends at its location. Where several values
        of a discrete unit are the most probable, the mode is h itself if it is one of them.
        Under target="mode", log p(h) thus never falls, and ends at its maximum where all units are
        discrete.
        """
        self.require_fitted()
        targets = [units.target(part, self.level, self.target) for units, part in self.split(h)]
        return torch.cat(targets, 1)

    def step(
        self, h: Tensor, temperature: float = 1.0, generator: Generator | None = None
    ) -> Tensor:
        """One round of a chain whose law is the prior's, (batch, features).

        Continuous units move as those of any prior. No small step moves a discrete one: it is
        drawn anew, and the temperature, at most 1, leads from its target to the draw.
        """
        moved = super().step(h, temperature, generator)
        if temperature == 0.0:
            return moved

        parts = []
        for units, here, new in self.split(h, moved):
            if units.discrete:
                drawn = units.sample(len(h), generator)
                target = units.target(here, self.level, self.target)
                new = torch.lerp(target, drawn, min(1.0, temperature))
            parts.append(new)

        return torch.cat(parts, 1)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, features), on the prior's device; drawn where `generator` lives."""
        self.require_fitted()
        return torch.cat([units.sample(n, generator) for (units,) in self.split()], 1)

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

        blocks = self.split(sample, mean)
        total = -torch.stack([units.expected_log_prob(h, m) for units, h, m in blocks]).sum(0)
        if variance is None:
            return total

        # The exact term takes the place of the Monte Carlo one.
        for units, h, m, v in self.split(sample, mean, variance.expand_as(mean)):
            total = total + units.correction(h, m, v)

        return total

    def _check_range(self, name: str, h: Tensor) -> None:
        if not len(h):
            return

        for law, at in self.blocks(h.shape[1]):
            law.check(name, h.detach()[:, at])

    def extra_repr(self) -> str:
        return f"{self.units}, target={self.target!r}, flat={self.flat}, fitted={self.fitted}"
