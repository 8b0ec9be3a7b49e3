"""Images as tensors: one tensor per split, on the device, minibatches by index.

They give x in [0, 1] as (n, pixels) in float32, in three splits (train, valid, test), and labels
where the source has them. Nothing is read or fetched before `prepare_data` or `setup`.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.data.base import SPLITS, Data, shuffled_splits
from gendae.data.files import cache_folder, image_shape, read_idx, write_idx
from gendae.data.identity import KNOWN
from gendae.data.loader import Split
from gendae.data.pictures import choice_of_color
from gendae.data.sources import InMemory, Labels, Source, is_named, name_of, read_pictures
from gendae.registry import Plain, describe, register


@register
class Digits(Data):
    """The 8 x 8 digits bundled with scikit-learn: 1,797 images, split 1,199/299/299.

    No network needed.

    Example:
        >>> data = Digits()
        >>> data.split("train").x.shape, data.shape
        (torch.Size([1199, 64]), (8, 8))
    """

    kind = "image"

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x = torch.from_numpy(bunch.data / 16.0).float()
        y = torch.from_numpy(bunch.target).long()
        return shuffled_splits(x, y, (1 / 6, 1 / 6), self.seed), (8, 8)


IDX_FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}


class Published(Data):
    """Images that others published, in files that are looked for in a few folders.

    Attributes:
        folders: folders that the files are in, below each place that is looked in; the first of
            them is also looked for below `$GENDAE_DATA` and the cache folder.
        systemwide: where a package of the operating system puts them, if one does.
        wanted: the files, in words.

    Args:
        root: the folder of the files.
        split_seed: draws which of the training images validate; None takes the last ones.
        batch_size, seed: see `Data`.
    """

    kind = "image"
    folders: tuple[str, ...]
    systemwide: Path | None = None
    wanted: str

    def __init__(
        self,
        root: str | None = None,
        split_seed: int | None = None,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.root = None if root is None else str(root)
        self.split_seed = checks.seed("split_seed", split_seed)

    def usual_roots(self) -> list[Path]:
        """Where the files are looked for if no folder is named."""
        roots = []
        named = os.environ.get("GENDAE_DATA")
        if named:
            folder = checks.path("GENDAE_DATA", named)
            if not folder.is_dir():
                raise FileNotFoundError(f"GENDAE_DATA={named!r}: there is no such folder")
            roots.append(folder / self.folders[0])

        if self.systemwide is not None:
            roots.append(self.systemwide)
        with contextlib.suppress(ValueError):  # a user without home has no cache
            roots.append(cache_folder() / self.folders[0])
        return roots

    def places(self) -> list[Path]:
        """Folders that are looked in, in this order."""
        roots = self.usual_roots()
        if self.root is not None:
            roots = [checks.path("root", self.root)]

        return [root / below for root in roots for below in ("", *self.folders)]

    def missing(self) -> str:
        """That the files are not there, and where they were looked for."""
        own = type(self).__name__
        looked = f"looked for {self.wanted} in "
        looked += ", ".join(str(place) for place in self.places()) or "no folder"
        if self.root is None:
            name = "name their folder with --data.root or $GENDAE_DATA"
            return f"{own} is not on this machine; {looked}; {name}"

        usual = " and ".join(str(root) for root in self.usual_roots())
        return (
            f"{own} is not in root={self.root!r}; {looked}; without --data.root it is looked for "
            f"in {usual or '$GENDAE_DATA'}"
        )

    def parted(self, train: Split, test: Split, valid: int) -> dict[str, Split]:
        """The splits: of the training images so many validate."""
        order = torch.arange(len(train.x))
        if self.split_seed is not None:
            generator = torch.Generator().manual_seed(self.split_seed)
            order = torch.randperm(len(train.x), generator=generator)

        training, validating = order[:-valid], order[-valid:]
        return {"train": train.rows(training), "valid": train.rows(validating), "test": test}


class IdxImages(Published):
    """70,000 grey images of 28 x 28 in ten classes, in four IDX files; a variant names the set.

    The files say nothing of what they show: the SHA-256 of their arrays does. Those of another
    known set are refused. Unknown ones are read, and a model of them remembers their SHA-256 in
    the place of a name, see `gendae.data.identity`.

    Attributes:
        openml: name of the set there.

    Args:
        root, split_seed: see `Published`.
        download: fetch the data if they are nowhere on this machine.
        batch_size, seed: see `Data`.
    """

    wanted = "its four IDX files (plain or .gz)"
    openml: str

    def __init__(
        self,
        root: str | None = None,
        split_seed: int | None = None,
        download: bool = True,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(root, split_seed, batch_size, seed)
        self.download = download

    def files(self) -> dict[str, Path] | None:
        """Paths of the four files, from the first place that has them all; None if none has."""
        for place in self.places():
            paths = {key: _plain_or_gz(place, name) for key, name in IDX_FILES.items()}
            if all(paths.values()):
                return paths
        return None

    def prepare_data(self) -> None:
        """Fetch the data where they are missing."""
        if self.files() is None and self.download:
            if self.root is not None:
                raise FileNotFoundError(self.missing())
            self._fetch()

    def _fetch(self) -> None:
        from sklearn.datasets import fetch_openml

        try:
            folder = cache_folder() / self.folders[0]
            folder.mkdir(parents=True, exist_ok=True)
            pixels, labels = fetch_openml(
                self.openml,
                version=1,
                as_frame=False,
                parser="liac-arff",
                return_X_y=True,
                data_home=str(cache_folder() / "openml"),
            )
        except Exception as error:  # noqa: BLE001 - whatever the network layer raises: same answer
            raise FileNotFoundError(
                f"{self.missing()}; fetching it from OpenML failed: {error}"
            ) from None

        images = pixels.reshape(-1, 28, 28).astype(np.uint8)
        labels = labels.astype(np.uint8)
        for part, rows in (("train", slice(0, 60_000)), ("test", slice(60_000, 70_000))):
            write_idx(folder / f"{IDX_FILES[part + '_x']}.gz", images[rows])
            write_idx(folder / f"{IDX_FILES[part + '_y']}.gz", labels[rows])

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        files = self.files()
        if files is None:
            self.prepare_data()
            files = self.files()
        if files is None:
            raise FileNotFoundError(self.missing())

        arrays = {key: torch.from_numpy(read_idx(file).copy()) for key, file in files.items()}
        place = files["train_x"].parent
        self.identify(place, **arrays)
        self._refuse_another_set(place)

        train = self._labelled(place, arrays["train_x"], arrays["train_y"], 60_000)
        test = self._labelled(place, arrays["test_x"], arrays["test_y"], 10_000)

        return self.parted(train, test, 10_000), (28, 28)

    def remark(self) -> str | None:
        held = self.identity
        own = type(self).__name__
        if held is None or held.name == own:
            return None

        return f"{held.place} does not hold {own}: the model remembers {held.name}"

    def _refuse_another_set(self, place: Path) -> None:
        """Raise a ValueError for the arrays of a set that has another name."""
        own = type(self).__name__
        held = KNOWN.get(self._identity.sha256, own) if self._identity is not None else own
        if held != own:
            raise ValueError(f"{place} holds {held}, not {own}; read it as --data {held}")

    def _labelled(self, place: Path, pixels: Tensor, labels: Tensor, count: int) -> Split:
        """Images of 28 x 28 bytes and their labels, if they are as many as the set has."""
        fitting = pixels.shape == (count, 28, 28) and labels.shape == (count,)
        if not fitting or labels.max() > 9:
            raise ValueError(
                f"{place} holds images and labels of shapes {tuple(pixels.shape)} and "
                f"{tuple(labels.shape)}; {type(self).__name__} has {(count, 28, 28)} and "
                f"{(count,)}, labels 0..9"
            )

        return Split(pixels.reshape(count, -1).float() / 255.0, labels.long())


@register
class MNIST(IdxImages):
    """The MNIST digits, 28 x 28: 50,000 for training, 10,000 for validation, 10,000 for testing.

    The four IDX files, plain or .gz, are looked for in $GENDAE_DATA/mnist and the cache folder,
    and in torchvision's MNIST/raw below each. Otherwise the data are fetched once from OpenML and
    cached. Where `root` is named, they are looked for there, and nowhere else. What of another set
    in the format of these files: `IdxImages`.

    Args:
        root: the folder of the files.
        split_seed: draws which of the 60,000 training images validate; None takes the last 10,000,
            the split of the published Parzen scores.
        download: fetch the data if they are nowhere on this machine.
        batch_size, seed: see `Data`.

    Raises:
        FileNotFoundError: if the files are not found and could not be fetched; names every place.
        ValueError: if a file is damaged, does not hold MNIST's number of images and labels, or is
            of another known set.
    """

    folders = ("mnist", "MNIST/raw", "raw")
    openml = "mnist_784"


@register
class FashionMNIST(IdxImages):
    """Clothes in the format of MNIST: 50,000 for training, 10,000 to validate, 10,000 to test.

    The four IDX files, plain or .gz, are looked for in $GENDAE_DATA/fashion-mnist, where Debian's
    package dataset-fashion-mnist puts them, and in the cache folder, and in torchvision's
    FashionMNIST/raw below each. Otherwise the data are fetched once from OpenML and cached.

    Source: Xiao, Rasul and Vollgraf 2017, Fashion-MNIST.

    Args:
        root, split_seed, download: see `MNIST`.
        batch_size, seed: see `Data`.

    Attributes:
        classes: what is shown, by class.

    Raises:
        FileNotFoundError, ValueError: see `MNIST`.
    """

    folders = ("fashion-mnist", "FashionMNIST/raw", "raw")
    systemwide = Path("/usr/share/datasets/fashion-mnist")
    openml = "Fashion-MNIST"

    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )

    def facts(self) -> dict[str, Plain]:
        """Names of the classes."""
        return {"classes": list(self.classes)}


def _plain_or_gz(folder: Path, name: str) -> Path | None:
    """The path of a file in a folder, plain or gzipped; None if it is not there."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    return None


@register
class Images(Data):
    """Your own images: a file, a folder, an array, a tensor, a data set or a list of files.

    Images that were in memory are not in the files of models: these keep their SHA-256 and shape,
    and building the data again is refused.

    Args:
        path: a .npy, .npz, IDX, .csv, .parquet or image file, a folder of images or of folders of
            them, one for each class, or a list of image files; in Python also an array, a tensor
            or a data set. What is read of each: `gendae.data.sources`.
        shape: height and width, in colour also behind 3, where the array is flat and not square.
        valid_fraction, test_fraction: shares of the images kept out of training, one of them at
            least for each; none where the source has images of its own for validation or testing.
        batch_size, seed: see `Data`; the seed draws the split.
        labels: class labels, as numbers or names, or a file of numbers, see `read_labels`, for a
            folder in the natural order of its files; if None, those that the source has.
        color: what becomes of coloured pixels: "rgb" keeps three channels, and gives them to grey
            images too; "grey" takes their luma; None refuses them, unless `shape` is one of three
            channels, which says "rgb".

    Attributes:
        classes: names of the classes 0, 1, .. where the source says them: the folders of a folder,
            texts in a column, the names of a data set.

    Raises:
        FileNotFoundError, ValueError: when they are first read, see `read_pictures`; for fewer
            images than splits.

    Example:
        >>> bright = np.full((10, 4, 4), 255, np.uint8)
        >>> data = Images(bright, labels=np.arange(10) % 2)
        >>> data.shape, data.split("train").x[0, :3], len(data.split("valid").y)
        ((4, 4), tensor([1., 1., 1.]), 1)
    """

    kind = "image"

    def __init__(
        self,
        path: Source,
        shape: list[int] | None = None,
        valid_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 100,
        seed: int = 0,
        labels: Labels | None = None,
        color: str | None = None,
    ) -> None:
        super().__init__(batch_size, seed)
        self.path = _plain(path)
        self.given_shape = shape
        if shape is not None:
            checks.ImageShape.of(shape)

        self.labels = _plain(labels)
        self.color = choice_of_color(color)

        self.valid_fraction, self.test_fraction = checks.fractions(
            valid_fraction=valid_fraction, test_fraction=test_fraction
        )
        self._classes: tuple[str, ...] = ()

    @property
    def given_path(self) -> Plain:
        """What files keep of the source: its name, or what stands for images in memory."""
        return self._kept(self.path, is_named(self.path))

    @property
    def given_labels(self) -> Plain:
        """What files keep of labels that were given."""
        return self._kept(self.labels, isinstance(self.labels, str | InMemory | None))

    def _kept(self, given: Any, named: bool) -> Plain:  # noqa: ANN401 - a source
        if named:
            return describe(given)

        n = sum(len(self.rows(name).x) for name in SPLITS)
        return describe(InMemory(self.identity.sha256, [n, *self.shape]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, ..; none where the source says none."""
        self.setup()
        return self._classes

    @property
    def choice(self) -> str | None:
        """What becomes of colour: as told, or what a shape of three channels says."""
        if self.color is None and self.given_shape is not None:
            return "rgb" if checks.ImageShape.of(self.given_shape).channels > 1 else None

        return self.color

    def facts(self) -> dict[str, Plain]:
        """Names of the classes, where there are any."""
        return {"classes": list(self.classes)} if self.classes else {}

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        rows, shape, classes, kept = read_pictures(self.path, self.choice, self.labels)
        channels = checks.RGB if self.choice == "rgb" else 1
        told = image_shape(rows.x.shape[1], self.given_shape or shape, channels)
        _check_size(name_of(self.path), told, shape)
        if self.color == "grey":
            checks.grey_shape(told, 'color="grey"')

        self._classes = classes
        own_parts = {}
        for name, part in kept.items():
            own_parts[f"x_{name}"] = part.x
            own_parts[f"y_{name}"] = part.y

        self.identify(name_of(self.path), x=rows.x, y=rows.y, **own_parts)

        return self._splits_of(rows, kept), told

    def _splits_of(self, rows: Split, kept: Mapping[str, Split]) -> dict[str, Split]:
        """The parts of the images; some may be parted already."""
        shares = {
            f"{name}_fraction": share
            for name, share in (("valid", self.valid_fraction), ("test", self.test_fraction))
            if name not in kept
        }

        missing = [name for name, share in shares.items() if share == 0]
        if missing:
            raise ValueError(f"{missing[0]}=0.0 leaves no image; a share above 0 is needed")
        if len(rows.x) <= len(shares):
            raise ValueError(
                f"{type(self).__name__} has {len(rows.x)} images, and training, validation and "
                f"testing need one each: {1 + len(shares)} at least; to train on fewer, give a "
                "Trainer a DataLoader of them"
            )

        fractions = (shares.get("valid_fraction", 0.0), shares.get("test_fraction", 0.0))
        splits = shuffled_splits(rows.x, rows.y, fractions, self.seed)

        return {**splits, **kept}


def _check_size(name: str, told: tuple[int, ...], known: tuple[int, ...] | None) -> None:
    """Raise a ValueError for images of another height and width than a user tells."""
    size = checks.ImageShape.of(told).size
    if known is not None and checks.ImageShape.of(known).size != size:
        raise ValueError(f"shape={told}: the images of {name} have the shape {known}")


def _plain(given: Any) -> Any:  # noqa: ANN401 - a source
    """A source with the names of files as text."""
    if isinstance(given, Path):
        return str(given)
    if isinstance(given, list) and is_named(given):
        return [str(part) for part in given]

    return given
