"""Sequences on the command line: trained on, predicted from, sampled, and completed."""

import numpy as np
import pytest
import torch
import yaml

from gendae import Cell, RecurrentPair, Sequences, Stack, load, recurrent_classifier, save
from gendae.data.base import facts_of
from gendae.layers.affine import Affine
from tests.commands.test_cli import gendae

STEPS, CHANNELS, CLASSES = 5, 2, 3
QUICK = ["--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false"]


@pytest.fixture(autouse=True)
def walks(tmp_path, monkeypatch):
    """Files of ragged sequences, with a class, with one at each step, with a number."""
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(0)
    y = g.integers(CLASSES, size=60)
    y[:CLASSES] = range(CLASSES)
    x = 5.0 + g.standard_normal((60, STEPS, CHANNELS)) + y[:, None, None]
    lengths = g.integers(2, STEPS, 60, endpoint=True)
    lengths[0] = STEPS

    np.savez("class.npz", x=x, lengths=lengths, y=y)
    np.savez("every.npz", x=x, lengths=lengths, y=np.tile(y[:, None], STEPS))
    np.savez("number.npz", x=x, lengths=lengths, y=x[:, 0, 0])
    np.savez("short.npz", x=x[:7, :3], lengths=np.minimum(lengths[:7], 3), y=y[:7])


def options(data, **more):
    network = {"width": CHANNELS, "steps": STEPS, "state": 8, "classes": CLASSES, "masked": "true"}
    model = [
        "--model",
        "gendae.RecurrentTargetPropRule",
        "--model.stack",
        "gendae.recurrent_classifier",
    ]
    for name, value in {**network, **more}.items():
        model += [f"--model.stack.{name}", value]

    own = ["--data", "gendae.Sequences", "--data.path", data, "--data.standardise", "true"]
    return [*model, *own, "--data.batch_size", 10, *QUICK]


@pytest.mark.parametrize(
    ("file", "more", "words"),
    [
        ("every.npz", {"every_step": "true"}, "labels of 60 sequences"),
        ("number.npz", {"predicts": "values", "classes": 1}, "values of 60 sequences"),
    ],
    ids=["every step", "number"],
)
def test_fit_test_and_predict(tmp_path, capsys, file, more, words):
    root = ["--trainer.default_root_dir", tmp_path / "runs"]
    assert gendae("fit", *options(file, **more), *root) == 0
    run = tmp_path / "runs/0001"
    checkpoint = run / "checkpoints/best.ckpt"
    assert gendae("test", "--config", run / "config.yaml", "--ckpt_path", checkpoint) == 0
    assert gendae("predict", checkpoint, file, "--out", "p.npz") == 0

    printed = capsys.readouterr().out
    assert words in printed
    assert "test/error" in printed
    assert ("mean squared error" in printed) == ("predicts" in more)

    # the units are those of the training sequences
    network = load(checkpoint)
    data = Sequences(file, standardise=True)
    data.setup()
    series = np.load(file)
    x = (torch.from_numpy(series["x"]).float() - data.scale.mean) / data.scale.deviation
    there = torch.arange(STEPS) < torch.from_numpy(series["lengths"])[:, None]
    rows = torch.cat([there[..., None], torch.where(there[..., None], x, 0.0)], 2).flatten(1)

    told = np.load("p.npz")
    answer = told["value" if "predicts" in more else "probability"]
    np.testing.assert_allclose(answer, network.predict(rows).numpy(), atol=1e-5)
    if "every_step" in more:
        assert np.array_equal(told["label"] >= 0, there.numpy())


def test_rules_are_compared(tmp_path, capsys):
    model, data = ({}, {"path": "class.npz", "standardise": True, "batch_size": 10})
    network = {"width": CHANNELS, "steps": STEPS, "state": 8, "classes": CLASSES, "masked": True}
    model["stack"] = {"class_path": "gendae.recurrent_classifier", "init_args": network}
    config = {
        "trainer": {"max_epochs": 1},
        "model": {"class_path": "gendae.RecurrentTargetPropRule", "init_args": model},
        "data": {"class_path": "gendae.Sequences", "init_args": data},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))

    command = ["compare", "--config", "c.yaml", "--rules", "BackpropRule", "--seeds", 0]
    assert gendae(*command, "--out", tmp_path / "both") == 0
    assert "BackpropRule" in capsys.readouterr().out


def test_shorter_files_are_padded_to_the_steps_of_the_model():
    save(recurrent_classifier(CHANNELS, STEPS, 8, CLASSES, masked=True), "m.safetensors")
    assert gendae("predict", "m.safetensors", "short.npz", "--out", "p.npz") == 0

    file = np.load("short.npz")
    there = np.arange(STEPS) < file["lengths"][:, None]
    x = np.pad(file["x"], [(0, 0), (0, 2), (0, 0)]) * there[..., None]
    rows = torch.from_numpy(np.concatenate([there[..., None], x], 2)).float().flatten(1)
    told = load("m.safetensors").predict(rows)
    np.testing.assert_allclose(np.load("p.npz")["probability"], told.numpy(), atol=1e-6)


@pytest.fixture(params=[True, False], ids=["masked", "full"])
def generative(request):
    """A model of sequences that learned from units of their own."""
    g_state = Affine(6, 6, "tanh")
    cell = Cell(Affine(6 + CHANNELS, 6, "tanh"), g_state, Affine(6, CHANNELS))
    stack = Stack(RecurrentPair(cell, STEPS, masked=request.param))
    stack.prior.fit(torch.randn(50, 6).tanh())
    data = Sequences("class.npz", standardise=True)
    stack.facts |= facts_of(data)
    if not request.param:
        stack.facts["shape"] = [STEPS, CHANNELS]

    save(stack, "g.safetensors")
    return stack


def test_samples_are_steps_in_the_units_of_the_file(generative):
    for name in ("s.npz", "s.npy", "s.png"):
        assert gendae("sample", "g.safetensors", "--n", 6, "--out", name) == 0

    steps = np.load("s.npz")["x"]
    assert steps.shape == (6, STEPS, CHANNELS)
    assert np.array_equal(np.load("s.npy"), steps)
    assert abs(steps.mean() - 6.0) < 2.0  # where the file's numbers are


def test_missing_steps_are_completed(generative, capsys):
    file = np.load("class.npz")
    masked = generative.pairs[0].masked
    observed = np.ones((60, STEPS), bool)
    observed[:, 2] = False
    arrays = {"x": np.where(observed[..., None], file["x"], np.nan), "observed": observed}
    if masked:
        arrays["lengths"] = file["lengths"]
    np.savez("gaps.npz", **arrays)

    command = ["complete", "g.safetensors", "--given", "x=gaps.npz", "--rounds", 2]
    assert gendae(*command, "--n", 2, "--out", "c.npz", "--inpainter.chains", 2) == 0
    assert "120 completed sequences" in capsys.readouterr().out

    filled = np.load("c.npz")
    there = np.arange(STEPS) < (file["lengths"] if masked else np.full(60, STEPS))[:, None]
    known = there & observed
    assert filled["x"].shape == (120, STEPS, CHANNELS)
    assert np.isfinite(filled["x"]).all()
    for copy in (filled["x"][::2], filled["x"][1::2]):
        np.testing.assert_allclose(copy[known], file["x"][known], rtol=1e-5)
        assert (copy[there & ~observed] != 0).all()
        assert not copy[~there].any()
    if masked:
        assert np.array_equal(filled["lengths"][::2], file["lengths"])


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ([1.0], "facts.scale=[1.0]: dict is needed"),
        ({"mean": [0.0]}, "lists mean and deviation"),
        ({"mean": [0.0, 1.0], "deviation": [1.0]}, "2 means, 1 deviations"),
        ({"mean": [0.0, "x"], "deviation": [1.0, 1.0]}, "facts.scale.mean='x'"),
        ({"mean": [0.0, 1.0], "deviation": [1.0, 0.0]}, "facts.scale.deviation=0.0"),
        ({"mean": [0.0], "deviation": [1.0]}, "facts.scale: 1 channels; the model reads 2"),
    ],
)
def test_units_of_a_file_are_not_believed(capsys, scale, words):
    network = recurrent_classifier(CHANNELS, STEPS, 8, CLASSES, masked=True)
    network.facts["scale"] = scale
    save(network, "m.safetensors")
    assert gendae("predict", "m.safetensors", "class.npz", "--out", "p.npz") == 2

    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_model_that_generates_is_trained_sampled_and_completed(tmp_path):
    network = {"width": CHANNELS, "steps": STEPS, "state": 8, "visible": "linear"}
    stack = ["--model.stack", "gendae.recurrent_autoencoder", "--model.stack.masked", "true"]
    for name, value in network.items():
        stack += [f"--model.stack.{name}", value]
    model = ["--model", "gendae.TargetPropRule", "--model.loop", "gendae.RecurrentLoop", *stack]
    data = ["--data", "gendae.Sequences", "--data.path", "class.npz", "--data.batch_size", 10]
    root = ["--trainer.default_root_dir", tmp_path / "runs"]
    assert gendae("fit", *model, *data, *QUICK, *root) == 0

    checkpoint = tmp_path / "runs/0001/checkpoints/best.ckpt"
    assert gendae("sample", checkpoint, "--n", 3, "--out", "s.npz") == 0
    assert np.load("s.npz")["x"].shape == (3, STEPS, CHANNELS)
    command = ["complete", checkpoint, "--given", "x=class.npz", "--mask", "top"]
    assert gendae(*command, "--out", "c.npz") == 0

    x, lengths = np.load("class.npz")["x"], np.load("class.npz")["lengths"]
    half = np.arange(STEPS) < STEPS // 2
    given = half & (np.arange(STEPS) < lengths[:, None])
    filled = np.load("c.npz")["x"]
    np.testing.assert_allclose(filled[given], x[given], rtol=1e-5)
    assert np.isfinite(filled).all()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["predict", "c.safetensors", "wide.npy"],
            "wide.npy: x has 3 channels; the model reads 2",
        ),
        (["predict", "c.safetensors", "long.npy"], "long.npy: x has 6 steps; the model reads 5"),
        (["predict", "full.safetensors", "class.npz"], "reads 5 steps of each sequence, and"),
        (["predict", "c.safetensors", "every.npz"], "y has shape (60, 5)"),
        (["predict", "c.safetensors", "flat.npy"], "x has shape (4, 10)"),
        (["complete", "g.safetensors", "--given", "x=class.npz"], "class.npz: no array observed"),
        (["complete", "g.safetensors", "--given", "z=class.npz"], "x=FILE.npz is needed"),
        (["complete", "g.safetensors", "--given", "x=class.npz", "--mode", "map"], "--mode map"),
        (
            ["complete", "g.safetensors", "--given", "x=class.npz", "--completer.begin", "prior"],
            "--inpainter.OPTION",
        ),
        (["complete", "c.safetensors", "--given", "x=class.npz"], "is a classifier trained for"),
        (["fit", *options("gaps.npz")], "observed marks steps"),
        (["fit", *options("every.npz")], "shape (48, 5)"),
        (["fit", *options("class.npz", steps=4)], "the model takes (batch, 12)"),
    ],
)
@pytest.mark.parametrize("generative", [True], ids=["masked"], indirect=True)
def test_refusals(generative, capsys, command, words):
    save(recurrent_classifier(CHANNELS, STEPS, 8, CLASSES, masked=True), "c.safetensors")
    save(recurrent_classifier(CHANNELS, STEPS, 8, CLASSES), "full.safetensors")
    np.save("wide.npy", np.ones((4, STEPS, 3)))
    np.save("long.npy", np.ones((4, 6, CHANNELS)))
    np.save("flat.npy", np.ones((4, 10)))
    np.savez("gaps.npz", x=np.ones((20, 5, 2)), observed=np.ones((20, 5), bool))

    assert gendae(*command) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
