"""CIFAR-10 as its authors give it out: six batches of 10,000 coloured images of 32 x 32.

A binary batch, `data_batch_1.bin` .. `data_batch_5.bin` and `test_batch.bin`, is a record of 3,073
bytes for each image: its class, then 1,024 pixels of red, of green and of blue, line by line. A
pickled one, `data_batch_1` .. and `test_batch`, is a dictionary: `data`, (10,000, 3,072) bytes in
the same order, and `labels`, a list.

The pickles are read as plain data: `gendae.data.pickles`.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from gendae.data.images import Published
from gendae.data.loader import Split
from gendae.data.pickles import read_pickle
from gendae.errors import shortened
from gendae.registry import Plain, register
from gendae.storage.inputs import regular_file

BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
#: MD5 of the pickles, and of the archives that the authors' page gives out.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
}
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@register
class CIFAR10(Published):
    """CIFAR-10, in colour, 32 x 32: 45,000 for training, 5,000 to validate, 10,000 to test.

    The six batches, binary or pickled, are looked for in $GENDAE_DATA/cifar10 and the cache
    folder, and in cifar-10-batches-bin and cifar-10-batches-py (torchvision's too) below each.
    They are not fetched: their archives are on the page of their authors,
    https://www.cs.toronto.edu/~kriz/cifar.html. Where `root` is named, they are looked for there,
    and nowhere else. Pickles that are not the authors', by their MD5, are read, and a fit says so.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.

    Args:
        root: the folder of the files.
        split_seed: draws which of the 50,000 training images validate; None takes the last 5,000.
        batch_size, seed: see `Data`.

    Attributes:
        classes: what is shown, by class.

    Raises:
        FileNotFoundError: if the files are not found; names every place.
        ValueError: for damaged files, and those of other sizes.
    """

    folders = ("cifar10", "cifar-10-batches-bin", "cifar-10-batches-py")
    wanted = "its six batches (data_batch_1.bin .. test_batch.bin, or without .bin)"
    #: Images of a batch, and how many of the training images validate.
    BATCH = 10_000
    VALID = 5_000

    classes = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )

    def facts(self) -> dict[str, Plain]:
        """Names of the classes."""
        return {"classes": list(self.classes)}

    def files(self) -> list[Path] | None:
        """Paths of the six batches, from the first place that has them all; None if none has."""
        for place in self.places():
            for suffix in (".bin", ""):
                paths = [place / f"{name}{suffix}" for name in BATCHES]
                if all(path.is_file() for path in paths):
                    return paths
        return None

    def prepare_data(self) -> None:
        """Raise a FileNotFoundError where the files are missing."""
        self._found()

    def _found(self) -> list[Path]:
        files = self.files()
        if files is None:
            archive = "cifar-10-binary.tar.gz"
            raise FileNotFoundError(
                f"{self.missing()}; {archive} (MD5 {MD5[archive]}) is on "
                "https://www.cs.toronto.edu/~kriz/cifar.html, and to be unpacked there"
            )
        return files

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        files = self._found()
        read = binary_batch if files[0].suffix else pickled_batch
        batches = [self._whole(file, *read(file)) for file in files]

        x = torch.from_numpy(np.concatenate([pixels for pixels, _ in batches]))
        y = torch.from_numpy(np.concatenate([labels for _, labels in batches]))
        self.identify(files[0].parent, x=x, y=y)

        images = Split(x.float() / 255.0, y.long())
        test = images.rows(slice(-self.BATCH, None))
        train = images.rows(slice(0, -self.BATCH))

        return self.parted(train, test, self.VALID), SHAPE

    def _whole(
        self, file: Path, pixels: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and labels of a batch, if they are as many as a batch has."""
        fitting = pixels.shape == (self.BATCH, PIXELS) and labels.shape == (self.BATCH,)
        if not fitting or labels.max() > 9:
            raise ValueError(
                f"{file} holds images and labels of shapes {pixels.shape} and {labels.shape}; a "
                f"batch of CIFAR-10 has {(self.BATCH, PIXELS)} and {(self.BATCH,)}, labels 0..9"
            )

        return pixels, labels

    def remark(self) -> str | None:
        """Which pickles are not those of the authors."""
        pickles = [file for file in self._found() if file.name in MD5]
        others = [file for file in pickles if _md5(file) != MD5[file.name]]
        if not others:
            return None

        return f"{others[0]} is not the file of CIFAR-10's authors: its MD5 is another"


def binary_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, (n, 3,072) bytes, and labels, (n,), of a binary batch."""
    content = np.frombuffer(regular_file(path).read_bytes(), np.uint8)
    if content.size == 0 or content.size % (1 + PIXELS):
        raise ValueError(
            f"{path} has {content.size:,} bytes; records of {1 + PIXELS:,}, a class and "
            f"{PIXELS:,} pixels, are needed"
        )

    records = content.reshape(-1, 1 + PIXELS)
    return records[:, 1:], records[:, 0]


def pickled_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, (n, 3,072) bytes, and labels, (n,), of a pickled batch."""
    content = read_pickle(path)
    pixels, labels = content.get("data"), content.get("labels")
    whole = isinstance(labels, list) and all(type(y) is int and 0 <= y <= 255 for y in labels)
    if not isinstance(pixels, np.ndarray) or not whole:
        held = shortened(", ".join(content), 200) or "nothing"
        raise ValueError(
            f"{path} holds {held}; a batch of CIFAR-10 has `data`, an array of bytes, and "
            "`labels`, a list of numbers"
        )

    return pixels, np.array(labels, np.uint8)


def _md5(path: Path) -> str:
    """What tells a file from others: no secret is kept by it."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
