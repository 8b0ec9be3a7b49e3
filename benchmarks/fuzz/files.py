"""Strategies of data files: every accepted form, damaged in every way, and headers that lie."""

import contextlib
import gzip
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz.content import header_only, idx, npy, npz, picture, zipped
from benchmarks.fuzz.oracle import contents

NUMBERS = ["f4", "f8", "f2", ">f4", ">f8", "u1", "i8", ">i4", "i1", "u8", "?"]
OTHERS = ["c8", "U3", "S2", "M8[s]", "m8[s]", [("a", "f4"), ("b", "i4")], "O"]
VALUES = [0.0, 1.0, 0.5, -0.5, 1.5, 255.0, math.nan, math.inf, 1e300, -1.0, 3.0, 2.0**40, 7.0]
SHAPES = [
    *((4, 64), (4, 8, 8), (4,), (4, 8, 8, 1), (), (0,), (0, 64), (4, 0), (1, 64)),
    *((4, 8, 8, 3), (2, 2, 2, 2, 2)),
]
any_shape = st.one_of(st.sampled_from(SHAPES), st.lists(st.integers(0, 5), max_size=6).map(tuple))


@st.composite
def images(draw):
    """Arrays of images with values in [0, 1]."""
    shape = (draw(st.integers(1, 12)), *draw(st.sampled_from([(64,), (8, 8)])))
    uniform = np.random.default_rng(draw(st.integers(0, 3))).random(shape)
    return uniform.astype(draw(st.sampled_from(["f4", "f8", "f2"])))


@st.composite
def odd_arrays(draw):
    """Arrays of any type, rank and value."""
    dtype = np.dtype(draw(st.sampled_from([*NUMBERS, *OTHERS])))
    shape = draw(any_shape)
    uniform = np.random.default_rng(draw(st.integers(0, 3))).random(shape)
    values = np.asarray(uniform * draw(st.sampled_from([1, 3, 255])))
    if values.size:
        for value in draw(st.lists(st.sampled_from(VALUES), max_size=2)):
            values.flat[draw(st.integers(0, values.size - 1))] = value

    if dtype.kind in "VMm":
        return np.zeros(shape, dtype)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return values.astype(dtype)


@st.composite
def arrays(draw):
    """Images, or anything else that an array may be, in either order of memory."""
    array = draw(st.one_of(images(), odd_arrays()))
    if draw(st.booleans()):
        return np.asfortranarray(array)

    return array


@st.composite
def label_arrays(draw, n=4):
    """Class indices, or arrays that are none."""
    if draw(st.integers(0, 3)) == 0:
        return draw(arrays())

    indices = np.arange(n) % 3
    indices[draw(st.integers(0, n - 1))] = draw(st.sampled_from([0, 2, 9, -1, 120]))
    return indices.astype(draw(st.sampled_from(["i8", "u1", "i4", ">i2"])))


def numbers(array: np.ndarray) -> np.ndarray:
    """Real numbers, for formats that hold nothing else."""
    if array.dtype.kind not in "fiub":
        return np.zeros(array.shape)

    return np.nan_to_num(array.astype(np.float64))


def promise(array: np.ndarray) -> bytes:
    """A header of a terabyte, before the bytes of an array."""
    tail = b""
    if array.dtype != object:
        tail = array.tobytes()

    return header_only((10**6, 10**6, *array.shape[:1]), tail=tail)


def two_arrays(array: np.ndarray) -> bytes:
    """Images with a row of numbers for each, not compressed."""
    rows = len(array) if array.ndim else 1
    return npz({"x": array, "y": np.arange(rows)}, compressed=False)


#: Bytes of an array by the end of the file's name.
FORMS = {
    ".npy": npy,
    ".npz": lambda a: npz({"x": a}),
    "-two.npz": two_arrays,
    "-other.npz": lambda a: npz({"p": a, "q": a}),
    "-empty.npz": lambda a: npz({}),
    "-bomb.npz": lambda a: zipped("x.npy", npy(np.zeros((2, 1 << 20), "f4"))),
    "-promise.npy": promise,
    "-promise.npz": lambda a: zipped("x.npy", header_only((10**5, 10**5))),
    "-overflow.npy": lambda a: header_only((2**40, 2**40), version=(2, 0)),
    "-ubyte": lambda a: idx(numbers(a)),
    "-ubyte.gz": lambda a: gzip.compress(idx(numbers(a)), mtime=0),
    "-promise-ubyte": lambda a: idx(numbers(a), (2**32 - 1,) * 3),
    "-promise-ubyte.gz": lambda a: gzip.compress(idx(numbers(a), (2**31, 1000)), mtime=0),
    "-kind-ubyte": lambda a: idx(numbers(a), kind=13),
    ".csv": lambda a: b"\n".join(b",".join(b"%g" % v for v in r) for r in numbers(a)),
    ".png": lambda a: picture(numbers(a)),
    ".jpg": lambda a: picture(numbers(a), "JPEG"),
    ".gif": lambda a: picture(numbers(a), "GIF"),
    ".tiff": lambda a: picture(numbers(a), "TIFF"),
    ".bmp": lambda a: picture(numbers(a), "BMP"),
}
STEMS = ["data", "über", "a b", "x" * 60, "ünï-数", "train-images-idx3"]
SUFFIXES = [".npy", ".npz", ".gz", "-ubyte", ".png", "", ".txt", ".NPY"]
DAMAGE = ["whole", "whole", "whole", "whole", "cut", "flip", "insert", "append", "other"]


@st.composite
def damaged(draw, content):
    """The bytes as they are, cut, flipped, with others inserted, or something else altogether."""
    how = draw(st.sampled_from(DAMAGE))
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
        return draw(flipped(content, at))

    return content


@st.composite
def flipped(draw, content, at):
    """The bytes with up to three others, mostly in the header."""
    in_header = st.integers(0, min(200, len(content)) - 1)
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.one_of(in_header, st.just(at)))
        changed[where] ^= draw(st.integers(1, 255))

    return bytes(changed)


@st.composite
def files(draw, forms=tuple(FORMS), values=None):
    """(name, bytes) of a data file, whole or damaged, now and then under another suffix."""
    form = draw(st.sampled_from(forms))
    if values is None:
        values = arrays()

    content = draw(damaged(FORMS[form](draw(values))))
    suffix = draw(st.sampled_from([form] * 6 + SUFFIXES))
    return draw(st.sampled_from(STEMS)) + suffix, content


@contextlib.contextmanager
def folder_with(named: Mapping[str, bytes]) -> Iterator[Path]:
    """A temporary folder with these files, which are the same at the end."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for file, content in named.items():
            (folder / file).write_bytes(content)

        yield folder
        assert contents(folder) == dict(sorted(named.items())), "a reader changed the files"
