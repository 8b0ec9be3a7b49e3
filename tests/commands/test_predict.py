"""Labels: of one's own images for training, and from a trained classifier by `gendae predict`."""

import numpy as np
import pytest
import torch

from gendae import cli, load, save
from gendae.data.files import read_labels, write_idx
from gendae.data.images import Images
from gendae.data.sources import read_pictures
from gendae.models.architectures import deep_classifier
from gendae.models.settings import Settings
from tests.conftest import small_stack


def gendae(*arguments):
    try:
        return cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def model(tmp_path):
    return save(deep_classifier([64, 12, 12]), tmp_path / "m.safetensors")


@pytest.fixture
def own(tmp_path, digits):
    """Twenty test digits and their labels in every kind of file."""
    x, y, _ = digits.split("test")[:20]
    np.savez(tmp_path / "both.npz", x=x.numpy(), y=y.numpy())
    np.savez(tmp_path / "named.npz", samples=x.numpy(), label=y.numpy().astype(np.uint8))
    np.savez(tmp_path / "labels.npz", anything=y.numpy().astype(np.int16))
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())
    write_idx(
        tmp_path / "x-idx3-ubyte.gz", (x * 255).round().reshape(-1, 8, 8).numpy().astype(np.uint8)
    )
    write_idx(tmp_path / "y-idx1-ubyte.gz", y.numpy().astype(np.uint8))

    return tmp_path


def by_hand(path, x):
    """softmax of the network, written out from its weights."""
    stack = load(path)
    h = x.numpy()
    for pair in stack.pairs:
        h = np.tanh(h @ pair.f.weight.detach().numpy().T + pair.f.bias.detach().numpy())

    a = h @ stack.output.weight.detach().numpy().T + stack.output.bias.detach().numpy()
    e = np.exp(a - a.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("name", ["x.npy", "both.npz", "named.npz", "x-idx3-ubyte.gz"])
def test_predict_writes_what_the_network_says(model, own, digits, capsys, name):
    out = own / "deep/p.npz"
    assert gendae("predict", model, own / name, "--out", out) == 0

    with np.load(out) as arrays:
        assert sorted(arrays.files) == ["label", "probability"]
        label = arrays["label"]
        probability = arrays["probability"]
    assert (label.dtype, probability.dtype) == (np.int64, np.float32)

    x, y, _ = digits.split("test")[:20]
    expected = by_hand(model, x)
    tolerance = 1e-2 if "ubyte" in name else 1e-6  # bytes round the sixteenths

    assert np.allclose(probability, expected, atol=tolerance)
    assert np.array_equal(label, probability.argmax(1))

    printed = capsys.readouterr().out
    wrong = int((label != y.numpy()).sum())
    assert (f"error rate {5 * wrong:.2f} % ({wrong} of 20" in printed) == name.endswith(".npz")
    assert [p.name for p in out.parent.iterdir()] == ["p.npz"]


def test_classes_are_those_of_the_model_by_name(own, digits, capsys):
    """Of a file with some of the classes, by a model that knows their names, or their numbers."""
    network = deep_classifier([64, 12, 12])
    unnamed = save(network, own / "unnamed.safetensors")
    names = np.array([f"c{index}" for index in range(10)])
    network.facts = {"classes": names.tolist()}
    model = save(network, own / "named.safetensors")

    x = digits.split("test").x[:20].numpy()
    labels = by_hand(model, digits.split("test").x[:20]).argmax(1)
    some = labels > labels.min()
    assert some.any()

    out = own / "p.npz"
    for path, told in ((model, names[labels]), (unnamed, labels.astype(str))):
        np.savez(own / "some.npz", x=x[some], y=told[some])
        assert gendae("predict", path, own / "some.npz", "--out", out) == 0
        printed = capsys.readouterr().out
        assert "error rate 0.00 %" in printed

        with np.load(out) as arrays:
            assert ("name" in arrays) == (path == model)
            if path == model:
                assert arrays["name"].tolist() == told[some].tolist()
                assert f"{told[some][0]} {(labels == labels[some][0]).sum()}" in printed

    np.savez(own / "other.npz", x=x, y=["dog"] * 20)
    for path, known in ((model, "c0, c1"), (unnamed, "0, 1, 2")):
        assert gendae("predict", path, own / "other.npz", "--out", out) == 2
        assert f"other.npz has the class 'dog'; known are {known}" in capsys.readouterr().err


def test_draws_follow_seed_and_samples(tmp_path, own):
    network = deep_classifier([64, 12, 12], stochastic=True)
    network.settings = Settings(samples=7)
    path = save(network, tmp_path / "s.safetensors")

    def probabilities(*arguments):
        assert gendae("predict", path, own / "x.npy", "--out", own / "p.npz", *arguments) == 0
        with np.load(own / "p.npz") as arrays:
            return arrays["probability"]

    default = probabilities()
    assert np.array_equal(default, probabilities("--seed", 0, "--samples", 7))
    assert not np.array_equal(default, probabilities("--seed", 1))
    assert not np.array_equal(default, probabilities("--samples", 8))

    means = [probabilities("--seed", s, "--samples", 400) for s in (1, 2)]
    difference = np.abs(means[0] - means[1])
    assert difference.max() < 0.1  # both near the expectation, unlike single draws
    assert np.allclose(default.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["predict", "m.safetensors", "x.npy", "--out", "p.npy"], "accepted: .npz"),
        (["predict", "no-such-model", "no-such-data", "--out", "p.csv"], "suffix of --out"),
        (
            ["predict", "stack.safetensors", "x.npy"],
            "stack.safetensors is a Stack without output layer",
        ),
        (["predict", "none.ckpt", "x.npy"], "none.ckpt"),
        (["predict", "m.safetensors", "none.npy"], "none.npy"),
        (["predict", "m.safetensors", ""], "DATA='': the name of a file or folder is needed"),
        (["predict", "m.safetensors", "wide.npy"], "(batch, 64)"),
        (
            ["predict", "m.safetensors", "both.npz", "--out", "both.npz"],
            "a file that this command reads",
        ),
        (["predict", "m.safetensors", "x.npy", "--samples", "0"], "--samples=0"),
        (["predict", "m.safetensors", "x.npy", "--device", "abacus"], "abacus"),
        (["predict", "m.safetensors", "float.npz"], "type float64"),
        (
            ["predict", "m.safetensors", "eleven.npz"],
            "labels from 10 to 10; the model has 10 classes",
        ),
    ],
)
def test_what_predict_refuses_in_one_line(
    model, own, digits, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(own)

    x = digits.split("test").x[:20].numpy()
    save(small_stack([64, 8]), own / "stack.safetensors")
    np.save(own / "wide.npy", np.zeros((3, 65)))
    np.savez(own / "float.npz", x=x, y=np.zeros(20))
    np.savez(own / "eleven.npz", x=x, y=np.full(20, 10))
    before = {p: p.read_bytes() for p in own.rglob("*") if p.is_file()}

    assert gendae(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
    assert {p: p.read_bytes() for p in own.rglob("*") if p.is_file()} == before


def test_a_failed_write_leaves_nothing(model, own, monkeypatch):
    def broken(stream, **arrays):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", broken)
    before = sorted(own.iterdir())

    assert gendae("predict", model, own / "x.npy", "--out", own / "p.npz") == 2
    assert sorted(own.iterdir()) == before


# -- labels of one's own images ------------------------------------------------------------------


@pytest.mark.parametrize(
    "images, labels",
    [
        ("x.npy", "y.npy"),
        ("x.npy", "labels.npz"),
        ("x.npy", "y-idx1-ubyte.gz"),
        ("x.npy", "both.npz"),
        ("both.npz", None),
        ("named.npz", None),
        ("both.npz", "labels.npz"),
        ("x-idx3-ubyte.gz", "y-idx1-ubyte.gz"),
    ],
)
def test_labels_stay_with_their_images(own, digits, images, labels):
    data = Images(
        str(own / images),
        labels=labels and str(own / labels),
        valid_fraction=0.2,
        test_fraction=0.2,
    )
    x, y, _ = digits.split("test")[:20]

    for name, n in (("train", 12), ("valid", 4), ("test", 4)):
        split = data.split(name)
        assert split.y.dtype == torch.int64
        assert len(split.x) == len(split.y) == n
        for image, label in zip(split.x, split.y, strict=True):
            assert label == y[(x - image).square().sum(1).argmin()]


def test_what_is_no_label_is_nobody_s_business(own, digits):
    """One-hot or real y may lie beside images of generative users; a .npy file has any name."""
    x, y, _ = digits.split("test")[:20]
    np.savez(own / "onehot.npz", x=x.numpy(), y=np.eye(10)[y.numpy()])
    for name in ("x.npy", "onehot.npz"):
        assert Images(str(own / name)).split("train").y is None
    assert read_pictures(own / "x.npy", strict=True).rows.y is None

    (own / "x.npy").rename(own / "plain.npz")
    assert read_pictures(own / "plain.npz", strict=True).rows.y is None


@pytest.mark.parametrize(
    "array, words",
    [
        (np.zeros(20), "type float64"),
        (np.zeros(20, bool), "type bool"),
        (np.zeros(19, int), r"\(20,\), one for each image"),
        (np.zeros((20, 10), int), r"shape \(20, 10\)"),
        (np.array(["3"] * 20), "type <U1"),
        (np.arange(-1, 19), "from -1 to 18; class indices are >= 0"),
        (np.full(20, 2**64 - 1, np.uint64), ">= 0"),
    ],
)
def test_bad_labels_are_named(own, digits, array, words):
    np.save(own / "bad.npy", array)
    with pytest.raises(ValueError, match=words) as error:
        Images(str(own / "x.npy"), labels=str(own / "bad.npy")).setup()
    assert "\n" not in str(error.value)

    np.savez(own / "bad.npz", x=digits.split("test").x[:20].numpy(), label=array)
    if array.dtype.kind == "U":  # names of classes
        assert read_pictures(own / "bad.npz", strict=True).classes == ("3",)
        return
    with pytest.raises(ValueError, match=words):
        read_pictures(own / "bad.npz", strict=True)


def test_files_without_labels_are_named(own):
    for name, error, words in [
        ("none.npy", FileNotFoundError, "none.npy"),
        ("y.txt", ValueError, ".npy, .npz, IDX"),
        ("two.npz", ValueError, "name the labels 'y' or 'label' or 'labels'"),
        ("cut.npz", ValueError, "damaged"),
    ]:
        if name == "y.txt":
            (own / name).write_text("3\n")
        elif name == "two.npz":
            np.savez(own / name, a=np.zeros(20, int), b=np.zeros(20, int))
        elif name == "cut.npz":
            (own / name).write_bytes((own / "both.npz").read_bytes()[:200])

        with pytest.raises(error, match=words):
            read_labels(own / name, 20)


CONFIG = """
seed_everything: 0
trainer: {max_epochs: 25, enable_progress_bar: false, enable_model_summary: false, logger: false}
model:
  class_path: gendae.DifferenceTargetPropRule
  init_args:
    stack:
      class_path: gendae.deep_classifier
      init_args: {sizes: [64, 30, 30], classes: 10}
    inverses: {sigma: 0.1}
    rates: {f: 3.0e-3}
data: {class_path: gendae.Images, init_args: {path: PATH, labels: LABELS, batch_size: 50}}
"""


def test_a_classifier_is_trained_on_own_images_by_the_command_line(tmp_path, digits, capsys):
    x, y, _ = digits.split("train")
    test = digits.split("test")
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())
    np.savez(tmp_path / "test.npz", x=test.x.numpy(), y=test.y.numpy())

    paths = CONFIG.replace("PATH", str(tmp_path / "x.npy"))
    config = tmp_path / "c.yaml"
    config.write_text(paths.replace("LABELS", str(tmp_path / "y.npy")))
    assert gendae("fit", "--config", config, "--trainer.default_root_dir", tmp_path / "runs") == 0

    best = tmp_path / "runs/0001/checkpoints/best.ckpt"
    assert load(best).facts["dataset"]["labels"] == str(tmp_path / "y.npy")
    assert gendae("predict", best, tmp_path / "test.npz", "--out", tmp_path / "p.npz") == 0

    with np.load(tmp_path / "p.npz") as arrays:
        error = (arrays["label"] != test.y.numpy()).mean()
    assert error < 0.2
    assert f"error rate {100 * error:.2f} %" in capsys.readouterr().out


def test_training_without_labels_says_how_to_give_them(tmp_path, digits, capsys):
    np.save(tmp_path / "x.npy", digits.split("train").x.numpy())
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.replace("PATH", str(tmp_path / "x.npy")).replace("LABELS", "null"))
    assert gendae("fit", "--config", config, "--trainer.default_root_dir", tmp_path / "runs") == 2
    assert "labels=FILE" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists(), "nothing was begun"
