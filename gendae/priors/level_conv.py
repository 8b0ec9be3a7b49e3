"""The network of a denoiser of images, at any level of noise: see `gendae.priors.denoiser`.

    h <- h + V * silu(scale(c) * norm(W * h) + shift(c))

with convolutions W and V that keep the size of the image, and a scale and a shift for each
channel that know the level of noise. What the images are conditioned on is known to these too, or,
where it is an image itself, lies beside them as further channels. Squares of p x p pixels may be
taken as one place with p x p times as many channels, which is p x p times as fast (Zhang et al.
2018, FFDNet).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gendae import checks
from gendae.layers.conv import image_shape
from gendae.priors.denoiser import waves
from gendae.registry import register

CONDITIONS = ("scales", "channels")


class ImageNetwork(nn.Module):
    """Base class: F of images, by convolutions that keep their size.

    Args:
        shape: (channels, height, width) of the images.
        channels: of the hidden layers.
        layers: number of residual layers, of two convolutions each.
        kernel: side of the kernels, an odd number of pixels.
        frequencies: number of sines, and of cosines, of the level.
        fold: p, squares of p x p pixels are taken as one place.
    """

    #: Whether convolutions have constants.
    constants = True

    def __init__(
        self,
        shape: Sequence[int],
        channels: int,
        layers: int,
        kernel: int,
        frequencies: int,
        fold: int,
    ) -> None:
        super().__init__()

        self.shape = image_shape("shape", shape)
        self.channels = checks.whole("channels", channels, 1)
        self.layers = checks.whole("layers", layers, 1)
        self.kernel = checks.odd("kernel", kernel)
        self.frequencies = checks.whole("frequencies", frequencies, 1)
        self.fold = checks.covers("fold", fold, self.shape[1:])

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what it takes and gives."""
        return self.shape

    def check_width(self, features: int) -> None:
        """Raise a ValueError for images of another shape."""
        pixels = torch.Size(self.shape).numel()
        if features != pixels:
            raise ValueError(f"shape={self.shape} makes {pixels} numbers; there are {features}")

    def conv(self, low: int, high: int) -> nn.Conv2d:
        """A convolution that keeps the size."""
        return nn.Conv2d(low, high, self.kernel, padding=self.kernel // 2, bias=self.constants)

    def folded(self, rows: Tensor) -> Tensor:
        """Rows, of any number of channels, as images of folded pixels."""
        images = rows.unflatten(1, (-1, *self.shape[1:]))
        return functional.pixel_unshuffle(images, self.fold)

    def unfolded(self, images: Tensor) -> Tensor:
        """Images of folded pixels as rows."""
        return functional.pixel_shuffle(images, self.fold).flatten(1)


@register
class LevelConv(ImageNetwork):
    """F(z, c) of images: residual convolutions, scaled and shifted by the level of noise (FiLM).

    The last layer is 0 at the start, so that D begins as the denoiser of Gaussian images.
    Source: Perez et al. 2018 (FiLM).

    Args:
        shape: (channels, height, width) of the images.
        channels: of the hidden layers.
        layers: number of residual layers, of two convolutions each.
        kernel: side of the kernels, an odd number of pixels.
        frequencies: number of sines, and of cosines, of the level.
        conditions: "scales", by which channels are scaled and shifted, or "channels", images of
            the same height and width.
        fold: p.

    Raises:
        ValueError: for numbers below 1, an even kernel, other conditions, and squares that do not
            cover the image.

    Example:
        >>> network = LevelConv((3, 8, 8), channels=4, layers=1)
        >>> network.prepare(features=192)
        >>> network(torch.ones(2, 192), torch.zeros(2)).shape
        torch.Size([2, 192])
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 32,
        layers: int = 3,
        kernel: int = 3,
        frequencies: int = 16,
        conditions: str = "scales",
        fold: int = 1,
    ) -> None:
        super().__init__(shape, channels, layers, kernel, frequencies, fold)
        self.conditions = checks.one_of("conditions", conditions, CONDITIONS)

    def prepare(self, features: int, condition: int = 0) -> None:
        """Create the weights for images, and conditions, of these widths.

        Raises:
            ValueError: for images of another shape, and conditions that are no images where they
                have to be.
        """
        self.check_width(features)

        of_x, height, columns = self.shape
        beside, left = 0, condition
        if self.conditions == "channels":
            beside, left = divmod(condition, height * columns)
            if left:
                raise ValueError(
                    f"conditions='channels': {condition} numbers are no images of "
                    f"{height} x {columns} pixels"
                )

        width = self.channels
        level = 2 * self.frequencies + left

        pixels = self.fold**2
        self.enter = self.conv((of_x + beside) * pixels, width)
        self.films = nn.ModuleList(nn.Linear(level, 2 * width) for _ in range(self.layers))
        self.inner = nn.ModuleList(self.conv(width, width) for _ in range(self.layers))
        self.outer = nn.ModuleList(self.conv(width, width) for _ in range(self.layers))
        self.leave = self.conv(width, of_x * pixels)

        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor, level: Tensor, condition: Tensor | None = None) -> Tensor:
        """F, (batch, features).

        Args:
            z: (batch, features), of variance 1.
            level: ln s / 4, (batch,).
            condition: (batch, width of conditions).
        """
        c = waves(level, self.frequencies)
        if condition is not None and self.conditions == "channels":
            z = torch.cat([z, condition], 1)
        elif condition is not None:
            c = torch.cat([c, condition], -1)

        h = self.enter(self.folded(z))
        for film, inner, outer in zip(self.films, self.inner, self.outer, strict=True):
            scale, shift = film(c)[:, :, None, None].chunk(2, 1)
            norm = functional.group_norm(inner(h), 1)
            h = h + outer(functional.silu(torch.addcmul(shift, norm, 1.0 + scale)))

        return self.unfolded(self.leave(functional.silu(h)))
