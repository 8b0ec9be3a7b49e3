"""A clamped chain: missing elements of h move, observed ones stay as given.

h_missing <- step(h)_missing,   round after round. What a round does to h is the chain's `step`:
encoding and decoding (`Completer`), or INFERENCE (`Inpainter`). A mask is boolean and True where
an element is observed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gendae.inference import fill

Step = Callable[[Tensor, float], Tensor]


class Completion(NamedTuple):
    """Where a clamped chain ended, and whether it had settled.

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

    def mean_over(self, chains: int) -> "Completion":
        """The mean of several chains of each row; they have converged where all of them have.

        The batch holds all rows of the first chain, then all rows of the second, and so on.
        """
        shape = (chains, len(self.h) // chains)

        h = self.h.view(*shape, self.h.shape[1]).mean(0)
        residuals = self.residuals.view(self.rounds, *shape).mean(1)
        converged = self.converged.view(shape).all(0)

        return Completion(h, residuals, converged)


@dataclass(frozen=True)
class ClampedChain:
    """Rounds of h_missing <- step(h, temperature)_missing.

    Source: Bengio 2014, Algorithm 6; Bengio et al. 2015, Figure 5 (clamped pixels).

    Args:
        step: h, (batch, width), and a temperature -> new values of all elements.
        temperatures: scale of the noise in each round; there are as many rounds.
        tolerance: a round at temperature 0 is the last one if all missing parts change by no more
            than this, root mean square, in units of h.

    Example:
        >>> halve = ClampedChain(lambda h, temperature: h / 2, [0.0] * 3)
        >>> given, seen = torch.ones(1, 2), torch.tensor([[True, False]])
        >>> halve(start=8.0 * given, given=given, mask=seen).h
        tensor([[1., 1.]])
    """

    step: Step
    temperatures: Sequence[float]
    tolerance: float = 0.0

    def __call__(self, start: Tensor, given: Tensor, mask: Tensor) -> Completion:
        """The last round's h, with the changes on the way; see `trajectory`."""
        states = self.trajectory(start, given, mask)
        last = next(states)

        changes = []
        for state in states:
            changes.append(change(last, state, mask))
            last = state

        if not changes:
            converged = torch.zeros(len(last), dtype=torch.bool, device=last.device)
            return Completion(last, last.new_zeros(0, len(last)), converged)

        return Completion(last, torch.stack(changes), changes[-1] <= self.tolerance)

    @torch.no_grad()
    def trajectory(self, start: Tensor, given: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """h at the start and after each round: at most K + 1 of them.

        Args:
            start: values of missing elements before the first round, (batch, width).
            given: values of observed elements, (batch, width).
            mask: which elements are observed, (batch, width).
        """
        h = fill(given, mask, start)
        yield h

        for temperature in self.temperatures:
            new = fill(given, mask, self.step(h, temperature))
            yield new

            if temperature == 0.0 and bool((change(h, new, mask) <= self.tolerance).all()):
                return

            h = new


def change(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Root mean square of the change of missing elements, (batch,)."""
    missing = ~mask.expand_as(new)
    squares = ((new - old).square() * missing).sum(1)
    elements = missing.sum(1).clamp_min(1)

    return squares.div(elements).sqrt()
