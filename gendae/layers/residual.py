"""Maps that add to what they are given: h -> h + scale * branch(h).

Many of them in a row stay near the identity, and so do their inverses: what errs in one of them
does not grow with their number, neither on the way up nor on the way of targets down.
"""

from typing import cast

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.layers.layers import in_shape, out_shape
from gendae.layers.wrapped import Layer, as_layer, change
from gendae.registry import register


@register
class Residual(nn.Module):
    """h -> h + scale * branch(h), for the first units of h, as many as the branch gives.

    As f of a recurrent `Cell` it is s_t = s_{t-1} + scale * branch(s_{t-1}, x_t): a step of
    Euler's method for the differential equation ds/dt = branch(s, x).
    Source: He et al. 2016; of recurrent networks, Chang et al. 2019.

    Args:
        branch: a layer whose input is at least as wide as its output.
        scale: length of the step.

    Raises:
        ValueError: for a branch that gives more units than it takes, and a scale of 0 or less.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> layer = Residual(Affine(5, 3, "tanh"), scale=0.1)
        >>> layer(torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """

    branch: Layer
    #: What the output has been through: no function with a range.
    activation = None

    def __init__(self, branch: nn.Module, scale: float = 0.1) -> None:
        super().__init__()
        self.branch = as_layer(branch)
        self.scale = checks.at_least("scale", scale, 0.0, strict=True)

        self.in_features = self.branch.in_features
        self.out_features = self.branch.out_features
        self.in_shape = in_shape(self.branch)
        self.out_shape = out_shape(self.branch)
        if self.out_features > self.in_features:
            raise ValueError(
                f"branch maps {self.in_features} -> {self.out_features} units; what it gives is "
                "added to what it takes: as many units or fewer are needed"
            )

    def forward(self, h: Tensor) -> Tensor:
        kept = h[..., : self.out_features]
        return torch.add(kept, self.branch(h), alpha=self.scale)

    def difference(self, h: Tensor, step: Tensor) -> Tensor:
        """What the output changes by where h is moved by a step, without cancellation."""
        moved = step[..., : self.out_features]
        branch = cast(nn.Module, self.branch)

        return torch.add(moved, change(branch, h, step), alpha=self.scale)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"
