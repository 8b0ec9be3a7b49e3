"""A denoiser of images of which a part is given, which does not care for their contrast.

    h_0 = W_0 * (z, v z) a_0(v, c)
    h_l = h_{l-1} + V_l * relu(W_l * h_{l-1} a_l(v, c))
    F = W * h_L,        a_l = 1 + A_l * v + B_l c

with convolutions that keep the size of the image and have no constants, c the level of noise, and
v what is given. Gates a_l know which neighbours to listen to; what they let through is never
normalised, so that F(b z) = b F(z) for b > 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gendae.priors.denoiser import waves
from gendae.priors.level_conv import ImageNetwork
from gendae.registry import register


@register
class GatedConv(ImageNetwork):
    """F(z, c, (v, v z)) of images by gated convolutions without constants.

    The last layer is 0 at the start, so that D begins as the denoiser of Gaussian images.
    Source: Mohan et al. 2020 (no constants); Yu et al. 2019 (gates of what is given); Zhang et al.
    2018 (p x p pixels as one place).

    Args:
        shape: (channels, height, width) of the images.
        channels: of the hidden layers.
        layers: number L of residual layers, of two convolutions each.
        kernel: side of the kernels, an odd number of pixels.
        frequencies: number of sines, and of cosines, of the level.
        fold: p, squares of p x p pixels are taken as one place, which is p x p times as fast.

    Raises:
        ValueError: for numbers below 1, an even kernel, and squares that do not cover the image;
            for another condition than what is given, twice as wide as the images.

    Example:
        >>> network = GatedConv((3, 8, 8), channels=4, layers=1)
        >>> network.prepare(features=192, condition=384)
        >>> network(torch.ones(2, 192), torch.zeros(2), torch.ones(2, 384)).shape
        torch.Size([2, 192])
    """

    constants = False

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 32,
        layers: int = 3,
        kernel: int = 3,
        frequencies: int = 16,
        fold: int = 1,
    ) -> None:
        super().__init__(shape, channels, layers, kernel, frequencies, fold)

    def prepare(self, features: int, condition: int = 0) -> None:
        """Create the weights for images, and conditions, of these widths.

        Raises:
            ValueError: for images of another shape, and other conditions.
        """
        self.check_width(features)
        if condition != 2 * features:
            raise ValueError(
                f"GatedConv is told what is given, {2 * features} numbers, and not {condition}; "
                "LevelConv takes other conditions"
            )

        of_x = self.shape[0] * self.fold**2
        width = self.channels
        gates = range(self.layers + 1)

        self.enter = self.conv(2 * of_x, width)
        self.inner = nn.ModuleList(self.conv(width, width) for _ in range(self.layers))
        self.outer = nn.ModuleList(self.conv(width, width) for _ in range(self.layers))
        self.leave = self.conv(width, of_x)
        self.of_given = nn.ModuleList(self.conv(of_x, width) for _ in gates)
        self.of_level = nn.ModuleList(nn.Linear(2 * self.frequencies, width) for _ in gates)

        nn.init.zeros_(self.leave.weight)

    def forward(self, z: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """F, (batch, features).

        Args:
            z: (batch, features), of variance 1.
            level: ln s / 4, (batch,).
            condition: v and v z, (batch, 2 features).
        """
        c = waves(level, self.frequencies)
        given, seen = (self.folded(part) for part in condition.chunk(2, 1))
        first, *others = (
            1.0 + a(given) + b(c)[:, :, None, None]
            for a, b in zip(self.of_given, self.of_level, strict=True)
        )

        h = self.enter(torch.cat([self.folded(z), seen], 1)) * first
        for gate, inner, outer in zip(others, self.inner, self.outer, strict=True):
            h = h + outer(functional.relu(inner(h) * gate))

        return self.unfolded(self.leave(h))
