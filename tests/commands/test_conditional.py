"""Priors of p(h | c) on the command line: fitted by a rule, and sampled given a label."""

import numpy as np
import pytest
import torch

from gendae import joint_autoencoder, save
from gendae.data.images import Digits
from gendae.data.loader import Split
from gendae.models.architectures import deep_autoencoder
from gendae.priors.conditional import Condition, ConditionalDenoisingPrior
from gendae.priors.denoiser import LevelMLP
from gendae.priors.descents import HeunDescent
from gendae.priors.fitting import AveragedLearning
from gendae.rules.joint import JointTargetPropRule
from gendae.rules.targetprop import TargetPropRule
from tests.commands.test_cli import gendae


def prior(name="label", width=10):
    learning = AveragedLearning(epochs=2, batch_size=100)
    return ConditionalDenoisingPrior(
        Condition(width, name), LevelMLP(8, 1), learning=learning, descent=HeunDescent(4)
    )


def plain():
    """A stack of pixels, whose data have labels; some are missing."""
    torch.manual_seed(0)
    x, y, _ = Digits().split("train")[:300]
    rule = TargetPropRule(deep_autoencoder([64, 5], prior=prior()))
    rule.fit_prior(
        [Split(x[:200], y[:200]), (x[200:], y[200:].index_fill(0, torch.arange(5), -1))]
    )
    rule.stack.facts = {"shape": [8, 8], "kind": "image"}

    return rule.stack


def joint(name, width):
    """Image and label; the prior is given one of them."""
    torch.manual_seed(0)
    x, y, _ = Digits().split("train")[:300]
    parts = {"image": {"sizes": [64, 6]}, "label": {"sizes": [10], "kind": "onehot"}}
    rule = JointTargetPropRule(joint_autoencoder(parts, top=[5], prior=prior(name, width)))
    values, observed = rule.stack.join({"image": x, "label": y})
    rule.fit_prior([(values, observed)])

    return rule.stack


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    stacks = {"plain": plain(), "label": joint("label", 10), "image": joint("image", 6)}
    for name, stack in stacks.items():
        save(stack, folder / f"{name}.safetensors")

    return folder


def arrays(path):
    with np.load(path) as content:
        return {name: content[name] for name in content.files}


def test_a_rule_hands_over_labels_or_a_modality(monkeypatch):
    """One for each code, in the same order; a missing label counts as none."""
    told = []
    begin = ConditionalDenoisingPrior.begin

    def noted(prior, codes, conditions=None):
        told.append((codes, conditions))
        return begin(prior, codes, conditions)

    monkeypatch.setattr(ConditionalDenoisingPrior, "begin", noted)
    stacks = plain(), joint("label", 10), joint("image", 6)
    (codes, labels), (_, joined), (tops, images) = told
    x, y, _ = Digits().split("train")[:300]

    assert torch.allclose(codes, stacks[0].encode(x)[-1], atol=1e-6)
    assert torch.equal(labels[205:].argmax(1), y[205:])
    assert labels[200:205].isnan().all() and not labels[205:].isnan().any()
    assert torch.equal(stacks[0].prior.met.sum(1), torch.tensor([0.0] + 10 * [2.0]))
    assert stacks[0].prior.shares[0] == pytest.approx(5 / 300)

    assert torch.equal(joined.argmax(1), y)
    values, _ = stacks[2].join({"image": x, "label": y})
    h = stacks[2].encode(values)
    assert torch.allclose(tops, h[-1], atol=1e-6)
    assert torch.allclose(images, h[stacks[2].level][:, :6], atol=1e-6)


def test_samples_given_a_label(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = models / "plain.safetensors"
    for options in ("", "--guidance 2", "--guidance 2"):
        line = f"--given label=3 --n 4 --out {len(list(tmp_path.iterdir()))}.npz"
        assert gendae("sample", model, *line.split(), *options.split()) == 0
    free, guided, again = (arrays(f"{i}.npz")["samples"] for i in range(3))
    assert free.shape == (4, 64)
    assert np.array_equal(guided, again) and not np.array_equal(free, guided)

    joint = models / "label.safetensors"
    assert gendae("sample", joint, "--given", "label=3", "--n", "4") == 0
    direct = arrays("samples.npz")
    assert (direct["label"] == np.eye(10)[3]).all() and direct["image"].shape == (4, 64)
    assert "converged" not in direct
    assert gendae("sample", joint, *["--given", "label=3", "--n", "4", "--rounds", "1"]) == 0
    assert "converged" in arrays("samples.npz")

    np.save("x.npy", Digits().split("test").x[:4].numpy())
    line = ("--given", "image=x.npy", "--n", "4")
    assert gendae("sample", models / "image.safetensors", *line) == 0
    assert np.allclose(arrays("samples.npz")["image"], np.load("x.npy"))


WRONG = [
    ("plain", "--given label=10", "the model has 10 classes, 0 .. 9"),
    ("plain", "--given label=three", "--given label=three: a class 0 .. 9 is needed"),
    ("plain", "--guidance 1", "--guidance 1 is of a prior that draws samples given"),
    ("label", "--given image=x.npy --guidance 1", "--guidance 1 is of a prior"),
    ("label", "--given label=3 --guidance -3", "guidance=-3"),
    ("image", "--given image=x.npy --n 3", "has 4 rows; one is needed, or --n 3"),
]


@pytest.mark.parametrize(("name", "line", "message"), WRONG)
def test_what_cannot_be_given(models, tmp_path, monkeypatch, capsys, name, line, message):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((4, 64), dtype=np.float32))
    assert gendae("sample", models / f"{name}.safetensors", *line.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
