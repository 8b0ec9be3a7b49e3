import gzip
import math
import os
import struct
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from gendae import checks
from gendae.data import images
from gendae.data.base import Data, facts_of
from gendae.data.files import read_idx, write_idx
from gendae.data.images import MNIST, Digits, FashionMNIST, Images
from gendae.data.loader import Split, TensorLoader, joined
from gendae.data.multimodal import Arrays
from gendae.data.shards import Shards
from gendae.data.sources import read_images


def idx(path, array, opener=open):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    with opener(path, "wb") as stream:
        stream.write(header + array.tobytes())


def small_mnist(folder, suffix=".gz", images=60_000):
    """Files of MNIST's shape with one bright pixel per image, so that each can be told apart."""
    opener = {".gz": gzip.open, "": open}[suffix]
    folder.mkdir(parents=True)
    for part, count in (("train", images), ("t10k", 10_000)):
        number = np.arange(count)
        pixels = np.zeros((count, 28, 28), np.uint8)
        pixels.reshape(count, -1)[number, number % 784] = 255
        labels = (number % 10).astype(np.uint8)

        idx(folder / f"{part}-images-idx3-ubyte{suffix}", pixels, opener)
        idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels, opener)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No MNIST in the environment, the cache or the system."""
    monkeypatch.setattr(FashionMNIST, "systemwide", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GENDAE_DATA", raising=False)
    return tmp_path


def test_digits_split_is_seeded_disjoint_and_complete():
    a = Digits()
    b = Digits()
    c = Digits(seed=1)
    sizes = [len(a.split(name).x) for name in ("train", "valid", "test")]

    assert sizes == [1199, 299, 299]
    assert torch.equal(a.split("train").x, b.split("train").x)
    assert not torch.equal(a.split("train").x, c.split("train").x)
    assert sum(len(a.split(n).x) for n in ("train", "valid", "test")) == 1797
    assert a.split("train").y.bincount().min() > 80


@pytest.mark.parametrize(
    ("kind", "place", "suffix"),
    [
        (MNIST, "", ".gz"),
        (MNIST, "mnist", ""),
        (MNIST, "MNIST/raw", ""),
        (FashionMNIST, "fashion-mnist", ""),
        (FashionMNIST, "FashionMNIST/raw", ""),
    ],
)
def test_mnist_is_found_below_root(nowhere, kind, place, suffix):
    small_mnist(nowhere / "root" / place, suffix)
    data = kind(root=str(nowhere / "root"))
    assert [len(data.split(n).x) for n in ("train", "valid", "test")] == [50_000, 10_000, 10_000]
    assert data.split("valid").y[0] == 50_000 % 10
    assert data.split("train").x.max() == 1.0


def test_mnist_from_the_environment_and_with_a_drawn_split(nowhere, monkeypatch):
    small_mnist(nowhere / "env" / "mnist")
    monkeypatch.setenv("GENDAE_DATA", str(nowhere / "env"))
    plain = MNIST()
    drawn = MNIST(split_seed=3)

    assert torch.equal(plain.split("test").x, drawn.split("test").x)

    both, again = (torch.cat([d.split("train").x, d.split("valid").x]) for d in (drawn, plain))
    assert torch.equal(both.sum(0), again.sum(0))
    assert not torch.equal(plain.split("valid").x, drawn.split("valid").x)


@pytest.mark.parametrize(
    ("kind", "openml", "folder"),
    [(MNIST, "mnist_784", "mnist"), (FashionMNIST, "Fashion-MNIST", "fashion-mnist")],
)
def test_a_download_is_cached_atomically_and_used_once(nowhere, monkeypatch, kind, openml, folder):
    calls = []

    def fetch(name, **kwargs):
        calls.append(name)
        pixels = np.zeros((70_000, 784))
        pixels[:, 5] = 255
        return pixels, np.array([str(i % 10) for i in range(70_000)])

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    for _ in range(2):
        data = kind()
        data.prepare_data()
        assert data.split("test").x[0, 5] == 1.0

    assert calls == [openml]
    cached = nowhere / "cache/gendae" / folder
    assert all(not f.name.startswith(".") for f in cached.iterdir())


def no_network(name, **options):
    raise OSError("no network")


def mnist_of_another_size(folder):
    small_mnist(folder, images=59_999)
    MNIST(root=str(folder)).split("train")


PLACES = ["MNIST/raw", "{folder}/cache", "--data.root"]


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (
            lambda folder: MNIST("/no/such/folder", download=False).split("train"),
            FileNotFoundError,
            ["/no/such/folder", *PLACES],
        ),
        (lambda folder: MNIST().prepare_data(), FileNotFoundError, ["no network", *PLACES]),
        (mnist_of_another_size, ValueError, ["59999"]),
    ],
    ids=["missing", "failed download", "another size"],
)
def test_mnist_that_cannot_be_used_says_why_and_where_it_was_looked_for(
    nowhere, monkeypatch, use, error, words
):
    monkeypatch.setattr("sklearn.datasets.fetch_openml", no_network)

    with pytest.raises(error) as caught:
        use(nowhere / "root")
    for word in words:
        assert word.format(folder=nowhere) in str(caught.value)


def test_real_mnist(mnist):
    train = mnist.split("train")
    assert train.x.shape == (50_000, 784)
    assert train.x.mean().item() == pytest.approx(0.1307, abs=5e-4)
    assert train.y[:5].tolist() == [5, 0, 4, 1, 9]


def test_idx_round_trip_and_damage(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "a-ubyte.gz"
    write_idx(path, array)

    assert np.array_equal(read_idx(path), array)
    assert os.listdir(tmp_path) == ["a-ubyte.gz"]

    content = gzip.decompress(path.read_bytes())
    for name, bad in {"cut": content[:-3], "foreign": b"hello world", "short": b"\x00"}.items():
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(ValueError, match=name):
            read_idx(tmp_path / name)

    (tmp_path / "cut.gz").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        read_idx(tmp_path / "cut.gz")


@pytest.mark.parametrize(
    ("name", "shape", "atol"),
    [
        ("a.npy", (4, 4), 0),
        ("b.npz", None, 0),
        ("c.npz", (4, 4), 0),
        ("folder", (4, 4), 0.002),
        ("d-ubyte", (4, 4), 0.002),
    ],
)
def test_images_from_every_kind_of_file(tmp_path, name, shape, atol):
    x = np.random.default_rng(0).random((6, 4, 4)).astype(np.float32)
    pixels = (x * 255).round().astype(np.uint8)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", samples=x.reshape(6, 16), other=np.zeros(3))
    np.savez(tmp_path / "c.npz", anything=x.astype(np.float64))
    idx(tmp_path / "d-ubyte", pixels)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"folder/{i}.png")

    images, shape_of_file = read_images(tmp_path / name)

    assert images.dtype == torch.float32
    assert shape_of_file == shape
    assert torch.allclose(images, torch.from_numpy(x.reshape(6, 16)), atol=atol)


def bad_files(folder):
    np.save(folder / "bytes.npy", np.full((2, 4), 200.0))
    np.save(folder / "negative.npy", np.full((2, 4), -0.5))
    np.save(folder / "nan.npy", np.full((2, 4), np.nan))
    np.save(folder / "empty.npy", np.zeros((0, 4)))
    np.save(folder / "scalar.npy", np.float32(1.0))
    np.save(folder / "words.npy", np.array(["a", "b"]))
    np.savez(folder / "many.npz", a=np.zeros((1, 4)), b=np.zeros((1, 4)))
    (folder / "foreign.npy").write_bytes(b"not numpy")
    (folder / "cut.npz").write_bytes((folder / "many.npz").read_bytes()[:60])
    (folder / "picture.png").write_bytes(b"not a picture")
    (folder / "text.txt").write_text("x")
    (folder / "void").mkdir()
    (folder / "mixed").mkdir()
    for size in (3, 4):
        Image.new("L", (size, size)).save(folder / f"mixed/{size}.png")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bytes.npy", "divide by 255"),
        ("negative.npy", "-0.5"),
        ("nan.npy", "8 NaN"),
        ("empty.npy", "empty"),
        ("scalar.npy", "shape"),
        ("words.npy", "numbers"),
        ("many.npz", "arrays a, b"),
        ("foreign.npy", "damaged"),
        ("cut.npz", "damaged"),
        ("picture.png", "cannot be read"),
        ("text.txt", "unknown kind"),
        ("void", "no images"),
        ("mixed", "different sizes"),
        ("nothing.npy", "no such file"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, name, words):
    bad_files(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        read_images(tmp_path / name)
    assert name in str(error.value)


def test_loader_order_depends_on_seed_and_epoch_only():
    x = torch.arange(20.0)[:, None]
    first = TensorLoader(Split(x), 6, True, seed=1)
    second = TensorLoader(Split(x), 6, True, seed=1)
    epochs = [torch.cat([b[0] for b in first]) for _ in range(2)]

    assert len(first) == 3
    assert not torch.equal(*epochs)
    assert len(set(epochs[0].flatten().tolist())) == 18
    assert torch.equal(torch.cat([b[0] for b in second]), epochs[0])


def test_loader_shares_are_disjoint_and_equal_on_all_ranks():
    x = torch.arange(21.0)[:, None]
    shares = []
    for rank in (0, 1):
        loader = TensorLoader(Split(x), 2, True, 0, rank, 2)
        shares.append(torch.cat([b[0] for b in loader]).flatten().tolist())

    assert len(shares[0]) == len(shares[1]) == 10
    assert not set(shares[0]) & set(shares[1])


@pytest.mark.parametrize("given", [(), ("y",), ("observed",), ("y", "observed")])
def test_batches_carry_what_is_known_of_each_example(given):
    known = {"y": torch.arange(20), "observed": torch.rand(20, 2) < 0.5}
    split = Split(torch.rand(20, 3), **{name: known[name] for name in given})
    batch = next(iter(TensorLoader(split, 10)))
    plain = tuple(part for part in split if part is not None)
    for found, whole in ((batch, split[:10]), (Split.of(plain), split), (joined([batch]), batch)):
        assert isinstance(found, Split)
        assert [part is None for part in found] == [part is None for part in split]
        for a, b in zip(found, whole, strict=True):
            assert a is None or torch.equal(a, b)


class Own(Data):
    """Data of a kind, whose validation examples hold some values."""

    def __init__(self, kind, *values):
        super().__init__()
        self.kind = kind
        self.values = torch.tensor([values])

    def read(self):
        rest = Split(torch.full_like(self.values, 0.5))
        return {"train": rest, "valid": Split(self.values), "test": rest}, (1, 2)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("image", (0.0, 1.0), None),
        ("image", (0.0, 2.0), "Own valid images holds values from 0 to 2; pixels lie in .0, 1.$"),
        ("points", (-1.0, 2.0), None),
        ("points", (-1.0, math.inf), "Own valid points holds 1 NaN or infinite"),
        ("points", (1.0, 2.0, 3.0), r"Own train points have shape \(1, 3\); points in the plane"),
        ("vector", (-1.0, 2.0, 3.0), None),
        ("vector", (math.nan, 2.0), "Own valid examples holds 1 NaN"),
        ("vector", (), r"Own train examples are none \(shape \(1, 0\)\)"),
        ("sound", (0.0, 1.0), "kind='sound' is unknown; accepted: image, points, vector"),
    ],
)
def test_each_kind_of_data_is_checked_whenever_it_is_asked_for(kind, values, words):
    data = Own(kind, *values)
    if words is None:
        assert torch.equal(data.split("valid").x, data.values)
        assert facts_of(data) == {"kind": kind, "shape": [1, 2]}
        return

    for _ in range(2):  # bad data are not kept
        with pytest.raises(ValueError, match=words):
            data.split("train")


@pytest.mark.parametrize(
    ("high", "advice"),
    [
        (255.0, "as images of 0..255 do; divide by 255"),
        (200.5, "as images of 0..255 do; divide by 255"),
        (np.nextafter(np.float32(1), np.float32(2)), "0 to 1.0000001; .* clip what rounding"),
        (1.03, "clip what rounding"),
        (2.0, r"pixels lie in \[0, 1\]$"),
        (16.0, "divide by the largest value that a pixel can have"),
        (100.0, "divide by the largest value that a pixel can have"),
        (65535.0, "divide by the largest value that a pixel can have"),
    ],
)
def test_advice_on_the_scale_needs_evidence(high, advice):
    with pytest.raises(ValueError, match=advice):
        checks.pixels("x", torch.tensor([[0.0, 0.5, float(high)]]))


@pytest.mark.parametrize("low", [-1e-7, -0.02])
def test_a_pixel_a_little_below_black_is_to_be_clipped(low):
    with pytest.raises(ValueError, match="clip what rounding"):
        checks.pixels("x", torch.tensor([[low, 1.0]]))


@pytest.mark.parametrize("make", [Images, Shards, lambda path: Arrays({"a": path})])
def test_nothing_is_read_in_the_constructor_and_an_empty_path_is_no_folder(
    make, nowhere, monkeypatch
):
    monkeypatch.setattr(images, "read_idx", None)
    MNIST(root="/no/such/folder")
    make("/no/such/file")
    for path in ("", " "):
        with pytest.raises(ValueError, match=f"^path='{path}': the name of a file or folder"):
            make(path).split("train")


def test_loader_goes_over_the_same_order_in_every_pass_of_a_training_epoch():
    x = torch.arange(20.0)[:, None]
    loader = TensorLoader(Split(x), 6, True, seed=1, passes=3)
    single = TensorLoader(Split(x), 6, True, seed=1)

    assert (len(loader), len(single)) == (9, 3)

    for _ in range(3):  # epochs
        batches = [b[0] for b in loader]
        order = [b[0] for b in single]
        assert len(batches) == 9
        assert all(torch.equal(a, b) for a, b in zip(batches, 3 * order, strict=True))

    evaluation = TensorLoader(Split(x), 6, passes=2)
    incomplete = TensorLoader(Split(x), 50, True, passes=2)
    assert len(evaluation) == len(list(evaluation)) == 4
    assert len(list(incomplete)) == 2  # the one batch of each pass


@pytest.mark.parametrize(
    ("passes", "taken"), [(1, 1), (1, 2), (2, 1), (2, 3), (2, 4), (2, 6), (2, 8)]
)
def test_loader_resumes_in_the_middle_of_any_pass(passes, taken):
    x = torch.arange(20.0)[:, None]
    loader, stopped, again = (
        TensorLoader(Split(x), 6, True, seed=1, passes=passes) for _ in range(3)
    )
    batches = [b[0] for _ in range(2) for b in loader]
    source = chain.from_iterable(stopped for _ in range(2))

    assert all(torch.equal(next(source)[0], b) for b in batches[:taken])

    again.load_state_dict(stopped.state_dict())
    rest = [b[0] for b in again]
    expected = batches[taken : taken + len(rest)]
    length = 3 * passes

    assert len(rest) == length - taken % length
    assert all(torch.equal(a, b) for a, b in zip(rest, expected, strict=True))


def test_an_epoch_that_is_left_early_is_over():
    """limit_train_batches leaves the loader in the middle; the next epoch is whole again."""
    loader = TensorLoader(Split(torch.arange(12.0)[:, None]), 3, shuffle=True)
    next(iter(loader))
    whole = torch.cat([batch.x for batch in loader])
    assert loader.epoch == 1
    assert sorted(whole.flatten().tolist()) == list(range(12))
