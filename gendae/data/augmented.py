"""Images that are turned over and shifted in training, another time in each epoch.

    x'_c(i, j) = x_c(i - a, j - b)      or, turned over,      x_c(i - a, W - 1 - j + b)

a and b are drawn from -k .. k, and 0 comes in at the borders. An image keeps its class, so that a
network learns what does not change it. Validation and test images, and those that the prior of the
top layer is fitted on, stay as they are.
"""

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.data.base import Data, source_of
from gendae.data.loader import Split
from gendae.registry import Plain, register


class FlipAndShift:
    """Turns images over by chance, and shifts them by up to k pixels; all on their device.

    Args:
        shape: of an image, see `checks.ImageShape`.
        flip: whether left and right are exchanged, in every second image on average.
        shift: k, in pixels.

    Example:
        >>> vary = FlipAndShift((2, 3), flip=True, shift=1)
        >>> x = torch.arange(1.0, 7.0).view(1, 6)
        >>> vary(x, torch.tensor([[0, 0, 1]])).view(2, 3).tolist()              # to the right
        [[0.0, 1.0, 2.0], [0.0, 4.0, 5.0]]
        >>> vary(x, torch.tensor([[1, -1, 0]])).view(2, 3).tolist()             # and up
        [[6.0, 5.0, 4.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, shape: tuple[int, ...], flip: bool, shift: int) -> None:
        self.shape = checks.ImageShape.of(shape)
        self.flip = flip
        self.shift = shift

    def draws(self, n: int, generator: Generator) -> Tensor:
        """For each of n images 1 if it is turned over, and its shift down and to the right."""
        flips = torch.randint(0, 2, (n, 1), generator=generator) * int(self.flip)
        shifts = torch.randint(-self.shift, self.shift + 1, (n, 2), generator=generator)

        return torch.cat([flips, shifts], 1)

    def __call__(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Images, (batch, features), each varied by its draw, (batch, 3)."""
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


@register
class Augmented(Data):
    """Images of a source that are turned over and shifted in training, and nowhere else.

    Every training image has a draw of its own in each epoch, by the seed, whatever the number of
    processes. `split` gives the images as they are.

    Args:
        source: the images.
        flip: exchange left and right in every second image, on average.
        shift: up to how many pixels images are moved, up or down and to a side; 0 comes in.
        batch_size, seed: see `Data`; the seed draws what is turned over and shifted too.

    Raises:
        ValueError: for a source of anything but images, when it is read.

    Example:
        >>> from gendae.data.images import Digits
        >>> data = Augmented(Digits(), flip=False, shift=1)
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.x.shape, data.shape, len(data.split("train").x)
        (torch.Size([100, 64]), (8, 8), 1199)
    """

    kind = "image"

    def __init__(
        self,
        source: Data,
        flip: bool = True,
        shift: int = 4,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.source = source_of(source, type(self).__name__)
        self.flip = bool(flip)
        self.shift = checks.whole("shift", shift, 0)

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

    def variation(self) -> FlipAndShift:
        """What is done to the images of training batches."""
        return FlipAndShift(self.shape, self.flip, self.shift)
