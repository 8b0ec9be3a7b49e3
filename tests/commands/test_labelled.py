"""Models whose top has a label, on the command line: predicted, sampled given a class, told of."""

import numpy as np
import pytest

from gendae import cli, load, save
from gendae.inference import TargetPropInference
from gendae.models.architectures import deep_autoencoder, deep_classifier, with_labels
from tests.conftest import small_stack


def gendae(*arguments):
    try:
        return cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def model(tmp_path, digits):
    stack = with_labels(deep_autoencoder([64, 12, 6]))
    stack.prior.fit(stack.encode(digits.split("train").x[:100])[-1].detach())
    return save(stack, tmp_path / "m.safetensors")


@pytest.fixture
def images(tmp_path, digits):
    x, y, _ = digits.split("test")[:20]
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=y.numpy())
    return tmp_path / "images.npz"


@pytest.mark.parametrize("steps", [None, 4])
def test_predict_reads_the_label_off_the_top(model, images, digits, tmp_path, capsys, steps):
    out = tmp_path / "p.npz"
    options = [] if steps is None else ["--steps", steps]
    assert gendae("predict", model, images, "--out", out, *options) == 0

    infer = TargetPropInference(steps or 0)
    expected = load(model).predict(digits.split("test").x[:20], infer)
    with np.load(out) as arrays:
        np.testing.assert_allclose(arrays["probability"], expected.numpy(), atol=1e-6)

    assert "error rate" in capsys.readouterr().out


def test_samples_of_a_class_are_those_of_the_labelled_sampler(model, tmp_path):
    places = [tmp_path / f"{name}.npz" for name in "ab"]
    assert gendae("sample", model, "--n", 5, "--given", "label=7", "--out", places[0]) == 0

    sampler = ["--sampler", "labelled", "--sampler.label", 7]
    assert gendae("sample", model, "--n", 5, *sampler, "--out", places[1]) == 0

    first, second = (np.load(place)["samples"] for place in places)
    assert first.shape == (5, 64)
    assert np.array_equal(first, second)


def test_info_tells_of_the_label(model, capsys):
    assert gendae("info", model) == 0
    assert "64 - 12 softplus - 6 sigmoid - 10 classes" in capsys.readouterr().out


REFUSED = [
    (["sample", "MODEL", "--given", "label=10"], "the model has 10 classes"),
    (["sample", "MODEL", "--given", "image=3"], "accepted: label=CLASS"),
    (["sample", "MODEL", "--given", "label=seven"], "label"),
    (["predict", "MODEL", "IMAGES", "--samples", 3], "whose prediction has no draws"),
    (["predict", "MODEL", "IMAGES", "--steps", -1], "--steps"),
    (["predict", "CLASSIFIER", "IMAGES", "--steps", 3], "whose prediction has no steps"),
    (["sample", "STACK", "--sampler", "labelled"], "Stack has no labels"),
]


@pytest.mark.parametrize(("command", "words"), REFUSED)
def test_refusals(model, images, tmp_path, capsys, command, words):
    places = {"MODEL": model, "IMAGES": images}
    if "CLASSIFIER" in command:
        places["CLASSIFIER"] = save(deep_classifier([64, 8]), tmp_path / "c.safetensors")
    if "STACK" in command:
        places["STACK"] = save(small_stack(), tmp_path / "s.safetensors")

    assert gendae(*(places.get(word, word) for word in command)) != 0

    *_, told = capsys.readouterr().err.strip().splitlines()
    assert words in told
