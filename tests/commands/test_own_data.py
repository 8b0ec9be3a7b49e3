"""Own images in a few commands, and networks that take the width of their data."""

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from PIL import Image

from gendae import (
    Images,
    Multimodal,
    deep_autoencoder,
    deep_classifier,
    joint_autoencoder,
    load,
)
from gendae.training.configurations import build
from gendae.training.sizes import fit_sizes, is_open
from tests.commands.test_cli import DIGITS, QUICK, ROOT, gendae, one_line
from tests.data.test_sources import csv

HALVES = ROOT / "configs/digits-joint-halves.yaml"
CONV = str(ROOT / "configs/digits-conv.yaml")
SHORT = ["--trainer.max_epochs", 1, "--trainer.check_val_every_n_epoch", 1, *QUICK]
SHORT += ["--trainer.limit_train_batches", 3, "--trainer.logger", "false"]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder, in which commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photos(folder, n=30):
    """Little photographs in colour: a bright square on a dark ground."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(n):
        image = np.full((9, 12, 3), (20, 10, 40), np.uint8)
        top, left = random.integers(1, 5, 2)
        image[top : top + 4, left : left + 4] = random.integers(90, 255, 3)
        Image.fromarray(image).save(folder / f"{number}.png")


def sizes_of(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    return config["model"]["init_args"]["stack"]["init_args"]["sizes"]


# -- paths ----------------------------------------------------------------------------------------


def test_own_photographs_to_inpainted_ones(empty, capsys):
    photos(empty / "photos")
    own = ["--data", "Images", "--data.path", "photos"]
    fit = ["fit", "--config", DIGITS, *own, *SHORT]

    assert gendae(*fit) == 2  # what is missing is said, one thing after the other
    assert 'photos/0.png holds coloured pixels; color="grey" takes' in one_line(capsys)
    assert gendae(*fit, "--data.color", "grey") == 2
    line = "x of Images has shape (24, 108); the model takes (batch, 64): --model.stack.sizes "
    assert f"{line}[108,200,50] fits the network to the data, or [auto,200,50]" in one_line(capsys)

    shape = ["--model.stack.shape", "[1,12,9]", "--model.stack.stride", 1]
    conv = ["fit", "--config", CONV, *own, *SHORT, *shape, "--data.color", "grey"]
    assert gendae(*conv) == 2
    assert "(channels, height, width) = (1, 9, 12); the model takes (1, 12, 9)" in one_line(capsys)
    assert not (empty / "runs").exists()

    sizes = ["--model.stack.sizes", "[auto,40,10]"]
    assert gendae(*fit, "--data.color", "grey", *sizes) == 0
    best = empty / "runs/0001/checkpoints/best.ckpt"
    assert gendae("inpaint", best, "--data", "photos", "--n", 5, "--out", "filled.png") == 0
    assert "5 images, 54 of 108 pixels are given" in capsys.readouterr().out

    stack = load(best)
    assert stack.sizes == sizes_of(empty / "runs/0001") == [108, 40, 10]
    assert stack.facts["shape"] == [9, 12]
    assert Image.open("filled.png").height > 9


def test_own_table_to_inpainted_images(empty, digits, capsys):
    levels = (digits.split("train").x[:40] * 255).round().int().tolist()
    csv(empty / "own.csv", levels, [f"p{i}" for i in range(64)])
    data = ["--data", "Images", "--data.path", "own.csv", "--model.stack.sizes", "[auto,20]"]

    corruption = [{"class_path": "gendae.GaussianNoise", "init_args": {"sigma": 0.2}}] * 2
    noise = ["--model.corruption", str(corruption).replace("'", '"')]
    assert gendae("fit", "--config", DIGITS, *data, *noise, *SHORT) == 0
    best = empty / "runs/0001/checkpoints/best.ckpt"
    assert gendae("inpaint", best, "--data", "own.csv", "--out", "filled.png") == 0
    assert "10 images, 32 of 64 pixels are given" in capsys.readouterr().out


def test_commands_take_colour_as_told(empty, capsys):
    """A shipped model was trained on grey images, and says nothing of colour."""
    (empty / "photos").mkdir()
    for number in range(5):
        image = np.full((8, 8, 3), (250, 0, 10 * number), np.uint8)
        Image.fromarray(image).save(empty / f"photos/{number}.png")

    for command in ("inpaint", "evaluate"):
        assert gendae(command, "digits-variational-em", "--data", "photos") == 2
        assert "--color grey" in one_line(capsys)
    told = ["--data", "photos", "--color", "grey"]
    assert gendae("inpaint", "digits-variational-em", *told) == 0
    assert gendae("inpaint", "digits-variational-em", "--data", "photos", "--color", "red") == 2
    assert "color='red' is unknown; accepted: grey" in one_line(capsys)

    Image.fromarray(np.full((28, 28, 3), (250, 0, 10), np.uint8)).save(empty / "large.png")
    given = ["complete", "mnist-joint-label", "--given", "image=large.png", "--rounds", 1]
    assert gendae(*given) == 2
    assert "complete, predict and evaluate: --color grey" in one_line(capsys)
    assert gendae(*given, "--color", "grey") == 0


def test_files_in_a_list(empty):
    photos(empty / "photos", 5)
    shipped = "digits-variational-em"
    (empty / shipped).mkdir()  # a folder is no configuration of this name
    some = [f"photos/{number}.png" for number in range(5)]
    listed = ["--data", "Images", "--data.path", f"[{','.join(some)}]", "--data.color", "grey"]
    sizes = ["--model.stack.sizes", "[auto,8,4]"]
    assert gendae("fit", "--config", shipped, *listed, *sizes, *SHORT) == 0
    facts = load(empty / "runs/0001/checkpoints/last.ckpt").facts
    assert facts["dataset"]["path"] == some


# -- sizes ----------------------------------------------------------------------------------------


def test_a_fitted_network_is_the_one_whose_sizes_are_given(empty):
    for sizes in ("[auto,20,8]", "[64,20,8]"):
        assert gendae("fit", "--config", DIGITS, "--model.stack.sizes", sizes, *SHORT) == 0

    fitted, given = (load(empty / f"runs/000{i}/checkpoints/last.ckpt") for i in (1, 2))
    assert sizes_of(empty / "runs/0001") == [64, 20, 8]
    for a, b in zip(fitted.parameters(), given.parameters(), strict=True):
        assert torch.equal(a, b)


def test_each_modality_has_its_own_width(digits):
    model = yaml.safe_load(HALVES.read_text().replace("[32, 20]", "[auto, 20]"))["model"]
    fit_sizes(model, Multimodal(digits, ["top", "bottom"]))
    modalities = model["init_args"]["stack"]["init_args"]["modalities"]
    assert [part["sizes"] for part in modalities.values()] == [[32, 20], [32, 20]]

    model = {"stack": {"modalities": {"sound": {"sizes": ["auto", 4]}}}}
    with pytest.raises(ValueError, match=r"modalities.sound.sizes: Digits has no modalities"):
        fit_sizes(model, digits)


@pytest.mark.parametrize(
    ("arguments", "sizes"), [({"sizes": ["auto", 12]}, [64, 12]), ({}, [64, *[240] * 7])]
)
def test_a_comparison_fits_its_networks_with_and_without_sizes(arguments, sizes):
    stack = {"class_path": "gendae.deep_classifier", "init_args": arguments}
    model = {"class_path": "gendae.BackpropRule", "init_args": {"stack": stack}}
    rule, _ = build({"model": model, "data": {"class_path": "gendae.Digits"}}, [])
    assert rule.stack.sizes == sizes


def test_what_is_open_is_found_where_it_is():
    stack = Namespace(class_path="with_labels", init_args=Namespace(stack={"sizes": ["auto", 3]}))
    model = Namespace(class_path="Rule", init_args=Namespace(stack=stack))
    assert is_open(model)

    fit_sizes(model, Images(np.full((5, 2, 3), 255, np.uint8)))
    assert stack.init_args.stack["sizes"] == [6, 3]
    assert not is_open(model)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            deep_autoencoder,
            r"sizes=\['auto', 1000, 100\]: auto is the width of the data, which gen",
        ),
        (deep_classifier, r"auto is the width of the data"),
        (lambda: deep_autoencoder([4, "auto"]), "only the first, that of the data, may be auto"),
        (lambda: joint_autoencoder({"a": {"sizes": ["auto"]}, "b": {"sizes": [3]}}), "'a': sizes"),
        (
            lambda: joint_autoencoder({"a": {"sizes": ["auto", 3]}}),
            "auto is the width of the data",
        ),
    ],
)
def test_python_is_told_who_knows_the_width(make, words):
    with pytest.raises(ValueError, match=words):
        make()
