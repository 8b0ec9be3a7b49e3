"""The command line for joint models: a short training of the committed configuration, what it is asked, what is refused."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from gendae import joint_autoencoder, load, save
from gendae.completion.inpainting import named_mask
from gendae.completion.modalities import complete
from gendae.data.images import Digits
from tests.commands.test_cli import ROOT, gendae

PLAIN = "digits-variational-em"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two epochs of configs/digits-joint-label.yaml."""
    folder = tmp_path_factory.mktemp("runs")
    assert (
        gendae(
            "fit",
            "--config",
            ROOT / "configs/digits-joint-label.yaml",
            "--trainer.default_root_dir",
            folder,
            "--trainer.max_epochs",
            2,
            "--trainer.check_val_every_n_epoch",
            1,
            "--trainer.enable_progress_bar",
            "false",
            "--parzen.n",
            50,
        )
        == 0
    )
    return folder / "0001/checkpoints/best.ckpt"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with six test digits and their labels in several kinds of file, as the current one."""
    monkeypatch.chdir(tmp_path)
    x, y = (part.numpy() for part in Digits().split("test")[:6])
    np.save("x.npy", x)
    np.save("y.npy", y)
    np.save("wide.npy", np.zeros((2, 63)))
    np.save("bytes.npy", (x[:1] * 255).astype(np.uint8))
    np.savez("both.npz", x=x, y=y)
    Image.fromarray((x[0].reshape(8, 8) * 255).astype(np.uint8)).save("one.png")
    return x, y


def answers(out):
    with np.load(out) as arrays:
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
    assert gendae("predict", model, "both.npz", "--out", "p.npz") == 0
    found = answers("p.npz")
    expected = load(model).predict({"image": torch.from_numpy(own[0])}, "label")
    assert torch.allclose(found["probability"], expected)
    assert torch.equal(found["label"], expected.argmax(1))
    assert (
        f"({(found['label'].numpy() != own[1]).sum()} of 6 labels are wrong)"
        in capsys.readouterr().out
    )


def test_samples_given_a_label(model, own, capsys):
    for out, seed in (("a.npz", 0), ("b.npz", 0), ("c.npz", 1)):
        assert (
            gendae("sample", model, "--given", "label=3", "--n", 10, "--seed", seed, "--out", out)
            == 0
        )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "10 samples given label=3: a.npz"
    assert printed[1].startswith("5 rounds, mean change ")
    a, b, c = (answers(f"{name}.npz") for name in "abc")
    assert a["image"].shape == (10, 64)
    assert torch.equal(a["label"], torch.eye(10)[[3] * 10])
    assert ((a["image"] >= 0) & (a["image"] <= 1)).all()
    assert a["image"].unique(dim=0).shape[0] == 10
    assert torch.equal(a["image"], b["image"])
    assert not torch.equal(a["image"], c["image"])
    assert a["converged"].shape == a["residual"].shape == (10,)


def test_samples_given_an_image_are_of_the_other_modality(model, own):
    assert gendae("sample", model, "--given", "image=one.png", "--n", 4, "--out", "s.npz") == 0
    found = answers("s.npz")
    assert torch.allclose(found["image"], torch.from_numpy(own[0][:1]).expand(4, -1), atol=1 / 255)
    assert (
        gendae(
            "sample", model, "--given", "image=x.npy", "label=y.npy", "--n", 6, "--out", "all.npz"
        )
        == 0
    )
    found = answers("all.npz")
    assert torch.equal(found["image"], torch.from_numpy(own[0]))
    assert torch.equal(found["label"].argmax(1), torch.from_numpy(own[1]))


def test_unconditional_samples_are_all_modalities_or_a_picture(model, own):
    assert gendae("sample", model, "--n", 5, "--out", "u.npz") == 0
    found = answers("u.npz")
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "image": (5, 64),
        "label": (5, 10),
    }
    assert torch.allclose(found["label"].sum(1), torch.ones(5))
    assert gendae("sample", model, "--n", 5, "--out", "deep/u.png") == 0
    with Image.open("deep/u.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_complete_is_the_library_s_completion(model, own, capsys):
    stack, x = load(model), torch.from_numpy(own[0])
    assert gendae("complete", model, "--given", "image=x.npy", "--seed", 3, "--out", "c.npz") == 0
    assert capsys.readouterr().out.startswith("6 completed rows: c.npz\n")
    found, expected = answers("c.npz"), complete(stack, {"image": x}, seed=3)
    assert torch.equal(found["image"], x)
    assert torch.allclose(found["label"], expected.values["label"])
    assert torch.equal(found["converged"], expected.completion.converged)
    assert gendae("complete", model, "--given", "label=y.npy", "--out", "l.npz") == 0
    assert torch.equal(answers("l.npz")["label"], torch.eye(10)[torch.from_numpy(own[1])])
    assert (
        gendae("complete", model, "--given", "image=x.npy", "label=7", "--out", "both7.npz") == 0
    )
    assert answers("both7.npz")["label"].argmax(1).tolist() == [7] * 6


@pytest.mark.parametrize("mask", ["left", "right", "top", "bottom", "random"])
def test_masks_keep_what_they_show(model, own, mask):
    assert (
        gendae(
            "complete",
            model,
            "--given",
            "image=x.npy",
            "--mask",
            mask,
            "--rounds",
            3,
            "--seed",
            2,
            "--out",
            "m.npz",
        )
        == 0
    )
    found, shown, x = (
        answers("m.npz")["image"],
        named_mask(mask, (8, 8), seed=2),
        torch.from_numpy(own[0]),
    )
    assert torch.equal(found[:, shown], x[:, shown])
    assert (found[:, ~shown] != x[:, ~shown]).float().mean() > 0.99
    spoiled = torch.where(shown, x, 0.5)
    np.save("spoiled.npy", spoiled.numpy())
    assert (
        gendae(
            "complete",
            model,
            "--given",
            "image=spoiled.npy",
            "--mask",
            mask,
            "--rounds",
            3,
            "--seed",
            2,
            "--out",
            "n.npz",
        )
        == 0
    )
    assert torch.equal(answers("n.npz")["image"], found)


def test_modes_are_map_mcmc_and_annealed(model, own, capsys):
    found = {}
    for mode in ("map", "mcmc", "annealed"):
        for seed in (0, 1):
            assert (
                gendae(
                    "complete",
                    model,
                    "--given",
                    "label=3",
                    "--mode",
                    mode,
                    "--rounds",
                    20,
                    "--n",
                    5,
                    "--seed",
                    seed,
                    "--out",
                    "c.npz",
                )
                == 0
            )
            found[mode, seed] = answers("c.npz")
    assert torch.equal(found["map", 0]["image"], found["map", 1]["image"])
    assert found["map", 0]["image"].std(0).max() < 1e-6  # five times the same
    for mode in ("mcmc", "annealed"):
        assert not torch.equal(found[mode, 0]["image"], found[mode, 1]["image"])
        assert found[mode, 0]["image"].std(0).max() > 1e-3
    assert found["annealed", 0]["residual"].mean() < 0.5 * found["mcmc", 0]["residual"].mean()
    assert gendae("complete", model, "--given", "label=3", "--rounds", 0, "--out", "c.npz") == 0
    assert capsys.readouterr().out.endswith("no rounds\n")


def test_several_answers_follow_each_row(model, own):
    assert (
        gendae(
            "complete",
            model,
            "--given",
            "image=x.npy",
            "--mask",
            "top",
            "--n",
            3,
            "--mode",
            "mcmc",
            "--rounds",
            2,
            "--out",
            "c.npz",
        )
        == 0
    )
    found, x, shown = (
        answers("c.npz")["image"],
        torch.from_numpy(own[0]),
        named_mask("top", (8, 8)),
    )
    assert torch.equal(found[:, shown], x.repeat_interleave(3, 0)[:, shown])
    assert found.unique(dim=0).shape[0] == 18


def test_an_exported_joint_model_gives_the_same_answers(model, own):
    assert gendae("export", model.parents[1], "--out", "m.safetensors") == 0
    for file, out in ((model, "a.npz"), ("m.safetensors", "b.npz")):
        assert gendae("complete", file, "--given", "label=3", "--rounds", 5, "--out", out) == 0
    assert torch.equal(answers("a.npz")["image"], answers("b.npz")["image"])


def refused(folder, capsys, *arguments):
    """The one line that a command ends in which changes nothing in its folder."""
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert gendae(*arguments) == 2
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    printed = capsys.readouterr()
    assert not printed.out
    error = printed.err.strip()
    assert "\n" not in error
    assert error.startswith("gendae: error: ")
    return error.removeprefix("gendae: error: ")


GIVEN = [
    (["face=3"], "'face' is no modality of this model; it has image, label"),
    (["label=12"], "--given label holds labels from 12 to 12; the model has 10 classes, 0 .. 9"),
    (["label=-1"], "--given label holds labels from -1 to -1; the model has 10 classes"),
    (
        ["label=three"],
        "--given label=three: no such file; a class 0 .. 9 or a file of onehot values of width 10 is needed",
    ),
    (
        ["image=none.npy"],
        "--given image=none.npy: no such file; a file of pixels values of width 64 is needed",
    ),
    (["image=3"], "--given image=3: no such file; a file of pixels values"),
    (["image=wide.npy"], "wide.npy has rows of width 63; the modality is Modality(64"),
    (
        ["image=bytes.npy"],
        "image holds values that are no pixels data; accepted: values in [0, 1]",
    ),
    (["label"], "--given 'label': NAME=VALUE is needed, such as label=3 or image=FILE.npy"),
    (["label="], "--given 'label=': NAME=VALUE is needed"),
    (["=3"], "--given '=3': NAME=VALUE is needed"),
    (["label=3", "label=4"], "--given names 'label' twice"),
]


@pytest.mark.parametrize("command", ["complete", "sample"])
@pytest.mark.parametrize(("given", "message"), GIVEN, ids=[" ".join(given) for given, _ in GIVEN])
def test_what_cannot_be_given(model, own, tmp_path, capsys, command, given, message):
    assert refused(
        tmp_path, capsys, command, model, "--given", *given, "--out", "c.npz"
    ).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["complete", "--given", "label=3", "--out", "c.png"],
            "suffix of --out='.png' is unknown; accepted: .npz",
        ),
        (
            ["sample", "--given", "label=3", "--out", "c.png"],
            "suffix of --out='.png' is unknown; accepted: .npz",
        ),
        (
            ["sample", "--out", "c.jpg"],
            "suffix of --out='.jpg' is unknown; accepted: .png, .npz, .npy",
        ),
        (["sample", "--out", "c.npy"], "suffix of --out='.npy' is unknown; accepted: .npz, .png"),
        (["sample", "--n", "0", "--out", "c.npz"], "n=0: a whole number >= 1"),
        (
            ["sample", "--given", "label=3", "--n", "0", "--out", "c.npz"],
            "--n=0: a whole number >= 1",
        ),
        (
            ["sample", "--given", "image=x.npy", "--n", "5", "--out", "c.npz"],
            "--given image=x.npy has 6 rows; one is needed, or --n 5",
        ),
        (
            ["sample", "--given", "label=3", "--sampler", "chain"],
            "--sampler chain and --given exclude each other",
        ),
        (["complete", "--given", "label=3", "--n", "0"], "n=0: a whole number >= 1"),
        (["complete", "--given", "label=3", "--rounds", "-1"], "rounds=-1: a whole number >= 0"),
        (
            ["complete", "--given", "label=3", "--mode", "best"],
            "--mode='best' is unknown; accepted: map, mcmc, annealed",
        ),
        (
            ["complete", "--given", "label=3", "--mask", "left"],
            "--mask left: none of the given modalities (label) is an image",
        ),
        (
            ["complete", "--given", "image=x.npy", "--mask", "middle"],
            "--mask='middle' is unknown; accepted: left, right",
        ),
        (
            ["complete", "--given", "image=x.npy", "label=short.npy"],
            "given values have different numbers of rows",
        ),
        (
            ["complete", "--given", "label=3", "--device", "abacus"],
            "device='abacus' cannot be used here",
        ),
        (
            ["complete", "--given", "image=both.npz", "--out", "both.npz"],
            "--out both.npz is a file that values come from; name",
        ),
        (
            ["predict", "both.npz", "--out", "both.npz"],
            "--out both.npz is the file that the images come from",
        ),
        (["predict", "wide.npy"], "wide.npy has shape (2, 63); the model takes (batch, 64)"),
        (["predict", "x.npy", "--samples", "3"], "--samples 3: "),
    ],
)
def test_what_cannot_be_asked(model, own, tmp_path, capsys, arguments, message):
    np.save("short.npy", own[1][:2])
    assert refused(tmp_path, capsys, arguments[0], model, *arguments[1:]).startswith(message)


def test_samples_do_not_replace_what_they_are_given(model, own, tmp_path, capsys):
    error = refused(
        tmp_path,
        capsys,
        "sample",
        model,
        "--given",
        "image=both.npz",
        "--n",
        6,
        "--out",
        "both.npz",
    )
    assert error.startswith("--out both.npz is a file that values come from")


def test_answers_do_not_replace_a_file_in_the_home_folder(
    model, own, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    error = refused(
        tmp_path,
        capsys,
        "complete",
        model,
        "--given",
        "image=~/both.npz",
        "--out",
        tmp_path / "both.npz",
    )
    assert "is a file that values come from" in error


@pytest.mark.parametrize("text", ["--3", "3²"])
def test_what_looks_like_a_class_is_none(model, own, tmp_path, capsys, text):
    error = refused(
        tmp_path, capsys, "complete", model, "--given", f"label={text}", "--out", "c.npz"
    )
    assert error.startswith(f"--given label={text}: no such file; a class 0 .. 9")


@pytest.mark.parametrize("command", ["inpaint", "evaluate", "chain", "spectrum"])
def test_commands_for_images_refuse_a_joint_model(model, own, tmp_path, capsys, command):
    error = refused(tmp_path, capsys, command, model)
    assert error.startswith(
        f"{model} has several modalities (image 64 pixels, label 10 onehot); use `gendae sample`, "
    )


@pytest.mark.parametrize("command", ["complete", "sample"])
def test_a_model_of_one_kind_of_data_cannot_be_given_any(own, tmp_path, capsys, command):
    error = refused(tmp_path, capsys, command, PLAIN, "--given", "image=x.npy", "--out", "c.npz")
    assert refused(tmp_path, capsys, command, "none.ckpt", "--given", "label=3").startswith(
        "no model 'none.ckpt': there is no such file, and the shipped models are "
    )
    assert error == (
        f"{PLAIN} is a Stack of one kind of data; a JointStack of named modalities is needed, which "
        "JointTargetPropRule trains"
    )


@pytest.mark.parametrize("arguments", [["complete", "--given"], ["sample", "--given"], ["sample"]])
def test_names_that_a_file_of_answers_cannot_hold(own, tmp_path, capsys, arguments):
    stack = joint_autoencoder({"file": {"sizes": [4, 3]}, "label": {"sizes": [2]}}, top=[3])
    stack.prior.fit(torch.randn(9, 3))
    save(stack, "m.safetensors")

    command, *given = [*arguments, "label=y.npy"] if len(arguments) > 1 else arguments
    error = refused(tmp_path, capsys, command, "m.safetensors", *given, "--out", "c.npz")
    assert error.startswith("modality 'file': this name is taken in files of answers; accepted: ")


def test_complete_needs_something_given(model, own, tmp_path, capsys):
    before = list(tmp_path.iterdir())
    assert gendae("complete", model) == 2
    assert "complete.given" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == before
