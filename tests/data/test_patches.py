"""Patches of photographs: where they come from, and what whitens them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer

from gendae import Patches, TargetPropRule, deep_autoencoder, generate, plots, save
from gendae.data.base import facts_of
from gendae.data.patches import Whitening, bundled
from gendae.training.pictures import Filters, Samples
from tests.commands.test_cli import gendae
from tests.data.test_identity import QUIET

SIZES = {"2.png": (9, 25), "10.png": (12, 20), "11.png": (8, 10)}


@pytest.fixture
def folder(tmp_path):
    """Photographs whose pixels say where they are: row, column and number of the photograph."""
    path = tmp_path / "photographs"
    path.mkdir()
    for number, (name, (height, width)) in enumerate(SIZES.items()):
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[..., 0] = np.arange(height)[:, None]
        pixels[..., 1] = np.arange(width)
        pixels[..., 2] = number
        Image.fromarray(pixels).save(path / name)
    return str(path)


def places(data, name):
    """Row, column and photograph of each pixel of the patches of a split, (n, 3, size, size)."""
    x = data.split(name).x
    return (x.view(-1, 3, data.size, data.size) * 255).round().long()


def test_every_place_has_the_same_chance_and_splits_share_no_pixel(folder):
    data = Patches(folder, size=4, counts=[40_000, 2_000, 2_000])
    numbers = torch.arange(4)
    for name in ("train", "valid", "test"):
        row, column, photograph = places(data, name).unbind(1)
        assert torch.equal(row, (row[:, :1, :1] + numbers[:, None]).expand_as(row))
        assert torch.equal(column, (column[:, :1, :1] + numbers).expand_as(column))
        assert torch.equal(photograph, photograph[:, :1, :1].expand_as(photograph))

    first = {name: places(data, name)[:, :, 0, 0] for name in ("train", "valid", "test")}
    counts = first["train"].unique(dim=0, return_counts=True)[1]
    assert len(counts) == 6 * (20 - 3) + 9 * (16 - 3)  # the strips are 5 and 4 columns wide
    expected = 40_000 / len(counts)
    assert ((counts - expected).square() / expected).sum() < len(counts) + 5 * (
        2 * len(counts)
    ) ** 0.5

    assert first["valid"][first["valid"][:, 2] == 0, 1].unique().tolist() == [20, 21]
    assert first["valid"][first["valid"][:, 2] == 1, 1].unique().tolist() == [16]
    assert first["test"][:, 2].unique().tolist() == [2]

    again = Patches(folder, size=4, counts=[40_000, 2_000, 2_000])
    assert torch.equal(data.split("test").x, again.split("test").x)
    other = Patches(folder, size=4, counts=[40_000, 2_000, 2_000], seed=1)
    assert not torch.equal(data.split("test").x, other.split("test").x)
    assert data.identity.sha256 == other.identity.sha256
    assert Patches(folder, size=4, tested=2).identity.sha256 == data.identity.sha256


def test_the_bundled_photographs_are_one_for_training_and_one_for_testing():
    data = Patches(size=8, counts=[300, 50, 50])
    grey = Patches(size=8, counts=[300, 50, 50], color="grey")
    assert (data.shape, grey.shape) == ((3, 8, 8), (8, 8))
    assert data.identity is None

    weights = torch.tensor([0.299, 0.587, 0.114])
    images = data.split("test").x.view(-1, 3, 8, 8)
    assert torch.allclose(
        torch.einsum("ncij,c->nij", images, weights), grey.split("test").x.view(-1, 8, 8)
    )

    flower = {tuple(colour) for colour in bundled()["flower.jpg"].reshape(-1, 3).tolist()}
    seen = (data.split("test").x.view(-1, 3, 64) * 255).round().int().transpose(1, 2)
    assert {tuple(colour) for colour in seen.reshape(-1, 3).tolist()} <= flower


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_whitened_patches_have_the_covariance_of_the_equation_and_are_given_back(epsilon):
    plain = Patches(size=4, counts=[3_000, 200, 200])
    data = Patches(size=4, counts=[3_000, 200, 200], epsilon=epsilon)
    x = plain.split("train").x.double()
    whitening = Whitening.of(x, epsilon)

    variances, axes = torch.linalg.eigh(x.T.cov())
    left = variances / (variances + epsilon * variances.mean())
    expected = (axes * left) @ axes.T
    assert torch.allclose(whitening(x).T.cov(), expected, atol=1e-8)
    assert torch.allclose(whitening.matrix, whitening.matrix.T, atol=1e-8)
    assert torch.allclose(whitening.patches(whitening(x)), x, atol=1e-10)

    for name in ("train", "valid", "test"):  # by the statistics of the training patches
        z = data.split(name).x
        assert torch.allclose(z.double(), whitening(plain.split(name).x.double()), atol=1e-3)
        assert torch.allclose(data.whitening.patches(z), plain.split(name).x, atol=1e-4)
    assert plain.whitening is None
    assert (data.kind, plain.kind) == ("whitened", "image")


def test_a_model_of_whitened_patches_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = Patches(size=6, counts=[400, 20, 20], epsilon=0.1)
    rule = TargetPropRule(deep_autoencoder([108, 20], visible="linear"))
    Trainer(max_epochs=1, **QUIET).fit(rule, datamodule=data)
    stack = rule.stack
    assert stack.facts["kind"] == "whitened"

    weights = stack.pairs[0].f.weight
    drawn = Filters().draw(rule, data.split("valid").x).axes[0].images[0].get_array()
    expected = plots.filters(weights[:100], data.shape).axes[0].images[0].get_array()
    assert Filters().suits(rule)
    assert np.array_equal(drawn, expected)

    stack.prior.fit(stack.encode(data.split("train").x)[-1].detach())
    samples = Samples().draw(rule, data.split("valid").x)
    shown = plots.filters(generate(stack, 100, seed=0), data.shape)
    assert np.array_equal(*(each.axes[0].images[0].get_array() for each in (samples, shown)))

    save(stack, "m.safetensors")
    assert gendae("inpaint", "m.safetensors", "--n", 2, "--out", "a.png") == 0
    assert "18 of 36 pixels are given" in capsys.readouterr().out
    assert facts_of(data)["dataset"]["epsilon"] == 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 9}, r"size=9: .*/10.png has 12 x 20 pixels|size=9: .*/11.png has 8 x 10"),
        ({"size": 13}, r"size=13: .*/2.png has 9 x 25 pixels; 13 x 26 at least are needed"),
        ({"tested": 3}, "tested=3: there are 3 photographs"),
        ({"size": 0}, "size=0"),
        (
            {"counts": [5, 5]},
            r"counts=\[5, 5\]: a number of training, validation and test patches",
        ),
        ({"epsilon": -1.0}, "epsilon=-1"),
        ({"color": "blue"}, "color='blue' is unknown; accepted: grey, rgb"),
        ({"epsilon": 0.0, "size": 4}, "epsilon=0.0: the patches vary in fewer than 48 directions"),
        ({"path": "/no/such/folder"}, "no such folder: /no/such/folder"),
        ({"path": Path("/no/such/folder")}, "no such folder: /no/such/folder"),
        ({"path": []}, r"path=\[\]: a folder of photographs, or files, are needed"),
    ],
)
def test_what_makes_no_patches_is_said_in_one_line(folder, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        Patches(**{"path": folder, "counts": [100, 10, 10], **options}).setup()
    assert "\n" not in str(error.value)
