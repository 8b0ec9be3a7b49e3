"""Images of one's own: every form that they come in, and the line that refuses the others."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from gendae import FewLabels, Images, Multimodal, PartlyLabelled, Shards
from gendae.commands.data import data_of
from gendae.data.base import facts_of
from gendae.data.pictures import luma
from gendae.data.sources import InMemory, read_images, read_pictures
from gendae.registry import build
from gendae.storage import inputs
from tests.conftest import small_stack

RANDOM = np.random.default_rng(0)
N = 12
BYTES = RANDOM.integers(0, 256, (N, 4, 6), np.uint8)
X = torch.from_numpy(BYTES.reshape(N, -1).astype(np.float32)) / 255.0
Y = np.arange(N) % 3
COLOURED = RANDOM.integers(0, 256, (N, 4, 6, 3), np.uint8)
GREY = torch.from_numpy(luma(COLOURED).reshape(N, -1).astype(np.float32)) / 255.0


class Items(Dataset):
    """A data set whose items are anything."""

    def __init__(self, items, **attributes):
        self.items = items
        vars(self).update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Columns:
    """A stand-in for a data set of Hugging Face's: columns by name, and their features."""

    def __init__(self, columns, classes=None):
        self.columns = columns
        self.column_names = list(columns)
        feature = type("ClassLabel", (), {"names": classes})()
        self.features = {name: feature for name in columns if classes and name == "label"}

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name):
        return self.columns[name]


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def pictures(folder, images=BYTES, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / (names[i] if names else f"{i}.png") for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def same(read, x=X, shape=(4, 6), y=Y):
    """Whether images and labels are exactly these."""
    rows, held, *_ = read
    labels = None if rows.y is None else rows.y.tolist()
    return torch.equal(rows.x, x) and held == shape and labels == (None if y is None else list(y))


# -- arrays and tensors ---------------------------------------------------------------------------

SHAPES = {
    "rows": (lambda x: x.reshape(N, -1), None),
    "images": (lambda x: x, (4, 6)),
    "channel last": (lambda x: x[..., None], (4, 6)),
    "channel first": (lambda x: x[:, None], (4, 6)),
    "equal channels": (lambda x: np.stack([x] * 3, -1), (4, 6)),
    "equal channels first": (lambda x: np.stack([x] * 3, 1), (4, 6)),
}
KINDS = {
    "bytes": lambda x: x,
    "real": lambda x: x.astype(np.float32) / 255,
    "double": lambda x: (x.astype(np.float32) / 255).astype(np.float64),
    "tensor of bytes": torch.from_numpy,
    "tensor": lambda x: torch.from_numpy(x).float() / 255,
    "big-endian": lambda x: (x.astype(np.float32) / 255).astype(">f4"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", SHAPES)
def test_arrays_in_memory_and_in_files(kind, form, tmp_path):
    arrange, shape = SHAPES[form]
    array = KINDS[kind](np.ascontiguousarray(arrange(BYTES)))

    assert same(read_pictures(array), X, shape, None)

    np.save(tmp_path / "x.npy", np.asarray(array))
    assert same(read_pictures(tmp_path / "x.npy"), X, shape, None)
    np.savez(tmp_path / "x.npz", images=np.asarray(array), labels=Y)
    assert same(read_pictures(tmp_path / "x.npz"), X, shape, Y)


@pytest.mark.parametrize("dtype", [bool, np.float16, np.int64])
def test_zeros_and_ones_are_black_and_white(dtype):
    bits = BYTES > 127
    x, _ = read_images(bits.astype(dtype))
    assert torch.equal(x, torch.from_numpy(bits.reshape(N, -1)).float())


@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("kind", ["bytes", "real"])
def test_luma_by_choice_is_that_of_pictures(kind, axis, tmp_path):
    array = np.moveaxis(COLOURED, 3, axis)
    exact = np.stack([np.asarray(Image.fromarray(a).convert("L")) for a in COLOURED])
    assert np.array_equal(luma(COLOURED), exact)

    x, shape = read_images(KINDS[kind](array), "grey")
    assert shape == (4, 6)
    assert torch.allclose(x, GREY, atol=0 if kind == "bytes" else 0.501 / 255)

    paths = pictures(tmp_path, COLOURED)
    assert torch.equal(read_images(tmp_path, "grey")[0], GREY)
    assert torch.equal(read_images(paths, "grey")[0], GREY)


def test_grey_pictures_need_no_choice(tmp_path):
    """Pictures stored as RGB whose three channels are equal are grey."""
    pictures(tmp_path, np.stack([BYTES] * 3, -1))
    assert torch.equal(read_images(tmp_path)[0], X)
    assert torch.equal(read_images(tmp_path, "grey")[0], X)


# -- data sets in memory --------------------------------------------------------------------------


@pytest.fixture
def forms(tmp_path):
    """Sources of the same images and labels."""
    paths = pictures(tmp_path)
    pairs = list(zip(BYTES, Y.tolist(), strict=True))
    held = [Image.fromarray(a) for a in BYTES]
    named = {"image": held, "label": Y.tolist()}
    encoded = [{"bytes": png(a), "path": None} for a in BYTES]
    tensors = TensorDataset(torch.from_numpy(BYTES), torch.from_numpy(Y))

    return {
        "TensorDataset": tensors,
        "subset": torch.utils.data.Subset(tensors, range(N)),
        "tuples": Items([(torch.from_numpy(a)[None], torch.tensor(b)) for a, b in pairs]),
        "Pillow": Items(list(zip(held, Y, strict=True))),
        "dictionaries": Items([{"pixel_values": a, "labels": b} for a, b in pairs]),
        "files": Items([(path, b) for path, b in zip(paths, Y, strict=True)]),
        "list of tuples": pairs,
        "mapping": {"x_train": BYTES, "y_train": Y},
        "Hugging Face": Columns(named, ["a", "b", "c"]),
        "bytes of Hugging Face": Columns({"image": encoded, "label": Y.tolist()}),
        "lists": Columns({"img": BYTES.tolist(), "label": Y.tolist()}),
    }


FORMS = ["TensorDataset", "subset", "tuples", "Pillow", "dictionaries", "files", "list of tuples"]
FORMS += ["mapping", "Hugging Face", "bytes of Hugging Face", "lists"]


@pytest.mark.parametrize("form", FORMS)
def test_data_sets_in_memory(forms, form):
    assert same(read_pictures(forms[form]))


def test_labels_may_be_given_beside_and_names_of_classes_are_kept(forms):
    assert same(read_pictures(BYTES, labels=Y))
    assert same(read_pictures(BYTES, labels=torch.from_numpy(Y)[:, None]))
    named = Images(BYTES, labels=["abc"[label] for label in Y])
    assert read_pictures(BYTES, labels=named.labels).rows.y.tolist() == Y.tolist()
    assert named.classes == ("a", "b", "c")
    assert facts_of(named)["dataset"]["labels"]["type"] == "InMemory"
    assert read_pictures(forms["Hugging Face"]).classes == ("a", "b", "c")
    assert read_pictures(Items([(a, 0) for a in BYTES], classes=["none"])).classes == ("none",)
    assert same(read_pictures([path for path, _ in forms["files"].items]), y=None)


def test_a_data_set_may_have_test_images(tmp_path):
    parts = {"train": TensorDataset(*map(torch.from_numpy, (BYTES, Y)))}
    parts["test"] = TensorDataset(*map(torch.from_numpy, (BYTES[:2], Y[:2])))
    arrays = {"x_train": BYTES, "y_train": Y, "x_test": BYTES[:2], "y_test": Y[:2]}
    np.savez(tmp_path / "keras.npz", **arrays)

    for source in (parts, arrays, tmp_path / "keras.npz"):
        data = Images(source)
        assert torch.equal(data.split("test").x, X[:2])
        assert data.split("test").y.tolist() == [0, 1]
        assert [len(data.split(name).x) for name in ("train", "valid")] == [N - 1, 1]

    of_class = {name: BYTES[Y == index] for index, name in enumerate("abc")}
    train = tmp_path / "train"
    test = tmp_path / "test"
    for name, images in of_class.items():
        pictures(train / name, images)
        if name != "a":
            pictures(test / name, images)

    own = Items(list(zip(BYTES, Y, strict=True)), classes=["c", "b", "a"])
    few = Items([(BYTES[0], 0)], classes=["b"])
    for parts, classes, kept in (
        ({"train": train, "test": test}, ("a", "b", "c"), {"test": [1] * 4 + [2] * 4}),
        ({"train": own, "test": few}, ("c", "b", "a"), {"test": [1]}),
        ({"train": few, "val": test, "test": own}, ("b", "c", "a"), {"valid": [0] * 4 + [1] * 4}),
        ({"train": own, "test": Items([(BYTES[0], 1)])}, ("c", "b", "a"), {"test": [1]}),
    ):
        data = Images(parts)
        assert data.classes == classes
        for name, labels in kept.items():
            assert data.split(name).y.tolist() == labels


# -- tables ---------------------------------------------------------------------------------------


def csv(path, rows, *header):
    path.write_text("\n".join(",".join(map(str, row)) for row in [*header, *rows]) + "\n")
    return path


def test_csv(tmp_path):
    whole = BYTES.reshape(N, -1)
    pixels = [f"p{i}" for i in range(24)]
    labelled = [[y, *row] for y, row in zip(Y, whole, strict=True)]
    named = [["cat", *row] if y else ["ant", *row] for y, row in zip(Y, X.tolist(), strict=True)]

    assert same(read_pictures(csv(tmp_path / "plain.csv", whole)), shape=None, y=None)
    header = csv(tmp_path / "header.csv", labelled, ["label", *pixels])
    assert same(read_pictures(header), shape=None)

    read = read_pictures(csv(tmp_path / "names.csv", named, ["class", *pixels]))
    assert same(read, shape=None, y=(Y > 0).astype(int))
    assert read.classes == ("ant", "cat")

    numbered = csv(tmp_path / "pandas.csv", whole, range(24))  # as pandas writes it
    assert same(read_pictures(numbered), shape=None, y=None)


def test_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = pandas.DataFrame(BYTES.reshape(N, -1)).add_prefix("p").assign(target=Y)
    table.to_parquet(tmp_path / "a.parquet")
    table.astype(int).to_parquet(tmp_path / "b.parquet")
    pictured = {"image": [{"bytes": png(a), "path": "a.png"} for a in BYTES], "label": Y}
    pandas.DataFrame(pictured).to_parquet(tmp_path / "c.parquet")
    lists = {"image": [a.tolist() for a in BYTES], "label": Y}
    pandas.DataFrame(lists).to_parquet(tmp_path / "d.parquet")

    for name, shape in zip("abcd", [None, None, (4, 6), (4, 6)], strict=True):
        assert same(read_pictures(tmp_path / f"{name}.parquet"), shape=shape)
    assert same(read_pictures(table), shape=None)

    files = [str(path) for path in pictures(tmp_path / "files")]
    table = pandas.DataFrame({"image": files, "label": Y}, index=range(5, 5 + N))
    assert same(read_pictures(table))
    assert same(read_pictures(table["image"], labels=table["label"]))


def test_a_parquet_of_far_more_than_its_size_is_not_read(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"p": np.zeros(10**6, np.int8)}).to_parquet(tmp_path / "a.parquet")
    blob = RANDOM.bytes(200_000)
    pandas.DataFrame({"image": [blob] * 1500}).to_parquet(tmp_path / "blob.parquet")
    assert (tmp_path / "blob.parquet").stat().st_size < 210_000

    monkeypatch.setattr(inputs, "FIRST", 2**16)
    monkeypatch.setattr(inputs, "DEFLATED", 10)
    for name in ("a", "blob"):
        with pytest.raises(
            ValueError, match=f"{name}.parquet .*: more than the .* bytes that a fi"
        ):
            read_images(tmp_path / f"{name}.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        ValueError, match=r'a.parquet needs pyarrow; pip install "gendae\[tables\]"'
    ):
        read_images(tmp_path / "a.parquet")


# -- folders --------------------------------------------------------------------------------------


def test_folders_are_classes_in_natural_order(tmp_path):
    for name in ("10", "9", ".hidden"):
        pictures(tmp_path / name, BYTES[:2] if name == "9" else BYTES[2:5])

    data = Images(tmp_path, batch_size=1)
    assert data.classes == ("9", "10")
    few = PartlyLabelled(Images(tmp_path), FewLabels(2), classes=2)
    for known in (data, Multimodal(data, ["image", "label"]), few):
        assert facts_of(known)["classes"] == ["9", "10"]

    rows = read_pictures(tmp_path).rows
    assert torch.equal(rows.x, X[:5])
    assert rows.y.tolist() == [0, 0, 1, 1, 1]


# -- refusals -------------------------------------------------------------------------------------


def folder(path, **images):
    for name, image in images.items():
        pictures(path / name, [image] if image is not None else [])
    return path


def coloured(folder):
    return pictures(folder, COLOURED[:1])[0]


def text(path, content):
    path.write_text(content)
    return path


REFUSED = {
    "coloured array": (
        lambda _: COLOURED,
        r'path \(ndarray\) holds coloured .*color="grey" takes',
    ),
    "coloured first": (lambda _: np.moveaxis(COLOURED, 3, 1), "holds coloured pixels"),
    "coloured picture": (coloured, r"0.png holds coloured pixels; .*--data.color grey"),
    "one picture": (lambda _: np.zeros((8, 8, 3)), r"one coloured image has the shape \(1, "),
    "either end": (lambda _: np.zeros((N, 3, 6, 3)), "channels may be first or last"),
    "four channels": (
        lambda _: np.zeros((N, 4, 6, 4)),
        "of another kind; .n, pixels., .n, height",
    ),
    "sixteen": (lambda _: BYTES // 16 / 1.0, "from 0 to 15; .* the largest value that a pixel"),
    "bytes of 0 and 1": (lambda _: BYTES // 128, "bytes, 0..255, and none is above 1; give 0"),
    "whole numbers": (lambda _: BYTES.astype(int), "as images of 0..255 do; divide by 255"),
    "complex": (lambda _: BYTES * 1j, "path is a torch.complex128 tensor"),
    "text": (lambda _: np.array([["a"]]), "path is of type <U1; numbers are needed"),
    "nothing": (lambda _: None, "path is a NoneType; a file, a folder, an array"),
    "a number": (lambda _: 3, "path is a int; a file"),
    "no items": (lambda _: [], r"path \(list\) is empty"),
    "stream": (lambda _: iter(BYTES), "path is a iterator; .* a data set with a length and item"),
    "many parts": (lambda _: [(BYTES[0], 1, 2)], "item 0 has 3 parts; x, or x and y, are needed"),
    "other names": (lambda _: [{"photo": BYTES[0]}], "is a mapping of photo; name the image 'x'"),
    "other columns": (lambda _: {"photo": BYTES}, "column 'photo' holds uint8 of shape"),
    "no columns": (lambda _: {"label": Y}, "no columns of numbers beside the label"),
    "two sizes": (
        lambda _: [BYTES[0], BYTES[0].T],
        r"different sizes: item 0 is 4 x 6, item 1 is 6 x 4; one size is needed",
    ),
    "test size": (lambda _: {"x": X.numpy(), "x_test": X[:, :5].numpy()}, "test images of 5 pix"),
    "ragged csv": (lambda d: text(d / "a.csv", "1,0\n1\n"), "a.csv is no table of numbers"),
    "empty csv": (lambda d: text(d / "a.csv", ""), "a.csv is no table of numbers.*: it is empty"),
    "index": (lambda d: text(d / "a.csv", ",p\n0,1\n"), "column 1 has no name; .*index=False"),
    "two labels": (
        lambda d: text(d / "a.csv", "target,label,p\ncat,1,0\n"),
        "a.csv .*: 'target' and 'label' are both names of labels; keep one",
    ),
    "two labels in memory": (lambda _: {"p": X[:, 0], "y": Y, "class": Y}, "path: 'y' and 'class"),
    "one name": (lambda d: text(d / "a.csv", "p,p\n0,1\n"), "two columns have one name"),
    "words": (lambda d: text(d / "a.csv", "p,q\n0,red\n"), "could not convert string 'red'"),
    "no parquet": (lambda d: text(d / "a.parquet", "x"), "a.parquet is damaged or no .parquet"),
    "empty class": (lambda d: folder(d, a=BYTES[0], b=None), "b holds no images, and is the fold"),
    "parts": (
        lambda d: folder(d, train=BYTES[0], test=BYTES[0]),
        "which are no classes; name one",
    ),
    "stray picture": (lambda d: folder(d, a=BYTES[0], **{".": BYTES[0]}), "such as 0.png, beside"),
    "part": (
        lambda _: {"train": BYTES, "extra": BYTES},
        "parts train, extra; train, valid and te",
    ),
    "parts of one name": (lambda _: {"train": X, "val": X, "valid": X}, "the parts train, val, v"),
    "names and numbers": (
        lambda _: {"x": X[:1], "y": ["a"], "x_test": X[:1], "y_test": [1]},
        "names of classes as labels in some parts, and in others numbers",
    ),
    "sizes of classes": (
        lambda d: folder(d, a=BYTES[0], b=BYTES[0].T),
        "sizes: a/0.png is 4 x 6, b/0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_source_is_refused_in_one_line(name, tmp_path):
    make, words = REFUSED[name]
    if name == "no parquet":
        pytest.importorskip("pyarrow")

    with pytest.raises(ValueError, match=words) as error:
        Images(make(tmp_path)).setup()
    assert "\n" not in str(error.value)


def test_other_refusals(tmp_path):
    pictures(tmp_path / "classes/a")
    np.save(tmp_path / "y.npy", Y)
    labels = str(tmp_path / "y.npy")
    for make, words in (
        (lambda: Images(BYTES, color="keep"), "color='keep' is unknown; accepted: grey, rgb"),
        (lambda: Images(BYTES, labels=Y[:5]).setup(), r"labels of shape \(5,\)"),
        (lambda: Images(tmp_path / "classes", labels=labels).setup(), "name the classes"),
        (lambda: Shards(BYTES).setup(), "path is a ndarray; the name of a .npy"),
        (lambda: Shards(labels, color="grey").setup(), "Shards keep pixels as they are"),
        (lambda: Images(BYTES, shape=[6, 4]).setup(), r"shape=\(6, 4\): .* the shape \(4, 6\)"),
        (lambda: Images(BYTES, shape=[4, 4, 6]).setup(), r"height and width, or 3 and these in"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


# -- few images -----------------------------------------------------------------------------------


def test_few_images_are_parted_with_one_in_each_split():
    data = Images(BYTES[:3])
    assert [len(data.split(name).x) for name in ("train", "valid", "test")] == [1, 1, 1]

    words = "Images has 2 images, and training, validation and testing need one each: 3 at least"
    with pytest.raises(ValueError, match=words):
        Images(BYTES[:2]).setup()
    with pytest.raises(ValueError, match=r"valid_fraction=0.0 leaves no image; a share above 0"):
        Images(BYTES, valid_fraction=0.0).setup()


# -- what files keep of images in memory ----------------------------------------------------------


def test_images_in_memory_travel_as_their_hash(tmp_path):
    data = Images(TensorDataset(torch.from_numpy(BYTES)), labels=Y, color="grey")
    np.save(tmp_path / "x.npy", BYTES)
    np.save(tmp_path / "y.npy", Y)
    stored = Images(tmp_path / "x.npy", labels=tmp_path / "y.npy")
    assert data.identity.sha256 == stored.identity.sha256

    facts = json.loads(json.dumps(facts_of(data)))
    sha = data.identity.sha256
    kept = {"type": "InMemory", "sha256": sha, "shape": [N, 4, 6]}
    assert facts["dataset"]["path"] == facts["dataset"]["labels"] == kept
    assert facts["data"]["sha256"] == sha
    assert facts["dataset"]["color"] == "grey"

    with pytest.raises(FileNotFoundError, match="that were in memory .* give them again"):
        build({**facts["dataset"], "path": str(tmp_path / "x.npy")}).setup()

    again = build(facts["dataset"])
    words = rf"12 images of 4 x 6 pixels that were in memory \(sha256:{sha[:12]}\), and are in no"
    with pytest.raises(FileNotFoundError, match=words):
        again.setup()
    stack = small_stack([24, 8])
    stack.facts = facts
    with pytest.raises(FileNotFoundError, match=f"{words} file.*; or name your own .* --data"):
        data_of(stack)
    assert facts_of(stored)["dataset"]["path"] == str(tmp_path / "x.npy")

    parts = facts_of(Multimodal(Images(BYTES), ["top", "bottom"]))
    assert parts["dataset"]["source"]["path"]["type"] == "InMemory"


@pytest.mark.parametrize("bad", ["nope", 3, "g" * 64])
def test_a_hash_in_a_file_is_one(bad):
    with pytest.raises(ValueError, match="sha256="):
        InMemory(bad, [5, 8, 8])
