"""Targets from far away without a history: sums that are taken forward in time.

The backward network g_s has no inputs. Run for long it comes to a fixed point mu = g_s(mu), which
then is the target of every state that lies far behind the start. For s_t = a(W u_t + b) with
u_t = (s_{t-1}, x_t) the gradient of the squared errors |s_t - mu|^2 / 2 is

    dW = sum_t ((s_t - mu) * a'_t) u_t' = S_2 - mu * S_1,
    S_1 = sum_t a'_t u_t',   S_2 = sum_t (s_t * a'_t) u_t',

row by row, and both sums grow with t while nothing else is kept: memory does not depend on T, and
mu need not be known before the end.
Source: Bengio 2014, section 5.
"""

import torch
from torch import Tensor

from gendae import checks
from gendae.layers.activations import DERIVATIVES
from gendae.layers.affine import Affine
from gendae.models.recurrent import Cell


@torch.no_grad()
def fixed_point(cell: Cell, start: Tensor, tolerance: float = 1e-10, most: int = 10_000) -> Tensor:
    """mu = g_state(mu), found by running the backward network from a state.

    Where g_state sees inputs it is given those that g_input tells.

    Args:
        cell: the maps of a step.
        start: s^, (batch, state).
        tolerance: largest change of a unit at which it counts as fixed.
        most: steps after which the search is given up.

    Raises:
        ValueError: if the backward network has not come to rest by then.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> half = Affine(1, 1)
        >>> _ = torch.nn.init.constant_(half.weight, 0.5), torch.nn.init.ones_(half.bias)
        >>> cell = Cell(Affine(2, 1), half, Affine(1, 1))
        >>> fixed_point(cell, torch.zeros(1, 1)).round(decimals=3)
        tensor([[2.]])
    """
    state = start
    for _ in range(most):
        before = cell.back(state, cell.g_input(state))
        if (before - state).abs().max() <= tolerance:
            return before
        state = before

    raise ValueError(f"the backward network moves still after {most} steps: it has no fixed point")


class ForwardSums:
    """The sums S_1 and S_2 of a cell, taken while a stream of inputs is read.

    Args:
        cell: the maps of a step, whose f is one affine layer.

    Attributes:
        state: s_t, (batch, state); None before the first step.
        count: number of steps read.

    Raises:
        ValueError: for another f.

    Example:
        >>> from gendae.models.architectures import recurrent_classifier
        >>> cell = recurrent_classifier(2, steps=3, state=4).pairs[0].cell
        >>> sums = ForwardSums(cell)
        >>> for _ in range(1000):
        ...     state = sums.step(torch.rand(5, 2))
        >>> weight, bias = sums.gradient(torch.zeros(4))
        >>> weight.shape, bias.shape
        (torch.Size([4, 6]), torch.Size([4]))
    """

    def __init__(self, cell: Cell) -> None:
        f = cell.f
        if not isinstance(f, Affine) or f.receives != "real":
            raise ValueError(
                f"f is {type(f).__name__}; the sums are those of one Affine layer of real inputs"
            )

        self.cell = cell
        self.state: Tensor | None = None
        self.count = 0

        wider = torch.zeros(f.out_features, f.in_features + 1).to(f.weight)  # with the bias
        self._slopes = wider
        self._values = wider.clone()

    @torch.no_grad()
    def step(self, x: Tensor) -> Tensor:
        """Read x_t, (batch, width), and return s_t.

        Raises:
            ValueError: for inputs of another width.
        """
        x = checks.width("x", x, self.cell.width)
        if self.state is None:
            self.state = x.new_zeros(len(x), self.cell.state)

        given = torch.cat([self.state, x, torch.ones_like(x[:, :1])], -1)
        self.state = self.cell.step(self.state, x)
        self.count += 1

        slope = DERIVATIVES[self.cell.f.activation](self.state)
        self._slopes += slope.T @ given / len(x)
        self._values += (self.state * slope).T @ given / len(x)

        return self.state

    @torch.no_grad()
    def gradient(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of sum_t |s_t - mu|^2 / 2, mean over the batch, by W and by b.

        Args:
            target: mu, (state,).
        """
        both = self._values - target[:, None] * self._slopes
        return both[:, :-1], both[:, -1]
