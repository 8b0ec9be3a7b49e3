"""Bytes of data files, honest ones and ones whose headers lie."""

import io
import math
import struct
import zipfile
from collections.abc import Mapping

import numpy as np
from PIL import Image


def npy(array: np.ndarray) -> bytes:
    """Bytes of a .npy, pickled where it holds objects."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(named: Mapping[str, np.ndarray], compressed: bool = True) -> bytes:
    """Bytes of a .npz."""
    write = np.savez_compressed if compressed else np.savez
    stream = io.BytesIO()
    write(stream, **named)
    return stream.getvalue()


def header_only(
    shape: tuple[int, ...], version: tuple[int, int] = (1, 0), tail: bytes = b""
) -> bytes:
    """A .npy that promises an array, with little or nothing behind its header."""
    writers = {
        (1, 0): np.lib.format.write_array_header_1_0,
        (2, 0): np.lib.format.write_array_header_2_0,
    }
    stream = io.BytesIO()
    writers[version](stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + tail


def idx(array: np.ndarray, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    """Bytes of an IDX file, whose header may promise another shape."""
    if shape is None:
        shape = array.shape

    head = bytes([0, 0, kind, len(shape) % 256])
    sizes = struct.pack(f">{len(shape)}I", *shape)
    return head + sizes + array.astype(np.uint8).tobytes()


def zipped(name: str, content: bytes) -> bytes:
    """A zip with one member."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def picture(array: np.ndarray, kind: str = "PNG") -> bytes:
    """Bytes of a square image file, from the first numbers of an array, in [0, 255]."""
    values = np.nan_to_num(np.asarray(array, np.float64), nan=0, posinf=255, neginf=0)
    values = values.reshape(-1)[:4096]
    if not values.size:
        values = np.zeros(1)

    side = max(1, math.isqrt(values.size))
    grey = np.resize(values, (side, side)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, kind)
    return stream.getvalue()
