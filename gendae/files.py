"""Files of images: IDX, NumPy arrays, image files and folders, read into tensors in [0, 1]."""

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


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")


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
        array = _read_numpy(path)
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


def _read_numpy(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            for name in ("x", "samples", *(names if len(names) == 1 else ())):
                if name in names:
                    return loaded[name]
    except (ValueError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged or not a NumPy file of numbers: {error}") from None
    except Exception as error:  # noqa: BLE001 - zipfile and zlib raise their own kinds
        raise ValueError(f"{path} is damaged: {error}") from None
    raise ValueError(f"{path} holds the arrays {', '.join(names)}; name the images 'x' or 'samples'")


def image_shape(pixels: int, shape: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of an image with that many pixels: as told, square, or a single row."""
    if shape is not None:
        if len(shape) != 2 or shape[0] * shape[1] != pixels:
            raise ValueError(f"shape={tuple(shape)} does not make {pixels} pixels")
        return int(shape[0]), int(shape[1])
    side = round(pixels**0.5)
    return (side, side) if side * side == pixels else (1, pixels)
