"""Markov transitions that leave p(h) p(x | h)^beta as it is, for many chains at once.

Units with a density move by Hamiltonian dynamics: momenta r ~ N(0, I), then some leapfrog steps of

    r <- r + e/2 s d/dh log p_beta,   h <- h + e s r,   r <- r + e/2 s d/dh log p_beta

with e the step size of the chain and s the spread of each unit under p(h), and the end is taken
with probability min(1, p_beta(h') N(r') / p_beta(h) N(r)). Bits flip one at a time, each row its
own, and one-hot groups change their class, taken with probability min(1, p_beta(h') / p_beta(h)).
All of these are reversible. One after the other they are not, but in the opposite order the chain
runs backwards.
Source: Neal 2011 (Hamiltonian dynamics); Metropolis et al. 1953 (flips).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gendae.metrics.latents import Latents


class Draws(NamedTuple):
    """Random numbers of one transition: normal and uniform ones, (rows, any number)."""

    normal: Tensor
    uniform: Tensor


class State(NamedTuple):
    """Chains at h, with what the next step needs of them.

    Attributes:
        h: (rows, width).
        log_p, log_x: log p(h) and log p(x | h), (rows,).
        slope_p, slope_x: their derivatives, (rows, width); empty where no unit has a density.
    """

    h: Tensor
    log_p: Tensor
    log_x: Tensor
    slope_p: Tensor
    slope_x: Tensor

    def log_tempered(self, beta: float) -> Tensor:
        """log p(h) p(x | h)^beta, (rows,), in float64."""
        return self.log_p.double() + beta * self.log_x.double()

    def slope(self, beta: float) -> Tensor:
        """Its derivative."""
        return self.slope_p + beta * self.slope_x

    def where(self, accepted: Tensor, other: "State") -> "State":
        """The other state in the rows that are accepted."""
        pairs = zip(self, other, strict=True)
        return State(*(_where(accepted, new, old) for old, new in pairs))


def _where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    if new.ndim == 2:
        accepted = accepted[:, None]

    return torch.where(accepted, new, old)


class Target:
    """p(h) p(x | h)^beta of the rows of one x for each chain.

    Args:
        latents: of the model.
        x: (rows, width of x).
    """

    def __init__(self, latents: Latents, x: Tensor) -> None:
        self.latents = latents
        self.x = x
        self.differentiable = bool(latents.kinds.real.any())

    def at(self, h: Tensor) -> State:
        """The state of chains at h, (rows, width)."""
        if not self.differentiable:
            with torch.no_grad():
                terms = self.latents.log_terms(h, self.x)
            none = h.new_empty(len(h), 0)
            return State(h, *terms, none, none)

        with torch.enable_grad():
            leaf = h.detach().requires_grad_()
            log_p, log_x = self.latents.log_terms(leaf, self.x)

            # no layer is in both terms, so that two derivatives cost no more than that of the sum
            (slope_p,) = torch.autograd.grad(log_p.sum(), leaf)
            (slope_x,) = torch.autograd.grad(log_x.sum(), leaf)

        return State(h, log_p.detach(), log_x.detach(), slope_p, slope_x)

    def slope(self, h: Tensor, beta: float) -> Tensor:
        """d/dh log p(h) p(x | h)^beta alone, (rows, width), which the way to an end needs."""
        with torch.enable_grad():
            leaf = h.detach().requires_grad_()
            log_p, log_x = self.latents.log_terms(leaf, self.x)
            (slope,) = torch.autograd.grad((log_p + beta * log_x).sum(), leaf)

        return slope


class Hamiltonian:
    """Leapfrog steps of the units that have a density, and a test of their end.

    Args:
        latents: of the model.
        steps: leapfrog steps of a transition.
    """

    def __init__(self, latents: Latents, steps: int) -> None:
        self.steps = steps
        self.scale = latents.spread() * latents.kinds.real
        self.normals = latents.width
        self.uniforms = 1

    def __call__(
        self, target: Target, state: State, beta: float, step: Tensor, draws: Draws
    ) -> tuple[State, Tensor]:
        """The next state, and the probability with which the end was taken, (rows,).

        Args:
            target: whose law stays as it is.
            state: of the chains.
            beta: the temperature's inverse.
            step: step size of each chain, (rows,).
            draws: `normals` and `uniforms` in each row.
        """
        width = step[:, None].to(self.scale) * self.scale
        momentum = draws.normal
        start = state.log_tempered(beta) - _kinetic(momentum)

        h = state.h
        momentum = torch.addcmul(momentum, width, state.slope(beta), value=0.5)
        for _ in range(self.steps - 1):
            h = torch.addcmul(h, width, momentum)
            momentum = torch.addcmul(momentum, width, target.slope(h, beta))

        new = target.at(torch.addcmul(h, width, momentum))
        momentum = torch.addcmul(momentum, width, new.slope(beta), value=0.5)
        end = new.log_tempered(beta) - _kinetic(momentum)
        return _decided(state, new, end - start, draws.uniform[:, 0])


def _kinetic(momentum: Tensor) -> Tensor:
    return 0.5 * momentum.double().square().sum(1)


class Flips:
    """Bits that take their other value, one at a time, another in each row.

    Args:
        latents: of the model.
        steps: flips that a transition proposes.
    """

    def __init__(self, latents: Latents, steps: int) -> None:
        self.steps = steps
        self.low = latents.kinds.low
        self.bits = (~self.low.isnan()).nonzero()[:, 0]
        self.normals = 0
        self.uniforms = 2 * steps

    def __call__(
        self, target: Target, state: State, beta: float, step: Tensor, draws: Draws
    ) -> tuple[State, Tensor]:
        """See `Hamiltonian`; the probability is the mean of all flips."""
        which, tests = draws.uniform.chunk(2, 1)
        columns = self.bits[(which * len(self.bits)).long().clamp_max(len(self.bits) - 1)]

        taken = torch.zeros_like(state.log_p, dtype=torch.float64)
        for column, test in zip(columns.T, tests.T, strict=True):
            old = state.h.gather(1, column[:, None])
            other = 1.0 + self.low[column][:, None] - old
            new = target.at(state.h.scatter(1, column[:, None], other))
            change = new.log_tempered(beta) - state.log_tempered(beta)
            state, probability = _decided(state, new, change, test)
            taken = taken + probability

        return state, taken / self.steps


class Classes:
    """A one-hot group that takes another class, drawn with equal chances.

    Args:
        group: its columns in h.
        steps: changes that a transition proposes.
    """

    def __init__(self, group: slice, steps: int) -> None:
        self.group = group
        self.steps = steps
        self.normals = 0
        self.uniforms = 2 * steps

    def __call__(
        self, target: Target, state: State, beta: float, step: Tensor, draws: Draws
    ) -> tuple[State, Tensor]:
        """See `Hamiltonian`; the probability is the mean of all changes."""
        size = self.group.stop - self.group.start
        which, tests = draws.uniform.chunk(2, 1)
        offsets = 1 + (which * (size - 1)).long().clamp_max(size - 2)

        taken = torch.zeros_like(state.log_p, dtype=torch.float64)
        for offset, test in zip(offsets.T, tests.T, strict=True):
            h = state.h.clone()
            index = (h[:, self.group].argmax(1) + offset) % size
            h[:, self.group] = F.one_hot(index, size).to(h)
            new = target.at(h)
            change = new.log_tempered(beta) - state.log_tempered(beta)
            state, probability = _decided(state, new, change, test)
            taken = taken + probability

        return state, taken / self.steps


def _decided(state: State, new: State, change: Tensor, uniform: Tensor) -> tuple[State, Tensor]:
    """The new state where it is taken, and the probability of that; NaN is never taken."""
    probability = change.clamp(max=0.0).exp().nan_to_num(nan=0.0)
    return state.where(uniform < probability, new), probability


Transition = Hamiltonian | Flips | Classes


def transitions(latents: Latents, steps: int) -> list[Transition]:
    """The transitions that move all units of a model, in their order."""
    kinds = latents.kinds
    moves: list[Transition] = []
    if bool(kinds.real.any()):
        moves.append(Hamiltonian(latents, steps))
    if not bool(kinds.low.isnan().all()):
        moves.append(Flips(latents, steps))

    return moves + [Classes(group, steps) for group in kinds.groups]
