"""Files of arrays and labels: IDX, NumPy; and image files in the order of their names."""

import gzip
import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.errors import reason, shortened
from gendae.storage.atomic import write_whole
from gendae.storage.inputs import regular_file, unpacked

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
#: Names of images and of their labels, in a .npz and wherever else arrays or columns have names.
IMAGE_ARRAYS = ("x", "samples", "images", "x_train", "image", "img", "pixel_values")
LABEL_ARRAYS = ("y", "label", "labels", "class", "target", "y_train")


# -- IDX ------------------------------------------------------------------------------------------


def read_idx(path: str | Path) -> np.ndarray:
    """The uint8 array in an IDX file, plain or gzipped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an IDX file of unsigned bytes, or damaged or cut short.
    """
    path = regular_file(path)
    open_file = open
    if path.suffix == ".gz":
        open_file = gzip.open

    try:
        with open_file(path, "rb") as stream:
            shape = _idx_shape(path, stream)
            size = math.prod(shape)
            most = path.stat().st_size
            if path.suffix == ".gz":
                most = unpacked(most)
            if size > most:
                raise ValueError(
                    f"{path} holds at most {most:,} values, but its header promises {shape}"
                )
            content = stream.read(size + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    except MemoryError:
        raise ValueError(f"{path} does not fit into the memory: its shape is {shape}") from None

    if len(content) != size:
        held = "more" if len(content) > size else f"{len(content)}"
        raise ValueError(f"{path} holds {held} values, but its header promises {shape}")
    if size == 0:  # sides beside the 0 may be of any length
        return np.empty([min(side, 1) for side in shape], np.uint8)
    return np.frombuffer(content, np.uint8).reshape(shape)


def _idx_shape(path: Path, stream: BinaryIO) -> tuple[int, ...]:
    """The shape of an array of unsigned bytes, from the header of an IDX file."""
    start = stream.read(4)
    if len(start) < 4 or start[:3] != b"\x00\x00\x08" or start[3] > 8:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")

    dimensions = start[3]
    return struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as a gzipped IDX file, atomically."""
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = np.ascontiguousarray(array, np.uint8).tobytes()
    write_whole(path, gzip.compress(header + content))


def cache_folder() -> Path:
    """Where fetched data sets are kept: $XDG_CACHE_HOME/gendae, by default ~/.cache/gendae.

    Raises:
        ValueError: for a user without home, where $XDG_CACHE_HOME is not set.
    """
    return checks.path("cache", os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "gendae"


# -- images ---------------------------------------------------------------------------------------


def is_grey(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape holds rows, or images of one channel.

    Example:
        >>> is_grey((9, 28, 28)), is_grey((9, 28, 28, 1)), is_grey((9, 28, 28, 3))
        (True, True, False)
    """
    return len(shape) in (2, 3) or (len(shape) == 4 and shape[3] == 1)


def is_coloured(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape holds images of three channels, first or last but not both.

    Example:
        >>> is_coloured((9, 3, 8, 8)), is_coloured((9, 8, 8, 3)), is_coloured((9, 3, 8, 3))
        (True, True, False)
    """
    return len(shape) == 4 and (shape[1] == checks.RGB) != (shape[3] == checks.RGB)


def channels_first(array: np.ndarray) -> np.ndarray:
    """Coloured images as (n, 3, height, width); other arrays as they are."""
    if is_coloured(array.shape) and array.shape[3] == checks.RGB:
        return np.moveaxis(array, 3, 1)

    return array


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder, in natural order."""
    return in_order(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def in_order(files: Iterable[Path]) -> list[Path]:
    """Files of a folder in natural order: numbers in names count as numbers.

    Example:
        >>> [str(file) for file in in_order([Path("img10.png"), Path("img2.png")])]
        ['img2.png', 'img10.png']
    """
    return sorted(files, key=lambda file: natural(file.name))


def natural(name: str) -> tuple[list[str | int], str]:
    """What a name is sorted by: its text and numbers in turn, then the name itself."""
    parts: list[str | int] = re.split("([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def check_pairing(files: Sequence[Path], beside: str | Path) -> None:
    """Refuse to pair files with the rows of another one, if they have two orders.

    Rows that were written in the other order would be those of other images.

    Args:
        files: of one folder, in natural order.
        beside: the file whose rows are paired with them.

    Raises:
        ValueError: where natural order is not that of the characters in the names.

    Example:
        >>> check_pairing([Path("2.png"), Path("10.png")], "y.npy")
        Traceback (most recent call last):
        ValueError: y.npy cannot be paired with the files beside 2.png: by number 2.png comes ...
    """
    by_characters = sorted(files, key=lambda file: file.name)
    for natural, other in zip(files, by_characters, strict=True):
        if natural != other:
            raise ValueError(
                f"{beside} cannot be paired with the files beside {natural}: by number "
                f"{natural.name} comes first, by characters {other.name}; write numbers with "
                "leading zeros, or keep the images in one array"
            )


def image_shape(
    features: int, shape: Sequence[int] | None = None, channels: int = 1
) -> tuple[int, ...]:
    """The shape of an image of that many numbers: as told, square, or a single row.

    Height and width alone are those of an image with so many channels.

    Example:
        >>> image_shape(64), image_shape(48, channels=3), image_shape(48, [2, 8], 3)
        ((8, 8), (3, 4, 4), (3, 2, 8))
    """
    if shape is None:
        pixels = features // channels
        side = math.isqrt(pixels)
        shape = (side, side) if side * side == pixels else (1, pixels)

    told = checks.ImageShape.of(shape)
    if told.channels == 1:
        told = told._replace(channels=channels)
    if told.features != features:
        raise ValueError(f"shape={told.plain} does not make {features} pixels")

    return told.plain


# -- labels ---------------------------------------------------------------------------------------


def read_labels(path: str | Path, n: int) -> Tensor:
    """Class labels of n images from a file, (n,) in int64.

    Args:
        path: .npy; .npz (its only array, or the one named y, see `LABEL_ARRAYS`); or an IDX file,
            plain or .gz.
        n: number of images.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for other kinds of file, damaged ones, and anything but one class index for
            each image.
    """
    path = checks.path("labels", path)
    if not path.exists():
        raise FileNotFoundError(f"no such file of labels: {path}")

    if path.suffix in (".npy", ".npz"):
        array = read_numpy(path, "labels", LABEL_ARRAYS)
    elif path.suffix == ".gz" or "ubyte" in path.name:
        array = read_idx(path)
    else:
        raise ValueError(f"{path}: unknown kind of labels; accepted: .npy, .npz, IDX")
    return class_indices(path, array, n)


def class_indices(path: str | Path, array: np.ndarray, n: int) -> Tensor:
    """An array as class labels of n images, (n,) in int64; `path` is for messages.

    Raises:
        ValueError: for anything but one class index for each image.
    """
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{path} holds labels of shape {array.shape} and type {array.dtype}; "
            f"class indices of an integer type and shape ({n},), one for each image, are needed"
        )

    if n == 0:
        raise ValueError(f"{path} holds no labels; one for each image is needed")

    low = int(array.min())
    high = int(array.max())
    if low < 0 or high > checks.MOST_SEED:
        raise ValueError(
            f"{path} holds labels from {low} to {high}; class indices are >= 0 and below 2^63"
        )
    return torch.from_numpy(array.astype(np.int64))


# -- NumPy arrays ---------------------------------------------------------------------------------


def write_npz(path: str | Path, **arrays: np.ndarray) -> Path:
    """Write arrays to a .npz, atomically."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return write_whole(path, content.getvalue())


def read_numpy(path: Path, what: str, accepted: tuple[str, ...]) -> np.ndarray:
    """The array in a .npy, or in a .npz the only one or the first of the accepted names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for damaged files, pickled objects, headers that promise more than the file can
            hold, and other names.
    """
    array, names = read_array(path, accepted, or_only=True)
    if array is None:
        held = "no array"
        if names:
            held = f"the arrays {shortened(', '.join(names), 200)}"
        raise ValueError(
            f"{path} holds {held}; name the {what} {' or '.join(map(repr, accepted))}"
        )
    return array


def read_array(
    path: Path, accepted: tuple[str, ...] = (), or_only: bool = False
) -> tuple[np.ndarray | None, list[str]]:
    """The first array of the accepted names in a .npz, or None; and all names in the file.

    A .npy has one array and no names. With `or_only`, the only array of a .npz may have any name.

    Raises:
        FileNotFoundError, ValueError: see `read_numpy`.
    """
    regular_file(path)
    try:
        with open(path, "rb") as stream:
            size = path.stat().st_size
            if stream.read(2) == b"PK":
                return _npz(stream, size, accepted, or_only)
            return _npy(stream, size), []
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - numpy, zipfile and zlib raise a dozen kinds
        raise ValueError(
            f"{path} is damaged or not a {path.suffix or '.npy'} of numbers: {reason(error)}"
        ) from None


def read_modality(path: str | Path) -> np.ndarray:
    """Numbers from a .npy, (n, ..)."""
    path = checks.path("path", path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")

    array, _ = read_array(path)
    if array is None or array.dtype.kind not in "iufb" or array.size == 0 or array.ndim == 0:
        raise ValueError(
            f"{path}: an array of numbers, (n, features) or (n, height, width), or class indices "
            "(n,) in an integer type are needed"
        )
    return array


def _npz(
    stream: BinaryIO, size: int, accepted: tuple[str, ...], or_only: bool
) -> tuple[np.ndarray | None, list[str]]:
    """See `read_array`; `size` is that of the file."""
    with zipfile.ZipFile(stream) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        names = list(members)
        if len(names) < len(archive.infolist()):
            raise ValueError("it holds two arrays of one name")

        wanted = [name for name in accepted if name in members]
        if or_only and len(names) == 1:
            wanted += names
        if not wanted:
            return None, names

        info = members[wanted[0]]
        most = min(info.file_size, unpacked(min(info.compress_size, size)))
        with archive.open(info) as member:
            return _npy(member, most), names


def _npy(stream: BinaryIO, most: int) -> np.ndarray:
    """The array of a .npy stream of at most so many bytes; its header is checked first."""
    shape, _, dtype = read_header(stream)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > most:
        raise ValueError(
            f"its header promises {shape} values of type {dtype}, and it has {most:,} bytes"
        )

    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def read_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns are stored one after the other, and type of the array of a .npy.

    Raises:
        ValueError: for pickled objects, and whatever NumPy raises for damaged headers.
    """
    stream.seek(0)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0

    shape, by_columns, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not read")
    return shape, by_columns, dtype
