"""The state that a network with symmetric feedback settles in, and the answer that it gives there.

    h_l = s(a_l),  a_l = W_l h_{l-1} + b_l + gamma W_{l+1}' h_{l+1},  l = 1 .. L
    h_M = softmax(W_M h_L + b_M), or 0 where the answer sends nothing down

It is what rules of two phases train. A network answers by it, in the place of the feed-forward
pass, which is this state for gamma -> 0, where its `Settings` hold a `Settling`.
Source: Movellan 1991 (h_M is part of the network); Scellier and Bengio 2017, Eq. 1 to 4.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.layers.affine import Affine
from gendae.registry import register

if TYPE_CHECKING:
    from gendae.models.stack import Stack

State = tuple[list[Tensor], list[Tensor]]


class Phase(Protocol):
    """What the layers of a network do until it has settled; `free` is the highest free one."""

    free: int

    def receive(self, level: int, h: Tensor) -> Tensor: ...

    def unit(self, level: int, step: Tensor) -> Tensor: ...


class MinusPhase:
    """The phase in which all layers are free; their activities are computed.

    Args:
        encoders: f_1 .. f_M.

    Attributes:
        free: the highest layer that is free.
    """

    def __init__(self, encoders: Sequence[Affine]) -> None:
        self.encoders = encoders
        self.free = len(encoders)

    def receive(self, level: int, h: Tensor) -> Tensor:
        """What layer l receives from h_{l-1}."""
        return self.encoders[level - 1].preactivation(h)

    def unit(self, level: int, step: Tensor) -> Tensor:
        """h_l, of all that it receives."""
        if level == len(self.encoders):
            return torch.softmax(step, -1)

        s = cast("Callable[[Tensor], Tensor]", self.encoders[level - 1].s)
        return s(step)


class FreePhase(MinusPhase):
    """The phase without a nudge; the place of h_M holds what the loss does to h_L, nothing yet."""

    def unit(self, level: int, step: Tensor) -> Tensor:
        if level == self.free:
            return torch.zeros_like(step)

        return super().unit(level, step)


def begun(phase: MinusPhase, x: Tensor) -> State:
    """h_0 .. h_M of the feed-forward pass, and what the layers receive from below."""
    h = [x]
    below = [x]
    for level in range(1, phase.free + 1):
        below.append(phase.receive(level, h[-1]))
        h.append(phase.unit(level, below[-1]))

    return h, below


def swept(
    phase: Phase,
    start: tuple[Sequence[Tensor], Sequence[Tensor]],
    feedback: Callable[[int], Tensor],
    gamma: float,
    sweeps: int,
) -> Iterator[State]:
    """Move the free layers towards the fixed point of a phase.

    h_l = unit(l, a_l),  a_l = receive(l, h_{l-1}) + gamma B_{l+1} h_{l+1}

    Either part of a_l is computed only when its source has moved: the part from above on the
    way down, the part from below on the way up.

    Args:
        phase: what layers receive, how they answer, and which of them are free.
        start: h_0 .. h_M, and receive(l, h_{l-1}).
        feedback: B_l of a level, (width of h_{l-1}, width of h_l).
        gamma: weight of the feedback.
        sweeps: updates of all layers, top to bottom and back.

    Yields:
        h_0 .. h_M, and a_1 .. a_M of the last updates at 1 .. M: h_l is exactly unit(l, a_l);
        after each sweep.
    """
    h, below = map(list, start)
    a = list(below)
    above = [torch.zeros(())] * len(h)

    for _ in range(sweeps):
        for level in range(len(h) - 2, 0, -1):
            above[level] = F.linear(h[level + 1], feedback(level + 1))
            a[level] = torch.add(below[level], above[level], alpha=gamma)
            h[level] = phase.unit(level, a[level])

        for level in range(2, phase.free + 1):
            below[level] = phase.receive(level, h[level - 1])
            a[level] = torch.add(below[level], above[level], alpha=gamma)
            h[level] = phase.unit(level, a[level])

        yield list(h), list(a)


def last(states: Iterator[State]) -> State:
    """Where sweeps end: the fixed point of a phase, or near it."""
    (settled,) = deque(states, maxlen=1)
    return settled


@register
class Settling:
    """Answers by the state that the network settles in, with W' as its feedback.

    Source: see the top of this file.

    Args:
        gamma: weight of the feedback, in (0, 1].
        sweeps: updates of all layers, top to bottom and back.
        closed: whether the answer, a softmax, sends feedback too, as in contrastive Hebbian
            learning; in equilibrium propagation it sends none.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from gendae import Affine, Classifier, Pair
        >>> network = Classifier(Pair(Affine(8, 4, "tanh"), Affine(4, 8)), output=Affine(4, 3))
        >>> Settling(gamma=0.5).answer(network.encoders, torch.rand(5, 8)).shape
        torch.Size([5, 3])
    """

    def __init__(self, gamma: float = 0.1, sweeps: int = 5, closed: bool = False) -> None:
        self.gamma = checks.at_least("gamma", gamma, 0.0, strict=True)
        if gamma > 1.0:
            raise ValueError(f"gamma={gamma}: a weight of the feedback in (0, 1] is needed")

        self.sweeps = checks.whole("sweeps", sweeps, 1, checks.REPEATS)
        self.closed = bool(closed)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((self.gamma, self.sweeps, self.closed))

    def check(self, stack: "Stack") -> None:
        """Raise a ValueError for a network that cannot settle."""
        encoders = getattr(stack, "encoders", [None])
        discrete = getattr(stack, "discrete_levels", [])
        if discrete or not all(isinstance(f, Affine) for f in encoders):
            raise ValueError(
                f"settling={type(self).__name__}: a Classifier of affine layers without bits or "
                f"draws is needed, and this is a {type(stack).__name__}"
            )

    def answer(self, encoders: Sequence[Affine], x: Tensor) -> Tensor:
        """The read-out of the settled state: logits or values, (batch, classes)."""
        phase = MinusPhase(encoders) if self.closed else FreePhase(encoders)

        def feedback(level: int) -> Tensor:
            return encoders[level - 1].weight.T

        _, a = last(swept(phase, begun(phase, x), feedback, self.gamma, self.sweeps))
        return a[-1]
