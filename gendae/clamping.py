"""Clamped chains: missing elements given observed ones, by encoding and decoding.

At one level of a stack, the observed elements of h are clamped (a chain's noise still acts on the
encoder's input, as in training). The missing ones are moved by encoding h up to the top and
decoding it down again, h_missing <- (g .. f(h~))_missing. Without noise that climbs to a nearby
mode (MAP, Algorithm 6); with noise it is a Markov chain over the missing elements (MCMC, section
3.2). The temperature scales the noise, so that a chain can be annealed from one to the other. A
mask is boolean and True where an element is observed.
Source: Bengio 2014, Algorithm 6, sections 3.2, 4 and 7.5.
"""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.conditionals import Bernoulli, Categorical, Discrete, Gaussian, Law
from gendae.corruption import Corruption, normal_like, uniform_like
from gendae.inference import fill
from gendae.joint import JointStack
from gendae.modalities import Laws
from gendae.priors import Prior
from gendae.sampling import BATCH, POOL
from gendae.spec import build, register
from gendae.stack import Stack

BEGIN = ("auto", "mask", "prior", "noise")


class Completion(NamedTuple):
    """What a completer found, and whether it had settled.

    Attributes:
        h: (batch, width), observed elements as given.
        residuals: root mean square of the change of missing elements, in units of h,
            (rounds, batch).
        converged: whether the last change was below the tolerance, (batch,).
    """

    h: Tensor
    residuals: Tensor
    converged: Tensor

    @property
    def rounds(self) -> int:
        """Rounds made."""
        return len(self.residuals)


@register
class Completer:
    """Clamped rounds of encoding and decoding at one level of a stack.

    It owns the loop; a variant overrides `step`.
    Source: Bengio 2014, Algorithm 6 (MAP), section 3.2 (sampling P(Y | x)) and 7.5.

    Args:
        rounds: K, most rounds.
        start, end: temperature in the first and in the last round, between which it falls
            geometrically (linearly if one of them is 0): 0 and 0 is MAP, 1 and 1 MCMC.
        settle: fraction of the rounds, the last ones, at the temperature `end`.
        corruption: noise on h at temperature 1; if None, Gaussian with the deviation of the top's
            reconstruction error (`Stack.residuals`), or at the top's own level that of a Langevin
            step of its density.
        begin: where missing elements start: "mask": the junction's prediction from missingness
            inputs; "prior": draws of the prior, chosen by how well they agree with the observed
            elements; "noise": uniform in [0, 1]; "auto": the first of these that the stack has at
            this level.
        level: l of the h_l that is clamped; None: the codes of a joint stack's modalities, or x.
        use_prior: at the top, replace h_L by its reconstruction under the prior in each round.
        tolerance: a MAP run ends once all missing parts change by less than this, root mean
            square, in units of h.

    Raises:
        ValueError: for negative numbers or unknown names; when called, for a level, a start or a
            noise that the stack does not have.

    Example:
        >>> from gendae.layers import Affine
        >>> from gendae.modalities import Junction, Modality
        >>> top = Junction(Affine(4, 1), Affine(1, 2))
        >>> stack = JointStack({"a": Modality(1), "b": Modality(1)}, [top])
        >>> codes, seen = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
        >>> completion = Completer.map(rounds=2, tolerance=0.0)(stack, codes, seen, observed=seen)
        >>> completion.h[0, 0], completion.residuals.shape
        (tensor(1.), torch.Size([2, 1]))
    """

    def __init__(
        self,
        rounds: int = 50,
        start: float = 0.0,
        end: float = 0.0,
        corruption: Corruption | None = None,
        begin: str = "auto",
        level: int | None = None,
        use_prior: bool = False,
        tolerance: float = 1e-3,
        settle: float = 0.0,
    ) -> None:
        self.rounds = checks.whole("rounds", rounds, 0)
        self.start = checks.at_least("start", start, 0.0)
        self.end = checks.at_least("end", end, 0.0)
        self.corruption: Corruption | None = build(corruption)
        self.begin = checks.one_of("begin", begin, BEGIN)
        self.level = level
        self.use_prior = bool(use_prior)
        self.tolerance = checks.at_least("tolerance", tolerance, 0.0)

        if not 0.0 <= settle <= 1.0:
            raise ValueError(
                f"settle={settle}: a fraction of the rounds, between 0 and 1, is needed"
            )

        self.settle = settle

    @classmethod
    def map(cls, rounds: int = 50, **options: object) -> "Completer":
        """Deterministic ascent until nothing changes (Algorithm 6)."""
        return cls(rounds, 0.0, 0.0, **options)

    @classmethod
    def mcmc(cls, rounds: int = 50, **options: object) -> "Completer":
        """A Markov chain over what is missing."""
        return cls(rounds, 1.0, 1.0, **options)

    @classmethod
    def annealed(cls, rounds: int = 50, **options: object) -> "Completer":
        """From a chain to ascent, which has the last quarter of the rounds."""
        return cls(rounds, 1.0, 0.0, **{"settle": 0.25, **options})

    def temperature(self, t: int) -> float:
        """Scale of the noise in round t = 0 .. rounds - 1."""
        cooling = round(self.rounds * (1.0 - self.settle))
        if cooling > 1:
            share = min(1.0, t / (cooling - 1))
        else:
            share = float(self.start != self.end)

        if self.start > 0 and self.end > 0:
            return self.start * (self.end / self.start) ** share

        return self.start + (self.end - self.start) * share

    def level_of(self, stack: Stack) -> int:
        """l."""
        level = self.level
        if level is None:
            level = getattr(stack, "level", 0)

        if not 0 <= level <= stack.depth:
            raise ValueError(f"level={level} is not in 0 .. {stack.depth}")

        return level

    def at(self, level: int) -> "Completer":
        """The same at another level."""
        other = copy.copy(self)
        other.level = level

        return other

    # -- the loop ---------------------------------------------------------------------------------

    def __call__(
        self,
        stack: Stack,
        h: Tensor,
        mask: Tensor,
        observed: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Completion:
        """The last round's h, with the changes on the way.

        Args:
            stack: the model.
            h: representation at the completer's level, (batch, width); the values of missing
                elements are ignored.
            mask: True where an element is observed, broadcast against h.
            observed: for joint stacks, which modalities are observed, (batch, N): missingness
                input of the start.
            generator: source of noise.
        """
        states = self.trajectory(stack, h, mask, observed, generator)
        last = next(states)

        changes = []
        for state in states:
            changes.append(change(last, state, mask))
            last = state

        if not changes:
            converged = torch.zeros(len(h), dtype=torch.bool, device=h.device)
            return Completion(last, h.new_zeros(0, len(h)), converged)

        converged = changes[-1] <= self.tolerance

        return Completion(last, torch.stack(changes), converged)

    @torch.no_grad()
    def trajectory(
        self,
        stack: Stack,
        h: Tensor,
        mask: Tensor,
        observed: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Iterator[Tensor]:
        """h at the start and after each round: at most K + 1 of them."""
        mask = mask.expand_as(h)
        given = h.masked_fill(~mask, 0.0)
        h = fill(given, mask, self.first(stack, given, mask, observed, generator))
        yield h

        for t in range(self.rounds):
            temperature = self.temperature(t)
            new = fill(given, mask, self.step(stack, h, mask, temperature, generator))
            yield new

            if temperature == 0.0 and bool((change(h, new, mask) <= self.tolerance).all()):
                return

            h = new

    def step(
        self,
        stack: Stack,
        h: Tensor,
        mask: Tensor,
        temperature: float,
        generator: Generator | None,
    ) -> Tensor:
        """One round: corrupt, up, down, and draw discrete values."""
        level = self.level_of(stack)
        if temperature <= 0.0:
            return around(stack, level, h, self.use_prior)

        noisy = torch.lerp(h, self.disturb(stack, level, h, generator), temperature)
        mean = around(stack, level, noisy, self.use_prior)

        return draw(stack, level, mean, temperature, generator)

    def disturb(self, stack: Stack, level: int, h: Tensor, generator: Generator | None) -> Tensor:
        """h with the noise of temperature 1, except for drawn slices, such as labels."""
        if self.corruption is not None:
            noisy = self.corruption(h, 1.0, generator)
        else:
            noisy = torch.add(h, normal_like(h, generator), alpha=chain_noise(stack, level))

        laws = laws_of(stack, level)
        if laws is None:
            return noisy

        parts = list(noisy.split(laws.widths, -1))
        for t, (law, clean) in enumerate(laws.parts(h)):
            if drawn(law):
                parts[t] = clean

        return torch.cat(parts, -1)

    # -- where it starts --------------------------------------------------------------------------

    def first(
        self,
        stack: Stack,
        h: Tensor,
        mask: Tensor,
        observed: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        """Values of missing elements before the first round."""
        level = self.level_of(stack)
        takes_mask = observed is not None and _has_junction_above(stack, level)

        begin = self.begin
        if begin == "auto":
            begin = _automatic_begin(level, takes_mask)

        if begin == "noise":
            return uniform_like(h, generator)

        if begin == "prior":
            return from_prior(stack, level, h, mask, generator)

        if not takes_mask:
            raise ValueError(
                "begin='mask' needs a joint stack with missingness inputs, and `observed`; "
                "accepted here: prior, noise"
            )

        return self._through_junction(stack, level, h, observed, generator)

    def _through_junction(
        self,
        stack: JointStack,
        level: int,
        h: Tensor,
        observed: Tensor,
        generator: Generator | None,
    ) -> Tensor:
        """h_level encoded to the codes, which the junction predicts, and decoded from these."""
        codes = stack.up(h, level, stack.level)[-1]
        predicted = self._from_mask(stack, codes, observed, generator)

        return stack.down(predicted, stack.level, level)[0]

    def _from_mask(
        self, stack: JointStack, codes: Tensor, observed: Tensor, generator: Generator | None
    ) -> Tensor:
        """h_J from missingness inputs.

        For a chain, labels and latents are drawn first, and the rest is predicted from them.
        """
        level = stack.level
        means = stack.loop(codes, observed)

        laws = stack.laws(level).laws
        discrete = torch.tensor([drawn(law) for law in laws], device=codes.device)
        if self.start == 0.0 or not bool((discrete & ~observed).any()):
            return means

        draws = draw(stack, level, means, self.start, generator)
        seen = stack.spread(observed, level)
        values = torch.where(seen, codes, draws)

        rest = stack.loop(values, observed | discrete)
        settled = seen | stack.spread(discrete.expand_as(observed), level)

        return torch.where(settled, values, rest)


def _has_junction_above(stack: Stack, level: int) -> bool:
    """Whether missingness inputs stand above h_level."""
    return isinstance(stack, JointStack) and stack.junction is not None and level <= stack.level


def _automatic_begin(level: int, takes_mask: bool) -> str:
    """The start that "auto" stands for."""
    if takes_mask:
        return "mask"

    if level == 0:
        return "noise"

    return "prior"


# -- parts of a round -----------------------------------------------------------------------------


def around(stack: Stack, level: int, h: Tensor, use_prior: bool = False) -> Tensor:
    """h_level up to the top and down again, without noise.

    At the top itself, that is the prior's reconstruction.
    """
    top = stack.up(h, level)[-1]
    if use_prior or level == stack.depth:
        top = whole(stack.prior).reconstruct(top)

    return stack.down(top, stop=level)[0]


def whole(prior: Prior) -> Prior:
    """The prior, a Parzen window with all of its terms: a chain may come across a stored code."""
    if not getattr(prior, "leave_one_out", False):
        return prior

    prior = copy.copy(prior)
    prior.leave_one_out = False

    return prior


def change(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Root mean square of the change of missing elements, (batch,)."""
    missing = ~mask.expand_as(new)
    squares = ((new - old).square() * missing).sum(1)
    elements = missing.sum(1).clamp_min(1)

    return squares.div(elements).sqrt()


def laws_of(stack: Stack, level: int) -> Laws | None:
    """The laws of the modalities' slices of h_level; None without slices."""
    if isinstance(stack, JointStack) and level <= stack.level and len(stack.names) > 1:
        return stack.laws(level)

    return None


def drawn(law: object) -> bool:
    """Whether a chain draws values from this law, a discrete one, instead of adding noise."""
    return (
        isinstance(law, Categorical)
        or (isinstance(law, Bernoulli) and law.binary)
        or (isinstance(law, Discrete) and law.stochastic)
    )


def draw(
    stack: Stack, level: int, mean: Tensor, temperature: float, generator: Generator | None
) -> Tensor:
    """Discrete slices moved from their mean towards a draw, by the temperature, at most 1."""
    laws = laws_of(stack, level)
    if laws is None or not any(drawn(law) for law in laws.laws):
        return mean

    parts = []
    for law, part in laws.parts(mean):
        if drawn(law):
            part = torch.lerp(part, law.sample(part, generator), min(1.0, temperature))
        parts.append(part)

    return torch.cat(parts, -1)


def chain_noise(stack: Stack, level: int) -> Tensor | float:
    """Deviation of a chain's noise at temperature 1."""
    if level == stack.depth:
        # a step of Langevin's, together with the denoising that follows
        return math.sqrt(2.0) * stack.prior.noise

    if stack.residuals.numel() <= level:
        raise ValueError(
            "the stack does not know how far its reconstructions miss h: call "
            "stack.fit_residuals(x), or give the completer a corruption"
        )

    return float(stack.residuals[level])


def from_prior(
    stack: Stack, level: int, h: Tensor, mask: Tensor, generator: Generator | None
) -> Tensor:
    """Draws of h_level under the prior, resampled by the likelihood of the observed elements.

    That is importance resampling.
    """
    pool = stack.prior.sample(POOL, generator)
    pool = stack.down(pool, stop=level)[0]

    draws = []
    masks = mask.expand_as(h).split(BATCH)
    for rows, seen in zip(h.split(BATCH), masks, strict=True):
        score = agreement(stack, level, rows, seen.to(h.dtype), pool)

        # score + Gumbel noise is greatest at a draw from softmax(score)
        uniform = uniform_like(score, generator).clamp_min(1e-30)
        gumbel = -(-uniform.log()).log()
        draws.append(pool[(score + gumbel).argmax(1)])

    return torch.cat(draws)


def agreement(stack: Stack, level: int, h: Tensor, seen: Tensor, pool: Tensor) -> Tensor:
    """log-likelihood of the observed elements of each h around each mean of the pool.

    Up to a constant, (batch, pool).

    Args:
        stack: the model.
        level: l of the h_l.
        h: (batch, width).
        seen: 1 where an element of h is observed, 0 elsewhere, (batch, width).
        pool: the means, (pool, width).
    """
    noise = chain_noise(stack, level)
    if noise == 0.0:
        raise ValueError(
            "begin='prior' weighs draws of the prior by a noise of 0, at which none of them fits; "
            "give the prior a noise, or choose another start: mask, noise"
        )

    laws = laws_of(stack, level) or _law_of_all(stack, level, h.shape[1])
    means = pool.split(laws.widths, -1)

    total = h.new_zeros(len(h), len(pool))
    for (law, values, weights), mean in zip(laws.parts(h, seen), means, strict=True):
        total += _agreement_under(law, values, weights, mean, noise)

    return total


def _law_of_all(stack: Stack, level: int, width: int) -> Laws:
    """The law of a h_level without slices; Gaussian at the top, where no layer predicts it."""
    if level == stack.depth:
        return Laws([Gaussian()], [width])

    return Laws([stack.pairs[level].observation], [width])


def _agreement_under(
    law: Law, values: Tensor, seen: Tensor, means: Tensor, noise: Tensor | float
) -> Tensor:
    """See `agreement`, of one slice; the deviation of a law of real values is the noise."""
    if isinstance(law, Categorical):
        return _agreement_of_classes(values, seen, means)

    if isinstance(law, Bernoulli):
        return _agreement_of_bits(values, seen, means)

    return _squared_distance(values, seen, means) / -(2.0 * noise**2)


def _agreement_of_classes(values: Tensor, seen: Tensor, means: Tensor) -> Tensor:
    """sum_j x_j log p_j over the observed elements, (batch, pool)."""
    return (values * seen) @ means.clamp_min(1e-6).log().T


def _agreement_of_bits(values: Tensor, seen: Tensor, means: Tensor) -> Tensor:
    """sum_j x_j log p_j + (1 - x_j) log(1 - p_j) over the observed elements, (batch, pool)."""
    p = means.clamp(1e-6, 1.0 - 1e-6)
    ones = (values * seen) @ p.log().T
    zeros = ((1.0 - values) * seen) @ (1.0 - p).log().T

    return ones + zeros


def _squared_distance(values: Tensor, seen: Tensor, means: Tensor) -> Tensor:
    """sum_j (x_j - m_j)^2 over the observed elements, (batch, pool)."""
    squares = (values.square() * seen).sum(1, keepdim=True)
    distance = squares - 2.0 * (values * seen) @ means.T

    return distance + seen @ means.square().T
