"""Layer pairs: an encoder f_l and a decoder g_l that learn to invert each other.

`pair.f` maps h_{l-1} -> h_l and `pair.g` maps h_l -> h_{l-1}; both are plain tensor functions, the means of
the conditionals Q(h_l | h_{l-1}) and P(h_{l-1} | h_l), which `pair.q` and `pair.p` return as distributions.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from gendae import checks
from gendae.conditionals import Bernoulli, Conditional, Discrete, Gaussian, Law, LearnedGaussian
from gendae.spec import register

__all__ = ["ACTIVATIONS", "MLP", "Affine", "Bernoulli", "Conditional", "Discrete", "Gaussian",
           "LearnedGaussian", "Pair"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda a: a,
}


@register
class Affine(nn.Module):
    """One layer, h -> s(W h + b), with W ~ N(0, gain^2 / in_features) and b = 0 at the start.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        activation: s, one of softplus, sigmoid, tanh, relu, linear.
        gain: scale of the initial weights.

    Raises:
        ValueError: for an unknown activation or a width below 1.

    Example:
        >>> Affine(784, 1000, "softplus")(torch.zeros(2, 784)).shape
        torch.Size([2, 1000])
    """

    def __init__(
        self, in_features: int, out_features: int, activation: str = "linear", gain: float = 1.0
    ) -> None:
        super().__init__()
        self.in_features = int(checks.at_least("in_features", in_features, 1))
        self.out_features = int(checks.at_least("out_features", out_features, 1))
        self.activation = checks.one_of("activation", activation, ACTIVATIONS)
        self.gain = gain
        self.s = ACTIVATIONS[activation]
        self.weight = nn.Parameter(
            torch.randn(out_features, in_features) * gain / math.sqrt(in_features)
        )
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, h: Tensor) -> Tensor:
        return self.s(F.linear(h, self.weight, self.bias))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.activation!r}"


@register
class MLP(nn.Module):
    """A layer with hidden layers of its own, which are not among the h_l: a more powerful f or g.

    Its inside is trained by back-propagation, which does not leave the layer.
    Source: Bengio 2014, section 6 and question 10.

    Args:
        in_features: width of the input.
        hidden: widths of the hidden layers.
        out_features: width of the output.
        activation: of the output.
        hidden_activation: of the hidden layers.
        gain: scale of the initial weights, W ~ N(0, gain^2 / fan-in); relu layers get sqrt(2) of it.

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
        self.in_features, self.out_features = int(in_features), int(out_features)
        self.hidden, self.hidden_activation = list(hidden), hidden_activation
        self.activation, self.gain = activation, gain
        widths = [in_features, *hidden, out_features]
        names = [hidden_activation] * len(self.hidden) + [activation]
        self.layers = nn.Sequential(*(
            Affine(low, high, name, gain * (math.sqrt(2.0) if name == "relu" else 1.0))
            for (low, high), name in zip(pairwise(widths), names, strict=True)
        ))

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(h)


@register
class Pair(nn.Module):
    """Encoder f: h_{l-1} -> h_l and decoder g: h_l -> h_{l-1}, with the laws around them.

    Source: Bengio et al. 2015, section 5: either of the two is the encoder of one auto-encoder and the
    decoder of the other, trained on the same pairs (h_{l-1}, h_l) with roles reversed.

    Args:
        f: encoder, mean of Q(h_l | h_{l-1}).
        g: decoder, mean of P(h_{l-1} | h_l).
        observation: law of h_{l-1} around g; Gaussian(1) if None.
        recognition: law of h_l around f; Gaussian(1) if None.

    Raises:
        ValueError: if the widths of f and g do not match, or a Bernoulli law is given to a layer that
            is not sigmoid.

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
        self.f, self.g = f, g
        self.observation = observation or Gaussian()
        self.recognition = recognition or Gaussian()
        for name, law, layer in (("observation", self.observation, g),
                                 ("recognition", self.recognition, f)):
            needed = "sigmoid" if isinstance(law, Bernoulli) else getattr(law, "activation", None)
            if needed and layer.activation != needed:
                raise ValueError(f"{name}={type(law).__name__} needs a {needed} layer, not "
                                 f"{layer.activation!r}: its mean lies in the range of its values")

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
