"""`gendae prior`: another prior under the same layers, from a training that goes on."""

import pytest
import torch

from gendae import load
from gendae.cli import run
from gendae.priors.fitting import BlockFit
from gendae.sampling.samplers import seeded

OPTIONS = ["--prior.learning.epochs", "3", "--prior.network.width", "16", "--prior.blocks", "2"]
MODEL = "digits-variational-em"


def same(one, other):
    states = [load(path).state_dict() for path in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_prior_is_fitted_and_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, capsys):
    whole = tmp_path / "whole.safetensors"
    said = "\n".join(run(["prior", MODEL, *OPTIONS, "--out", str(whole)]))
    assert "DenoisingPrior(" in said and "written: " in said

    stack = load(whole)
    assert type(stack.prior).__name__ == "DenoisingPrior"
    assert torch.equal(stack.pairs[0].f.weight, load(MODEL).pairs[0].f.weight)
    assert stack.prior.sample(3, seeded(0)).shape == (3, stack.sizes[-1])
    facts = load(MODEL).facts
    assert stack.facts == {name: facts[name] for name in facts if name != "prior_scores"}

    update = BlockFit._update
    updates = []

    def interrupted(block, *arguments):
        updates.append(block)
        if len(updates) == 14:  # in the middle of the fifth epoch
            raise KeyboardInterrupt
        return update(block, *arguments)

    part = tmp_path / "part.safetensors"
    monkeypatch.setattr(BlockFit, "_update", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(["prior", MODEL, *OPTIONS, "--out", str(part)])
    assert not part.exists()
    assert (tmp_path / "part.safetensors.fitting").exists()

    monkeypatch.setattr(BlockFit, "_update", update)
    with pytest.raises((ValueError, SystemExit)) as caught:
        run(["prior", MODEL, *OPTIONS, "--prior.noise", "0.3", "--out", str(part)])
    assert "was kept of another prior" in str(caught.value) + capsys.readouterr().err

    run(["prior", MODEL, *OPTIONS, "--out", str(part)])
    assert "goes on after 4 epochs" in capsys.readouterr().err
    assert same(part, whole)
    assert not (tmp_path / "part.safetensors.fitting").exists()


def test_any_prior_can_be_fitted(tmp_path):
    out = tmp_path / "a.safetensors"
    run(["prior", MODEL, "ParzenPrior", "--prior.bandwidth", "0.3", "--out", str(out)])
    prior = load(out).prior
    assert type(prior).__name__ == "ParzenPrior"
    assert float(prior.bandwidth_) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([MODEL, "KPrior", "--out", "a.safetensors"], "no prior 'KPrior'; accepted: Autoencoder"),
        ([MODEL, "Digits", "--out", "a.safetensors"], "no prior 'Digits'"),
        ([MODEL], "needed: --out FILE.safetensors"),
        ([MODEL, "--out", "a.ckpt"], "suffix of --out='.ckpt'"),
        ([MODEL, "--out", "old.safetensors"], "--out old.safetensors exists already"),
        ([MODEL, "--out", "bad.safetensors"], "bad.safetensors.fitting is no training"),
        (["mnist-dtp-relu", "--out", "a.safetensors"], "is a classifier, which has no prior"),
        ([MODEL, "--prior.epochs", "3", "--out", "a.safetensors"], "prior.learning.epochs"),
        ([MODEL, "--prior.learning.seconds", "0", "--out", "a.safetensors"], "seconds=0"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.safetensors").write_bytes(b"old")
    (tmp_path / "bad.safetensors.fitting").write_bytes(b"bad")

    with pytest.raises((ValueError, OSError, SystemExit)) as caught:
        run(["prior", *arguments])
    assert words in str(caught.value) + capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.safetensors.fitting",
        "old.safetensors",
    ]
