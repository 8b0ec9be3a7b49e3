"""Layer pairs: an encoder f_l and a decoder g_l that learn to invert each other.

`pair.f` maps h_{l-1} -> h_l and `pair.g` maps h_l -> h_{l-1}. Both are plain tensor functions: the
means of the conditionals Q(h_l | h_{l-1}) and P(h_{l-1} | h_l), which `pair.q` and `pair.p` return
as distributions.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from gendae import checks
from gendae.conditionals import (
    Bernoulli,
    Categorical,
    Conditional,
    Discrete,
    Gaussian,
    Law,
    LearnedGaussian,
)
from gendae.spec import register

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Affine",
    "Bernoulli",
    "Categorical",
    "Conditional",
    "Discrete",
    "Gaussian",
    "LearnedGaussian",
    "Pair",
    "TiedPair",
]


def _identity(a: Tensor) -> Tensor:  # with a name, so that layers can be pickled
    return a


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": _identity,
}

#: The same functions, which overwrite their argument: half the memory traffic. They serve where
#: autograd keeps nothing.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": lambda a: torch.ops.aten.softplus.out(a, out=a),
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
    "relu": torch.relu_,
    "linear": lambda a: a,
}


def _tanh_difference(a: Tensor, e: Tensor) -> Tensor:
    return torch.tanh(e) * (1.0 - torch.tanh(a) * torch.tanh(a + e))


def _softplus_difference(a: Tensor, e: Tensor) -> Tensor:
    small = torch.log1p(torch.sigmoid(a) * torch.expm1(e.clamp(-1.0, 1.0)))
    large = F.softplus(a + e) - F.softplus(a)  # large steps do not cancel

    return torch.where(e.abs() <= 1.0, small, large)


#: s(a + e) - s(a) from a and e without cancellation. Where e is small, the plain difference keeps
#: no digits.
DIFFERENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softplus": _softplus_difference,
    "sigmoid": lambda a, e: 0.5 * _tanh_difference(0.5 * a, 0.5 * e),
    "tanh": _tanh_difference,
    "relu": lambda a, e: torch.where(a > 0, torch.maximum(e, -a), torch.relu(a + e)),
    "linear": lambda a, e: e,
}


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


@register
class Affine(nn.Module):
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
        self.gain = gain
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


@register
class MLP(nn.Module):
    """A layer with hidden layers inside, which are not among the h_l: a more powerful f or g.

    Back-propagation trains the inside and does not leave the layer.
    Source: Bengio 2014, section 6 and question 10.

    Args:
        in_features: width of the input.
        hidden: widths of the hidden layers.
        out_features: width of the output.
        activation: of the output.
        hidden_activation: of the hidden layers.
        gain: scale of the initial weights, W ~ N(0, gain^2 / fan-in); for relu layers times
            sqrt(2).

    Raises:
        ValueError: for an unknown activation or a width below 1.

    Example:
        >>> MLP(784, [500], 10, "linear")(torch.zeros(2, 784)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        activation: str = "linear",
        hidden_activation: str = "relu",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_features = checks.whole("in_features", in_features, 1)
        self.out_features = checks.whole("out_features", out_features, 1)
        self.hidden = [checks.whole("hidden", width, 1) for width in hidden]
        self.hidden_activation = hidden_activation
        self.activation = activation
        self.gain = gain

        widths = [in_features, *hidden, out_features]
        names = [hidden_activation] * len(self.hidden) + [activation]
        layers = []
        for (low, high), name in zip(pairwise(widths), names, strict=True):
            layers.append(Affine(low, high, name, gain * _activation_gain(name)))
        self.layers = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(h)


def _activation_gain(activation: str) -> float:
    if activation == "relu":  # which halves the mean square of what passes
        return math.sqrt(2.0)
    return 1.0


class Transpose(nn.Module):
    """g(h) = s(W' h + c) with the weights W of an encoder; only the bias c is its own."""

    def __init__(self, layer: Affine, activation: str) -> None:
        super().__init__()
        self.in_features = layer.out_features
        self.out_features = layer.in_features
        self.activation = checks.one_of("activation", activation, ACTIVATIONS)
        self.s = ACTIVATIONS[activation]

        self._of = (layer,)  # in a tuple, so that the weights are not registered twice
        self.bias = nn.Parameter(torch.zeros(self.out_features))

    @property
    def weight(self) -> Tensor:
        """W', (features of h_{l-1}, features of h_l)."""
        return self._of[0].weight.T

    def forward(self, h: Tensor) -> Tensor:
        return self.s(F.linear(h, self.weight, self.bias))

    def difference(self, h: Tensor, step: Tensor) -> Tensor:
        """The layer's output at h + step minus that at h."""
        a = F.linear(h, self.weight, self.bias)
        e = F.linear(step, self.weight)

        return DIFFERENCES[self.activation](a, e)


@register
class Pair(nn.Module):
    """Encoder f: h_{l-1} -> h_l and decoder g: h_l -> h_{l-1}, with the laws around them.

    Source: Bengio et al. 2015, section 5: either of the two is the encoder of one auto-encoder and
    the decoder of the other, trained on the same pairs (h_{l-1}, h_l) with roles reversed.

    Args:
        f: encoder, mean of Q(h_l | h_{l-1}).
        g: decoder, mean of P(h_{l-1} | h_l).
        observation: law of h_{l-1} around g; Gaussian(1) if None.
        recognition: law of h_l around f; Gaussian(1) if None.

    Raises:
        ValueError: if the widths of f and g do not match, or a law's mean needs another activation
            than its layer has.

    Example:
        >>> pair = Pair(Affine(4, 2, "sigmoid"), Affine(2, 4))
        >>> pair.p(pair.f(torch.zeros(3, 4))).mean.shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        f: "Affine | MLP",
        g: "Affine | MLP",
        observation: Law | None = None,
        recognition: Law | None = None,
    ) -> None:
        super().__init__()
        if (f.in_features, f.out_features) != (g.out_features, g.in_features):
            raise ValueError(
                f"f maps {f.in_features} -> {f.out_features} units but g maps {g.in_features} -> "
                f"{g.out_features}; g must map {f.out_features} -> {f.in_features}"
            )

        self.f = f
        self.g = g
        self.observation = observation or Gaussian()
        self.recognition = recognition or Gaussian()

        _check_activation("observation", self.observation, g)
        _check_activation("recognition", self.recognition, f)

    def encode(self, h_below: Tensor, generator: Generator | None = None) -> Tensor:
        """h_l as the next layer sees it; stochastic units are drawn if a generator is given."""
        return self.recognition.transmit(self.f(h_below), generator)

    def decode(self, h_above: Tensor, generator: Generator | None = None) -> Tensor:
        """h_{l-1} as the layer below sees it."""
        return self.observation.transmit(self.g(h_above), generator)

    def q(self, h_below: Tensor) -> Distribution:
        """Q(h_l | h_{l-1}), around f."""
        return self.recognition.distribution(self.f(h_below), h_below)

    def p(self, h_above: Tensor) -> Distribution:
        """P(h_{l-1} | h_l), around g."""
        return self.observation.distribution(self.g(h_above))


def _check_activation(name: str, law: Law, layer: "Affine | MLP") -> None:
    if isinstance(law, Bernoulli):
        needed = "sigmoid"
    else:
        needed = getattr(law, "activation", None)

    if needed and layer.activation != needed:
        raise ValueError(
            f"{name}={type(law).__name__} needs a {needed} layer, not "
            f"{layer.activation!r}: its mean lies in the range of its values"
        )


@register
class TiedPair(Pair):
    """f(x) = s(W x + b), g(h) = s'(W' h + c): the classical auto-encoder with tied weights.

    A loss of either map moves W, so that f and g of such a pair share a learning rate, that of f.
    Source: thesis, Eq. 3.20 and 3.21.

    Args:
        in_features, out_features: widths of h_{l-1} and h_l.
        activation: s, of h_l.
        visible: s', of h_{l-1}.
        gain, init: see `Affine`.
        observation: law of h_{l-1} around g; Gaussian(1) if None.
        recognition: law of h_l around f; Gaussian(1) if None.

    Raises:
        ValueError: see `Affine` and `Pair`.

    Example:
        >>> pair = TiedPair(8, 3)
        >>> [name for name, _ in pair.named_parameters()]
        ['f.weight', 'f.bias', 'g.bias']
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "sigmoid",
        visible: str = "sigmoid",
        gain: float = 1.0,
        init: str = "orthogonal",
        observation: Law | None = None,
        recognition: Law | None = None,
    ) -> None:
        f = Affine(in_features, out_features, activation, gain, init)
        super().__init__(f, Transpose(f, visible), observation, recognition)

        self.in_features = f.in_features
        self.out_features = f.out_features
        self.activation = activation
        self.visible = visible
        self.gain = gain
        self.init = init
