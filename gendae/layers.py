"""Layer pairs: an encoder f_l and a decoder g_l that learn to invert each other.

`pair.f` maps h_{l-1} -> h_l and `pair.g` maps h_l -> h_{l-1}; both are plain tensor functions, the means of
the conditionals Q(h_l | h_{l-1}) and P(h_{l-1} | h_l), which `pair.q` and `pair.p` return as distributions.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliLaw
from torch.distributions import Distribution, Normal

from gendae import checks
from gendae.spec import register

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


class Conditional:
    """Law of a representation around a mean that a layer computes."""

    def distribution(self, mean: Tensor) -> Distribution:
        """The law as a torch distribution (independent units)."""
        raise NotImplementedError(f"{type(self).__name__} must define distribution")

    def energy(self, h: Tensor, mean: Tensor) -> Tensor:
        """-log p(h) up to a constant in h and the mean, summed over features: the loss of a layer."""
        raise NotImplementedError(f"{type(self).__name__} must define energy")

    def log_prob(self, h: Tensor, mean: Tensor) -> Tensor:
        """log p(h) in nats, summed over features, (batch,)."""
        return self.distribution(mean).log_prob(h).sum(-1)


@register
class Gaussian(Conditional):
    """N(h; mean, sigma^2 I), the same sigma for all units; the papers take sigma = 1.

    Args:
        sigma: standard deviation, in units of h.

    Example:
        >>> law, zero = Gaussian(1.0), torch.zeros(1, 4)
        >>> round(law.log_prob(zero, zero).item(), 4), law.energy(zero + 1, zero).item()
        (-3.6758, 2.0)
    """

    def __init__(self, sigma: float = 1.0) -> None:
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)

    def distribution(self, mean: Tensor) -> Distribution:
        return Normal(mean, self.sigma, validate_args=False)

    def energy(self, h: Tensor, mean: Tensor) -> Tensor:
        return (h - mean).square().sum(-1) / (2.0 * self.sigma**2)


@register
class Bernoulli(Conditional):
    """Independent binary units with p(h = 1) = mean; values in [0, 1] count as probabilities.

    Example:
        >>> Bernoulli().energy(torch.ones(1, 2), torch.full((1, 2), 0.5)).round(decimals=4)
        tensor([1.3863])
    """

    def distribution(self, mean: Tensor) -> Distribution:
        return BernoulliLaw(probs=mean, validate_args=False)

    def energy(self, h: Tensor, mean: Tensor) -> Tensor:
        return F.binary_cross_entropy(mean, h.clamp(0.0, 1.0), reduction="none").sum(-1)


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
        f: Affine,
        g: Affine,
        observation: Gaussian | Bernoulli | None = None,
        recognition: Gaussian | Bernoulli | None = None,
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
            if isinstance(law, Bernoulli) and layer.activation != "sigmoid":
                raise ValueError(f"{name}=Bernoulli() needs a sigmoid layer, not "
                                 f"{layer.activation!r}: its mean is a probability")

    def q(self, h_below: Tensor) -> Distribution:
        """Q(h_l | h_{l-1}), around f."""
        return self.recognition.distribution(self.f(h_below))

    def p(self, h_above: Tensor) -> Distribution:
        """P(h_{l-1} | h_l), around g."""
        return self.observation.distribution(self.g(h_above))
