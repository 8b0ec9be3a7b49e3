"""Strategies for data files of the fuzz tests: every accepted form, damaged in every way, and headers that lie."""

import contextlib
import gzip
import io
import math
import struct
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz import contents

DTYPES = [
    "f4",
    "f8",
    "f2",
    ">f4",
    ">f8",
    "u1",
    "i8",
    ">i4",
    "i1",
    "u8",
    "?",
    "c8",
    "U3",
    "S2",
    "M8[s]",
    "m8[s]",
    [("a", "f4"), ("b", "i4")],
    "O",
]
VALUES = st.sampled_from(
    [0.0, 1.0, 0.5, -0.5, 1.5, 255.0, math.nan, math.inf, 1e300, -1.0, 3.0, 2.0**40, 7.0]
)
SHAPES = st.one_of(
    st.sampled_from(
        [
            (4, 64),
            (4, 8, 8),
            (4,),
            (4, 8, 8, 1),
            (),
            (0,),
            (0, 64),
            (4, 0),
            (1, 64),
            (4, 8, 8, 3),
            (2, 2, 2, 2, 2),
        ]
    ),
    st.lists(st.integers(0, 5), max_size=6).map(tuple),
)


@st.composite
def arrays(draw):
    """Arrays of any type, rank, order and value, mostly of numbers in [0, 1]."""
    fine = draw(st.booleans())
    dtype = np.dtype(draw(st.sampled_from(["f4", "f8", "f2"] if fine else DTYPES)))
    shape = (
        (draw(st.integers(1, 12)), *draw(st.sampled_from([(64,), (8, 8)])))
        if fine
        else draw(SHAPES)
    )
    uniform = np.random.default_rng(draw(st.integers(0, 3))).random(shape)
    values = np.asarray(uniform * (1 if fine else draw(st.sampled_from([1, 3, 255]))))
    if values.size and not fine:
        for value in draw(st.lists(VALUES, max_size=2)):
            values.flat[draw(st.integers(0, values.size - 1))] = value
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.zeros(shape, dtype) if dtype.kind in "VMm" else values.astype(dtype)
    return np.asfortranarray(array) if draw(st.booleans()) else array


@st.composite
def labels(draw, n=4):
    """Class indices, or arrays that are none."""
    if draw(st.integers(0, 3)) == 0:
        return draw(arrays())
    found = np.arange(n) % 3
    found[draw(st.integers(0, n - 1))] = draw(st.sampled_from([0, 2, 9, -1, 120]))
    return found.astype(draw(st.sampled_from(["i8", "u1", "i4", ">i2"])))


def npy(array):
    """Bytes of a .npy, pickled where it holds objects."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(named, compressed=True):
    """Bytes of a .npz."""
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **named)
    return stream.getvalue()


def header_only(shape, dtype="<f4", version=(1, 0), tail=b""):
    """A .npy that promises an array, with little or nothing behind its header."""
    stream = io.BytesIO()
    write = (
        np.lib.format.write_array_header_1_0
        if version == (1, 0)
        else np.lib.format.write_array_header_2_0
    )
    write(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + tail


def idx(array, shape=None, kind=8):
    """Bytes of an IDX file, whose header may promise another shape."""
    shape = array.shape if shape is None else shape
    return (
        bytes([0, 0, kind, len(shape) % 256])
        + struct.pack(f">{len(shape)}I", *shape)
        + array.astype(np.uint8).tobytes()
    )


def zipped(name, content):
    """A zip with one member."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def picture(array, kind="PNG"):
    """Bytes of an image file, from numbers in [0, 255]."""
    stream = io.BytesIO()
    flat = np.nan_to_num(np.asarray(array, np.float64), nan=0, posinf=255, neginf=0).reshape(-1)[
        :4096
    ]
    side = max(1, math.isqrt(flat.size))
    grey = (
        np.resize(flat if flat.size else np.zeros(1), (side, side)).clip(0, 255).astype(np.uint8)
    )
    Image.fromarray(grey).save(stream, kind)
    return stream.getvalue()


def numbers(array):
    """Real numbers for formats that hold nothing else."""
    return (
        np.zeros(array.shape)
        if array.dtype.kind not in "fiub"
        else np.nan_to_num(array.astype(np.float64))
    )


FORMS = {
    ".npy": npy,
    ".npz": lambda a: npz({"x": a}),
    "-two.npz": lambda a: npz({"x": a, "y": np.arange(len(a) if a.ndim else 1)}, compressed=False),
    "-other.npz": lambda a: npz({"p": a, "q": a}),
    "-empty.npz": lambda a: npz({}),
    "-bomb.npz": lambda a: zipped("x.npy", npy(np.zeros((2, 1 << 20), "f4"))),
    "-promise.npy": lambda a: header_only(
        (10**6, 10**6, *a.shape[:1]), tail=a.tobytes() if a.dtype != object else b""
    ),
    "-promise.npz": lambda a: zipped("x.npy", header_only((10**5, 10**5))),
    "-overflow.npy": lambda a: header_only((2**40, 2**40), version=(2, 0)),
    "-ubyte": lambda a: idx(numbers(a)),
    "-ubyte.gz": lambda a: gzip.compress(idx(numbers(a)), mtime=0),
    "-promise-ubyte": lambda a: idx(numbers(a), (2**32 - 1,) * 3),
    "-promise-ubyte.gz": lambda a: gzip.compress(idx(numbers(a), (2**31, 1000)), mtime=0),
    "-kind-ubyte": lambda a: idx(numbers(a), kind=13),
    ".png": lambda a: picture(numbers(a)),
    ".jpg": lambda a: picture(numbers(a), "JPEG"),
    ".gif": lambda a: picture(numbers(a), "GIF"),
    ".tiff": lambda a: picture(numbers(a), "TIFF"),
    ".bmp": lambda a: picture(numbers(a), "BMP"),
}
STEMS = st.one_of(
    st.sampled_from(["data", "über", "a b", "x" * 60, "ünï-数", "train-images-idx3"])
)


@st.composite
def damaged(draw, content):
    """The bytes as they are, cut, flipped, with others inserted, or something else altogether."""
    how = draw(
        st.sampled_from(
            ["whole", "whole", "whole", "whole", "cut", "flip", "insert", "append", "other"]
        )
    )
    at = draw(st.integers(0, max(0, len(content) - 1)))
    if how == "cut":
        return content[:at]
    if how == "other":
        return draw(st.binary(max_size=40))
    if how == "insert":
        return content[:at] + draw(st.binary(min_size=1, max_size=20)) + content[at:]
    if how == "append":
        return content + draw(st.binary(min_size=1, max_size=20))
    if how == "flip" and content:
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 3))):
            changed[draw(st.one_of(st.integers(0, min(200, len(content)) - 1), st.just(at)))] ^= (
                draw(st.integers(1, 255))
            )
        return bytes(changed)
    return content


@st.composite
def files(draw, forms=tuple(FORMS), values=None):
    """(name, bytes) of a data file in any accepted form, whole or damaged, now and then under another suffix."""
    form = draw(st.sampled_from(forms))
    content = draw(damaged(FORMS[form](draw(arrays() if values is None else values))))
    suffix = draw(
        st.sampled_from([form] * 6 + [".npy", ".npz", ".gz", "-ubyte", ".png", "", ".txt", ".NPY"])
    )
    return draw(STEMS) + suffix, content


@contextlib.contextmanager
def folder_with(named):
    """A temporary folder with these files, which are the same at the end."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for file, content in named.items():
            (folder / file).write_bytes(content)
        yield folder
        assert contents(folder) == dict(sorted(named.items())), "a reader changed the files"


HEADER = npy(np.zeros((2, 2), "f4"))
#: Files that were read wrongly, or ended in another error than a clear one, each as small as it became.
FOUND = {
    "complex.npy": npy(np.ones((4, 64), "c8") * (0.5 + 0.5j)),  # lost its imaginary part
    "time.npy": npy(np.zeros((4, 64), "m8[s]")),  # counted as numbers
    "colour.npy": npy(np.zeros((4, 8, 8, 3), "f4")),  # numpy's words about axes
    "first.npy": npy(np.zeros((4, 1, 8, 8), "f4")),
    "promise.npy": header_only((10**6, 10**6)),  # MemoryError
    "overflow.npy": header_only((2**40, 2**40), version=(2, 0)),
    "negative.npy": header_only((-1, 64), tail=bytes(256)),
    "quote.npy": HEADER.replace(b"'descr'", b"'descr "),  # SyntaxError
    "open.npy": HEADER.replace(b"}", b"("),  # tokenize.TokenError
    "promise.npz": zipped("x.npy", header_only((10**5, 10**5))),
    "rank-ubyte": b"\x00\x00\x08\xff",  # struct.error
    "short-ubyte": b"\x00\x00\x08\x03\x00",
    "promise-ubyte.gz": gzip.compress(idx(np.zeros(4), (2**31, 1000))),
    "wrapped-ubyte": idx(np.zeros(4), (2**32 - 1,) * 3),  # numpy's product of sizes overflowed
    "zlib-ubyte.gz": gzip.compress(idx(np.zeros((2, 8, 8))))[:10] + b"\xff" * 40,  # zlib.error
    "cut.png": picture(np.full(64, 9.0))[:45],
    "crc.png": picture(np.full(64, 9.0)).replace(b"IDAT", b"IDAX"),
}
