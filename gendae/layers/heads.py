"""A layer whose units have several activations, as a mixture of real and discrete units needs."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.layers.activations import ACTIVATIONS
from gendae.layers.wrapped import as_layer
from gendae.registry import register

#: There is no lambda among them, so that heads can be pickled.
HEADS = ACTIVATIONS | {"softmax": partial(torch.softmax, dim=-1)}


@register
class Heads(nn.Module):
    """A linear layer with a separate activation for each block of its output.

    Args:
        g: the layer, with a linear output; any module, see `Wrapped`.
        activations: one for each block: those of `Affine`, or softmax.
        widths: of the blocks.

    Raises:
        ValueError: for an unknown activation, widths that are not those of the output, or an
            output that is not linear.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> f = Heads(Affine(4, 5), ["linear", "softmax"], [2, 3])
        >>> f(torch.rand(6, 4))[:, 2:].sum(1).allclose(torch.ones(6))
        True
    """

    def __init__(
        self, g: nn.Module, activations: Sequence[str | None], widths: Sequence[int]
    ) -> None:
        super().__init__()
        self.g = as_layer(g)
        self.given_activations = [
            checks.one_of("activation", s, HEADS)
            for s in checks.several("activations", activations)
        ]
        self.widths = checks.wholes("widths", widths, 1)
        self.in_features = self.g.in_features
        self.out_features = self.g.out_features

        if len(self.given_activations) != len(self.widths):
            raise ValueError(
                f"activations={self.given_activations} and widths={self.widths}: one activation "
                "for each block is needed"
            )
        if sum(self.widths) != self.out_features:
            raise ValueError(
                f"widths={self.widths} make {sum(self.widths)} units, but g gives "
                f"{self.out_features}"
            )
        if self.g.activation not in (None, "linear"):
            raise ValueError(f"g has a {self.g.activation} output; a linear one is needed")

        self.activations = [HEADS[name] for name in self.given_activations]
        self.activation = "heads"

    @property
    def of_units(self) -> list[str]:
        """The activation of each unit."""
        names = []
        for name, width in zip(self.given_activations, self.widths, strict=True):
            names += [name] * width

        return names

    def forward(self, h: Tensor) -> Tensor:
        return self.heads(self.g(h))

    def heads(self, a: Tensor) -> Tensor:
        """The means, each slice of a through its own activation."""
        parts = a.split(self.widths, -1)
        return torch.cat([s(part) for s, part in zip(self.activations, parts, strict=True)], -1)
