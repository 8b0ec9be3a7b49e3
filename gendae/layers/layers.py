"""Several layers in a row as one map."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from gendae import checks
from gendae.layers.affine import Affine
from gendae.layers.conv import WithoutWeights
from gendae.layers.wrapped import Layer, as_layer, change
from gendae.registry import register


def in_shape(layer: Layer) -> tuple[int, ...]:
    """Shape of what a layer takes, (channels, height, width) if it knows; else its width."""
    return tuple(getattr(layer, "in_shape", (layer.in_features,)))


def out_shape(layer: Layer) -> tuple[int, ...]:
    """Shape of what a layer gives, (channels, height, width) if it knows; else its width."""
    return tuple(getattr(layer, "out_shape", (layer.out_features,)))


def first_of(layer: Layer) -> Layer:
    """The first of several layers in a row, or the layer itself."""
    if isinstance(layer, Layers):
        return first_of(cast(Layer, layer.layers[0]))

    return layer


def fit_together(low: tuple[int, ...], high: tuple[int, ...]) -> bool:
    """Whether rows of one shape can be taken as those of another: one of them is flat, or equal.

    Example:
        >>> fit_together((16, 7, 7), (784,)), fit_together((16, 7, 7), (4, 14, 14))
        (True, False)
    """
    if math.prod(low) != math.prod(high):
        return False

    return low == high or len(low) == 1 or len(high) == 1


@register
class Layers(nn.Module):
    """Layers one after the other as one f or g: what is between them is not among the h_l.

    Where a rule takes an `MLP` as its affine maps, so it does these.

    Args:
        layers: the first takes h; any modules, see `Wrapped`.

    Raises:
        ValueError: for none, and for layers that do not fit together.

    Example:
        >>> import torch
        >>> from gendae.layers.conv import Conv, Pool
        >>> conv = Conv((1, 8, 8), 4, kernel=3, padding=1, activation="relu")
        >>> f = Layers([conv, Pool(conv.out_shape)])
        >>> f(torch.rand(2, 64)).shape, f.activation
        (torch.Size([2, 64]), 'relu')
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        parts = [
            as_layer(checks.kind("layers", layer, nn.Module))
            for layer in checks.several("layers", layers)
        ]
        if not parts:
            raise ValueError("layers=[]: one at least is needed")

        for number, (low, high) in enumerate(pairwise(parts), 1):
            if not fit_together(out_shape(low), in_shape(high)):
                raise ValueError(
                    f"layers: number {number}, {type(low).__name__}, gives {out_shape(low)}, but "
                    f"number {number + 1}, {type(high).__name__}, takes {in_shape(high)}"
                )

        self.layers = nn.ModuleList(cast(list[nn.Module], parts))
        self.in_features = parts[0].in_features
        self.out_features = parts[-1].out_features
        self.in_shape = in_shape(parts[0])
        self.out_shape = out_shape(parts[-1])

    @property
    def activation(self) -> str | None:
        """That of the last layer which has one; pooling keeps the range of what it takes."""
        for layer in reversed(self.layers):
            if not isinstance(layer, WithoutWeights):
                return cast(Layer, layer).activation

        return None

    def preactivation(self, h: Tensor) -> Tensor:
        """a of the output s(a), where the last layer has one."""
        *below, last = self.layers
        for layer in below:
            h = layer(h)

        return cast(Affine, last).preactivation(h)

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h)

        return h

    def difference(self, h: Tensor, step: Tensor) -> Tensor:
        """The output at h + step minus that at h, by the differences of the layers."""
        for layer in self.layers:
            step = change(layer, h, step)
            h = layer(h)

        return step
