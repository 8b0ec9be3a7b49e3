"""Results that are no numbers are refused in one line, and nothing is written."""

import numpy as np
import pytest
import torch

from gendae import cli, save
from gendae.models.architectures import (
    deep_autoencoder,
    deep_classifier,
    joint_autoencoder,
)


def overflowing(stack):
    """The largest numbers as weights: finite, and no sum of them is."""
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.fill_(3e38)
        for name, buffer in stack.named_buffers():
            if buffer.is_floating_point() and "residual" not in name:
                buffer.fill_(1.0)

    return stack


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    linear = deep_autoencoder([16, 4], ["linear"], visible="linear")
    linear.prior.fit(torch.rand(9, 4))
    linear.facts["shape"] = [4, 4]
    save(overflowing(linear), folder / "image.safetensors")

    parts = {"a": {"sizes": [16], "kind": "real"}, "label": {"sizes": [3], "kind": "onehot"}}
    joint = joint_autoencoder(parts, [4], activation="linear")
    joint.prior.fit(torch.rand(9, 4))
    joint.fit_residuals(torch.rand(9, 19))
    save(overflowing(joint), folder / "joint.safetensors")

    network = deep_classifier([16, 4], classes=3, activation="relu")
    save(overflowing(network), folder / "classifier.safetensors")
    np.save(folder / "x.npy", np.full((3, 16), 0.5, np.float32))
    return folder


@pytest.mark.parametrize(
    ("command", "out"),
    [
        (["sample", "image.safetensors", "--n", "2"], "a.png"),
        (["sample", "image.safetensors", "--n", "2"], "a.npz"),
        (["sample", "image.safetensors", "--n", "2"], "a.npy"),
        (["inpaint", "image.safetensors", "--data", "x.npy"], "a.png"),
        (["chain", "image.safetensors", "--sampler", "generate", "--n", "2"], "a.png"),
        (["sample", "joint.safetensors", "--n", "2"], "a.npz"),
        (["sample", "joint.safetensors", "--n", "2", "--given", "label=1"], "a.npz"),
        (["complete", "joint.safetensors", "--given", "label=1"], "a.npz"),
        (["predict", "joint.safetensors", "x.npy"], "a.npz"),
        (["predict", "classifier.safetensors", "x.npy"], "a.npz"),
    ],
)
def test_results_that_are_no_numbers_are_not_written(
    models, monkeypatch, capsys, tmp_path, command, out
):
    monkeypatch.chdir(models)
    before = sorted(models.iterdir())

    assert cli.main([*command, "--out", str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "NaN or infinite" in error
    assert not list(tmp_path.iterdir()) and sorted(models.iterdir()) == before
