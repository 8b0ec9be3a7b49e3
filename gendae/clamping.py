"""Clamped chains: likely values, or samples, of what is missing given what is observed, by encoding and decoding.

At one level of a stack, h is clamped where it is observed (the noise of a chain still acts on what the encoder is given
of it, as in training) and moved elsewhere by encoding it up to the top and decoding
it down again, h_missing <- (g .. f(h~))_missing. Without noise that climbs to a nearby mode (MAP, Algorithm 6); with it,
it is a Markov chain over what is missing (MCMC, section 3.2); the temperature scales the noise, so that it can be
annealed from one to the other. A mask is boolean and True where an element is observed.
Source: Bengio 2014, Algorithm 6, sections 3.2, 4 and 7.5.
"""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.conditionals import Bernoulli, Categorical, Discrete
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
    """What a completer found, and whether it had settled."""

    h: Tensor  # (batch, width), observed elements as given
    residuals: Tensor  # (rounds, batch): root mean square of the change of missing elements, in units of h
    converged: Tensor  # (batch,): whether the last change was below the tolerance

    @property
    def rounds(self) -> int:
        """Rounds made."""
        return len(self.residuals)


@register
class Completer:
    """Clamped rounds of encoding and decoding at one level of a stack; owns the loop, a variant overrides `step`.

    Source: Bengio 2014, Algorithm 6 (MAP), section 3.2 (sampling P(Y | x)) and 7.5.

    Args:
        rounds: K, most rounds.
        start, end: temperature in the first and in the last round, between which it falls geometrically (linearly if one
            of them is 0): 0 and 0 is MAP, 1 and 1 MCMC.
        settle: fraction of the rounds, the last ones, at the temperature `end`.
        corruption: noise on h at temperature 1; if None, Gaussian with the deviation of the top's reconstruction error
            (`Stack.residuals`), or at the top's own level that of a Langevin step of its density.
        begin: where missing elements start: "mask": what the junction makes of missingness inputs; "prior": draws of the
            prior, chosen by how well they agree with what is observed; "noise": uniform in [0, 1]; "auto": the first of
            these that there is for the stack and level.
        level: l of the h_l that is clamped; None: the codes of a joint stack's modalities, or x.
        use_prior: at the top, replace h_L by its reconstruction under the prior in each round.
        tolerance: a MAP run ends once all missing parts change by less than this, root mean square, in units of h.

    Raises:
        ValueError: for negative numbers or unknown names; when called, for what the stack does not have.

    Example:
        >>> from gendae.layers import Affine
        >>> from gendae.modalities import Junction, Modality
        >>> stack = JointStack({"a": Modality(1), "b": Modality(1)}, [Junction(Affine(4, 1), Affine(1, 2))])
        >>> codes, seen = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
        >>> found = Completer.map(rounds=2, tolerance=0.0)(stack, codes, seen, observed=seen)
        >>> found.h[0, 0], found.residuals.shape
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
        self.rounds = int(checks.at_least("rounds", rounds, 0))
        self.start, self.end = (
            checks.at_least("start", start, 0.0),
            checks.at_least("end", end, 0.0),
        )
        self.corruption: Corruption | None = build(corruption)
        self.begin = checks.one_of("begin", begin, BEGIN)
        self.level, self.use_prior = level, bool(use_prior)
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
        share = min(1.0, t / (cooling - 1)) if cooling > 1 else float(self.start != self.end)
        if self.start > 0 and self.end > 0:
            return self.start * (self.end / self.start) ** share
        return self.start + (self.end - self.start) * share

    def level_of(self, stack: Stack) -> int:
        """l."""
        level = getattr(stack, "level", 0) if self.level is None else self.level
        if not 0 <= level <= stack.depth:
            raise ValueError(f"level={level} is not in 0 .. {stack.depth}")
        return level

    def at(self, level: int) -> "Completer":
        """The same at another level."""
        other = copy.copy(self)
        other.level = level
        return other

    # -- the loop ----------------------------------------------------------------------------------------

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
            h: representation at the completer's level, (batch, width); what stands in missing elements is ignored.
            mask: True where an element is observed, broadcast against h.
            observed: for joint stacks, which modalities are, (batch, N): missingness input of the start.
            generator: source of noise.
        """
        residuals, last = [], None
        for state in self.trajectory(stack, h, mask, observed, generator):
            if last is not None:
                residuals.append(change(last, state, mask))
            last = state
        made = torch.stack(residuals) if residuals else h.new_zeros(0, len(h))
        done = (
            made[-1] <= self.tolerance
            if len(made)
            else torch.zeros(len(h), dtype=torch.bool, device=h.device)
        )
        return Completion(last, made, done)

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
        given = h.masked_fill(~mask, 0.0)  # whatever stood there
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
        if temperature > 0.0:
            h = torch.lerp(h, self.disturb(stack, level, h, generator), temperature)
        mean = around(stack, level, h, self.use_prior)
        return draw(stack, level, mean, temperature, generator) if temperature > 0.0 else mean

    def disturb(self, stack: Stack, level: int, h: Tensor, generator: Generator | None) -> Tensor:
        """h with the noise of temperature 1; slices that are drawn, such as labels, are left alone."""
        if self.corruption is not None:
            noisy = self.corruption(h, 1.0, generator)
        else:
            noisy = torch.add(h, normal_like(h, generator), alpha=chain_noise(stack, level))
        laws = laws_of(stack, level)
        if laws is None:
            return noisy
        parts = zip(laws.laws, h.split(laws.widths, -1), noisy.split(laws.widths, -1), strict=True)
        return torch.cat([clean if drawn(law) else part for law, clean, part in parts], -1)

    # -- where it starts ----------------------------------------------------------------------------------

    def first(
        self,
        stack: Stack,
        h: Tensor,
        mask: Tensor,
        observed: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        """Values of missing elements before the first round."""
        level, joint = self.level_of(stack), isinstance(stack, JointStack)
        junction = joint and stack.junction is not None and level <= stack.level
        begin = self.begin
        if begin == "auto":
            begin = (
                "mask" if junction and observed is not None else "noise" if level == 0 else "prior"
            )
        if begin == "noise":
            return uniform_like(h, generator)
        if begin == "prior":
            return from_prior(stack, level, h, mask, generator)
        if not junction or observed is None:
            raise ValueError(
                "begin='mask' needs a joint stack with missingness inputs, and `observed`; accepted here: "
                "prior, noise"
            )
        for pair in stack.pairs[level : stack.level]:
            h = pair.encode(h)
        h = self._from_mask(stack, h, observed, generator)
        for pair in reversed(stack.pairs[level : stack.level]):
            h = pair.decode(h)
        return h

    def _from_mask(
        self, stack: JointStack, codes: Tensor, observed: Tensor, generator: Generator | None
    ) -> Tensor:
        """h_J from missingness inputs; for a chain, labels and latents are drawn first and the rest follows from them."""
        found, laws = stack.loop(codes, observed), stack.laws(stack.level)
        discrete = torch.tensor([drawn(law) for law in laws.laws], device=codes.device)
        if self.start == 0.0 or not bool((discrete & ~observed).any()):
            return found
        values = draw(stack, stack.level, found, self.start, generator)
        seen = stack.spread(observed, stack.level)
        values = torch.where(seen, codes, values)
        rest = stack.loop(values, observed | discrete)
        return torch.where(
            seen | stack.spread(discrete.expand_as(observed), stack.level), values, rest
        )


# -- parts of a round ------------------------------------------------------------------------------------------


def around(stack: Stack, level: int, h: Tensor, use_prior: bool = False) -> Tensor:
    """h_level up to the top and down again, without noise; at the top itself, the prior's reconstruction."""
    for pair in stack.pairs[level:]:
        h = pair.encode(h)
    if use_prior or level == stack.depth:
        h = whole(stack.prior).reconstruct(h)
    for pair in reversed(stack.pairs[level:]):
        h = pair.decode(h)
    return h


def whole(prior: Prior) -> Prior:
    """The prior, a Parzen window with all of its terms: a chain may well come across a stored code."""
    if not getattr(prior, "leave_one_out", False):
        return prior
    prior = copy.copy(prior)
    prior.leave_one_out = False
    return prior


def change(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Root mean square of the change of missing elements, (batch,)."""
    missing = ~mask.expand_as(new)
    return ((new - old).square() * missing).sum(1).div(missing.sum(1).clamp_min(1)).sqrt()


def laws_of(stack: Stack, level: int) -> Laws | None:
    """The laws of the modalities' slices of h_level around what is predicted of them; None where there are no slices."""
    if isinstance(stack, JointStack) and level <= stack.level and len(stack.names) > 1:
        return stack.laws(level)
    return None


def drawn(law: object) -> bool:
    """Whether a chain draws values from this law (discrete ones) rather than adding noise to them."""
    return (
        isinstance(law, Categorical)
        or (isinstance(law, Bernoulli) and law.binary)
        or (isinstance(law, Discrete) and law.stochastic)
    )


def draw(
    stack: Stack, level: int, mean: Tensor, temperature: float, generator: Generator | None
) -> Tensor:
    """Discrete slices moved from their mean towards a draw, by the temperature (at most all the way)."""
    laws = laws_of(stack, level)
    if laws is None or not any(drawn(law) for law in laws.laws):
        return mean
    parts = [
        torch.lerp(part, law.sample(part, generator), min(1.0, temperature))
        if drawn(law)
        else part
        for law, part in laws.parts(mean)
    ]
    return torch.cat(parts, -1)


def chain_noise(stack: Stack, level: int) -> Tensor | float:
    """Deviation of a chain's noise at temperature 1."""
    if level == stack.depth:
        return (
            math.sqrt(2.0) * stack.prior.noise
        )  # with the denoising that follows, a step of Langevin's
    if stack.residuals.numel() <= level:
        raise ValueError(
            "the stack does not know how far its reconstructions miss h: call stack.fit_residuals(x), or give "
            "the completer a corruption"
        )
    return float(stack.residuals[level])


def from_prior(
    stack: Stack, level: int, h: Tensor, mask: Tensor, generator: Generator | None
) -> Tensor:
    """Draws of h_level under the prior, resampled by the likelihood of the observed elements (importance resampling)."""
    pool = stack.prior.sample(POOL, generator)
    for pair in reversed(stack.pairs[level:]):
        pool = pair.decode(pool)
    rows = []
    for part, seen in zip(h.split(BATCH), mask.expand_as(h).split(BATCH), strict=True):
        score = agreement(stack, level, part, seen.to(h.dtype), pool)
        gumbel = -(-uniform_like(score, generator).clamp_min(1e-30).log()).log()
        rows.append(pool[(score + gumbel).argmax(1)])  # a draw from softmax(score)
    return torch.cat(rows)


def agreement(stack: Stack, level: int, h: Tensor, seen: Tensor, pool: Tensor) -> Tensor:
    """log-likelihood of the observed elements of each h around each mean of the pool, up to a constant, (batch, pool)."""
    laws = laws_of(stack, level)
    widths = [h.shape[1]] if laws is None else laws.widths
    kinds = (
        [stack.pairs[level].observation if level < stack.depth else None]
        if laws is None
        else laws.laws
    )
    noise = chain_noise(stack, level)
    if noise == 0.0:
        raise ValueError(
            "begin='prior' weighs draws of the prior by a noise of 0, at which none of them fits; give the prior "
            "a noise, or choose another start: mask, noise"
        )
    total = h.new_zeros(len(h), len(pool))
    for law, a, s, m in zip(kinds, *(t.split(widths, -1) for t in (h, seen, pool)), strict=True):
        if isinstance(law, Categorical):
            total += (a * s) @ m.clamp_min(1e-6).log().T
        elif isinstance(law, Bernoulli):
            p = m.clamp(1e-6, 1.0 - 1e-6)
            total += (a * s) @ p.log().T + ((1.0 - a) * s) @ (1.0 - p).log().T
        else:
            squares = (
                (a.square() * s).sum(1, keepdim=True) - 2.0 * (a * s) @ m.T + s @ m.square().T
            )
            total -= squares / (2.0 * noise**2)
    return total
