"""Loops in time: a recurrent pair learns to tell sequences, from targets at every step.

Unfolded in time the pair is a stack of T equal layers with an input at each level, and the loops
are those of `rules.loops` and `rules.differences`:

Up:     s_t = f(s_{t-1}, x_t)
Short:  (s_{t-1}, x_t) is a target for g(corrupt(s_t)), and s_t for f of what that gave
Long:   s^_T = corrupt(s_T),  x^_t = g_x(s^_t),  s^_{t-1} = g_s(s^_t)         down to the beginning
Lack:   e_t = -step dE(x_t, x^_t)/ds^_t, through g_x alone
Up:     delta_t = e_t + f(s^_{t-1} + delta_{t-1}, x^_t) - f(s^_{t-1}, x^_t)
        s^_{t-1} + delta_{t-1} is a target for g_s(s^_t)
Down:   d_T = delta_T - step * prior_weight * s_T,  d_{t-1} = g_s(s_t + d_t) - g_s(s_t)
        s_t + d_t is a target for f(s_{t-1}, x_t)

The long loop starts at the last state, or at several. No gradient crosses a step.
Source: Bengio 2014, section 5, with the differences of Lee 2018 (Eq. 3.15) and of 2015, Eq. 12.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption, RelativeNoise
from gendae.layers.wrapped import change
from gendae.models.recurrent import Cell, RecurrentPair
from gendae.models.stack import Stack
from gendae.registry import register
from gendae.rules.chain import Corrupt
from gendae.rules.loops import Loop
from gendae.rules.moment import Moment
from gendae.rules.recurrent import Reading, error_of_steps
from gendae.rules.targets import missed


class Telling:
    """A long loop: what g tells from a state, down to the beginning or as far as the horizon.

    Args:
        cell: the maps of a step.
        reading: what was read up.
        start: the state that is told from, s^_t at t = `last`, (batch, state).
        last, first: the steps last .. first are told.

    Attributes:
        states: s^_{first-1} .. s^_last.
        inputs: x^_first .. x^_last, each through g_input alone.
    """

    def __init__(self, cell: Cell, reading: Reading, start: Tensor, last: int, first: int) -> None:
        self.steps = slice(first - 1, last)
        self.there = None if reading.there is None else reading.there[self.steps]

        states = [start]
        with torch.no_grad():
            for t in range(last, first - 1, -1):
                before = cell.back(states[-1], cell.g_input(states[-1]))
                if reading.there is not None:
                    before = torch.lerp(states[-1], before, reading.there[t - 1])
                states.append(before)

        self.states = torch.stack(states[::-1])
        self.after = self.states[1:].requires_grad_()
        self.inputs = cell.g_input(self.after)

    @property
    def before(self) -> Tensor:
        """s^_{first-1} .. s^_{last-1}."""
        return self.states[:-1]

    def present(self, value: Tensor) -> Tensor:
        """`value` where there is a step, 0 where there is none."""
        return value if self.there is None else value * self.there


@register
class RecurrentLoop(Loop):
    """Short and long loops in time, for a stack of one recurrent pair.

    short_g_1:  |g_s(s~_t) - s_{t-1}|^2 + the energy of x_t around g_x(s~_t)
    short_f_1:  |f(g(s~_t)) - s_t|^2
    lack_g_1:   the energy of x around x^, and |g_s(s^_t) - (s^_{t-1} + delta_{t-1})|^2 / (2 step)
    lack_f_1:   |f(s_{t-1}, x_t) - (s_t + d_t)|^2 / (2 step)

    all of them sums over steps. Without the difference, targets are the reconstructions
    themselves, as the paper prints them: s^_t is a target for f(s_{t-1}, x_t), and (s_{t-1}, x_t)
    for g(s^_t).
    Source: Bengio 2014, section 5.

    Args:
        step: length of a displacement, in squared units of s per nat.
        short: weight of the short loops, which keep f and g the inverses of each other that
            displacements need.
        every: a long loop starts at T and every so many steps before; at T alone if None.
        horizon: how many steps a long loop tells; all of them if None.
        difference: with the correction.
        prior_weight: weight of the pull of N(0, I) at s_T.

    Raises:
        ValueError: for numbers out of range; for another stack.

    Example:
        >>> from gendae import TargetPropRule, recurrent_autoencoder
        >>> rule = TargetPropRule(recurrent_autoencoder(2, steps=4, state=5), RecurrentLoop())
        >>> list(rule.losses((torch.rand(10, 8),)))
        ['lack_g_1', 'lack_f_1', 'short_g_1', 'short_f_1']
    """

    def __init__(
        self,
        step: float = 0.1,
        short: float = 0.2,
        every: int | None = None,
        horizon: int | None = None,
        difference: bool = True,
        prior_weight: float = 0.01,
    ) -> None:
        super().__init__()
        self.step = checks.at_least("step", step, 0.0, strict=True)
        self.short = checks.at_least("short", short, 0.0)
        self.every = None if every is None else checks.whole("every", every, 1)
        self.horizon = None if horizon is None else checks.whole("horizon", horizon, 1)
        self.difference = bool(difference)
        self.prior_weight = checks.at_least("prior_weight", prior_weight, 0.0)

    def prepare(self, stack: Stack, corruption: Sequence[Corruption] | None = None) -> None:
        pair = stack.pairs[0]
        if stack.depth != 1 or not isinstance(pair, RecurrentPair) or pair.every_step:
            raise ValueError(
                "RecurrentLoop needs a stack of one RecurrentPair, whose code is the last state; "
                "recurrent_autoencoder makes one"
            )
        if pair.observation.learnable or pair.recognition.learnable:
            raise ValueError(
                "RecurrentLoop teaches no law with parameters; accepted: Gaussian(), Bernoulli()"
            )

    def corruption(self, stack: Stack) -> list[Corruption]:
        """Noise on the states, of 0.3 of their spread."""
        return [RelativeNoise(0.0), RelativeNoise(0.3)]

    def starts(self, steps: int) -> list[tuple[int, int]]:
        """(last, first) step of every long loop."""
        every = self.every or steps
        horizon = self.horizon or steps

        return [(last, max(1, last - horizon + 1)) for last in range(steps, 0, -every)]

    def losses(
        self, stack: Stack, x: Tensor, corrupt: Corrupt, moment: Moment
    ) -> dict[str, Tensor]:
        pair = stack.pairs[0]
        reading = Reading(pair, pair.f.there_as(x, corrupt(0, x, moment)))
        clean = pair.f.split(x)[0].transpose(0, 1)
        starts = self.starts(pair.steps)

        totals = {"lack_g_1": x.new_zeros(()), "lack_f_1": x.new_zeros(())}
        for last, first in starts:
            start = corrupt(1, reading.states[last], moment)
            told = Telling(pair.cell, reading, start, last, first)
            for name, term in self._long(pair, reading, clean, told, last == pair.steps).items():
                totals[name] = totals[name] + term / len(starts)

        if self.short > 0:
            for name, term in self._short(pair, reading, clean, corrupt, moment).items():
                totals[name] = self.short * term

        return totals

    def _energy(self, pair: RecurrentPair, x: Tensor, told: Tensor) -> Tensor:
        """Energy of inputs around what is told of them, (T, batch, width): a sum over steps."""
        rows = x.transpose(0, 1).flatten(1)
        means = told.transpose(0, 1).flatten(1)

        return pair.observation.energy(rows, means)

    # -- the long loop -------------------------------------------------------------------------

    def _long(
        self, pair: RecurrentPair, reading: Reading, clean: Tensor, told: Telling, pulled: bool
    ) -> dict[str, Tensor]:
        inputs = clean[told.steps]
        seen = told.inputs
        if told.there is not None:
            seen = torch.lerp(inputs, seen, told.there)

        energies = self._energy(pair, inputs, seen)
        if not self.difference:
            return self._printed(pair.cell, reading, told, energies)

        (slopes,) = torch.autograd.grad(energies.sum(), told.after, retain_graph=True)
        lacks = self._lacks(pair.cell, told, -self.step * slopes)
        moves = self._moves(pair.cell, reading, told, lacks[-1], pulled)

        share = len(moves) / (2.0 * self.step)
        told_inputs = told.inputs.detach()
        output_g = pair.cell.back(told.after.detach(), told_inputs).flatten(0, 1)
        output_f = pair.cell.step(reading.before[told.steps], reading.inputs[told.steps])

        # of s^_{first-1}, which nothing is told from, nothing is lacked
        lacked = told.present(torch.cat([torch.zeros_like(lacks[:1]), lacks[:-1]]))
        moved = told.present(moves)
        return {
            "lack_g_1": energies.mean() + share * missed(output_g, lacked.flatten(0, 1)),
            "lack_f_1": share * missed(output_f.flatten(0, 1), moved.flatten(0, 1)),
        }

    @torch.no_grad()
    def _lacks(self, cell: Cell, told: Telling, own: Tensor) -> Tensor:
        """delta_first .. delta_last: what s^_t lacks, of its own step and of those it tells."""
        inputs = told.inputs.detach()
        given = torch.cat([told.before, inputs], -1)

        lacks = [own[0]]
        for t in range(1, len(own)):
            step = F.pad(lacks[-1], (0, inputs.shape[-1]))
            lack = change(cell.f, given[t], step)
            if told.there is not None:
                lack = torch.lerp(lacks[-1], lack, told.there[t])
            lacks.append(lack + own[t])

        return torch.stack(lacks)

    @torch.no_grad()
    def _moves(
        self, cell: Cell, reading: Reading, told: Telling, top: Tensor, pulled: bool
    ) -> Tensor:
        """d_first .. d_last: displacements of the states that were read."""
        states = reading.after[told.steps]
        given = cell.given(states, reading.inputs[told.steps])
        unmoved = given.shape[-1] - cell.state

        if pulled:
            top = top - self.step * self.prior_weight * states[-1]

        moves = [top]
        for t in range(len(states) - 1, 0, -1):
            move = change(cell.g_state, given[t], F.pad(moves[-1], (0, unmoved)))
            if told.there is not None:
                move = torch.lerp(moves[-1], move, told.there[t])
            moves.append(move)

        return torch.stack(moves[::-1])

    def _printed(
        self, cell: Cell, reading: Reading, told: Telling, energies: Tensor
    ) -> dict[str, Tensor]:
        """Reconstructions as targets: long_g and target_f."""
        before = reading.before[told.steps]
        back = cell.back(told.after.detach(), told.inputs.detach())
        output = cell.step(before, reading.inputs[told.steps])
        target = told.after.detach()

        return {
            "lack_g_1": energies.mean() + error_of_steps(told.present(back - before), 0 * before),
            "lack_f_1": error_of_steps(told.present(output - target), 0 * target),
        }

    # -- the short loops -----------------------------------------------------------------------

    def _short(
        self,
        pair: RecurrentPair,
        reading: Reading,
        clean: Tensor,
        corrupt: Corrupt,
        moment: Moment,
    ) -> dict[str, Tensor]:
        cell = pair.cell
        noisy = corrupt(1, reading.after.flatten(0, 1), moment).view_as(reading.after)

        inputs = cell.g_input(noisy)
        before = cell.back(noisy, inputs.detach())
        again = cell.step(before.detach(), inputs.detach())

        energies = self._energy(pair, clean, reading.present(inputs, clean))
        states = error_of_steps(reading.present(before, reading.before), reading.before)
        return {
            "short_g_1": energies.mean() + states,
            "short_f_1": error_of_steps(reading.present(again, reading.after), reading.after),
        }
