"""A layer with hidden layers of its own."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from gendae import checks
from gendae.layers.affine import Affine
from gendae.registry import register


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
        >>> import torch
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
        self.hidden = checks.wholes("hidden", hidden, 1)
        self.hidden_activation = hidden_activation
        self.activation = activation
        self.gain = checks.real("gain", gain)

        widths = [in_features, *hidden, out_features]
        names = [hidden_activation] * len(self.hidden) + [activation]
        layers = []
        for (low, high), name in zip(pairwise(widths), names, strict=True):
            layers.append(Affine(low, high, name, gain * _activation_gain(name)))
        self.layers = nn.Sequential(*layers)

    def preactivation(self, h: Tensor) -> Tensor:
        """a of the output s(a)."""
        *hidden, last = self.layers
        for layer in hidden:
            h = layer(h)

        return cast(Affine, last).preactivation(h)

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(h)


def _activation_gain(activation: str) -> float:
    if activation == "relu":  # which halves the mean square of what passes
        return math.sqrt(2.0)
    return 1.0
