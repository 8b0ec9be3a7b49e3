"""The command line for joint models: a short fit, what can be asked of it, and refusals."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from gendae import joint_autoencoder, load, save
from gendae.commands.complete import chosen_completer
from gendae.completion.completer import Completer
from gendae.completion.inpainting import Inpainter, named_mask
from gendae.completion.modalities import complete
from gendae.data.images import Digits
from gendae.models.settings import Settings
from gendae.registry import describe
from tests import roles
from tests.commands.test_cli import EPOCHS, QUICK, ROOT, gendae

PLAIN = "digits-variational-em"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two epochs of configs/digits-joint-label.yaml."""
    folder = tmp_path_factory.mktemp("runs")
    config = ROOT / "configs/digits-joint-label.yaml"
    root = ["--trainer.default_root_dir", folder]

    assert gendae("fit", "--config", config, *root, *EPOCHS, *QUICK) == 0

    return folder / "0001/checkpoints/best.ckpt"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current folder: six test digits and their labels in several kinds of file."""
    monkeypatch.chdir(tmp_path)
    x, y, _ = Digits().split("test")[:6].map(torch.Tensor.numpy)
    np.save("x.npy", x)
    np.save("y.npy", y)
    np.save("wide.npy", np.zeros((2, 63)))
    np.save("levels.npy", 255 * x[:1])
    np.savez("both.npz", x=x, y=y)
    Image.fromarray((x[0].reshape(8, 8) * 255).astype(np.uint8)).save("one.png")

    return torch.from_numpy(x), torch.from_numpy(y)


def answer(model, line):
    """The arrays that a command with these options writes."""
    command, *options = line.split()
    assert gendae(command, model, *options, "--out", "answer.npz") == 0
    with np.load("answer.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def test_the_run_has_a_score_a_picture_and_its_modalities(model, capsys):
    assert (model.parents[1] / "samples.png").is_file()
    assert "val/error_label" in (model.parents[1] / "metrics.csv").read_text()
    assert gendae("info", model) == 0

    printed = capsys.readouterr().out
    assert "image 64 pixels, label 10 onehot" in printed
    assert 'completer   {"type": "Completer"' in printed
    assert 'shapes      {"image": [8, 8]}' in printed
    assert "rule        JointTargetPropRule" in printed


def test_predict_is_one_pass_through_the_joint_model(model, own, capsys):
    x, y = own
    predicted = answer(model, "predict both.npz")
    expected = load(model).predict({"image": x}, "label")
    wrong = (predicted["label"] != y).sum()

    assert torch.allclose(predicted["probability"], expected)
    assert torch.equal(predicted["label"], expected.argmax(1))
    assert f"({wrong} of 6 labels are wrong)" in capsys.readouterr().out


def test_samples_given_a_label(model, own, capsys):
    a, b, c = (answer(model, f"sample --given label=3 --n 10 --seed {seed}") for seed in (0, 0, 1))

    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "10 samples given label=3: answer.npz"
    assert printed[1].startswith("5 rounds, mean change ")

    assert a["image"].shape == (10, 64)
    assert torch.equal(a["label"], torch.eye(10)[[3] * 10])
    assert ((a["image"] >= 0) & (a["image"] <= 1)).all()
    assert a["image"].unique(dim=0).shape[0] == 10
    assert torch.equal(a["image"], b["image"])
    assert not torch.equal(a["image"], c["image"])
    assert a["converged"].shape == a["residual"].shape == (10,)

    joint = load(model)  # images are means, as those of other samplers
    chain = Completer.mcmc(5, begin="prior")
    codes = complete(
        joint, {"label": torch.tensor([3] * 10)}, completer=chain, seed=0
    ).completion.h
    expected = joint.separate(joint.x_of(codes).detach())["image"]
    assert torch.allclose(a["image"], expected, atol=1e-6)


def test_samples_given_an_image_are_of_the_other_modality(model, own):
    x, y = own
    samples = answer(model, "sample --given image=one.png --n 4")
    assert torch.allclose(samples["image"], x[:1].expand(4, -1), atol=1 / 255)

    samples = answer(model, "sample --given image=x.npy label=y.npy --n 6")
    assert torch.equal(samples["image"], x)
    assert torch.equal(samples["label"].argmax(1), y)


def test_unconditional_samples_are_all_modalities_or_a_picture(model, own):
    samples = answer(model, "sample --n 5")
    shapes = {name: tuple(value.shape) for name, value in samples.items()}
    assert shapes == {"image": (5, 64), "label": (5, 10)}
    assert torch.allclose(samples["label"].sum(1), torch.ones(5))

    assert gendae("sample", model, "--n", 5, "--out", "deep/u.png") == 0
    with Image.open("deep/u.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_complete_is_the_library_s_completion(model, own, capsys):
    x, y = own
    completed = answer(model, "complete --given image=x.npy --seed 3")
    expected = complete(load(model), {"image": x}, seed=3)

    assert capsys.readouterr().out.startswith("6 completed rows: answer.npz\n")
    assert torch.equal(completed["image"], x)
    assert torch.allclose(completed["label"], expected.values["label"])
    assert torch.equal(completed["converged"], expected.completion.converged)

    assert torch.equal(answer(model, "complete --given label=y.npy")["label"], torch.eye(10)[y])

    both = answer(model, "complete --given image=x.npy label=7")
    assert both["label"].argmax(1).tolist() == [7] * 6


@pytest.mark.parametrize("mask", ["left", "right", "top", "bottom", "random"])
def test_masks_keep_what_they_show(model, own, mask, capsys):
    x, _ = own
    options = f"--mask {mask} --rounds 3 --seed 2"
    image = answer(model, f"complete --given image=x.npy {options}")["image"]
    shown = named_mask(mask, (8, 8), seed=2)

    assert f"{shown.sum()} of 64 pixels of image were given" in capsys.readouterr().out
    assert torch.equal(image[:, shown], x[:, shown])
    assert (image[:, ~shown] != x[:, ~shown]).float().mean() > 0.99

    np.save("spoiled.npy", torch.where(shown, x, 0.5).numpy())
    again = answer(model, f"complete --given image=spoiled.npy {options}")["image"]

    assert torch.equal(again, image)


@pytest.mark.parametrize("command", ["complete", "sample --n 3"])
def test_a_folder_of_two_orders_is_not_paired_with_a_file(model, own, capsys, command):
    os.mkdir("x")
    for name in ("2", "10", "11"):
        Image.new("L", (8, 8)).save(f"x/{name}.png")
    np.save("three.npy", np.arange(3))

    assert gendae(*command.split(), model, "--given", "image=x", "label=three.npy") == 2
    assert "three.npy cannot be paired with the files" in capsys.readouterr().err


def test_modes_are_map_mcmc_and_annealed(model, own, capsys):
    completed = {}
    for mode in ("map", "mcmc", "annealed"):
        line = f"complete --given label=3 --mode {mode} --rounds 20 --n 5"
        completed[mode] = [answer(model, f"{line} --seed {seed}") for seed in (0, 1)]

    a, b = completed["map"]
    assert torch.equal(a["image"], b["image"])
    assert a["image"].std(0).max() < 1e-6  # five times the same

    for mode in ("mcmc", "annealed"):
        a, b = completed[mode]
        assert not torch.equal(a["image"], b["image"])
        assert a["image"].std(0).max() > 1e-3

    annealed, mcmc = (completed[mode][0]["residual"].mean() for mode in ("annealed", "mcmc"))
    assert annealed < 0.5 * mcmc

    answer(model, "complete --given label=3 --rounds 0")
    assert capsys.readouterr().out.endswith("no rounds\n")


def chosen(mode=None, **options):
    stack = roles.joint_stack()
    stack.settings = Settings(inpainter=Inpainter(rounds=7, chains=2))
    return chosen_completer(stack, mode, {f"completer.{k}": v for k, v in options.items()})


def test_a_model_s_own_inpainter_is_adjusted():
    """Another class only where a mode is named."""
    assert describe(chosen()) == describe(Inpainter(rounds=7, chains=2))
    assert describe(chosen(rounds="3")) == describe(Inpainter(rounds=3, chains=2))
    with pytest.raises(
        ValueError, match="completer.annealing: no argument of Inpainter; accepted: "
    ):
        chosen(annealing="map")

    named = chosen("map", begin="prior")
    assert isinstance(named, Completer) and named.begin == "prior"


def test_several_answers_follow_each_row(model, own):
    x, _ = own
    shown = named_mask("top", (8, 8))
    line = "complete --given image=x.npy --mask top --n 3 --mode mcmc --rounds 2"

    image = answer(model, line)["image"]

    assert torch.equal(image[:, shown], x.repeat_interleave(3, 0)[:, shown])
    assert image.unique(dim=0).shape[0] == 18


def test_an_exported_joint_model_gives_the_same_answers(model, own):
    assert gendae("export", model.parents[1], "--out", "m.safetensors") == 0

    line = "complete --given label=3 --rounds 5"
    assert torch.equal(answer(model, line)["image"], answer("m.safetensors", line)["image"])


def refused(folder, capsys, *arguments):
    """The one line that a refused command ends in; nothing in the folder may change."""
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert gendae(*arguments) == 2
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before

    printed = capsys.readouterr()
    error = printed.err.strip()
    assert not printed.out
    assert "\n" not in error
    assert error.startswith("gendae: error: ")

    return error.removeprefix("gendae: error: ")


NO_LABEL = "no such file; a class 0 .. 9"
NO_IMAGE = "no such file; a file of pixels values"
GIVEN = [
    ("face=3", "'face' is no modality of this model; it has image, label"),
    ("label=12", "--given label holds labels from 12 to 12; the model has 10 classes, 0 .. 9"),
    ("label=-1", "--given label holds labels from -1 to -1; the model has 10 classes"),
    (
        "label=three",
        f"--given label=three: {NO_LABEL} or a file of onehot values of width 10 is needed",
    ),
    ("label=--3", f"--given label=--3: {NO_LABEL}"),
    ("label=3²", f"--given label=3²: {NO_LABEL}"),
    ("image=none.npy", f"--given image=none.npy: {NO_IMAGE} of width 64 is needed"),
    ("image=3", f"--given image=3: {NO_IMAGE}"),
    ("image=wide.npy", "wide.npy has rows of width 63; the modality is Modality(64"),
    (
        "image=levels.npy",
        "image holds values from 0 to 255, as images of 0..255 do; divide by 255 to get pixels in",
    ),
    ("label", "--given 'label': NAME=VALUE is needed, such as label=3 or image=FILE.npy"),
    ("label=", "--given 'label=': NAME=VALUE is needed"),
    ("=3", "--given '=3': NAME=VALUE is needed"),
    ("label=3 label=4", "--given names 'label' twice"),
]


@pytest.mark.parametrize("command", ["complete", "sample"])
@pytest.mark.parametrize(("given", "message"), GIVEN, ids=[given for given, _ in GIVEN])
def test_what_cannot_be_given(model, own, tmp_path, capsys, command, given, message):
    arguments = [command, model, "--given", *given.split(), "--out", "c.npz"]
    assert refused(tmp_path, capsys, *arguments).startswith(message)


SEVERAL = (
    "{model} has several modalities (image 64 pixels, label 10 onehot); use `gendae sample`, "
)
TAKEN = "modality 'file': this name is taken in files of answers; accepted: any but path, file, "
NO_MODEL = "no model 'none.ckpt': there is no such file, and the shipped models are "
ONE_KIND = (
    f"{PLAIN} is a Stack of one kind of data; a JointStack of named modalities is needed, "
    "which JointTargetPropRule trains\n"
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "complete {model} --given label=3 --out c.png",
            "suffix of --out='.png' is unknown; accepted: .npz",
        ),
        (
            "sample {model} --given label=3 --out c.png",
            "suffix of --out='.png' is unknown; accepted: .npz",
        ),
        (
            "sample {model} --out c.jpg",
            "suffix of --out='.jpg' is unknown; accepted: .png, .npz, .npy",
        ),
        ("sample {model} --out c.npy", "suffix of --out='.npy' is unknown; accepted: .npz, .png"),
        ("sample {model} --n 0 --out c.npz", "n=0: a whole number >= 1"),
        ("sample {model} --given label=3 --n 0 --out c.npz", "--n=0: a whole number >= 1"),
        (
            "sample {model} --given image=x.npy --n 5 --out c.npz",
            "--given image=x.npy has 6 rows; one is needed, or --n 5",
        ),
        (
            "sample {model} --given label=3 --sampler chain",
            "--sampler chain and --given exclude each other",
        ),
        (
            "sample {model} --given image=both.npz --n 6 --out both.npz",
            "--out both.npz is a file that this command reads",
        ),
        ("complete {model} --given label=3 --n 0", "n=0: a whole number >= 1"),
        ("complete {model} --given label=3 --rounds -1", "rounds=-1: a whole number >= 0"),
        (
            "complete {model} --given label=3 --mode best",
            "--mode='best' is unknown; accepted: map, mcmc, annealed",
        ),
        (
            "complete {model} --given label=3 --mask left",
            "--mask left: none of the given modalities (label) is an image",
        ),
        (
            "complete {model} --given image=x.npy --mask middle",
            "--mask='middle' is unknown; accepted: left, right",
        ),
        (
            "complete {model} --given image=x.npy label=short.npy",
            "given values have different numbers of rows",
        ),
        (
            "complete {model} --given label=3 --device abacus",
            "device='abacus' cannot be used here",
        ),
        (
            "complete {model} --given image=both.npz --out both.npz",
            "--out both.npz is a file that this command reads; name",
        ),
        (
            "complete {model} --given image=~/both.npz --out {folder}/both.npz",
            "--out {folder}/both.npz is a file that this command reads",
        ),
        (
            "predict {model} both.npz --out both.npz",
            "--out both.npz is a file that this command reads",
        ),
        ("predict {model} wide.npy", "wide.npy has shape (2, 63); the model takes (batch, 64)"),
        ("predict {model} x.npy --samples 3", "--samples 3: "),
        ("complete {model}", "complete: needed: --given; `gendae complete --help` says what for"),
        ("inpaint {model}", SEVERAL),
        ("evaluate {model}", SEVERAL),
        ("chain {model}", SEVERAL),
        ("spectrum {model}", SEVERAL),
        ("complete none.ckpt --given label=3", NO_MODEL),
        (f"complete {PLAIN} --given image=x.npy --out c.npz", ONE_KIND),
        (f"sample {PLAIN} --given image=x.npy --out c.npz", ONE_KIND),
        ("complete file.safetensors --given label=0", TAKEN),
        ("sample file.safetensors --given label=0", TAKEN),
        ("sample file.safetensors --out c.npz", TAKEN),
    ],
)
def test_what_cannot_be_asked(model, own, tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    label = {"sizes": [2], "kind": "onehot"}
    save(joint_autoencoder({"file": {"sizes": [4, 3]}, "label": label}, [3]), "file.safetensors")
    np.save("short.npy", own[1][:2].numpy())
    names = {"model": model, "folder": tmp_path}
    arguments = [word.format(**names) for word in line.split()]

    error = refused(tmp_path, capsys, *arguments)

    assert f"{error}\n".startswith(message.format(**names))
