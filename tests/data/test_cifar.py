"""CIFAR-10's files, of the same form and smaller: binary, and pickled as Python 2 and 3 do it."""

import os
import pickle

import numpy as np
import pytest
import torch

from gendae import CIFAR10, load
from gendae.commands.data import located
from gendae.data import cifar
from gendae.data.base import facts_of
from gendae.data.cifar import BATCHES
from gendae.data.pickles import read_pickle
from gendae.training.fit import say_which_data
from tests.commands.test_cli import gendae
from tests.training.test_configs import FAST
from tests.training.test_configs import FOLDER as CONFIGS

N = 20
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (6, N, 3, 32, 32), np.uint8)
LABELS = RANDOM.integers(0, 10, (6, N)).astype(np.uint8)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Batches of 20 images, of which 30 of the 100 for training validate."""
    monkeypatch.setattr(CIFAR10, "BATCH", N)
    monkeypatch.setattr(CIFAR10, "VALID", 30)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GENDAE_DATA", raising=False)
    return tmp_path


def of_python_2(batch, labels):
    """What cPickle of Python 2 wrote: text as bytes, an array of the former name."""
    content = b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03("
    content += b"".join(b"K" + bytes([label]) for label in labels)
    content += b"eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06"
    content += b"K\x00\x85U\x01b\x87Rq\x07(K\x01K" + bytes([N]) + b"M\x00\x0c\x86"
    content += b"cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\t(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    content += b"J\xff\xff\xff\xffK\x00tb\x89T" + batch.size.to_bytes(4, "little")

    return content + batch.tobytes() + b"tbu."


def written(folder, form):
    """Six batches of a form in a folder."""
    folder.mkdir(parents=True)
    for name, batch, labels in zip(BATCHES, PIXELS, LABELS, strict=True):
        rows = batch.reshape(N, -1)
        if form == "binary":
            records = np.concatenate([labels[:, None], rows], 1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        elif form == "python 2":
            (folder / name).write_bytes(of_python_2(rows, labels))
        else:
            content = {"batch_label": "of 6", "labels": labels.tolist(), "data": rows}
            (folder / name).write_bytes(pickle.dumps(content, int(form)))


@pytest.mark.parametrize(
    ("form", "below"),
    [
        ("binary", ""),
        ("binary", "cifar-10-batches-bin"),
        ("python 2", "cifar-10-batches-py"),
        ("2", ""),
        ("4", "cifar10"),
    ],
)
def test_batches_of_every_form_hold_the_same_images(small, form, below):
    written(small / "root" / below, form)
    data = CIFAR10(str(small / "root"))

    images = torch.from_numpy(PIXELS).flatten(0, 1).flatten(1).float() / 255
    labels = torch.from_numpy(LABELS).flatten().long()
    for name, rows in (
        ("train", slice(0, 70)),
        ("valid", slice(70, 100)),
        ("test", slice(100, 120)),
    ):
        assert torch.equal(data.split(name).x, images[rows])
        assert torch.equal(data.split(name).y, labels[rows])

    assert data.shape == (3, 32, 32)
    assert facts_of(data)["classes"][9] == "truck"
    assert data.identity.sha256 == CIFAR10(str(small / "root"), split_seed=1).identity.sha256
    drawn = CIFAR10(str(small / "root"), split_seed=1).split("valid").x
    assert (drawn[:, None] == images[:100]).all(2).sum(1).tolist() == [1] * 30


def test_where_the_batches_are_looked_for(small, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"cache/gendae/cifar10/cifar-10-batches-py; .*MD5 c32"
    ):
        CIFAR10().prepare_data()

    written(small / "env/cifar10/cifar-10-batches-bin", "binary")
    monkeypatch.setenv("GENDAE_DATA", str(small / "env"))
    assert len(CIFAR10().split("test").x) == N

    spec = {"type": "CIFAR10"}
    assert located(spec, "somewhere") == {"type": "CIFAR10", "root": "somewhere"}


def test_a_fit_says_which_batch_is_not_the_authors(small, monkeypatch, capsys):
    written(small / "py", "2")
    written(small / "bin", "binary")
    for folder in ("py", "bin"):
        say_which_data(CIFAR10(str(small / folder)))
    line = f"gendae: {small}/py/data_batch_1 is not the file of CIFAR-10's authors: its MD5 is"
    assert capsys.readouterr().err.startswith(line)

    sums = {name: cifar._md5(small / "py" / name) for name in BATCHES}
    monkeypatch.setattr(cifar, "MD5", sums)
    say_which_data(CIFAR10(str(small / "py")))
    assert capsys.readouterr().err == ""


class Program:
    """Makes a folder where its pickle is run."""

    def __reduce__(self):
        return os.mkdir, ("made",)


def nested(depth):
    """A key that takes 2^depth steps to hash."""
    key = b"K\x00"
    for _ in range(depth):
        key += b"q\x000h\x00h\x00\x86"
    return b"\x80\x02}(" + key + b"K\x00u."


ROWS = PIXELS[0].reshape(N, -1)
BAD = {
    "short.bin": (LABELS[0].tobytes(), r"has 20 bytes; records of 3,073"),
    "19.bin": (
        bytes(3073 * 19),
        r"shapes \(19, 3072\) and \(19,\); a batch of CIFAR-10 has \(20,",
    ),
    "class.bin": (bytes([10]) * 3073 * N, "labels 0..9"),
    "program": (pickle.dumps({"data": Program()}), "names posix.mkdir, and only plain data are"),
    "lambda": (b"\x80\x02cbuiltins\neval\nU\x011\x85R.", "names builtins.eval, and only plain"),
    "state": (
        b"\x80\x02cnumpy\nndarray\n}(U\x01aU\x01bub.",
        "damaged, or no pickle of plain data",
    ),
    "opcode": (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f", "holds the opcode 150"),
    "memo": (b"\x80\x02K\x00r\xff\xff\xff\xff}q\x00(U\x04dataK\x01u.", "a batch of CIFAR-10 has"),
    "key": (nested(60), "a key is a tuple; text is needed"),
    "cut": (of_python_2(ROWS, LABELS[0])[:5000], "is damaged, or no pickle"),
    "words": (b"once upon a time", "is damaged|no pickle of plain data"),
    "a list": (pickle.dumps([1], 2), "no pickle of plain data"),
    "floats": (pickle.dumps({"data": ROWS / 2.0, "labels": [1]}, 2), "unsigned bytes, row by row"),
    "columns": (pickle.dumps({"data": np.asfortranarray(ROWS)}, 2), "unsigned bytes, row by row"),
    "labels": (
        pickle.dumps({"data": ROWS, "labels": [300] * N}, 2),
        "holds data, labels; a batch",
    ),
    "no data": (pickle.dumps({"x": 3}, 2), "holds x; a batch of CIFAR-10 has `data`"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_batch_is_named_in_one_line_and_nothing_is_run(small, monkeypatch, name):
    monkeypatch.chdir(small)
    content, words = BAD[name]
    suffix = ".bin" if name.endswith(".bin") else ""
    written(small / "files", "binary" if suffix else "2")
    path = small / "files" / f"data_batch_3{suffix}"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=words) as error:
        CIFAR10(str(small / "files")).setup()
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert not (small / "made").exists()


def test_stored_arrays_are_checked_before_they_are_made(tmp_path):
    sound = of_python_2(ROWS, LABELS[0])
    path = tmp_path / "a"
    for old, new in ((b"M\x00\x0c\x86", b"M\x01\x0c\x86"), (b"U\x02u1", b"U\x02f8")):
        assert old in sound
        path.write_bytes(sound.replace(old, new))
        with pytest.raises(ValueError, match="holds another number of bytes|unsigned bytes"):
            read_pickle(path)

    path.write_bytes(sound)
    assert np.array_equal(read_pickle(path)["data"], ROWS)


@pytest.mark.parametrize(
    ("config", "root"),
    [
        ("cifar10-conv.yaml", "--data.root"),
        ("cifar10-lenet.yaml", "--data.source.init_args.root"),
    ],
)
def test_configurations_of_cifar_run_on_files_of_its_form(small, capsys, config, root):
    written(small / "files", "binary")
    fit = ["fit", "--config", CONFIGS / config, root, small / "files", *FAST]
    assert gendae(*fit, "--data.batch_size", 10, "--trainer.default_root_dir", small / "runs") == 0

    model = load(next(small.glob("runs/*/checkpoints/last.ckpt")))
    assert model.facts["shape"] == [3, 32, 32]
    assert model.facts["classes"][0] == "airplane"
    assert model.shapes[0] == (3, 32, 32)
