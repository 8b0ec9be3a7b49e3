"""Recurrent pairs: a sequence read into a state, and told from it again, last step first.

s_t = f(s_{t-1}, x_t),  t = 1 .. T,  s_0 = 0             up: the state is what was read so far
x^_t = g_x(s^_t),  s^_{t-1} = g_s(s^_t, x^_t)            down: a recurrent net without inputs

Unfolded in time this is a stack of T pairs of equal weights with an input at each level. Here it
is one pair of a stack: f maps (x_1 .. x_T) to s_T, and g maps s_T to the reconstruction of all of
them. What a `Stack` can do, such as sampling from a prior over the top, a recurrent pair can thus
be a part of; what differs is how it learns (`rules.recurrent`).

A state was made from two things. Where g_s may see one of them, x_t, it has the other to find and
no more: P(s_{t-1}, x_t | s_t) = P(x_t | s_t) P(s_{t-1} | s_t, x_t).
Source: Bengio 2014, section 5; its h_{t-1} is x_t here, the input that s_t is the first to see.
"""

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.laws import Law
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.layers.wrapped import Layer, as_layer
from gendae.registry import register


@register
class Cell(nn.Module):
    """The maps of one step: f, and the two halves of g.

    Args:
        f: (s_{t-1}, x_t) -> s_t; the state comes first in its input.
        g_state: s_t -> s_{t-1}, or (s_t, x_t) -> s_{t-1}.
        g_input: s_t -> x_t.

    Raises:
        ValueError: if the widths do not match.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> cell = Cell(Affine(5, 3, "tanh"), Affine(3, 3, "tanh"), Affine(3, 2))
        >>> cell.state, cell.width
        (3, 2)
    """

    f: Layer
    g_state: Layer
    g_input: Layer

    #: How many states f reads, and g_state tells.
    arity = 1

    def __init__(self, f: nn.Module, g_state: nn.Module, g_input: nn.Module) -> None:
        super().__init__()
        self.f = as_layer(f)
        self.g_state = as_layer(g_state)
        self.g_input = as_layer(g_input)

        both = self.state + self.width
        maps = {
            "f": (self.f, (self.arity * self.state + self.width,), self.state),
            "g_state": (self.g_state, (self.state, both), self.arity * self.state),
            "g_input": (self.g_input, (self.state,), self.width),
        }
        for name, (layer, low, high) in maps.items():
            if layer.in_features not in low or layer.out_features != high:
                widths = " or ".join(str(width) for width in low)
                raise ValueError(
                    f"{name} maps {layer.in_features} -> {layer.out_features} units; for a state "
                    f"of {self.state} and inputs of {self.width} it must map {widths} -> {high}"
                )

    @property
    def state(self) -> int:
        """Width of s_t."""
        return self.f.out_features

    @property
    def width(self) -> int:
        """Width of x_t."""
        return self.g_input.out_features

    def step(self, state: Tensor, x: Tensor) -> Tensor:
        """s_t = f(s_{t-1}, x_t)."""
        return self.f(torch.cat([state, x], -1))

    @property
    def sees_input(self) -> bool:
        """Whether g_state is given x_t beside s_t."""
        return self.g_state.in_features > self.state

    def given(self, state: Tensor, x: Tensor) -> Tensor:
        """What g_state takes: s_t, and x_t if it sees that."""
        return torch.cat([state, x], -1) if self.sees_input else state

    def back(self, state: Tensor, x: Tensor) -> Tensor:
        """s_{t-1} = g_state(s_t, x_t)."""
        return self.g_state(self.given(state, x))


class Reader(nn.Module):
    """f of a recurrent pair: (x_1 .. x_T) -> s_T, rows of all steps one after the other.

    With `every_step` it gives (s_1 .. s_T).
    """

    def __init__(self, cell: Cell, steps: int, masked: bool, every_step: bool) -> None:
        super().__init__()
        self.layer = cell.f
        self.steps = steps
        self.masked = masked
        self.every_step = every_step
        self.in_features = steps * (cell.width + masked)
        self.out_features = steps * cell.state if every_step else cell.state
        self.activation = cell.f.activation

        self._of = (cell,)  # in a tuple, so that the maps of g are not registered here

    @property
    def cell(self) -> Cell:
        return self._of[0]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Inputs, (batch, T, width), and which steps there are, (batch, T, 1) or None."""
        steps = x.unflatten(1, (self.steps, -1))
        if not self.masked:
            return steps, None

        return steps[..., 1:], steps[..., :1]

    def there_as(self, x: Tensor, noisy: Tensor) -> Tensor:
        """Noisy inputs, with the steps that x has: what says so is no input."""
        if not self.masked:
            return noisy

        steps = x.unflatten(1, (self.steps, -1))
        values = noisy.unflatten(1, (self.steps, -1))
        return torch.cat([steps[..., :1], values[..., 1:]], -1).flatten(1)

    def states(self, x: Tensor, horizon: int | None = None) -> list[Tensor]:
        """s_0 .. s_T, each (batch, state); a step that is not there leaves the state as it is.

        With a horizon, the gradient stops where so many steps, or a multiple of them, are left.
        """
        inputs, there = self.split(x)
        states = [x.new_zeros(x.shape[0], self.cell.state)]
        for t in range(self.steps):
            after = self.cell.step(states[-1], inputs[:, t])
            if there is not None:
                after = torch.lerp(states[-1], after, there[:, t])
            if horizon is not None and (self.steps - t - 1) % horizon == 0 and t < self.steps - 1:
                after = after.detach()
            states.append(after)

        return states

    def forward(self, x: Tensor, horizon: int | None = None) -> Tensor:
        states = self.states(x, horizon)
        return torch.cat(states[1:], -1) if self.every_step else states[-1]


class Teller(nn.Module):
    """g of a recurrent pair: s_T -> (x^_1 .. x^_T).

    With `every_step`, (s_1 .. s_T) are given, and each tells its input.
    """

    def __init__(self, cell: Cell, steps: int, masked: bool, every_step: bool) -> None:
        super().__init__()
        self.back = cell.g_state
        self.out = cell.g_input
        self.steps = steps
        self.masked = masked
        self.every_step = every_step
        self.in_features = steps * cell.state if every_step else cell.state
        self.out_features = steps * (cell.width + masked)
        self.activation = cell.g_input.activation

        self._of = (cell,)

    def forward(self, state: Tensor) -> Tensor:
        if self.every_step:
            steps = self.out(state.unflatten(-1, (self.steps, -1)))
        else:
            steps = torch.stack(self._told(state), -2)

        if self.masked:  # all steps are told
            steps = torch.cat([torch.ones_like(steps[..., :1]), steps], -1)

        return steps.flatten(-2)

    def _told(self, state: Tensor) -> list[Tensor]:
        """x^_1 .. x^_T from s_T."""
        (cell,) = self._of

        told = []
        for _ in range(self.steps):
            told.append(self.out(state))
            state = cell.back(state, told[-1])

        return told[::-1]


@register
class LSTMReader(nn.Module):
    """A long short-term memory as f: (x_1 .. x_T) -> the output of its last step.

    A baseline: it learns by back-propagation alone.
    Source: Hochreiter and Schmidhuber 1997.

    Args:
        width: of x_t.
        steps: T.
        state: width of the output.
        masked: see `RecurrentPair`.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> LSTMReader(width=2, steps=4, state=5)(torch.rand(3, 8)).shape
        torch.Size([3, 5])
    """

    activation = None

    def __init__(self, width: int, steps: int, state: int, masked: bool = False) -> None:
        super().__init__()
        self.width = checks.whole("width", width, 1)
        self.steps = checks.whole("steps", steps, 1, checks.REPEATS)
        self.state = checks.whole("state", state, 1)
        self.masked = bool(masked)

        self.in_features = self.steps * (self.width + self.masked)
        self.out_features = self.state
        self.memory = nn.LSTM(self.width, self.state, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.unflatten(1, (self.steps, -1))
        if not self.masked:
            return self.memory(steps)[0][:, -1]

        outputs, _ = self.memory(steps[..., 1:])
        last = steps[..., 0].sum(1).long().clamp(min=1) - 1
        return outputs[torch.arange(x.shape[0], device=x.device), last]


@register
class EveryStep(Affine):
    """One affine layer for all steps of a sequence: (s_1 .. s_T) -> (o_1 .. o_T).

    Args:
        in_features: width of all states together, a multiple of `steps`.
        out_features: width of o_t.
        steps: T.
        gain, init: of the weights, see `Affine`.

    Raises:
        ValueError: if the states do not make T of one width.

    Example:
        >>> layer = EveryStep(12, 2, steps=4)
        >>> layer(torch.rand(7, 12)).shape, layer.weight.shape
        (torch.Size([7, 4, 2]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        steps: int,
        gain: float = 1.0,
        init: str = "normal",
    ) -> None:
        in_features = checks.whole("in_features", in_features, 1)
        steps = checks.whole("steps", steps, 1, checks.REPEATS)
        if in_features % steps != 0:
            raise ValueError(
                f"in_features={in_features} are not {steps} states of one width; a multiple of "
                "steps is needed"
            )

        super().__init__(in_features // steps, out_features, "linear", gain, init)
        self.in_features = in_features
        self.steps = steps

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h.unflatten(-1, (self.steps, -1)))


@register
class RecurrentPair(Pair):
    """A pair whose f reads a sequence step by step, and whose g tells it again.

    Args:
        cell: the maps of one step.
        steps: T.
        masked: whether the first value of each step says if the step is there, 1 or 0: a sequence
            of T' < T steps has its steps first, and zeros after them.
        every_step: the code is (s_1 .. s_T) and not s_T alone, for answers at every step and for
            another recurrent pair above; g tells each input from its state.
        observation: law of x around g; Gaussian(1) if None.
        recognition: law of the code around f; Gaussian(1) if None.

    Raises:
        ValueError: for steps < 1, and if a law's mean needs another activation than its layer has.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> cell = Cell(Affine(5, 3, "tanh"), Affine(3, 3, "tanh"), Affine(3, 2))
        >>> pair = RecurrentPair(cell, steps=4)
        >>> pair.f(torch.rand(7, 8)).shape, pair.g(torch.rand(7, 3)).shape
        (torch.Size([7, 3]), torch.Size([7, 8]))
    """

    f: Reader
    g: Teller

    def __init__(
        self,
        cell: Cell,
        steps: int,
        masked: bool = False,
        every_step: bool = False,
        observation: Law | None = None,
        recognition: Law | None = None,
    ) -> None:
        steps = checks.whole("steps", steps, 1, checks.REPEATS)
        masked = bool(masked)
        every_step = bool(every_step)
        f = Reader(cell, steps, masked, every_step)
        g = Teller(cell, steps, masked, every_step)
        super().__init__(f, g, observation, recognition)

        self.steps = steps
        self.masked = masked
        self.every_step = every_step

    @property
    def cell(self) -> Cell:
        """The maps of one step."""
        return self.f.cell
