"""Sequences as rows: x is (x_1 .. x_T), of which a recurrent pair reads one step at a time."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d

from gendae import checks
from gendae.data.base import Data, shuffled_splits, source_of
from gendae.data.loader import Split
from gendae.data.series import ChannelScale, Series, read_series
from gendae.registry import Plain, register


@register
class Sequences(Data):
    """Your own sequences, from one file or two, of one length or of several.

    Where they have several, a number before each step says whether it is there, as a
    `RecurrentPair` with masked=True reads it: `shape` is then (T, channels + 1).

    Args:
        path: .npz, .npy or .ts, see `gendae.data.series.read_series`.
        test: file of the test sequences; if None, they are a share of `path`.
        steps: T; by default that of the longest sequence.
        valid_fraction, test_fraction: shares of `path` kept out of training.
        standardise: channels have mean 0 and standard deviation 1 over all training steps. A model
            remembers their units.
        batch_size, seed: see `Data`; the seed draws the split.

    Raises:
        ValueError: for numbers out of range; when they are read, see `read_series`, and for files
            whose sequences differ in their channels or in what is known of them.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/walks.npz"
        ...     np.savez(path, x=np.random.randn(50, 9, 2).cumsum(1), lengths=[9, 5] * 25)
        ...     data = Sequences(path, standardise=True)
        ...     data.split("train").x.shape, data.shape
        (torch.Size([40, 27]), (9, 3))
    """

    kind = "sequence"
    decisive = ("standardise",)

    def __init__(
        self,
        path: str,
        test: str | None = None,
        steps: int | None = None,
        valid_fraction: float = 0.1,
        test_fraction: float = 0.1,
        standardise: bool = False,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.path = str(path)
        self.test = None if test is None else str(test)
        self.steps = None if steps is None else checks.whole("steps", steps, 1, checks.REPEATS)
        self.standardise = bool(standardise)

        self.valid_fraction, self.test_fraction = checks.fractions(
            valid_fraction=valid_fraction, test_fraction=test_fraction
        )
        self._scale: ChannelScale | None = None

    @property
    def scale(self) -> ChannelScale | None:
        """The units of the channels; None where they are those of the file."""
        self.setup()
        return self._scale

    def facts(self) -> dict[str, Plain]:
        """The units of the channels, where they are not those of the file."""
        if self.scale is None:
            return {}

        return {"scale": self.scale.fact()}

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        files = [self.path] if self.test is None else [self.path, self.test]
        read = [read_series(file) for file in files]
        for file, series in zip(files, read, strict=True):
            if series.observed is not None:
                raise ValueError(
                    f"{file}: observed marks steps for `gendae complete`; training needs all of "
                    "them"
                )
        self._identify(read)
        if len(read) == 2:
            self._check_alike(*read)

        longest = max(series.x.shape[1] for series in read)
        steps = self.steps or longest
        if longest > steps:
            raise ValueError(f"steps={steps}: the longest sequence of {self.path} has {longest}")

        masked = any(s.lengths is not None or s.x.shape[1] < steps for s in read)
        parts = self._parts([series.padded(steps) for series in read])
        if self.standardise:
            self._scale = ChannelScale.of(parts["train"])
            parts = {name: part.scaled(self._scale) for name, part in parts.items()}

        splits = {name: Split(part.rows(masked), part.y) for name, part in parts.items()}
        return splits, (steps, read[0].x.shape[2] + masked)

    def _identify(self, read: list[Series]) -> None:
        """Note the arrays of both files."""
        arrays = {}
        for name, series in zip(("", "test_"), read, strict=False):
            arrays |= {f"{name}{key}": value for key, value in series._asdict().items()}

        self.identify(self.path, **arrays)

    def _check_alike(self, train: Series, test: Series) -> None:
        """Raise a ValueError unless both files hold the same kind of sequences."""
        widths = (train.x.shape[2], test.x.shape[2])
        if widths[0] != widths[1]:
            raise ValueError(
                f"{self.test}: x has {widths[1]} channels; that of {self.path} has {widths[0]}"
            )

        kinds = [None if y is None else (y.ndim, y.dtype) for y in (train.y, test.y)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"{self.test}: y is not of the shape and type that it has in {self.path}"
            )

    def _parts(self, read: list[Series]) -> dict[str, Series]:
        """Training, validation and test sequences."""
        series = read[0]
        fractions = (self.valid_fraction, self.test_fraction if len(read) == 1 else 0.0)
        numbers = torch.arange(len(series.x))[:, None]
        drawn = shuffled_splits(numbers, None, fractions, self.seed)

        parts = {}
        for name, split in drawn.items():
            index = split.x[:, 0]
            parts[name] = Series(*(None if a is None else a[index] for a in series))
        if len(read) == 2:
            parts["test"] = read[1]

        return parts


STEPS = ("pixel", "row")


@register
class ImageSequences(Data):
    """Images read step by step: a pixel or a row at a time, in their order or in another one.

    Pixel by pixel and permuted, MNIST is the test of long memory of Le et al. 2015.

    Args:
        source: the images.
        step: "pixel", T = height * width steps of one number, in colour of three; or "row",
            T = height.
        side: height and width to which they are reduced, as means of blocks; None for all pixels.
        permute_seed: draws the order of the pixels, the same one for all images; None for theirs.
        n: number of training images, the first ones; None for all.
        batch_size, seed: see `Data`.

    Raises:
        ValueError: for an unknown step; when they are read, for images without such blocks, and
            for fewer images than n.

    Example:
        >>> from gendae.data.images import Digits
        >>> data = ImageSequences(Digits(), side=4, permute_seed=0, n=1000)
        >>> data.split("train").x.shape, data.shape
        (torch.Size([1000, 16]), (16, 1))
    """

    decisive = ("step", "side", "permute_seed")

    def __init__(
        self,
        source: Data,
        step: str = "pixel",
        side: int | None = None,
        permute_seed: int | None = None,
        n: int | None = None,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.source = source_of(source, type(self).__name__)
        self.step = checks.one_of("step", step, STEPS)
        self.side = None if side is None else checks.whole("side", side, 1)
        self.permute_seed = checks.seed("permute_seed", permute_seed)
        self.n = None if n is None else checks.whole("n", n, 1)

        self.kind = "sequence"
        if self.step == "row" and self.permute_seed is None:
            self.kind = "image"  # whose samples are pictures

    def prepare_data(self) -> None:
        """Fetch the images where they are missing."""
        self.source.prepare_data()

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        frame = checks.ImageShape.of(self.source.shape)
        if frame.channels > 1:
            self.kind = "sequence"  # the channels of a pixel lie side by side in a step
        self._identity = self.source.identity
        splits = {name: self.source.split(name) for name in ("train", "valid", "test")}

        present = len(splits["train"].x)
        if self.n is not None:
            if self.n > present:
                raise ValueError(f"n={self.n}: there are {present} training images")
            splits["train"] = splits["train"].rows(slice(self.n))

        splits = {
            name: split._replace(x=self._ordered(split.x, frame)) for name, split in splits.items()
        }
        channels, height, width = frame
        if self.side is not None:
            height = width = self.side

        if self.step == "row":
            return splits, (height, width * channels)
        return splits, (height * width, channels)

    def _ordered(self, x: Tensor, frame: checks.ImageShape) -> Tensor:
        """The pixels of images, (n, features), as they are read."""
        images = frame.images(x)
        if self.side is not None:
            if any(length % self.side for length in frame.size):
                raise ValueError(
                    f"side={self.side}: images of {frame.height} x {frame.width} pixels have no "
                    "such blocks; a divisor of both is needed"
                )
            images = avg_pool2d(images, [length // self.side for length in frame.size])

        pixels = images.flatten(2).transpose(1, 2)
        if self.permute_seed is not None:
            generator = Generator().manual_seed(self.permute_seed)
            pixels = pixels[:, torch.randperm(pixels.shape[1], generator=generator)]

        return pixels.flatten(1)
