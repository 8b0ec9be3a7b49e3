"""Data sets larger than memory: arrays that stay on disk, read batch by batch.

A data set is one .npy or a folder of them ("shards"). Training holds no more than the model, a
batch and the order of an epoch.
"""

import math
from collections.abc import Sequence
from io import RawIOBase
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.data.base import SPLITS, counted
from gendae.data.files import (
    channels_first,
    check_pairing,
    image_shape,
    in_order,
    is_coloured,
    is_grey,
    read_header,
    read_labels,
)
from gendae.data.images import Images
from gendae.data.loader import Split
from gendae.errors import reason
from gendae.registry import register
from gendae.storage.inputs import regular_file

#: Images that `Shards.split` hands out as one tensor, for uses that need only a sample of the
#: data.
SAMPLE = 20_000
#: Rows of each file by which data are known again: they are not read as a whole.
COMPARED = 1000
#: Most pixels of either.
MOST_PIXELS = 2**26


class ArrayFile:
    """The array in a .npy, of which only the rows of an index are read.

    The file is opened for each reading, and not mapped into memory: a map of a file that was cut
    short meanwhile ends the process.

    Args:
        path: FILE.npy.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or cut short, or does not hold images as bytes (0 to 255) or
            floating-point numbers, one row after the other.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.npy"
        ...     np.save(file, np.eye(3))
        ...     ArrayFile(file).rows(np.array([2, 0]))
        array([[0., 0., 1.],
               [1., 0., 0.]])
    """

    def __init__(self, path: Path) -> None:
        self.path = regular_file(path)
        try:
            with open(path, "rb") as stream:
                self.shape, by_columns, self.dtype = read_header(stream)
                self.start = stream.tell()
        except Exception as error:  # noqa: BLE001 - NumPy raises a dozen kinds for damaged headers
            raise ValueError(
                f"{path} is damaged or not a NumPy array of numbers: {reason(error)}"
            ) from None

        has_rows = all(type(side) is int and side > 0 for side in self.shape)
        of_images = is_grey(self.shape) or is_coloured(self.shape)
        of_numbers = self.dtype == np.uint8 or self.dtype.kind == "f"
        if not (has_rows and of_images and of_numbers):
            raise _not_images(path, f"{self.dtype} of shape {self.shape}")
        if by_columns:
            raise ValueError(
                f"{path} holds columns one after the other (Fortran order), and rows are read; "
                "save np.ascontiguousarray of it"
            )

        self._row = self.dtype.itemsize * math.prod(self.shape[1:])
        if path.stat().st_size < self.start + len(self) * self._row:
            raise self._cut_short()

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Rows of these numbers, (n, ..); neighbours are read at once."""
        content = bytearray(len(index) * self._row)
        view = memoryview(content)
        runs = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)

        with open(self.path, "rb", buffering=0) as stream:
            for run in runs:
                part = view[: len(run) * self._row]
                view = view[len(part) :]
                self._read(stream, int(run[0]), part)

        return np.frombuffer(content, self.dtype).reshape(len(index), *self.shape[1:])

    def _read(self, stream: RawIOBase, row: int, part: memoryview) -> None:
        """Fill a part of memory with the bytes from a row on; a read may give less than asked."""
        stream.seek(self.start + row * self._row)
        while part:
            count = stream.readinto(part)
            if not count:
                raise self._cut_short()
            part = part[count:]

    def _cut_short(self) -> ValueError:
        return ValueError(
            f"{self.path} is damaged or cut short: it has less than its {len(self):,} rows"
        )


def _not_images(path: Path, content: str) -> ValueError:
    """The error for a file that holds something else."""
    return ValueError(
        f"{path} holds {content}; images, (n, pixels), (n, height, width), or these with three "
        "channels, first or last, are needed, as floating-point numbers in [0, 1] or bytes 0..255"
    )


class Rows:
    """Rows of arrays on disk, indexed like a tensor of images in [0, 1].

    Only the rows of an index are read.

    Args:
        paths: .npy files with rows of one shape.
        index: numbers of the chosen rows, in order, counted over all files; all rows if None.
        device: device of the batches.

    Raises:
        ValueError: if there is no file or they do not fit together; on reading, for pixels outside
            [0, 1].

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.npy"
        ...     np.save(file, np.full((5, 2, 2), 51, np.uint8))
        ...     Rows([file])[torch.tensor([4, 0])]
        tensor([[0.2000, 0.2000, 0.2000, 0.2000],
                [0.2000, 0.2000, 0.2000, 0.2000]])
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        index: Tensor | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self.target = torch.device(device)
        if not self.paths:
            raise ValueError("no .npy file to read rows from")

        self.arrays = [ArrayFile(path) for path in self.paths]
        shape = self.arrays[0].shape[1:]
        for path, array in zip(self.paths, self.arrays, strict=True):
            if array.shape[1:] != shape:
                raise ValueError(
                    f"{path} holds rows of shape {array.shape[1:]}, but {self.paths[0]} of {shape}"
                )

        self.image_shape: tuple[int, ...] | None = None
        if is_coloured((1, *shape)):
            self.image_shape = channels_first(np.empty((0, *shape))).shape[1:]
        elif len(shape) > 1:
            self.image_shape = tuple(shape[:2])

        self._ends = np.cumsum([len(array) for array in self.arrays])
        if index is None:
            index = torch.arange(int(self._ends[-1]))

        self.index = index
        self.shape = torch.Size([len(index), int(np.prod(shape))])

    #: Where indices live.
    device = torch.device("cpu")
    ndim = 2

    def __len__(self) -> int:
        return len(self.index)

    def select(self, index: Tensor) -> "Rows":
        """Some of the rows, in another order, without reading any."""
        return Rows(self.paths, self.index[index], self.target)

    def to(self, device: str | torch.device) -> "Rows":
        """The same rows, given on another device."""
        return Rows(self.paths, self.index, device)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """The rows of these indices, (n, pixels), in single precision."""
        rows = self.index[index].numpy()
        files = np.searchsorted(self._ends, rows, side="right")

        x = np.empty((len(rows), self.shape[1]), np.float32)
        for file in np.unique(files):
            places = np.flatnonzero(files == file)
            forwards = places[np.argsort(rows[places])]  # places in x, by the order in the file
            x[forwards] = self._read(file, rows[forwards])

        return torch.from_numpy(x).to(self.target)

    def sample(self) -> dict[str, Tensor]:
        """Up to 1,000 rows of each file as they are, and the numbers of rows, by name."""
        parts = {"lengths": torch.tensor([len(array) for array in self.arrays])}
        most = _bounded(COMPARED, self.shape[1])
        for number, array in enumerate(self.arrays):
            places = np.linspace(0, len(array) - 1, min(len(array), most)).astype(int)
            parts[str(number)] = torch.from_numpy(np.asarray(array.rows(places), np.float32))

        return parts

    def _read(self, file: int, rows: np.ndarray) -> np.ndarray:
        """Rows of one file as checked pixels, (n, pixels); rows are counted over all files."""
        array = self.arrays[file]
        start = self._ends[file] - len(array)

        images = channels_first(array.rows(rows - start).astype(np.float32))
        pixels = images.reshape(len(rows), -1)
        if array.dtype == np.uint8:
            pixels = pixels / 255.0

        checks.pixels(str(self.paths[file]), torch.from_numpy(pixels))

        return pixels


@register
class Shards(Images):
    """Images in arrays on disk, for data larger than memory: one .npy, or a folder of them.

    The files of a folder are taken in natural order (2.npy before 10.npy). Pixels are checked when
    they are read: a value outside [0, 1] stops the training, and the error names the file. `split`
    gives a sample as a tensor; batches come from all rows. The prior of the top layer is fitted on
    codes of a random part (`gendae.rules.prior_fit.EXAMPLES`). Up to 1,000 rows of each file,
    evenly spaced, stand for all where data are compared with those that a model was trained on.

    Args:
        path: FILE.npy or a folder of .npy, (n, pixels) or (n, height, width), or with three
            channels, first or last, bytes or floating-point numbers.
        shape: height and width, in colour also behind 3, where rows are flat and not square.
        valid_fraction, test_fraction: shares of the images kept out of training.
        batch_size, seed: see `Data`; the seed draws the split.
        labels: file of class labels of all images in the same order, see `read_labels` and, for a
            folder, `check_pairing`.
        color: "rgb" where images have three channels, which a shape of them says too; None where
            they have one.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for files of another kind, or that do not fit together.
    """

    def files(self) -> list[Path]:
        """The .npy files, in order."""
        if not isinstance(self.path, str):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"path is a {type(self.path).__name__}; the name of a .npy, or of a folder of "
                "them, is needed: Images takes what is in memory"
            )
        path = checks.path("path", self.path)
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")

        if not path.is_dir():
            return [path]

        files = in_order(path.glob("*.npy"))
        if not files:
            raise ValueError(f"{path} holds no .npy files")

        return files

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        if self.color == "grey":
            raise ValueError("color='grey': Shards keep pixels as they are; Images takes the luma")

        x = Rows(self.files())
        channels = self._channels(x)
        sample = x.sample()
        y = None
        if self.labels is not None:
            y = read_labels(self.labels, len(x))
            check_pairing(x.paths, self.labels)
        _check_bytes(x, sample)
        self.identify(self.path, **sample, y=y)

        parts = zip(SPLITS, self._parts(len(x)), strict=True)
        splits = {name: _part(x, y, index) for name, index in parts}

        return splits, image_shape(x.shape[1], self.given_shape or x.image_shape, channels)

    def _channels(self, x: Rows) -> int:
        """How many channels the images have, which is as many as the user chose."""
        channels = 1 if self.choice is None else checks.RGB
        known = x.image_shape
        if known is not None and checks.ImageShape.of(known).channels != channels:
            raise ValueError(
                f"color={self.choice!r}: {x.paths[0]} holds images of shape {known}; 'rgb' is "
                "needed for three channels, and none for one"
            )

        return channels

    def _parts(self, n: int) -> tuple[Tensor, ...]:
        """Row numbers of the training, validation and test images, drawn by the seed."""
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        n_valid = counted(n, self.valid_fraction)
        n_test = counted(n, self.test_fraction)

        return order.tensor_split([n - n_valid - n_test, n - n_test])

    def check(self, name: str, x: Tensor) -> None:
        """Refuse an empty split; pixels are checked when they are read."""
        if len(x) == 0:
            raise ValueError(f"{name} are none; use a larger share or more images")

    def rows(self, name: str) -> Split:
        """All rows of a split, on disk."""
        checks.one_of("split", name, SPLITS)
        self.setup()

        return self._splits[name]

    def split(self, name: str) -> Split:
        """At most 20,000 images of a split, in memory; fewer where they are large."""
        rows = self.rows(name)
        return rows[: _bounded(SAMPLE, rows.x.shape[1])]


def _check_bytes(x: Rows, sample: dict[str, Tensor]) -> None:
    """Raise a ValueError for bytes that are 0 and 1 alone, of which 1 is no grey of 0..255."""
    highest = [int(sample[str(number)].max()) for number in range(len(x.arrays))]
    if max(highest) == 1 and all(array.dtype == np.uint8 for array in x.arrays):
        raise ValueError(
            f"{x.paths[0]} holds bytes, 0..255, and none of those compared is above 1; save 0 and "
            "1 as floating-point numbers, or multiply by 255"
        )


def _bounded(rows: int, pixels: int) -> int:
    """How many of so many rows are read at once."""
    return max(1, min(rows, MOST_PIXELS // pixels))


def _part(x: Rows, y: Tensor | None, index: Tensor) -> Split:
    """Some of the images and their labels, without reading any."""
    if y is None:
        return Split(x.select(index))

    return Split(x.select(index), y[index])
