"""Files of images and labels: IDX, NumPy arrays, image files and folders, read into tensors."""

import gzip
import io
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.errors import reason
from gendae.writing import write_whole

#: Most bytes that a byte of a .gz or .npz can stand for. A header that promises more than there can be is not believed:
#: what it asks for is never allocated.
DEFLATED = 1032


def read_idx(path: str | Path) -> np.ndarray:
    """The uint8 array in an IDX file, plain or gzipped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an IDX file of unsigned bytes, or damaged or cut short.
    """
    path = Path(path)
    packed = path.suffix == ".gz"
    try:
        with (gzip.open if packed else open)(path, "rb") as stream:
            start = stream.read(4)
            if len(start) < 4 or start[:3] != b"\x00\x00\x08" or start[3] > 8:
                raise ValueError(f"{path} is not an IDX file of unsigned bytes")
            shape = struct.unpack(f">{start[3]}I", stream.read(4 * start[3]))
            size, most = math.prod(shape), path.stat().st_size * (DEFLATED if packed else 1)
            if size > most:
                raise ValueError(
                    f"{path} holds at most {most:,} values, but its header promises {shape}"
                )
            content = stream.read(size + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(content) != size:
        held = "more" if len(content) > size else f"{len(content)}"
        raise ValueError(f"{path} holds {held} values, but its header promises {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as a gzipped IDX file, atomically."""
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    write_whole(path, gzip.compress(header + np.ascontiguousarray(array, np.uint8).tobytes()))


def cache_folder() -> Path:
    """Where fetched data sets are kept: $XDG_CACHE_HOME/gendae, by default ~/.cache/gendae."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gendae"


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
IMAGE_ARRAYS, LABEL_ARRAYS = ("x", "samples"), ("y", "label")  # names in a .npz


def read_image(path: Path) -> np.ndarray:
    """A grey image file as a float32 array in [0, 1], (height, width)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):  # convert("L") would cut these off at 255
                return np.asarray(image, np.float32) / 65535.0
            if image.mode in ("I", "F"):
                raise ValueError(
                    f"pixels of mode {image.mode} have no known range; save them with 8 or 16 bits"
                )
            return np.asarray(image.convert("L"), np.float32) / 255.0
    except Exception as error:  # noqa: BLE001 - PIL raises a dozen kinds for damaged files
        raise ValueError(f"{path} cannot be read as an image: {reason(error)}") from None


def read_images(path: str | Path) -> tuple[Tensor, tuple[int, int] | None]:
    """Images from a file or folder as (n, pixels) in [0, 1], and their height and width if known.

    Args:
        path: .npy; .npz (its only array, or the one named x or samples); an IDX file, plain or .gz; an
            image file; or a folder of images of one size.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for other kinds of file, damaged ones, and pixels outside [0, 1].
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        images = [read_image(p) for p in files]
        if not images:
            raise ValueError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
        if len({image.shape for image in images}) > 1:
            raise ValueError(
                f"{path} holds images of different sizes: "
                f"{sorted({image.shape for image in images})}"
            )
        array = np.stack(images)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        array = read_image(path)[None]
    elif path.suffix in (".npy", ".npz"):
        array = read_numpy(path, "images", IMAGE_ARRAYS)
    elif path.suffix == ".gz" or "ubyte" in path.name:
        array = read_idx(path).astype(np.float32) / 255.0
    else:
        raise ValueError(
            f"{path}: unknown kind of data; accepted: .npy, .npz, IDX, an image, or a "
            "folder of images"
        )
    grey = array.ndim in (2, 3) or (array.ndim == 4 and array.shape[3] == 1)
    if not grey or array.dtype.kind not in "iuf":
        raise ValueError(
            f"{path} holds an array of shape {array.shape} and type {array.dtype}; "
            "numbers of shape (n, pixels) or (n, height, width) are needed"
        )
    shape = array.shape[1:3] if array.ndim > 2 else None
    if array.size == 0:
        raise ValueError(f"{path} is empty: it holds an array of shape {array.shape}")
    with np.errstate(
        over="ignore"
    ):  # what is above single precision becomes infinite, which is refused
        x = torch.from_numpy(np.ascontiguousarray(array.reshape(len(array), -1), np.float32))
    return checks.pixels(str(path), x), shape


def read_labels(path: str | Path, n: int) -> Tensor:
    """Class labels of n images from a file, (n,) in int64.

    Args:
        path: .npy; .npz (its only array, or the one named y or label); or an IDX file, plain or .gz.
        n: number of images.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for other kinds of file, damaged ones, and anything but one class index for each image.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no such file of labels: {path}")
    if path.suffix in (".npy", ".npz"):
        array = read_numpy(path, "labels", LABEL_ARRAYS)
    elif path.suffix == ".gz" or "ubyte" in path.name:
        array = read_idx(path)
    else:
        raise ValueError(f"{path}: unknown kind of labels; accepted: .npy, .npz, IDX")
    return _class_indices(path, array, n)


def labels_of(
    path: str | Path, n: int, labels: str | Path | None = None, strict: bool = True
) -> Tensor | None:
    """Labels of the n images at `path`, (n,) in int64: those in the file `labels`, or the array y or label beside
    the images in a .npz; None where there are none.

    With strict=False an array beside the images that holds something else than class indices counts as none.

    Raises:
        FileNotFoundError, ValueError: see `read_labels`.
    """
    if labels is not None:
        return read_labels(labels, n)
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        return None
    beside, names = read_array(path, LABEL_ARRAYS)
    if beside is None or not names:  # without names it is a .npy by another name
        return None
    usable = beside.shape == (n,) and beside.dtype.kind in "iu"
    return read_labels(path, n) if usable or strict else None


def _class_indices(path: Path, array: np.ndarray, n: int) -> Tensor:
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{path} holds labels of shape {array.shape} and type {array.dtype}; class indices of an "
            f"integer type and shape ({n},), one for each image, are needed"
        )
    y = torch.from_numpy(array.astype(np.int64))
    if int(y.min()) < 0:
        raise ValueError(
            f"{path} holds labels from {int(y.min())} to {int(y.max())}; class indices are >= 0"
        )
    return y


def write_npz(path: str | Path, **arrays: np.ndarray) -> Path:
    """Write arrays to a .npz, atomically."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return write_whole(path, content.getvalue())


def read_numpy(path: Path, what: str, accepted: tuple[str, ...]) -> np.ndarray:
    """The array in a .npy, or in a .npz the only one or the first of the accepted names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for damaged files, pickled objects, headers that promise more than the file can hold, and other names.
    """
    array, names = read_array(path, accepted, or_only=True)
    if array is None:
        raise ValueError(
            f"{path} holds {'the arrays ' + ', '.join(names) if names else 'no array'}; name the {what} "
            f"{' or '.join(map(repr, accepted))}"
        )
    return array


def read_array(
    path: Path, accepted: tuple[str, ...] = (), or_only: bool = False
) -> tuple[np.ndarray | None, list[str]]:
    """The first array of these names in a .npz, or None, and the names there are; a .npy has one array and no names.

    Raises:
        FileNotFoundError, ValueError: see `read_numpy`.
    """
    try:
        with open(path, "rb") as stream:
            size = path.stat().st_size
            if stream.read(2) != b"PK":
                return _npy(stream, size), []
            with zipfile.ZipFile(stream) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                for name in (*accepted, *(members if or_only and len(members) == 1 else ())):
                    if name in members:
                        with archive.open(members[name]) as member:
                            return _npy(
                                member, min(members[name].file_size, DEFLATED * size)
                            ), list(members)
                return None, list(members)
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - numpy, zipfile and zlib raise a dozen kinds
        raise ValueError(
            f"{path} is damaged or not a {path.suffix or '.npy'} of numbers: {reason(error)}"
        ) from None


def _npy(stream: BinaryIO, most: int) -> np.ndarray:
    """The array of a .npy stream of at most so many bytes, after a look at what its header promises."""
    stream.seek(0)
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > most:
        raise ValueError(
            f"its header promises {shape} values of type {dtype}, and it has {most:,} bytes"
        )
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def image_shape(pixels: int, shape: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of an image with that many pixels: as told, square, or a single row."""
    if shape is not None:
        if checks.image_shape(shape)[0] * shape[1] != pixels:
            raise ValueError(f"shape={tuple(shape)} does not make {pixels} pixels")
        return int(shape[0]), int(shape[1])
    side = round(pixels**0.5)
    return (side, side) if side * side == pixels else (1, pixels)
