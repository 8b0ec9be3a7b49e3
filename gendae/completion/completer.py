"""Clamped chains: missing elements given observed ones, by encoding and decoding.

At one level of a stack, the observed elements of h are clamped (a chain's noise still acts on the
encoder's input, as in training). The missing ones are moved by encoding h up to the top and
decoding it down again, h_missing <- (g .. f(h~))_missing. Without noise that climbs to a nearby
mode (MAP, Algorithm 6). With the noise of training, and a draw from P(h | h~) in the place of its
mean, it is a Markov chain over the missing elements (MCMC, section 3.2) whose law is P(missing |
observed), up to the square of the noise. The temperature scales both, so that a chain can be
annealed from one to the other: what it gains in probability it loses in spread. A mask is boolean
and True where an element is observed.
Source: Bengio 2014, Algorithm 6, sections 3.2, 4 and 7.5.
"""

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypedDict, TypeGuard

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.completion.annealing import Annealing
from gendae.completion.chain import ClampedChain, Completion
from gendae.completion.moves import (
    around,
    deviation,
    draw,
    draw_near,
    from_prior,
    laws_of,
    noisy_around,
    whole,
)
from gendae.corruption import Corruption, normal_like, uniform_like
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.registry import Plain, build, grouped, register

if TYPE_CHECKING:
    from typing_extensions import Unpack

BEGIN = ("auto", "mask", "prior", "noise")


class Options(TypedDict, total=False):
    """Arguments of a `Completer` beside its rounds and annealing."""

    corruption: Corruption | None
    begin: str
    level: int | None
    use_prior: bool
    tolerance: float


@register
class Completer(checks.TakesArrays):
    """Clamped rounds of encoding and decoding at one level of a stack.

    A variant overrides `step`, one round, or `first`, where missing elements start.
    Source: Bengio 2014, Algorithm 6 (MAP), section 3.2 (sampling P(Y | x)) and 7.5.

    Args:
        rounds: K, most rounds.
        annealing: temperature of each round; MAP, temperature 0 throughout, if None. Below 1, it
            trades spread for probability: answers are likelier than samples and too much alike.
        corruption: noise on h at temperature 1, in the place of all noise of a round. If None, the
            round has the noise that the stack was trained with, and a draw from P(h | h~) follows
            (`Stack.loop_noise`); at the top, a step of the prior's own chain.
        begin: where missing elements start: "mask": the junction's prediction from missingness
            inputs; "prior": draws of the prior, chosen by how well they agree with the observed
            elements; "noise": uniform in [0, 1]; "auto": the first of these that the stack has at
            this level.
        level: l of the h_l that is clamped; None: the codes of a joint stack's modalities, or x.
        use_prior: at the top, replace h_L by its reconstruction under the prior in each round:
            likelier answers, of less spread.
        tolerance: a MAP run ends once all missing parts change by less than this, root mean
            square, in units of h.

    Raises:
        ValueError: for negative numbers or unknown names; when called, for a level, a start or a
            noise that the stack does not have.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> from gendae.models.modalities import Junction, Modality
        >>> top = Junction(Affine(4, 1), Affine(1, 2))
        >>> stack = JointStack({"a": Modality(1), "b": Modality(1)}, [top])
        >>> codes, seen = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
        >>> completion = Completer.map(rounds=2, tolerance=0.0)(stack, codes, seen, observed=seen)
        >>> completion.h[0, 0], completion.residuals.shape
        (tensor(1.), torch.Size([2, 1]))
    """

    ARRAYS = ("__call__", "trajectory")

    def __init__(
        self,
        rounds: int = 50,
        annealing: Annealing | None = None,
        corruption: Corruption | None = None,
        begin: str = "auto",
        level: int | None = None,
        use_prior: bool = False,
        tolerance: float = 1e-3,
    ) -> None:
        self.rounds = checks.whole("rounds", rounds, 0, checks.REPEATS)
        self.annealing: Annealing = build(annealing) or Annealing()
        self.corruption: Corruption | None = build(corruption)

        self.begin = checks.one_of("begin", begin, BEGIN)
        self.level = level

        self.use_prior = bool(use_prior)
        self.tolerance = checks.at_least("tolerance", tolerance, 0.0)

    @classmethod
    def upgrade(cls, arguments: dict[str, Plain]) -> dict[str, Plain]:
        """Arguments of earlier versions, in which the schedule's stood among the completer's."""
        return grouped(
            arguments,
            "annealing",
            Annealing.__name__,
            {"start": "start", "end": "end", "settle": "settle"},
        )

    @classmethod
    def map(cls, rounds: int = 50, **options: "Unpack[Options]") -> "Completer":
        """Deterministic ascent until nothing changes (Algorithm 6).

        One likely answer for a start: it says nothing of how sure it is.
        """
        return cls(rounds, Annealing(0.0, 0.0), **options)

    @classmethod
    def mcmc(cls, rounds: int = 50, **options: "Unpack[Options]") -> "Completer":
        """A Markov chain over what is missing: samples that spread as P(missing | given) does.

        A single sample is further from the truth than the mean of many, or than `map`.
        """
        return cls(rounds, Annealing(1.0, 1.0), **options)

    @classmethod
    def annealed(
        cls, rounds: int = 50, settle: float = 0.25, **options: "Unpack[Options]"
    ) -> "Completer":
        """From a chain to ascent, which has the last quarter of the rounds.

        Different answers, each likelier than a sample; together they spread less than samples.
        """
        return cls(rounds, Annealing(1.0, 0.0, settle), **options)

    def clamped_level(self, stack: Stack) -> int:
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

    # -- the chain --------------------------------------------------------------------------------

    @torch.no_grad()
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
        mask = mask.expand_as(h)
        given = h.masked_fill(~mask, 0.0)
        start = self.first(stack, given, mask, observed, generator)

        return self._chain(stack, mask, generator)(start, given, mask)

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
        start = self.first(stack, given, mask, observed, generator)

        return self._chain(stack, mask, generator).trajectory(start, given, mask)

    def _chain(self, stack: Stack, mask: Tensor, generator: Generator | None) -> ClampedChain:
        def step(h: Tensor, temperature: float) -> Tensor:
            return self.step(stack, h, mask, temperature, generator)

        return ClampedChain(step, self.annealing.temperatures(self.rounds), self.tolerance)

    def step(
        self,
        stack: Stack,
        h: Tensor,
        mask: Tensor,
        temperature: float,
        generator: Generator | None,
    ) -> Tensor:
        """One round: corrupt, up, down, and draw."""
        level = self.clamped_level(stack)
        if temperature <= 0.0:
            return around(stack, level, h, self.use_prior)

        laws = laws_of(stack, level)
        drawn = laws is not None and laws.drawn

        if self.corruption is None and level < stack.depth:
            new = noisy_around(stack, level, h, temperature, generator, self.use_prior)
        elif self.corruption is None and not drawn:
            new = whole(stack.prior).step(h, temperature, generator)
        else:
            noisy = torch.lerp(h, self.disturb(stack, level, h, generator), temperature)
            new = around(stack, level, noisy, self.use_prior)

        return draw(stack, level, new, temperature, generator)

    def disturb(self, stack: Stack, level: int, h: Tensor, generator: Generator | None) -> Tensor:
        """h with the noise of temperature 1, except for drawn slices, such as labels.

        It is the completer's corruption, or that of a step of the prior's.
        """
        if self.corruption is not None:
            noisy = self.corruption(h, 1.0, generator)
        else:
            noisy = h + deviation(stack, level) * normal_like(h, generator)

        laws = laws_of(stack, level)
        if laws is None:
            return noisy

        parts = []
        for law, clean, disturbed in laws.parts(h, noisy):
            parts.append(clean if law.drawn else disturbed)

        return torch.cat(parts, -1)

    def values(
        self, stack: JointStack, codes: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """x from the codes h_J at which a chain ended, in the temperature of its last round.

        At temperature 0 that is the mean; at 1, a draw with the width of P(x | h_L) around it.
        """
        mean = stack.x_of(codes)
        if self.corruption is not None or stack.level == stack.depth:
            return mean

        temperatures = self.annealing.temperatures(self.rounds)
        if not temperatures or temperatures[-1] == 0.0:
            return mean

        return draw_near(stack, 0, mean, temperatures[-1], generator)

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
        level = self.clamped_level(stack)
        takes_mask = observed is not None and _has_junction_above(stack, level)

        begin = self.begin
        if begin == "auto":
            begin = _automatic_begin(level, takes_mask)

        if begin == "noise":
            return uniform_like(h, generator)

        if begin == "prior":
            return from_prior(stack, level, h, mask, generator)

        if observed is None or not _has_junction_above(stack, level):
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
        discrete = torch.tensor([law.drawn for law in laws], device=codes.device)
        start = self.annealing.start
        if start == 0.0 or not bool((discrete & ~observed).any()):
            return means

        draws = draw(stack, level, means, start, generator)
        seen = stack.spread(observed, level)
        values = torch.where(seen, codes, draws)

        rest = stack.loop(values, observed | discrete)
        settled = seen | stack.spread(discrete.expand_as(observed), level)

        return torch.where(settled, values, rest)


def _has_junction_above(stack: Stack, level: int) -> TypeGuard[JointStack]:
    """Whether missingness inputs stand above h_level."""
    return isinstance(stack, JointStack) and stack.junction is not None and level <= stack.level


def _automatic_begin(level: int, takes_mask: bool) -> str:
    """The start that "auto" stands for."""
    if takes_mask:
        return "mask"

    if level == 0:
        return "noise"

    return "prior"
