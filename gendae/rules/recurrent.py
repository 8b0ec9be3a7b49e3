"""Target propagation through time, for recurrent classifiers.

Unfolded in time, a recurrent network is a stack of T equal layers. The first target is that of the
last state, from the output layer; it goes back by g, step by step:

    h^_T = s_T - step dL/ds_T,  d_T = h^_T - s_T
    d_{t-1} = g(s_t + d_t) - g(s_t)                      (difference; Lee 2018, Eq. 3.15)
    f learns at every step: s_t + d_t is a target for f(s_{t-1}, x_t)
    g learns at every step: s~_{t-1} is a target for g(f(s~_{t-1}, x_t)), s~ = s + noise, and x_t

No gradient crosses a step. All steps share one f and one g, whose losses are added up.
Source: Bengio 2014, section 5, with the differences of Lee 2018.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption, normal_like
from gendae.models.classifier import Classifier, label_loss
from gendae.models.recurrent import RecurrentPair
from gendae.registry import register
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule
from gendae.rules.targets import change, first_displacement, missed, squared_error


@register
class RecurrentTargetPropRule(SupervisedRule):
    """A recurrent classifier learns from targets that go back in time.

    target_f_1: sum over t of |f(s_{t-1}, x_t) - (s_t + d_t)|^2 / (2 step)
    state_g_1:  sum over t of |g_state(f(s~_{t-1}, x_t)) - s~_{t-1}|^2
    input_g_1:  sum over t of |g_input(s_t) - x_t|^2
    label_f_2:  cross-entropy of the label, in nats

    Divided by the step, the gradient by f is that of back-propagation through time where g is the
    transpose of f's Jacobian, as it is for orthogonal linear states with their inverse.
    Source: Bengio 2014, section 5; Lee 2018, Eq. 3.7, 3.13, 3.15.

    Args:
        stack: a classifier of one `RecurrentPair`.
        step: length of the first displacement, in squared units of s per nat.
        sigma: standard deviation of the noise at which g_state learns to invert f.
        difference: with the correction; without it targets are the reconstructions themselves,
            d_{t-1} = g(s_t + d_t) - s_{t-1}.
        input_corruption, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: for another network, and numbers out of range.

    Example:
        >>> from gendae.models.architectures import recurrent_classifier
        >>> rule = RecurrentTargetPropRule(recurrent_classifier(2, steps=4, classes=3))
        >>> list(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['target_f_1', 'state_g_1', 'input_g_1', 'label_f_2']
    """

    def __init__(
        self,
        stack: Classifier,
        step: float = 0.1,
        sigma: float = 0.3,
        difference: bool = True,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, rates=rates, log_every=log_every)
        if self.stack.depth != 1 or not isinstance(self.stack.pairs[0], RecurrentPair):
            self.refuse("one RecurrentPair is needed, through whose steps targets go back")

        self.step = checks.at_least("step", step, 0.0, strict=True)
        self.sigma = checks.at_least("sigma", sigma, 0.0)
        self.difference = bool(difference)

    @property
    def pair(self) -> RecurrentPair:
        return self.stack.pairs[0]

    def idle(self) -> list[nn.Module]:
        return self.laws()

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        cell = self.pair.cell
        with torch.no_grad():
            states = self.pair.f.states(x)
            moves = self.displacements(states, x, y)

        inputs, there = self.pair.f.split(x)
        rows = inputs.transpose(0, 1).flatten(0, 1)
        before = torch.cat(states[:-1])
        after = torch.cat(states[1:])
        present = None if there is None else there.transpose(0, 1).flatten(0, 1)
        share = float(len(moves))

        output = cell.step(before, rows)
        move = torch.cat(moves)
        if present is not None:
            move = move * present
        target = missed(output, move) * (share / (2.0 * self.step))

        with torch.no_grad():
            noisy = before + self.sigma * normal_like(before, moment.generator)
            given = cell.step(noisy, rows)
        told = cell.g_state(given)
        seen = cell.g_input(after)
        if present is not None:
            told = torch.lerp(noisy, told, present)
            seen = torch.lerp(rows, seen, present)

        return {
            "target_f_1": target,
            "state_g_1": share * squared_error(told, noisy),
            "input_g_1": share * squared_error(seen, rows),
            "label_f_2": label_loss(self.stack.output(states[-1])[None], y),
        }

    @torch.no_grad()
    def displacements(self, states: Sequence[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        """d_1 .. d_T.

        Args:
            states: s_0 .. s_T.
            x: (batch, width of x).
            y: class indices, (batch,).
        """
        _, there = self.pair.f.split(x)
        moves = [first_displacement(self.stack, states[-1], y, self.step)]
        for t in range(len(states) - 1, 1, -1):
            move = self._back(states[t - 1], states[t], moves[-1])
            if there is not None:
                move = torch.lerp(moves[-1], move, there[:, t - 1])
            moves.append(move)

        return moves[::-1]

    def _back(self, before: Tensor, state: Tensor, move: Tensor) -> Tensor:
        """d_{t-1} from d_t."""
        g = self.pair.cell.g_state
        if self.difference:
            return change(g, state, move)

        return g(state + move) - before
