"""Images as tensors: one tensor per split, on the device, minibatches by index.

All data modules give x in [0, 1] as (n, pixels) in float32, in three splits (train, valid, test), and
labels where the source has them. Nothing is read or fetched before `prepare_data` or `setup`.
"""

import os
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from gendae import checks
from gendae.files import cache_folder, image_shape, labels_of, read_idx, read_images, write_idx
from gendae.loader import Split, TensorLoader
from gendae.spec import register

__all__ = ["MNIST", "Digits", "ImageData", "Images", "Split", "TensorLoader", "shuffled_splits"]

SPLITS = ("train", "valid", "test")


class ImageData(LightningDataModule):
    """Base class: a variant defines `read`, which returns the three splits and the image shape.

    Args:
        batch_size: images per update and process.
        seed: of the order of training batches, and of the split where it is drawn.
    """

    EVAL_BATCH = 1000

    def __init__(self, batch_size: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = int(checks.at_least("batch_size", batch_size, 1))
        self.seed = int(checks.at_least("seed", seed, 0))
        self._splits: dict[str, Split] | None = None
        self._shape: tuple[int, int] = (0, 0)

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        """Splits by name, and the height and width of an image."""
        raise NotImplementedError(f"{type(self).__name__} must define read")

    def setup(self, stage: str | None = None) -> None:
        """Read and check the data once."""
        if self._splits is None:
            self._splits, self._shape = self.read()
            for name, split in self._splits.items():
                self.check(f"{type(self).__name__} {name} images", split.x)

    def check(self, name: str, x: Tensor) -> None:
        """Raise a ValueError unless x holds finite values that these data may have: pixels in [0, 1]."""
        checks.pixels(name, x)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        self.setup()
        return self._shape

    def split(self, name: str) -> Split:
        """The split of this name: train, valid or test."""
        checks.one_of("split", name, SPLITS)
        self.setup()
        return self._splits[name]

    def rows(self, name: str) -> Split:
        """What batches of a split are taken from."""
        return self.split(name)

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> TensorLoader:
        x, y = self.rows(name)
        device, rank, ranks, passes = torch.device("cpu"), 0, 1, 1
        if self.trainer is not None:
            passes = getattr(self.trainer.lightning_module, "passes", 1)
            device = self.trainer.strategy.root_device
            rank, ranks = self.trainer.global_rank, self.trainer.world_size
        on_device = Split(x.to(device), None if y is None else y.to(device))
        return TensorLoader(on_device, batch_size, shuffle, self.seed, rank, ranks, passes)

    def train_dataloader(self) -> TensorLoader:
        """Shuffled batches of the training split."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        """The validation split in order."""
        return self._loader("valid", self.EVAL_BATCH)

    def test_dataloader(self) -> TensorLoader:
        """The test split in order."""
        return self._loader("test", self.EVAL_BATCH)


def shuffled_splits(
    x: Tensor, y: Tensor | None, fractions: tuple[float, float], seed: int
) -> dict:
    """Train, valid and test in a seeded random order; `fractions` are those of valid and test."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    n_valid, n_test = (int(len(x) * f) for f in fractions)
    parts = {
        "test": order[:n_test],
        "valid": order[n_test : n_test + n_valid],
        "train": order[n_test + n_valid :],
    }
    return {name: Split(x, y)[parts[name]] for name in SPLITS}


@register
class Digits(ImageData):
    """The 8 x 8 digits bundled with scikit-learn: 1,797 images, split 1,199/299/299. No network needed.

    Example:
        >>> data = Digits()
        >>> data.split("train").x.shape, data.shape
        (torch.Size([1199, 64]), (8, 8))
    """

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x = torch.from_numpy(bunch.data / 16.0).float()
        y = torch.from_numpy(bunch.target).long()
        return shuffled_splits(x, y, (1 / 6, 1 / 6), self.seed), (8, 8)


MNIST_FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}


@register
class MNIST(ImageData):
    """The MNIST digits, 28 x 28: 50,000 for training, 10,000 for validation, 10,000 for testing.

    Looked for in `root`, $GENDAE_DATA/mnist and the cache folder: the four IDX files, plain or .gz, there
    or in torchvision's MNIST/raw below it. Otherwise fetched once from OpenML and cached.

    Args:
        root: a folder to look in first.
        split_seed: draws which of the 60,000 training images validate; None takes the last 10,000, the
            split of the published Parzen scores.
        download: fetch the data if they are nowhere on this machine.
        batch_size, seed: see `ImageData`.

    Raises:
        FileNotFoundError: if the files are not found and could not be fetched; names every place.
        ValueError: if a file is damaged or does not hold MNIST's number of images and labels.
    """

    def __init__(
        self,
        root: str | None = None,
        split_seed: int | None = None,
        download: bool = True,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.root = None if root is None else str(root)
        self.split_seed, self.download = split_seed, download

    def places(self) -> list[Path]:
        """Folders that are looked in, in this order."""
        roots = [Path(self.root).expanduser()] if self.root else []
        if os.environ.get("GENDAE_DATA"):
            roots.append(Path(os.environ["GENDAE_DATA"]) / "mnist")
        roots.append(cache_folder() / "mnist")
        return [root / sub for root in roots for sub in ("", "mnist", "MNIST/raw", "raw")]

    def files(self) -> dict[str, Path] | None:
        """Paths of the four files, from the first place that has them all; None if there is none."""
        for place in self.places():
            found = {}
            for key, name in MNIST_FILES.items():
                for candidate in (place / name, place / f"{name}.gz"):
                    if candidate.is_file():
                        found.setdefault(key, candidate)
            if len(found) == len(MNIST_FILES):
                return found
        return None

    def prepare_data(self) -> None:
        """Fetch the data where they are missing."""
        if self.files() is None and self.download:
            self._fetch()

    def _fetch(self) -> None:
        from sklearn.datasets import fetch_openml

        folder = cache_folder() / "mnist"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pixels, labels = fetch_openml(
                "mnist_784",
                version=1,
                as_frame=False,
                parser="liac-arff",
                return_X_y=True,
                data_home=str(cache_folder() / "openml"),
            )
        except Exception as error:  # noqa: BLE001 - whatever the network layer raises: same answer
            raise FileNotFoundError(
                f"{self._missing()}; fetching it from OpenML failed: {error}"
            ) from None
        images = pixels.reshape(-1, 28, 28).astype(np.uint8)
        labels = labels.astype(np.uint8)
        for part, rows in (("train", slice(0, 60_000)), ("test", slice(60_000, 70_000))):
            write_idx(folder / f"{MNIST_FILES[part + '_x']}.gz", images[rows])
            write_idx(folder / f"{MNIST_FILES[part + '_y']}.gz", labels[rows])

    def _missing(self) -> str:
        return (
            "MNIST is not on this machine; looked for its four IDX files (plain or .gz) in "
            + ", ".join(str(place) for place in self.places())
            + "; name their folder with --data.root or $GENDAE_DATA"
        )

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        files = self.files()
        if files is None:
            self.prepare_data()
            files = self.files()
        if files is None:
            raise FileNotFoundError(self._missing())
        train = self._images(files, "train", 60_000)
        test = self._images(files, "test", 10_000)
        order = torch.arange(60_000)
        if self.split_seed is not None:
            order = torch.randperm(
                60_000, generator=torch.Generator().manual_seed(self.split_seed)
            )
        splits = {"train": train[order[:50_000]], "valid": train[order[50_000:]], "test": test}
        return splits, (28, 28)

    def _images(self, files: dict[str, Path], part: str, count: int) -> Split:
        pixels, labels = read_idx(files[f"{part}_x"]), read_idx(files[f"{part}_y"])
        if pixels.shape != (count, 28, 28) or labels.shape != (count,) or labels.max() > 9:
            raise ValueError(
                f"{files[f'{part}_x']} and its labels hold {pixels.shape} and "
                f"{labels.shape} values; MNIST has {(count, 28, 28)} and {(count,)}, "
                "labels 0..9"
            )
        x = torch.from_numpy(pixels.reshape(count, -1).astype(np.float32)) / 255.0
        return Split(x, torch.from_numpy(labels.astype(np.int64)))


@register
class Images(ImageData):
    """Your own images: a .npy, .npz, IDX file, or a folder of images, with values in [0, 1].

    Args:
        path: see `read_images`.
        shape: height and width, where the array is flat and not square.
        valid_fraction, test_fraction: shares of the images kept out of training.
        batch_size, seed: see `ImageData`; the seed draws the split.
        labels: file of class labels, see `read_labels`; if None, array y or label beside the images in a .npz.

    Raises:
        FileNotFoundError, ValueError: see `read_images` and `read_labels`.
    """

    def __init__(
        self,
        path: str,
        shape: list[int] | None = None,
        valid_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 100,
        seed: int = 0,
        labels: str | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        self.path, self.given_shape, self.labels = (
            str(path),
            shape,
            None if labels is None else str(labels),
        )
        self.valid_fraction, self.test_fraction = checks.fractions(
            valid_fraction=valid_fraction, test_fraction=test_fraction
        )

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        x, shape = read_images(self.path)
        shape = image_shape(x.shape[1], self.given_shape or shape)
        y = labels_of(self.path, len(x), self.labels, strict=False)
        splits = shuffled_splits(x, y, (self.valid_fraction, self.test_fraction), self.seed)
        return splits, shape
