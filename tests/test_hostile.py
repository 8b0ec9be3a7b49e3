"""Hostile input that once did harm, each case as small as the fuzz harness made it.

Random sweeps are run by hand: `python -m benchmarks.fuzz`.
"""

import gzip
import inspect
import io
import math
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.fuzz.content import header_only, idx, npy, picture, zipped
from benchmarks.fuzz.models import description_of, models
from benchmarks.fuzz.oracle import LONGEST, bounded_memory, command
from benchmarks.fuzz.targets import CONFIGS, checked, fuzz
from benchmarks.fuzz.values import nested
from gendae import Arrays, generate, load
from gendae.data.files import read_labels, read_modality
from gendae.data.sources import read_images
from gendae.registry import REGISTRY, build
from gendae.storage import inputs


def refused(path, content, *readers):
    """Each reader refuses a file of this content in one line that names it."""
    path.write_bytes(content)
    for read in readers:
        with bounded_memory(), pytest.raises(ValueError, match=path.name) as error:
            read(path)
        assert "\n" not in str(error.value)


# -- data files ----------------------------------------------------------------------------------


def no_labels(path):
    return read_labels(path, 0)


BOTH = (read_images, read_modality)


@pytest.mark.parametrize(
    ("array", "readers"),
    [
        (np.ones((4, 64), "c8") * (0.5 + 0.5j), BOTH),  # lost its imaginary part
        (np.zeros((4, 64), "m8[s]"), BOTH),  # spans of time counted as numbers
        (np.eye(3)[None, None], [read_images]),  # in colour: ended in words about axes
        (np.zeros((4, 2, 8, 8), "f4"), [read_images]),
        (np.zeros(0, int), [no_labels]),  # RuntimeError
    ],
)
def test_arrays_that_are_no_data_of_this_kind(tmp_path, array, readers):
    refused(tmp_path / "x.npy", npy(array), *readers)


def gzipped(content):
    return gzip.compress(content, mtime=0)  # whose time would be part of a test's name


def packed(method):
    """Four million zeros in a .npz, of which each byte stands for a thousand or more."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("x.npy", npy(np.zeros((1000, 4000), np.uint8)))
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.npz", packed(zipfile.ZIP_DEFLATED)),
        ("x.npz", packed(zipfile.ZIP_BZIP2)),
        ("x.npz", packed(zipfile.ZIP_LZMA)),
        ("x-ubyte.gz", gzipped(idx(np.zeros((1000, 4000), np.uint8)))),
    ],
    ids=["deflate", "bzip2", "lzma", "gzip"],
)
def test_files_that_unpack_to_a_thousand_times_their_size(tmp_path, monkeypatch, name, content):
    """Beyond the first bytes, of which a small file may hold many zeros."""
    path = tmp_path / name
    path.write_bytes(content)
    assert len(read_images(path)[0]) == 1000

    monkeypatch.setattr(inputs, "FIRST", 2**16)
    refused(path, content, read_images)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.npy", header_only((10**6, 10**6))),
        ("overflow.npy", header_only((2**40, 2**40), version=(2, 0))),
        ("negative.npy", header_only((-1, 64), tail=bytes(256))),
        ("x.npz", zipped("x.npy", header_only((10**5, 10**5)))),
        ("x-ubyte.gz", gzipped(idx(np.zeros(4), (2**31, 1000)))),
        ("wrapped-ubyte", idx(np.zeros(4), (2**32 - 1,) * 3)),  # the product of sizes overflowed
    ],
)
def test_a_header_promised_more_than_the_memory_holds(tmp_path, name, content):
    refused(tmp_path / name, content, *readers_of(name))


def readers_of(name):
    if name.endswith(".npy"):
        return BOTH

    return [read_images]


HEADER = npy(np.zeros((2, 2), "f4"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("syntax.npy", HEADER.replace(b"'descr'", b"'descr ")),  # SyntaxError
        ("token.npy", HEADER.replace(b"}", b"(")),  # tokenize.TokenError
        ("rank-ubyte", b"\x00\x00\x08\xff"),  # struct.error
        ("short-ubyte", b"\x00\x00\x08\x03\x00"),
        ("x-ubyte.gz", gzipped(idx(np.zeros((2, 8, 8))))[:10] + b"\xff" * 40),  # zlib.error
        ("cut.png", picture(np.full(64, 9.0))[:45]),
        ("crc.png", picture(np.full(64, 9.0)).replace(b"IDAT", b"IDAX")),
    ],
)
def test_a_damaged_file_ended_in_an_error_of_the_library_that_read_it(tmp_path, name, content):
    refused(tmp_path / name, content, *readers_of(name))


def stored(*names):
    """A .npz of members with these names."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, npy(np.zeros((2, 4))))
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.npz", stored("x", "x.npy"), "two arrays of one name"),
        ("x.npz", stored(*(f"a{i}" for i in range(999))), r"a0, a1.* \.\. .*a998"),
        ("x-ubyte", idx(np.zeros(0), (0, 2**31, 2**31)), "is empty"),
    ],
    ids=["twice", "many", "no images"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_is_named_in_a_short_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_images(tmp_path / name)

    assert name in str(error.value)
    assert len(str(error.value)) < LONGEST


def test_a_file_larger_than_the_memory_is_named(tmp_path):
    """Sparse files of 10^15 bytes ended in a MemoryError."""
    for name, start in (("x-ubyte", idx(np.zeros(0), (10**6, 10**6, 10**3))), ("x.ckpt", b"PK")):
        path = tmp_path / name
        with open(path, "wb") as file:
            file.write(start)
            try:
                file.truncate(10**15 + len(start))
            except OSError:
                pytest.skip("the file system has no sparse files of this size")

        with pytest.raises(ValueError, match=f"{name}.* does not fit into the memory"):
            load(path) if name == "x.ckpt" else read_images(path)


def test_labels_beyond_64_bits_were_negative(tmp_path):
    np.save(tmp_path / "y.npy", np.array([0, 2**64 - 1], np.uint64))
    with pytest.raises(ValueError, match="labels from 0 to 18446744073709551615"):
        read_labels(tmp_path / "y.npy", 2)


def test_pickled_objects_were_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "run",)

    (tmp_path / "x.npy").write_bytes(npy(np.array([[Evil()]], object)))
    for read in (read_images, read_modality, lambda path: read_labels(path, 1)):
        with pytest.raises(ValueError, match="pickled objects"):
            read(tmp_path / "x.npy")

    assert not (tmp_path / "run").exists()


def test_the_range_of_grey_is_that_of_the_file_or_the_image_is_refused(tmp_path):
    """Images of 16 bits lost their grey, and those of an unknown range were read."""
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "x.png")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tiff")

    x, shape = read_images(tmp_path / "x.png")
    assert shape == (8, 8)
    assert torch.allclose(x[0], torch.from_numpy(grey.reshape(-1).astype(np.float32)) / 65535)

    with pytest.raises(ValueError, match="mode F"):
        read_images(tmp_path / "x.tiff")


def test_a_huge_label_made_as_many_columns(tmp_path):
    np.save(tmp_path / "y.npy", np.array([0, 10**12] * 10))
    with pytest.raises(ValueError, match="the label 1000000000000; class indices below 100,000"):
        Arrays({"label": tmp_path / "y.npy"}).setup()


# -- descriptions, configurations, commands ------------------------------------------------------


def affine(in_features, out_features=2):
    return {"type": "Affine", "in_features": in_features, "out_features": out_features}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (nested(3000), "nested too deep"),
        (affine(math.inf), "in_features=inf"),
        (affine(10**400), "in_features=1000"),
        (affine(2**40, 2**20), "in_features=1099511627776"),
        ({"type": "Stack", "pairs": [3]}, "Stack: "),
        ({"type": "Stack", "pairs": 3}, "Stack: "),
        ({"type": "FlipNoise", "probability": "x"}, "FlipNoise: "),
        ({"type": "Junction"}, "Junction: "),
        ({**affine("x"), "type": "MLP", "hidden": []}, "in_features='x'"),
        ({"type": "GaussianNoise", "sigma": 0.1, "colour": "pink"}, "GaussianNoise: "),
        ({"type": "system", "command": "true"}, "unknown type 'system'"),
        ({"type": "é" * 300}, r"unknown type 'é+ \.\. é+'"),  # all classes were named beside it
    ],
)
def test_a_description_ended_in_an_error_of_python(data, words):
    with bounded_memory(), pytest.raises(ValueError, match=words) as error:
        build(data)
    assert len(str(error.value)) < LONGEST


@pytest.mark.parametrize(
    "text",
    [
        b"model: {class_path: [1]}\ndata: 1",
        b"model: {class_path: x}\ndata: 1\ntrainer: null",
        b"[" * 3000 + b"]" * 3000,
        b"a: \x00",
        b"a: 2020-99-99",
    ],
)
def test_a_configuration_of_other_things_ended_in_an_error_of_python(text, tmp_path):
    refused(tmp_path / "c.yaml", text, checked)


FIT = "fit --config {config} --trainer.enable_progress_bar false"


@pytest.mark.parametrize(
    ("target", "line", "said"),
    [
        ("commands", f"sample digits-variational-em --seed {2**70}", []),
        ("commands", f"filters digits-variational-em --seed {-(2**70)}", []),
        ("commands", "sample digits-variational-em --device meta", []),
        ("trainings", "fit --config c.yaml", []),  # no text
        ("trainings", f"{FIT} --model.stack.sizes [63,9,4]", ["x has shape"]),
    ],
)
def test_a_command_ended_in_a_traceback(tmp_path, target, line, said):
    (tmp_path / "c.yaml").write_bytes(b"\x80")
    config = CONFIGS / "digits-variational-em.yaml"
    assert command(target, tmp_path, line.format(config=config).split(), said) == 2


@pytest.mark.parametrize(
    "options",
    [{"n": 1.5}, {"n": 1, "seed": 2**70}, {"n": 1, "seed": True}, {"n": 1, "sampler": True}],
)
def test_an_argument_of_another_type_was_rounded_or_ended_in_a_type_error(options):
    name = list(options)[-1]
    with pytest.raises(ValueError, match=f"{name}="):
        generate(load(models()["plain"]), **options)


# -- the harness ---------------------------------------------------------------------------------


def test_the_harness_passes_good_readers_and_finds_a_planted_fault(monkeypatch):
    fuzz("labels", cases=200)

    monkeypatch.setattr(
        "benchmarks.fuzz.targets.read_labels", lambda path, n: torch.full((n,), -1)
    )
    with pytest.raises(AssertionError):
        fuzz("labels", cases=200)


def test_the_descriptions_that_the_harness_mutates_are_valid():
    for name, cls in REGISTRY.items():
        if cls.__module__.startswith("gendae."):
            assert type(build(description_of(name))) is cls


# -- one thing in the place of several -----------------------------------------------------------


def _lists():
    """Arguments of registered classes that are lists of something."""
    for name, cls in sorted(REGISTRY.items()):
        for parameter in inspect.signature(cls).parameters.values():
            told = str(parameter.annotation)
            if "gendae" in cls.__module__ and re.match(r"(collections.abc.Sequence|list)\[", told):
                yield name, parameter.name


@pytest.mark.parametrize(("name", "argument"), [*_lists()])
def test_one_thing_in_the_place_of_several_is_refused_by_the_argument_s_name(name, argument):
    description = {key: build(value) for key, value in description_of(name).items()}
    del description["type"]
    positional = description.pop("pairs", []) if name.endswith("Stack") else []
    with pytest.raises(ValueError, match=argument):
        REGISTRY[name](*positional, **{**description, argument: torch.nn.Linear(2, 2)})
