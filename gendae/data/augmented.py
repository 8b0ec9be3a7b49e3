"""Images that are turned over, shifted and enlarged in training, another time in each epoch.

    x'_c(i, j) = x_c(i - a, j - b)      or, turned over,      x_c(i - a, W - 1 - j + b)

a and b are drawn from -k .. k, and 0 comes in at the borders. Before that, a window of the image
that is smaller by a factor drawn between 1 and `zoom`, each of its octaves with the same chance,
is enlarged to the size of the image (bicubic): what is near is seen as what is far away. An image
keeps its class, so that a network learns what does not change it. Validation and test images, and
those that the prior of the top layer is fitted on, stay as they are.
"""

import math

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.data.base import Data, source_of
from gendae.data.binarised import Binarised
from gendae.data.loader import Split
from gendae.registry import Plain, register


class ImageVariation:
    """Enlarges images, turns them over by chance, and shifts them; all on their device.

    Args:
        shape: of an image, see `checks.ImageShape`.
        flip: whether left and right are exchanged, in every second image on average.
        shift: k, in pixels.
        zoom: by how much a window of the image is enlarged at most.

    Example:
        >>> vary = ImageVariation((2, 3), flip=True, shift=1)
        >>> x = torch.arange(1.0, 7.0).view(1, 6)
        >>> vary(x, torch.tensor([[0, 0, 1]])).view(2, 3).tolist()              # to the right
        [[0.0, 1.0, 2.0], [0.0, 4.0, 5.0]]
        >>> vary(x, torch.tensor([[1, -1, 0]])).view(2, 3).tolist()             # and up
        [[6.0, 5.0, 4.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, shape: tuple[int, ...], flip: bool, shift: int, zoom: float = 1.0) -> None:
        self.shape = checks.ImageShape.of(shape)
        self.flip = flip
        self.shift = shift
        self.zoom = zoom

    def draws(self, n: int, generator: Generator) -> Tensor:
        """For each of n images 1 if it is turned over, and its shift down and to the right.

        With a zoom these are followed by its factor, and the place of its window: from -1, the
        top and the left, to 1.
        """
        flips = torch.randint(0, 2, (n, 1), generator=generator) * int(self.flip)
        shifts = torch.randint(-self.shift, self.shift + 1, (n, 2), generator=generator)
        drawn = torch.cat([flips, shifts], 1)
        if self.zoom == 1.0:
            return drawn

        factor = (math.log(self.zoom) * torch.rand(n, 1, generator=generator)).exp()
        place = 2.0 * torch.rand(n, 2, generator=generator) - 1.0

        return torch.cat([drawn, factor, place], 1)

    def __call__(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Images, (batch, features), each varied by its draw, (batch, 3) or (batch, 6)."""
        if drawn.shape[1] > 3:
            x = self.enlarged(x, *drawn[:, 3:].to(x).split([1, 2], 1))

        return self.moved(x, drawn[:, :3].long())

    def enlarged(self, x: Tensor, factor: Tensor, place: Tensor) -> Tensor:
        """A window of each image, enlarged to its size.

        Args:
            x: images, (batch, features).
            factor: by how much, (batch, 1).
            place: of the window, from top to bottom and from left to right, (batch, 2).
        """
        share = 1.0 / factor
        down, right = ((1.0 - share) * place).unsqueeze(2).unbind(1)
        rows = _resampling(self.shape.height, share, down)
        columns = _resampling(self.shape.width, share, right)

        window = torch.einsum("nij,ncjk,nlk->ncil", rows, self.shape.images(x), columns)
        return window.clamp(0.0, 1.0).flatten(1)

    def moved(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Images, (batch, features), turned over and shifted by whole numbers, (batch, 3)."""
        channels, height, width = self.shape
        flips, down, right = drawn.unsqueeze(-1).unbind(1)

        rows = torch.arange(height, device=x.device) - down
        columns = torch.arange(width, device=x.device) - right
        columns = torch.where(flips > 0, width - 1 - columns, columns)
        rows_inside = (rows >= 0) & (rows < height)
        columns_inside = (columns >= 0) & (columns < width)

        rows = rows.clamp(0, height - 1)
        columns = columns.clamp(0, width - 1)
        source = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1)
        inside = (rows_inside.unsqueeze(2) & columns_inside.unsqueeze(1)).flatten(1)

        pixels = x.view(len(x), channels, height * width)
        moved = pixels.gather(2, source.unsqueeze(1).expand_as(pixels))

        return (moved * inside.unsqueeze(1)).flatten(1)


def _resampling(side: int, share: Tensor, middle: Tensor) -> Tensor:
    """Weights of the pixels of a line for those of an enlarged part of it, (batch, side, side).

    They are those of Catmull and Rom's cubic, which gives straight lines and parabolas as they
    are; beyond its ends a line goes on as it ends.

    Args:
        side: number of pixels of the line.
        share: of it that is enlarged, (batch, 1).
        middle: of this part, from -1 to 1, (batch, 1).
    """
    pixels = torch.arange(side, device=share.device, dtype=share.dtype)
    centred = (2.0 * pixels + 1.0) / side - 1.0
    places = 0.5 * side * (share * centred + middle + 1.0) - 0.5

    beyond = torch.arange(-2, side + 2, device=share.device, dtype=share.dtype)
    far = (places[:, :, None] - beyond).abs()
    near = 1.5 * far**3 - 2.5 * far**2 + 1.0
    next_to = -0.5 * far**3 + 2.5 * far**2 - 4.0 * far + 2.0
    weights = near.where(far <= 1.0, next_to.where(far < 2.0, torch.zeros_like(far)))

    inside = weights[:, :, 2:-2].clone()
    inside[:, :, 0] += weights[:, :, :2].sum(2)
    inside[:, :, -1] += weights[:, :, -2:].sum(2)

    return inside


@register
class Augmented(Data):
    """Images of a source that are turned over, shifted and enlarged in training, and nowhere else.

    Every training image has a draw of its own in each epoch, by the seed, whatever the number of
    processes. `split` gives the images as they are.

    Args:
        source: the images.
        flip: exchange left and right in every second image, on average.
        shift: up to how many pixels images are moved, up or down and to a side; 0 comes in.
        zoom: by how much a window of an image is enlarged to its size, at most; 1 for none.
        batch_size, seed: see `Data`; the seed draws what is done to an image too.

    Raises:
        ValueError: for a zoom below 1, and one above 1 of `Binarised` images, of which it would
            make grey values (what is turned over and shifted stays bits); for a source of anything
            but images, when it is read.

    Example:
        >>> from gendae.data.images import Digits
        >>> data = Augmented(Digits(), flip=False, shift=1)
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.x.shape, data.shape, len(data.split("train").x)
        (torch.Size([100, 64]), (8, 8), 1199)
    """

    kind = "image"
    decisive = ("flip", "shift", "zoom")

    def __init__(
        self,
        source: Data,
        flip: bool = True,
        shift: int = 4,
        zoom: float = 1.0,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.source = source_of(source, type(self).__name__)
        self.flip = bool(flip)
        self.shift = checks.whole("shift", shift, 0)
        self.zoom = checks.at_least("zoom", zoom, 1.0)
        if self.zoom > 1.0:
            self._check_grey()

    def _check_grey(self) -> None:
        """Raise a ValueError for bits: enlarged, they are grey values, in training alone."""
        source: object = self.source
        while isinstance(source, Data) and not isinstance(source, Binarised):
            source = getattr(source, "source", None)

        if isinstance(source, Binarised):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"zoom={self.zoom}: the source is Binarised, and bits that are enlarged are grey "
                "values; accepted: zoom=1"
            )

    def prepare_data(self) -> None:
        """Fetch the images where they are missing."""
        self.source.prepare_data()

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        splits = {name: self.source.rows(name) for name in ("train", "valid", "test")}
        shape = self.source.shape
        self._identity = self.source.identity

        width = splits["train"].x.shape[1]
        if self.source.kind != "image" or checks.ImageShape.of(shape).features != width:
            raise ValueError(
                f"source={type(self.source).__name__}: x holds other things than images of shape "
                f"{shape}, which are what is turned over and shifted"
            )
        return splits, shape

    def facts(self) -> dict[str, Plain]:
        """Those of the source, such as names of the classes."""
        return self.source.facts()

    def remark(self) -> str | None:
        """That of the source."""
        return self.source.remark()

    def split(self, name: str) -> Split:
        """That of the source, as it is."""
        self.setup()
        return self.source.split(name)

    def rows(self, name: str) -> Split:
        """Those of the source, as they are."""
        self.setup()
        return self.source.rows(name)

    def check(self, name: str, x: Tensor) -> None:
        """The source has checked its images."""

    def variation(self) -> ImageVariation:
        """What is done to the images of training batches."""
        return ImageVariation(self.shape, self.flip, self.shift, self.zoom)
