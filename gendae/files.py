"""Files of images and labels: IDX, NumPy arrays, image files and folders, read into tensors."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendae import checks


def read_idx(path: str | Path) -> np.ndarray:
    """The uint8 array in an IDX file, plain or gzipped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an IDX file of unsigned bytes, or damaged or cut short.
    """
    path = Path(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            content = stream.read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    rank = content[3]
    shape = struct.unpack_from(f">{rank}I", content, 4)
    array = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if array.size != np.prod(shape):
        raise ValueError(f"{path} holds {array.size} values, but its header promises {shape}")
    return array.reshape(shape)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as a gzipped IDX file, atomically."""
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with gzip.open(partial, "wb") as stream:
        stream.write(header + np.ascontiguousarray(array, np.uint8).tobytes())
    os.replace(partial, path)


def cache_folder() -> Path:
    """Where fetched data sets are kept: $XDG_CACHE_HOME/gendae, by default ~/.cache/gendae."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gendae"


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
IMAGE_ARRAYS, LABEL_ARRAYS = ("x", "samples"), ("y", "label")  # names in a .npz


def read_image(path: Path) -> np.ndarray:
    """A grey image file as a float32 array in [0, 1], (height, width)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"), np.float32) / 255.0
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None


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
            raise ValueError(f"{path} holds images of different sizes: "
                             f"{sorted({image.shape for image in images})}")
        array = np.stack(images)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        array = read_image(path)[None]
    elif path.suffix in (".npy", ".npz"):
        array = _read_numpy(path, "images", IMAGE_ARRAYS)
    elif path.suffix == ".gz" or "ubyte" in path.name:
        array = read_idx(path).astype(np.float32) / 255.0
    else:
        raise ValueError(f"{path}: unknown kind of data; accepted: .npy, .npz, IDX, an image, or a "
                         "folder of images")
    if array.ndim not in (2, 3, 4) or not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"{path} holds an array of shape {array.shape} and type {array.dtype}; "
                         "numbers of shape (n, pixels) or (n, height, width) are needed")
    shape = tuple(array.squeeze(tuple(range(3, array.ndim))).shape[1:]) if array.ndim > 2 else None
    if array.size == 0:
        raise ValueError(f"{path} is empty: it holds an array of shape {array.shape}")
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
        array = _read_numpy(path, "labels", LABEL_ARRAYS)
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
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):  # a .npy by another name
        return None
    with loaded:
        beside = [loaded[name] for name in LABEL_ARRAYS if name in loaded.files]
    usable = beside and beside[0].shape == (n,) and beside[0].dtype.kind in "iu"
    return read_labels(path, n) if usable or (beside and strict) else None


def _class_indices(path: Path, array: np.ndarray, n: int) -> Tensor:
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise ValueError(f"{path} holds labels of shape {array.shape} and type {array.dtype}; class indices of an "
                         f"integer type and shape ({n},), one for each image, are needed")
    y = torch.from_numpy(array.astype(np.int64))
    if int(y.min()) < 0:
        raise ValueError(f"{path} holds labels from {int(y.min())} to {int(y.max())}; class indices are >= 0")
    return y


def write_npz(path: str | Path, **arrays: np.ndarray) -> Path:
    """Write arrays to a .npz, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as stream:
            np.savez_compressed(stream, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _read_numpy(path: Path, what: str, accepted: tuple[str, ...]) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            for name in (*accepted, *(names if len(names) == 1 else ())):
                if name in names:
                    return loaded[name]
    except (ValueError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged or not a NumPy file of numbers: {error}") from None
    except Exception as error:  # noqa: BLE001 - zipfile and zlib raise their own kinds
        raise ValueError(f"{path} is damaged: {error}") from None
    raise ValueError(f"{path} holds the arrays {', '.join(names)}; name the {what} "
                     f"{' or '.join(map(repr, accepted))}")


def image_shape(pixels: int, shape: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of an image with that many pixels: as told, square, or a single row."""
    if shape is not None:
        if len(shape) != 2 or shape[0] * shape[1] != pixels:
            raise ValueError(f"shape={tuple(shape)} does not make {pixels} pixels")
        return int(shape[0]), int(shape[1])
    side = round(pixels**0.5)
    return (side, side) if side * side == pixels else (1, pixels)
