"""The latent variables of a stack's directed model, as one row of numbers for each draw.

    p(x, h) = p(x | h_1) p(h_1 | h_2) .. p(h_{L-1} | h_L) p(h_L)          (2015, Eq. 7)

Each factor is the law of a pair's `observation` around g, and p(h_L) is the prior's `log_prob`.
Encoders have no part in it. h_L is latent, and so is every h_l whose law is stochastic, unless the
means are passed down, as `AncestralSampler` does by default and GENERATE does: then

    p(x, h_L) = p(x | g_2(.. g_L(h_L))) p(h_L)

is the density of another model with the same layers. `Latents` says which of the two it holds, and
refuses what has no density: a prior without one, and x of deterministic units.
"""

import copy
import itertools
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.completion.moves import whole
from gendae.laws import Bernoulli, Categorical, Discrete, Gaussian, Law
from gendae.layers.pair import Pair
from gendae.metrics.bounds import HIDDEN, NoDensityError, with_sigma_x
from gendae.models.stack import Stack
from gendae.priors import units
from gendae.priors.base import Prior
from gendae.priors.factorial import FactorialPrior
from gendae.priors.parzen import ParzenPrior

#: Laws whose `energy` is -log p(h) itself, without a constant; it waits for no device.
ENERGIES = (Bernoulli, Categorical, Discrete)
#: Draws of the prior that tell the spread of each latent unit.
SPREAD_DRAWS = 1000


class Kinds(NamedTuple):
    """What values the units of a row have.

    Attributes:
        real: whether a unit has a density, (width,).
        low: the lower of a binary unit's two values, the upper one is 1; NaN of other units.
        groups: columns of each one-hot group.
    """

    real: Tensor
    low: Tensor
    groups: tuple[slice, ...]


class Latents:
    """h of a stack's directed model: draws, log p(h) and log p(x | h).

    Args:
        stack: with a fitted prior that has a density.
        sigma_x: N(g_1(h_1), sigma_x^2 I) takes the place of the law of x, where it is given.
        hidden: "drawn": every stochastic level is latent; "means": h_L alone, see above.

    Attributes:
        levels: those that are latent, ascending; the last is L.
        widths: of these levels.
        kinds: what values their units have.
        law: which density of x it is, in words.

    Raises:
        NoDensityError: (a ValueError) for a prior or a law of x without a density, and units whose
            values are not known.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> _ = stack.prior.fit(torch.randn(20, 4))
        >>> Latents(stack).law
        'x ~ N(g_1(h_1), 1^2 I), integrated over h_1, h_2'
        >>> Latents(stack, sigma_x=0.3, hidden="means").law
        'x ~ N(g_1(h_1), 0.3^2 I), integrated over h_2, h_1 = g_2(h_2)'
    """

    def __init__(self, stack: Stack, sigma_x: float | None = None, hidden: str = "drawn") -> None:
        checks.kind("stack", stack, Stack)
        checks.one_of("hidden", hidden, HIDDEN)
        if sigma_x is not None:
            stack = with_sigma_x(stack, checks.at_least("sigma_x", sigma_x, 0.0, strict=True))

        self.stack = stack
        self.prior = as_drawn(stack.prior)
        self.levels = [*_drawn_levels(stack, hidden), stack.depth]
        self.widths = [stack.sizes[level] for level in self.levels]
        self.kinds = self._kinds()
        self.law = self._words()
        _kinds_of("x", _parts_of(stack.pairs[0].observation, stack.sizes[0]))

    @property
    def width(self) -> int:
        """Units of all latent levels."""
        return sum(self.widths)

    def check(self, x: Tensor) -> Tensor:
        """x if the law of x gives it a density: bits where the law is one of bits."""
        x = checks.finite("x", checks.width("x", checks.rows("x", x), self.stack.sizes[0]))

        law = self.stack.pairs[0].observation
        kinds = _kinds_of("x", _parts_of(law, x.shape[1]))
        bits = (x == kinds.low.to(x)) | (x == 1.0)
        if not bool((bits | kinds.low.isnan().to(x.device)).all()):
            raise NoDensityError(
                f"x holds grey values, and {type(law).__name__} gives probabilities of bits: "
                "binarise the images (Binarised), or give sigma_x"
            )
        for group in kinds.groups:
            classes = x[:, group]
            if not bool(((classes == 1.0).sum(1) == 1).all() & (classes.sum(1) == 1.0).all()):
                raise NoDensityError("x holds rows of classes that are not one-hot")

        return x

    @torch.no_grad()
    def draw(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws of h from p(h), (n, width)."""
        above = self.prior.sample(n, generator)
        parts = [above]
        for level in range(self.stack.depth - 1, 0, -1):
            pair = self.stack.pairs[level]
            if level in self.levels:
                above = pair.observation.sample(pair.g(above), generator)
                parts.append(above)
            else:
                above = pair.decode(above)

        return torch.cat(parts[::-1], 1)

    @torch.no_grad()
    def draw_x(self, h: Tensor, generator: Generator | None = None) -> Tensor:
        """x from p(x | h), (n, width of x)."""
        pair = self.stack.pairs[0]
        h_1 = h[:, : self.widths[0]]
        if self.levels[0] > 1:
            h_1 = self.stack.down(h_1, self.levels[0], 1)[0]

        return pair.observation.sample(pair.g(h_1), generator)

    def log_terms(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(h) and log p(x | h) in nats, (rows,) each; differentiable in h."""
        *parts, above = h.split(self.widths, 1)
        log_p = self._log_prior(above)

        for level in range(self.stack.depth - 1, 0, -1):
            pair = self.stack.pairs[level]
            if level in self.levels:
                below = parts.pop()
                log_p = log_p + _log_prob(pair, below, above)
                above = below
            else:
                above = pair.decode(above)

        return log_p, _log_prob(self.stack.pairs[0], x, above)

    @torch.no_grad()
    def spread(self) -> Tensor:
        """Standard deviation of each unit under p(h), (width,), from draws of its own seed."""
        draws = self.draw(SPREAD_DRAWS, torch.Generator().manual_seed(0))
        return draws.std(0).clamp_min(torch.finfo(draws.dtype).tiny)

    def _log_prior(self, h: Tensor) -> Tensor:
        if isinstance(self.prior, FactorialPrior):  # its log_prob looks at the values, each time
            return -self.prior.cross_entropy(h, h)

        return self.prior.log_prob(h)

    def _kinds(self) -> Kinds:
        of_levels = []
        for level in self.levels[:-1]:
            law = self.stack.pairs[level].observation
            of_levels.append(_kinds_of(f"h_{level}", _parts_of(law, self.stack.sizes[level])))

        top = f"h_{self.stack.depth}"
        of_levels.append(_kinds_of(top, _parts_of_prior(self.prior, self.widths[-1])))

        starts = [0, *itertools.accumulate(self.widths)]
        groups = [
            slice(start + group.start, start + group.stop)
            for start, kinds in zip(starts, of_levels, strict=False)
            for group in kinds.groups
        ]

        device = self.stack.device
        real = torch.cat([kinds.real for kinds in of_levels]).to(device)
        low = torch.cat([kinds.low for kinds in of_levels]).to(device, self.stack.dtype)
        return Kinds(real, low, tuple(groups))

    def _words(self) -> str:
        law = self.stack.pairs[0].observation
        words = f"x ~ {type(law).__name__}(g_1(h_1))"
        if type(law) is Gaussian:
            words = f"x ~ N(g_1(h_1), {law.sigma:g}^2 I)"

        latent = ", ".join(f"h_{level}" for level in self.levels)
        means = "".join(
            f", h_{level} = g_{level + 1}(h_{level + 1})"
            for level in range(1, self.stack.depth)
            if level not in self.levels
        )
        return f"{words}, integrated over {latent}{means}"


def as_drawn(prior: Prior) -> Prior:
    """The prior whose `sample` and `log_prob` are one law, and so the start of a chain.

    A Parzen window's samples may have another noise than its density, and its density may leave
    out the term of a stored code: here neither holds.

    Raises:
        NoDensityError: for a prior without a density, or one that is known by an integral alone.
        ValueError: for one that is not fitted.
    """
    name = type(prior).__name__
    if not prior.has_density:
        raise NoDensityError(
            f"prior={name} has no density, and so the model no log p(x); use a prior with one, "
            "such as GaussianPrior"
        )
    if prior.slow_density:
        raise NoDensityError(
            f"prior={name} has its density from an integral, of which its samples are no exact "
            "draws; accepted: GaussianPrior, FactorialPrior, ParzenPrior and others with both"
        )

    prior.require_fitted()
    prior = whole(prior)
    if isinstance(prior, ParzenPrior):
        prior = copy.copy(prior)
        prior._buffers = dict(prior._buffers)
        prior.noise_scale = 1.0

    return prior


def _drawn_levels(stack: Stack, hidden: str) -> list[int]:
    """Levels below the top that are latent."""
    if hidden == "means":
        return []

    laws = {level: stack.pairs[level].observation for level in range(1, stack.depth)}
    return [level for level, law in laws.items() if law.stochastic]


#: Kind, number and lower value of units with one law.
Part = tuple[str, int, float]


def _parts_of(law: Law, width: int) -> list[Part]:
    """Kind, number and lower value of the units of each block of a law."""
    parts = []
    for block, size in law.blocks(width):
        kind = "unknown"
        low = 0.0
        if not block.stochastic:
            kind = "deterministic"
        elif isinstance(block, Categorical):
            kind = "class"
        elif isinstance(block, Bernoulli | Discrete):
            kind = "bit"
            low = getattr(block, "low", 0.0)
        elif not block.discrete:
            kind = "real"
        parts.append((kind, size, low))

    return parts


def _parts_of_prior(prior: Prior, width: int) -> list[Part]:
    """The same of the units of a prior."""
    if not isinstance(prior, FactorialPrior):
        return [("unknown" if prior.discrete else "real", width, 0.0)]

    parts = []
    for law, at in prior.blocks(width):
        kind = "real"
        if issubclass(law, units.Binary):
            kind = "bit"
        elif issubclass(law, units.Categorical):
            kind = "class"
        parts.append((kind, at.stop - at.start, getattr(law, "low", 0.0)))

    return parts


def _kinds_of(name: str, parts: list[Part]) -> Kinds:
    """Kinds of the units of one level.

    Raises:
        NoDensityError: for deterministic units, and others whose values are not known.
    """
    real = []
    low = []
    groups = []
    start = 0
    for kind, size, value in parts:
        if kind in ("deterministic", "unknown"):
            raise NoDensityError(
                f"{name} has {kind} units in its law, and so the model no log p(x); accepted: "
                "Gaussian, LearnedGaussian, Bernoulli, Discrete(stochastic=True), Categorical"
            )
        if kind == "class":
            groups.append(slice(start, start + size))

        real.append(torch.full((size,), kind == "real"))
        low.append(torch.full((size,), value if kind == "bit" else torch.nan))
        start += size

    return Kinds(torch.cat(real), torch.cat(low), tuple(groups))


def _log_prob(pair: Pair, below: Tensor, above: Tensor) -> Tensor:
    """log p(h_{l-1} | h_l), (rows,), from logits where the layer has them."""
    if type(pair.observation) in ENERGIES:
        return -pair.energy(below, above)

    return pair.observation.log_prob(below, pair.g(above))
