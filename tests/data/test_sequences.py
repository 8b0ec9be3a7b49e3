"""Sequences of files, and images read step by step."""

import numpy as np
import pytest
import torch

from gendae import Digits, ImageSequences, Sequences, registry
from gendae.data.base import facts_of


@pytest.fixture
def walks(tmp_path):
    """Files of training and test walks; the longest of all is in the second."""
    g = np.random.default_rng(0)
    for name, n, steps in (("train", 40, 6), ("test", 10, 7)):
        x = g.standard_normal((n, steps, 2)) * 2.0 + 1.0
        lengths = g.integers(1, steps, n, endpoint=True)
        lengths[0] = steps
        np.savez(tmp_path / f"{name}.npz", x=x, lengths=lengths, y=np.arange(n) % 3)

    return str(tmp_path / "train.npz"), str(tmp_path / "test.npz")


def test_splits_of_one_file_are_all_of_it(walks):
    data = Sequences(walks[0], valid_fraction=0.25, test_fraction=0.25, seed=1)
    splits = [data.split(name) for name in ("train", "valid", "test")]
    assert [len(split.x) for split in splits] == [20, 10, 10]
    assert data.shape == (6, 3)

    file = np.load(walks[0])
    x = torch.cat([split.x for split in splits]).view(40, 6, 3)
    steps = torch.tensor(file["lengths"])
    assert sorted(x[..., 0].sum(1).tolist()) == sorted(steps.tolist())
    present = torch.arange(6) < steps[:, None]
    total = torch.from_numpy(file["x"]).float()[present].sum()
    assert torch.allclose(x[..., 1:].sum(), total)


def test_two_files_share_their_steps_and_the_units_of_training(walks):
    data = Sequences(*walks, standardise=True)
    train, test = data.split("train"), data.split("test")
    assert data.shape == (7, 3)
    assert (len(train.x), len(data.split("valid").x), len(test.x)) == (36, 4, 10)

    steps = train.x.view(-1, 7, 3)
    there = steps[..., 0] == 1
    assert steps[there][:, 1:].mean(0).abs().max() < 1e-6

    assert facts_of(data)["scale"] == data.scale.fact()
    file = np.load(walks[1])
    first = (torch.from_numpy(file["x"][0]).float() - data.scale.mean) / data.scale.deviation
    assert torch.equal(test.x.view(-1, 7, 3)[0, :, 1:], first)
    assert torch.equal(test.y, torch.arange(10) % 3)

    assert Sequences(*walks).facts() == {}
    assert data.identity.sha256 != Sequences(walks[0]).identity.sha256


def test_steps_of_equal_length_need_no_mask_unless_there_are_fewer(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((20, 4, 2)))
    assert Sequences(str(path)).shape == (4, 2)
    assert Sequences(str(path), steps=5).shape == (5, 3)
    with pytest.raises(ValueError, match=r"steps=3: the longest sequence of .*x.npy has 4"):
        Sequences(str(path), steps=3).setup()


def test_files_that_do_not_belong_together(tmp_path, walks):
    path = tmp_path / "other.npz"
    for arrays, words in (
        ({"x": np.ones((5, 3, 1)), "y": np.arange(5)}, "x has 1 channels; that of .* has 2"),
        ({"x": np.ones((5, 3, 2))}, "y is not of the shape and type"),
        ({"x": np.ones((5, 3, 2)), "y": np.ones(5)}, "y is not of the shape and type"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=words):
            Sequences(walks[0], test=str(path)).setup()


def test_pixels_are_read_one_by_one():
    digits = Digits()
    data = ImageSequences(digits, permute_seed=3)
    assert data.shape == (64, 1)
    assert data.kind == "sequence"
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(data.split("test").x, digits.split("test").x[:, order])
    assert torch.equal(data.split("test").y, digits.split("test").y)

    again = registry.build(registry.describe(data))
    assert torch.equal(again.split("train").x, data.split("train").x)


def test_images_are_reduced_to_means_of_blocks():
    digits = Digits()
    data = ImageSequences(digits, step="row", side=4, n=7)
    assert data.shape == (4, 4)
    assert data.kind == "image"

    blocks = digits.split("train").x[:7].view(7, 4, 2, 4, 2)
    assert torch.allclose(data.split("train").x, blocks.mean((2, 4)).flatten(1))
    assert len(data.split("valid").x) == len(digits.split("valid").x)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"step": "column"}, "step='column'"),
        ({"side": 3}, "side=3: images of 8 x 8 pixels"),
        ({"n": 5000}, "n=5000: there are 1199 training images"),
        ({"n": 0}, "n=0"),
        ({"permute_seed": 0.5}, "permute_seed=0.5"),
    ],
)
def test_images_that_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ImageSequences(Digits(), **arguments).setup()
