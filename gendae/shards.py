"""Data sets larger than memory: arrays that stay on disk, read batch by batch.

A data set is one .npy or a folder of them ("shards"), mapped into memory: the system brings in the pages that a batch
needs and drops them again, so that training holds no more than the model, a batch and the order of an epoch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.data import SPLITS, Images
from gendae.errors import reason
from gendae.files import image_shape, read_labels
from gendae.loader import Split
from gendae.spec import register

#: Images that `Shards.split` hands out as one tensor, for what looks at a sample of the data.
SAMPLE = 20_000


def open_array(path: Path) -> np.ndarray:
    """The array in a .npy, mapped read-only: nothing of it is read yet.

    Raises:
        ValueError: if it is damaged, or does not hold images as bytes (0 to 255) or floating-point numbers.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - NumPy raises a dozen kinds for damaged headers
        raise ValueError(
            f"{path} is damaged or not a NumPy array of numbers: {reason(error)}"
        ) from None
    images = isinstance(array, np.ndarray) and array.ndim >= 2 and array.size
    if not images or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        what = (
            f"{array.dtype} of shape {array.shape}"
            if isinstance(array, np.ndarray)
            else "several arrays"
        )
        raise ValueError(
            f"{path} holds {what}; images, (n, pixels) or (n, height, width), are needed, as floating-point "
            "numbers in [0, 1] or as bytes 0..255"
        )
    return array


class Rows:
    """Rows of arrays on disk, indexed like a tensor of images in [0, 1]: only what is asked for is read.

    Args:
        paths: .npy files with rows of one shape.
        index: which rows of all files taken together, in which order; all of them if None.
        device: where batches go.

    Raises:
        ValueError: if there is no file or they do not fit together; on reading, for pixels outside [0, 1].

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
        self.paths, self.target = [Path(p) for p in paths], torch.device(device)
        if not self.paths:
            raise ValueError("no .npy file to read rows from")
        self.arrays = [open_array(path) for path in self.paths]
        first = self.arrays[0]
        for path, array in zip(self.paths, self.arrays, strict=True):
            if array.shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"{path} holds rows of shape {array.shape[1:]}, but {self.paths[0]} of {first.shape[1:]}"
                )
        self.image_shape = tuple(first.shape[1:]) if first.ndim == 3 else None
        self._ends = np.cumsum([len(array) for array in self.arrays])
        self.index = torch.arange(int(self._ends[-1])) if index is None else index
        self.shape = torch.Size([len(self.index), int(np.prod(first.shape[1:]))])

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
        wanted = self.index[index].numpy()
        x = np.empty((len(wanted), self.shape[1]), np.float32)
        shard = np.searchsorted(self._ends, wanted, side="right")
        for number in np.unique(shard):
            here = np.flatnonzero(shard == number)
            array = self.arrays[number]
            inside = wanted[here] - (self._ends[number] - len(array))
            in_file = np.argsort(inside)  # forwards through the file
            read = np.asarray(array[inside[in_file]], np.float32).reshape(len(here), -1)
            x[here[in_file]] = read / 255.0 if array.dtype == np.uint8 else read
            if len(read):
                checks.pixels(str(self.paths[number]), torch.from_numpy(x[here]))
        return torch.from_numpy(x).to(self.target)


@register
class Shards(Images):
    """Images in arrays on disk, for data larger than memory: one .npy, or a folder of them in the order of their names.

    Pixels are looked at when they are read: a value outside [0, 1] stops the training and names the file. `split` gives a
    sample as a tensor; batches come from all rows. What is fitted at the top is fitted on codes of a random part
    (`gendae.rules.core.PRIOR_EXAMPLES`).

    Args:
        path: FILE.npy or a folder of .npy, (n, pixels) or (n, height, width), bytes or floating-point numbers.
        shape: height and width, where rows are flat and not square.
        valid_fraction, test_fraction: shares of the images kept out of training.
        batch_size, seed: see `ImageData`; the seed draws the split.
        labels: file of class labels of all images in the same order, see `read_labels`.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for files of another kind, or that do not fit together.
    """

    def files(self) -> list[Path]:
        """The .npy files, in order."""
        path = Path(self.path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        found = sorted(path.glob("*.npy")) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path} holds no .npy files")
        return found

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        x = Rows(self.files())
        y = None if self.labels is None else read_labels(self.labels, len(x))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))
        n_valid, n_test = (
            int(len(x) * share) for share in (self.valid_fraction, self.test_fraction)
        )
        parts = dict(
            zip(
                SPLITS,
                order.tensor_split([len(x) - n_valid - n_test, len(x) - n_test]),
                strict=True,
            )
        )
        splits = {
            name: Split(x.select(index), None if y is None else y[index])
            for name, index in parts.items()
        }
        return splits, image_shape(x.shape[1], self.given_shape or x.image_shape)

    def check(self, name: str, x: Tensor) -> None:
        """Pixels are checked when they are read; here, that there are any."""
        if len(x) == 0:
            raise ValueError(f"{name} are none; use a larger share or more images")

    def rows(self, name: str) -> Split:
        """All rows of a split, on disk."""
        checks.one_of("split", name, SPLITS)
        self.setup()
        return self._splits[name]

    def split(self, name: str) -> Split:
        """At most 20,000 images of a split, in memory."""
        return self.rows(name)[:SAMPLE]
