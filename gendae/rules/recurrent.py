"""Target propagation through time, for recurrent classifiers.

Unfolded in time, a recurrent network is a stack of T equal layers. The first targets come from the
output layer, of the last state or of every state that has an answer to give; they go back by g,
step by step:

    e_t = -step dL/ds_t, through the output layer alone;  d_T = e_T
    d_{t-1} = g(s_t + d_t, x_t) - g(s_t, x_t) + e_{t-1}      (difference; Lee 2018, Eq. 3.15)
    f learns at every step: s_t + d_t is a target for f(s_{t-1}, x_t)

No gradient crosses a step. All steps share one f and one g, whose losses are added up. Where g
comes from is what the rules differ in: it learns to invert f under noise, or f is inverted anew
at every update.
Source: Bengio 2014, section 5, with the differences of Lee 2018.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption, normal_like
from gendae.layers.activations import DERIVATIVES, RANGES, inverse_activation
from gendae.layers.affine import Affine
from gendae.layers.residual import Residual
from gendae.layers.wrapped import change
from gendae.models.classifier import Classifier, label_loss
from gendae.models.recurrent import RecurrentPair
from gendae.registry import register
from gendae.rules.backprop import BackpropRule
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule
from gendae.rules.targets import first_displacement, missed

LEARNS = ("inverse", "transpose")
#: (t, d_t) -> d_{t-1}, for t = T .. 2.
Back = Callable[[int, Tensor], Tensor]


class Reading:
    """What went through a recurrent pair: a batch of sequences, and its states.

    Args:
        pair: the pair.
        x: (batch, width of x).

    Attributes:
        states: s_0 .. s_T, (T + 1, batch, state).
        inputs: x_1 .. x_T, (T, batch, width).
        there: which steps there are, (T, batch, 1); None if all of them.
    """

    def __init__(self, pair: RecurrentPair, x: Tensor) -> None:
        inputs, there = pair.f.split(x)

        self.inputs = inputs.transpose(0, 1)
        self.there = None if there is None else there.transpose(0, 1)
        with torch.no_grad():
            self.states = torch.stack(pair.f.states(x))

    @property
    def before(self) -> Tensor:
        """s_0 .. s_{T-1}."""
        return self.states[:-1]

    @property
    def after(self) -> Tensor:
        """s_1 .. s_T."""
        return self.states[1:]

    def present(self, value: Tensor, otherwise: Tensor) -> Tensor:
        """`value` at the steps that there are, (T, batch, width), `otherwise` at the others."""
        return value if self.there is None else torch.lerp(otherwise, value, self.there)


def error_of_steps(output: Tensor, target: Tensor) -> Tensor:
    """|output - target|^2 of (T, batch, width), sum over steps, mean over the batch."""
    return F.mse_loss(output, target, reduction="sum") / output.shape[1]


class ThroughTimeRule(SupervisedRule):
    """Base class: f and the output layer learn, from targets that a variant takes back in time.

    Args:
        stack: a classifier of one `RecurrentPair`.
        step: length of the first displacement, in squared units of s per nat.
        input_corruption, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: for another network, and numbers out of range.
    """

    def __init__(
        self,
        stack: Classifier,
        step: float = 0.1,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, rates=rates, log_every=log_every)
        if self.stack.depth != 1 or not isinstance(self.stack.pairs[0], RecurrentPair):
            self.refuse("one RecurrentPair is needed, through whose steps targets go back")

        self.step = checks.at_least("step", step, 0.0, strict=True)

    @property
    def pair(self) -> RecurrentPair:
        return self.stack.pairs[0]

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        reading = Reading(self.pair, x)
        moves = torch.stack(self.displacements(reading, y))
        if reading.there is not None:
            moves = moves * reading.there

        output = self.pair.cell.step(reading.before, reading.inputs).flatten(0, 1)
        share = len(moves) / (2.0 * self.step)  # a sum over steps, and not their mean

        return {
            "target_f_1": share * missed(output, moves.flatten(0, 1)),
            **self.feedback_losses(reading, moment),
            "label_f_2": label_loss(self.stack.output(self.code(reading))[None], y),
        }

    def code(self, reading: Reading) -> Tensor:
        """What the output layer sees: s_T, or all states one after the other."""
        if self.pair.every_step:
            return reading.after.transpose(0, 1).flatten(1)

        return reading.states[-1]

    @torch.no_grad()
    def displacements(self, reading: Reading, y: Tensor) -> list[Tensor]:
        """d_1 .. d_T.

        Args:
            reading: of a batch.
            y: its class indices, or values.
        """
        first = first_displacement(self.stack, self.code(reading), y, self.step)
        own = None
        if self.pair.every_step:
            own = first.unflatten(1, (self.pair.steps, -1)).transpose(0, 1)
            first = own[-1]

        back = self.feedback(reading)
        moves = [first]
        for t in range(self.pair.steps, 1, -1):
            move = back(t, moves[-1])
            if reading.there is not None:
                move = torch.lerp(moves[-1], move, reading.there[t - 1])
            if own is not None:
                move = move + own[t - 2]
            moves.append(move)

        return moves[::-1]

    def feedback(self, reading: Reading) -> Back:
        """How a displacement goes back one step, for the states of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must define feedback")

    def feedback_losses(self, reading: Reading, moment: Moment) -> dict[str, Tensor]:
        """Losses of what the feedback is made of; none where it does not learn."""
        return {}


@register
class RecurrentTargetPropRule(ThroughTimeRule):
    """A recurrent classifier learns from targets that go back in time by a learned inverse.

    target_f_1: sum over t of |f(s_{t-1}, x_t) - (s_t + d_t)|^2 / (2 step)
    state_g_1:  sum over t of |g_state(f(s~_{t-1}, x_t), x_t) - s~_{t-1}|^2,  s~ = s + noise
    input_g_1:  sum over t of |g_input(s_t) - x_t|^2
    label_f_2:  cross-entropy of the label in nats, or half the squared distance of the values

    Divided by the step, the gradient by f is that of back-propagation through time where g is the
    transpose of f's Jacobian, as it is for orthogonal linear states with their inverse. With
    learns="transpose" g_state learns to be that by how f answers to noise:

    state_g_1:  sum over t of -noise' (g_state(f(s~)) - g_state(f(s))) / sigma^2
                              + |g_state(s_t + noise') - g_state(s_t)|^2 / (2 sigma^2)

    Source: Bengio 2014, section 5; Lee 2018, Eq. 3.7, 3.13, 3.15; Ernoult et al. 2022 (the local
    difference reconstruction loss).

    Args:
        stack: a classifier of one `RecurrentPair`.
        step: length of the first displacement, in squared units of s per nat.
        learns: what g_state learns to be: f's "inverse", or the "transpose" of its Jacobian.
        sigma: standard deviation of the noise at which it does.
        difference: with the correction; without it targets are the reconstructions themselves,
            d_{t-1} = g(s_t + d_t, x_t) - s_{t-1}.
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
        learns: str = "inverse",
        sigma: float = 0.3,
        difference: bool = True,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(hold=0.5, clip=1.0),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, step, input_corruption, rates, log_every)
        self.learns = checks.one_of("learns", learns, LEARNS)
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=learns == "transpose")
        self.difference = bool(difference)

    def idle(self) -> list[nn.Module]:
        return self.laws()

    def feedback(self, reading: Reading) -> Back:
        cell = self.pair.cell
        given = cell.given(reading.after, reading.inputs)
        unmoved = given.shape[-1] - cell.state

        def back(t: int, move: Tensor) -> Tensor:
            step = F.pad(move, (0, unmoved))
            if self.difference:
                return change(cell.g_state, given[t - 1], step)

            return cell.g_state(given[t - 1] + step) - reading.states[t - 1]

        return back

    def feedback_losses(self, reading: Reading, moment: Moment) -> dict[str, Tensor]:
        seen = reading.present(self.pair.cell.g_input(reading.after), reading.inputs)
        state = self._inverse if self.learns == "inverse" else self._transpose

        return {
            "state_g_1": state(reading, moment),
            "input_g_1": error_of_steps(seen, reading.inputs),
        }

    def _noise(self, like: Tensor, moment: Moment) -> Tensor:
        noise = normal_like(like.flatten(0, 1), moment.generator)
        return self.sigma * noise.view_as(like)

    def _inverse(self, reading: Reading, moment: Moment) -> Tensor:
        """The reconstruction error of noisy states."""
        cell = self.pair.cell
        with torch.no_grad():
            noisy = reading.before + self._noise(reading.before, moment)
            after = cell.step(noisy, reading.inputs)

        told = cell.back(after, reading.inputs)
        return error_of_steps(reading.present(told, noisy), noisy)

    def _transpose(self, reading: Reading, moment: Moment) -> Tensor:
        """The local difference reconstruction loss."""
        cell = self.pair.cell
        with torch.no_grad():
            noise = self._noise(reading.before, moment)
            answer = cell.step(reading.before + noise, reading.inputs)
            other = reading.after + self._noise(reading.after, moment)

        here = cell.back(reading.after, reading.inputs)
        none = torch.zeros_like(here)
        told = reading.present(cell.back(answer, reading.inputs) - here, none)
        moved = reading.present(cell.back(other, reading.inputs) - here, none)

        agreement = (noise * told).sum() / len(noise[0])
        return (error_of_steps(moved, none) / 2.0 - agreement) / self.sigma**2


@register
class TransposeFeedbackRule(ThroughTimeRule):
    """A recurrent classifier learns from targets that go back by a matrix, which learns W'.

    For units s(W s_{t-1} + U x_t + b), which are the state or what is added to it,

        d_{t-1} = B (s'_t * d_t)                                   (+ d_t where steps are residual)

    B, the weights of g_state by which it sees s_t, learns from how the units answer to noise:

    feedback_g_1: sum over t of -noise' B r / sigma^2 + sum_j s'_j^2 |B_j|^2 / 2,
                  r = s' * (the units' change under the noise)

    The least mean is at B = W', where the update is that of back-propagation through time: this is
    back-propagation with learned weight transport. Each unit knows its own slope s'; no derivative
    of one step reaches another.
    Source: Bengio 2014, section 5; Ernoult et al. 2022; Akrout et al. 2019.

    Args:
        stack: a classifier of one `RecurrentPair` whose f and g_state are `Affine`, or `Residual`
            with such branches.
        step: length of the first displacement, in squared units of s per nat; without effect, but
            for rounding, since the feedback is linear.
        sigma: standard deviation of the noise.
        input_corruption, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: for another network, and numbers out of range.

    Example:
        >>> from gendae.models.architectures import recurrent_classifier
        >>> rule = TransposeFeedbackRule(recurrent_classifier(2, steps=4, classes=3, scale=0.1))
        >>> list(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['target_f_1', 'feedback_g_1', 'label_f_2']
    """

    def __init__(
        self,
        stack: Classifier,
        step: float = 0.1,
        sigma: float = 0.1,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(hold=0.5, clip=1.0),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, step, input_corruption, rates, log_every)
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)

        for name in ("f", "g_state"):
            branch = branch_of(getattr(self.pair.cell, name))
            if not isinstance(branch, Affine) or branch.receives != "real":
                self.refuse(f"{name} must be an Affine layer of real inputs, or a Residual of one")

    def idle(self) -> list[nn.Module]:
        bias = nn.ParameterList([branch_of(self.pair.cell.g_state).bias])
        return [*self.laws(), self.pair.cell.g_input, bias]

    @property
    def matrix(self) -> Tensor:
        """B, (state, state)."""
        return branch_of(self.pair.cell.g_state).weight[:, : self.pair.cell.state]

    def units(self, states: Tensor, inputs: Tensor) -> Tensor:
        """What the units of f say, (T, batch, state)."""
        return branch_of(self.pair.cell.f)(torch.cat([states, inputs], -1))

    def slopes(self, units: Tensor) -> Tensor:
        """s' of each unit, from what it says."""
        return DERIVATIVES[branch_of(self.pair.cell.f).activation](units)

    def feedback(self, reading: Reading) -> Back:
        slopes = self.slopes(self.units(reading.before, reading.inputs))
        scale = getattr(self.pair.cell.f, "scale", None)
        matrix = self.matrix

        def back(t: int, move: Tensor) -> Tensor:
            told = F.linear(slopes[t - 1] * move, matrix)
            return told if scale is None else torch.add(move, told, alpha=scale)

        return back

    def feedback_losses(self, reading: Reading, moment: Moment) -> dict[str, Tensor]:
        with torch.no_grad():
            noise = normal_like(reading.before.flatten(0, 1), moment.generator)
            noise = self.sigma * noise.view_as(reading.before)

            units = self.units(reading.before, reading.inputs)
            moved = self.units(reading.before + noise, reading.inputs)
            slopes = reading.present(self.slopes(units), torch.zeros_like(units))
            answer = slopes * (moved - units)

        batch = noise.shape[1]
        matrix = self.matrix
        agreement = (noise * F.linear(answer, matrix)).sum() / self.sigma**2
        decay = (slopes.square().sum((0, 1)) * matrix.square().sum(0)).sum() / 2.0

        return {"feedback_g_1": (decay - agreement) / batch}


def branch_of(layer: nn.Module) -> nn.Module:
    """The layer, or what a residual one adds."""
    return layer.branch if isinstance(layer, Residual) else layer


@register
class RegularizedInversionRule(ThroughTimeRule):
    """A recurrent classifier learns from targets that go back by f's own inverse, regularised.

    For s_t = a(W s_{t-1} + U x_t + b), least squares with a damping r give back

        d_{t-1} = (W' W + r I)^{-1} W' (a^{-1}(s_t + d_t) - a^{-1}(s_t)),

    into which x_t and b do not enter. Nothing of the feedback has to be learned; the inverse is
    found once for each update. g is left alone.
    Source: Roulet and Harchaoui 2021, "Target Propagation via Regularized Inversion".

    Args:
        stack: a classifier of one `RecurrentPair` whose f is affine, with an activation that can
            be inverted: tanh, sigmoid, softplus or linear.
        step: length of the first displacement, in squared units of s per nat.
        damping: r; 0 for the inverse. With much of it displacements go back by W' / r.
        margin: how far states and targets are kept from the ends of the activation's range, where
            its inverse has no end.
        input_corruption, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: for another network, and numbers out of range.

    Example:
        >>> from gendae.models.architectures import recurrent_classifier
        >>> rule = RegularizedInversionRule(recurrent_classifier(2, steps=4, classes=3))
        >>> list(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['target_f_1', 'label_f_2']
    """

    def __init__(
        self,
        stack: Classifier,
        step: float = 0.1,
        damping: float = 1.0,
        margin: float = 0.1,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(hold=0.5, clip=1.0),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, step, input_corruption, rates, log_every)
        self.damping = checks.at_least("damping", damping, 0.0, strict=True)
        self.margin = checks.at_least("margin", margin, 0.0)

        f = self.pair.cell.f
        if not isinstance(f, Affine) or f.activation not in RANGES:
            self.refuse(f"f must be an Affine layer with one of {', '.join(RANGES)}")

    def feedback(self, reading: Reading) -> Back:
        f = self.pair.cell.f
        weight = f.weight[:, : self.pair.cell.state]
        damped = weight.T @ weight
        damped.diagonal().add_(self.damping)
        inverse = torch.linalg.solve(damped, weight.T)

        def back(t: int, move: Tensor) -> Tensor:
            state = reading.states[t]
            return F.linear(self._undo(state + move) - self._undo(state), inverse)

        return back

    def _undo(self, state: Tensor) -> Tensor:
        """a^{-1}(s), within the margin."""
        activation = self.pair.cell.f.activation
        low, high = RANGES[activation]
        kept = state.clamp(low + self.margin, high - self.margin)

        return inverse_activation(kept, activation)


@register
class TruncatedBackpropRule(BackpropRule):
    """Back-propagation through the last steps only: the state from before is a constant.

    Of a sequence with an answer at the end, the last k steps learn; with an answer at every step,
    time is cut into parts of k steps, counted from the end.

    Args:
        stack: a classifier of one `RecurrentPair`.
        horizon: k.
        input_corruption, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: for another network, and numbers out of range.

    Example:
        >>> from gendae.models.architectures import recurrent_classifier
        >>> rule = TruncatedBackpropRule(recurrent_classifier(2, steps=4, classes=3), horizon=2)
        >>> list(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_2']
    """

    def __init__(
        self,
        stack: Classifier,
        horizon: int = 10,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(hold=0.5, clip=1.0),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, 0, input_corruption, rates=rates, log_every=log_every)
        if self.stack.depth != 1 or not isinstance(self.stack.pairs[0], RecurrentPair):
            self.refuse("one RecurrentPair is needed, whose past is cut off")

        self.horizon = checks.whole("horizon", horizon, 1)

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        code = self.stack.pairs[0].f(x, self.horizon)
        return {"label_f_2": label_loss(self.stack.output(code)[None], y)}
