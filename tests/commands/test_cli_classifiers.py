"""The command line for classifiers: what it shows and exports, and what it refuses."""

import pytest
import torch

from gendae import load, save
from gendae.models.architectures import deep_classifier
from tests.commands.test_cli import ROOT, gendae


@pytest.fixture
def classifier(tmp_path):
    return str(save(deep_classifier([64, 20, 20, 8], bits=[1]), tmp_path / "c.safetensors"))


@pytest.mark.parametrize("command", ["sample", "evaluate", "chain", "spectrum", "inpaint"])
def test_commands_for_images_refuse_a_classifier(
    classifier, tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)
    before = list(tmp_path.iterdir())

    assert gendae(command, classifier) == 2

    error = capsys.readouterr().err.strip()
    assert "c.safetensors is a classifier trained for labels" in error
    assert "gendae predict" in error
    assert "gendae test" in error
    assert "\n" not in error
    assert list(tmp_path.iterdir()) == before


def test_info_shows_a_classifier_s_layers_and_discrete_levels(classifier, tmp_path, capsys):
    assert gendae("info", classifier) == 0

    printed = capsys.readouterr().out
    assert "layers      64 - 20 tanh - 20 tanh - 8 tanh - 10 classes\n" in printed
    assert "discrete    h_1 as bits\n" in printed
    assert "prior" not in printed

    network = deep_classifier([64, 20, 8], classes=3, stochastic=True)
    drawn = save(network, tmp_path / "s.safetensors")
    plain = save(deep_classifier([64, 20]), tmp_path / "p.safetensors")

    assert gendae("info", drawn) == 0

    printed = capsys.readouterr().out
    assert "20 sigmoid - 8 sigmoid - 3 classes" in printed
    assert "discrete    h_1 drawn, h_2 drawn\n" in printed
    assert gendae("info", plain) == 0
    assert "discrete" not in capsys.readouterr().out


def test_a_classifier_s_run_is_exported_without_a_prior(tmp_path, digits, capsys):
    config = ROOT / "configs/mnist-dtp-tanh.yaml"
    out = tmp_path / "out.safetensors"
    root = ["--trainer.default_root_dir", tmp_path]
    quick = ["--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false"]
    small = ["--model.stack.sizes", "[64, 12, 12]", "--data", "gendae.Digits"]

    assert gendae("fit", "--config", config, *root, *quick, *small) == 0

    run = tmp_path / "0001"
    assert gendae("export", run, "--out", out, "--choose-prior") == 2
    assert "is a classifier, which has no prior" in capsys.readouterr().err

    assert gendae("export", run, "--out", out) == 0
    assert "Prior" not in capsys.readouterr().out

    x = digits.split("test").x
    best = load(run / "checkpoints/best.ckpt")
    assert torch.equal(load(out).predict(x), best.predict(x))
