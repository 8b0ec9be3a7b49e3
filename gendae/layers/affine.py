"""Layer pairs: an encoder f_l and a decoder g_l that learn to invert each other.

`pair.f` maps h_{l-1} -> h_l and `pair.g` maps h_l -> h_{l-1}. Both are plain tensor functions: the
means of the conditionals Q(h_l | h_{l-1}) and P(h_{l-1} | h_l), which `pair.q` and `pair.p` return
as distributions.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendae import checks
from gendae.layers.activations import ACTIVATIONS, DIFFERENCES, IN_PLACE
from gendae.registry import register


def _normal(out_features: int, in_features: int, gain: float) -> Tensor:
    return torch.randn(out_features, in_features) * gain / math.sqrt(in_features)


def _orthogonal(out_features: int, in_features: int, gain: float) -> Tensor:
    return nn.init.orthogonal_(torch.empty(out_features, in_features), gain)


def _uniform(out_features: int, in_features: int, gain: float) -> Tensor:
    return nn.init.xavier_uniform_(torch.empty(out_features, in_features), gain)


#: W at the start: N(0, gain^2 / fan-in); orthonormal rows or columns times gain; uniform with
#: variance 2 gain^2 / (fan-in + fan-out).
INITIAL_WEIGHTS = {"normal": _normal, "orthogonal": _orthogonal, "uniform": _uniform}
#: How a layer gets its input: as it is, or as bits, 1 where it is positive and 0 elsewhere.
RECEIVES = ("real", "bits")


class Linear(Protocol):
    """The linear part of a layer s(W h + b), and what feedback and learning rules make of it.

    W is a matrix, or the kernel of a convolution. Inputs and outputs are rows.
    """

    def linear(self, h: Tensor, weight: Tensor | None = None) -> Tensor:
        """W h, or that of another weight in the shape of W."""

    def transposed(self, d: Tensor, weight: Tensor | None = None) -> Tensor:
        """W' d, likewise."""

    def weight_gradient(self, h: Tensor, d: Tensor) -> Tensor:
        """d h', summed over the batch, in the shape of W: the gradient of sum d'(W h) by W."""


class Matrix:
    """The linear part of a layer whose W is a matrix, (outputs, inputs); see `Linear`.

    Example:
        >>> layer, h, d = Affine(3, 2), torch.rand(5, 3), torch.rand(5, 2)
        >>> torch.allclose((layer.linear(h) * d).sum(), (layer.transposed(d) * h).sum())
        True
        >>> layer.weight_gradient(h, d).shape
        torch.Size([2, 3])
    """

    weight: Tensor

    def linear(self, h: Tensor, weight: Tensor | None = None) -> Tensor:
        """W h."""
        return F.linear(h, self.weight if weight is None else weight)

    def transposed(self, d: Tensor, weight: Tensor | None = None) -> Tensor:
        """W' d."""
        return d @ (self.weight if weight is None else weight)

    def weight_gradient(self, h: Tensor, d: Tensor) -> Tensor:
        """The sum of d h' over the batch."""
        return d.T @ h


@register
class Affine(Matrix, nn.Module):
    """One layer, h -> s(W h + b), with b = 0 at the start.

    A layer that receives bits lies at the end of a cable that carries binary signals (thesis,
    Eq. 3.24): s(W sign(h) + b) with sign(h) = 1 where h > 0 and 0 elsewhere. It reports the
    straight-through gradient to autograd, as if the bits were h; only rules that say so use it.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        activation: s, one of softplus, sigmoid, tanh, relu, linear.
        gain: scale of the initial weights.
        init: W at the start, "normal" N(0, gain^2 / in_features), "orthogonal" or "uniform"
            (Glorot).
        receives: "real" or "bits".

    Raises:
        ValueError: for an unknown name or a width below 1.

    Example:
        >>> Affine(784, 1000, "softplus")(torch.zeros(2, 784)).shape
        torch.Size([2, 1000])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        gain: float = 1.0,
        init: str = "normal",
        receives: str = "real",
    ) -> None:
        super().__init__()
        self.in_features = checks.whole("in_features", in_features, 1)
        self.out_features = checks.whole("out_features", out_features, 1)
        self.activation = checks.one_of("activation", activation, ACTIVATIONS)
        self.gain = checks.real("gain", gain)
        self.init = checks.one_of("init", init, INITIAL_WEIGHTS)
        self.receives = checks.one_of("receives", receives, RECEIVES)
        self.s = ACTIVATIONS[activation]

        weight = INITIAL_WEIGHTS[init](self.out_features, self.in_features, gain)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(self.out_features))

    def receive(self, h: Tensor) -> Tensor:
        """h as it arrives at the weights."""
        if self.receives == "real":
            return h

        bits = (h > 0).to(h.dtype)
        return bits + (h - h.detach())

    def preactivation(self, h: Tensor) -> Tensor:
        """a = W h + b."""
        return F.linear(self.receive(h), self.weight, self.bias)

    def forward(self, h: Tensor) -> Tensor:
        a = self.preactivation(h)
        if a.requires_grad:
            return self.s(a)

        return IN_PLACE[self.activation](a)

    def difference(self, h: Tensor, step: Tensor) -> Tensor:
        """s(W (h + step) + b) - s(W h + b), as exact as s' at W h + b however small the step is.

        Example:
            >>> layer, h = Affine(3, 2, "tanh").double(), torch.ones(1, 3).double()
            >>> torch.allclose(layer.difference(h, 2 * h), layer(3 * h) - layer(h))
            True
        """
        if self.receives == "real":
            moved = step
        else:
            moved = self.receive(h + step) - self.receive(h)

        a = self.preactivation(h)
        e = F.linear(moved, self.weight)

        return DIFFERENCES[self.activation](a, e)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.activation!r}"
