"""Any nn.Module as an encoder or a decoder.

A stack is flat: representations are rows, (batch, features). A module of one's own may take and
give tensors of any other shape, such as NCHW images; its rows are shaped before it and flattened
after.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.errors import reason
from gendae.layers.activations import ACTIVATIONS
from gendae.registry import REGISTRY, build, describe, register

#: Functions that laws ask for, or that give a layer its range.
KNOWN = (*ACTIVATIONS, "softmax")
#: What a `Pair` asks of a layer.
LAYER = ("in_features", "out_features", "activation")


class Layer(Protocol):
    """An encoder or a decoder of a `Pair`: an nn.Module that says its widths and activation."""

    @property
    def in_features(self) -> int:
        """Width of the input."""

    @property
    def out_features(self) -> int:
        """Width of the output."""

    @property
    def activation(self) -> str | None:
        """Name of the function that the output has been through; None if it is not gendae's."""

    def __call__(self, h: Tensor) -> Tensor:
        """The output, (batch, out_features)."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """What learns."""


@register
class Wrapped(nn.Module):
    """A module as a map of rows, (batch, in_features) -> (batch, out_features).

    Files hold no code: a model with a wrapped module is saved where the module's class is known,
    by `gendae.register`.

    Args:
        module: the map.
        in_shape: shape of one example that it takes, such as (1, 28, 28); if None, the width of
            its first layer, which must be linear.
        activation: name of the function that its output has been through, such as "sigmoid", where
            a law needs that; None if it is none of gendae's.

    Raises:
        ValueError: if the width of the input is not to be found, the module does not take it, or
            the activation is unknown.

    Example:
        >>> images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh())
        >>> f = Wrapped(images, in_shape=(1, 8, 8))
        >>> f.in_features, f.out_features, f(torch.rand(2, 64)).shape
        (64, 144, torch.Size([2, 144]))
    """

    def __init__(
        self,
        module: nn.Module,
        in_shape: int | Sequence[int] | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        if in_shape is None:
            in_shape = _first_width(module)
        if isinstance(in_shape, int):
            in_shape = [in_shape]

        self.module = module
        self.in_shape = tuple(checks.wholes("in_shape", in_shape, 1))
        self.activation = activation
        if activation is not None:
            checks.one_of("activation", activation, KNOWN)
        self.in_features = math.prod(self.in_shape)
        self.out_shape = self._probe()
        self.out_features = math.prod(self.out_shape)

    @torch.no_grad()
    def _probe(self) -> tuple[int, ...]:
        """The shape of the output, found by sending zeros through the module."""
        example = next(self.module.parameters(), torch.empty(0))
        training = self.module.training

        self.module.eval()
        try:
            output = self.module(example.new_zeros(2, *self.in_shape))
            output.flatten(1)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"in_shape={self.in_shape}: {type(self.module).__name__} does not take batches of "
                f"it: {reason(error)}"
            ) from None
        finally:
            self.module.train(training)

        return tuple(output.shape[1:])

    def forward(self, h: Tensor) -> Tensor:
        return self.module(h.unflatten(1, self.in_shape)).flatten(1)


def as_layer(module: nn.Module) -> Layer:
    """A module that says its widths and activation as it is, any other one wrapped."""
    if all(hasattr(module, name) for name in LAYER):
        return cast(Layer, module)

    return Wrapped(module)


def anew(module: nn.Module) -> nn.Module:
    """A module of the same arguments, with weights that are drawn anew.

    Of modules that are not registered, such as torch's own, it is a copy whose layers draw theirs
    anew where they know how.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> layer = Affine(3, 2)
        >>> other = anew(layer)
        >>> other.weight.shape == layer.weight.shape, torch.equal(other.weight, layer.weight)
        (True, False)
    """
    if REGISTRY.get(type(module).__name__) is type(module):
        return cast(nn.Module, build(describe(module)))

    module = copy.deepcopy(module)
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()

    return module


def _first_width(module: nn.Module) -> int:
    """The width that a module's first layer with parameters takes."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            return part.in_features
        if next(part.parameters(recurse=False), None) is not None:
            break

    raise ValueError(
        f"in_shape=None: {type(module).__name__} does not begin with a linear layer; give the "
        "shape of one example: gendae.Wrapped(module, in_shape=(channels, height, width))"
    )


def change(layer: nn.Module, h: Tensor, d: Tensor) -> Tensor:
    """layer(h + d) - layer(h), without cancellation where the layer has a formula for it."""
    difference = getattr(layer, "difference", None)
    if difference is None:
        return layer(h + d) - layer(h)

    return difference(h, d)
