"""Fits of joint stacks: data are compared with the model first, and what a run needs is there."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gendae import GaussianPrior, ParzenPrior, VariationalEMRule
from gendae.data.images import Digits
from gendae.data.multimodal import Arrays, FewLabels, Multimodal
from gendae.layers.affine import Affine
from gendae.layers.invertible import InvertiblePair
from gendae.layers.pair import Pair
from gendae.models.architectures import joint_autoencoder
from gendae.models.joint import JointStack
from gendae.models.modalities import Junction, Modality
from gendae.rules.joint import JointTargetPropRule
from gendae.rules.kl import KLRule
from gendae.rules.targetprop import TargetPropRule
from gendae.sampling.samplers import AncestralSampler, seeded
from tests.commands.test_cli import QUICK, gendae
from tests.rules.test_base import trainer

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits-joint-label.yaml")


def labelled(prior=None, **more):
    torch.manual_seed(0)
    members = {"image": {"sizes": [64, 8]}, "label": {"sizes": [10], "kind": "onehot"}, **more}
    return joint_autoencoder(members, [6], prior=prior)


def fit(rule, data, tmp_path):
    run = trainer(limit_train_batches=2, default_root_dir=str(tmp_path), num_sanity_val_steps=2)
    run.fit(rule, data)
    return rule


def parts(*names, labelled=None):
    return Multimodal(Digits(), list(names), labelled=labelled)


def arrays(image, label):
    np.save("image.npy", image)
    np.save("label.npy", label)
    return Arrays({"image": "image.npy", "label": "label.npy"})


def never_complete():
    """Images and labels of which no training example has both."""
    image = np.random.default_rng(0).random((40, 64))
    image[::2] = np.nan
    label = np.arange(40) % 10
    label[1::2] = -1
    label[0] = 9

    return arrays(image, label)


def of_another_kind():
    """Images whose values are no pixels."""
    return arrays(255 * np.random.default_rng(0).random((40, 64)), np.arange(40) % 10)


@pytest.mark.parametrize(
    ("rule", "data", "words"),
    [
        (
            JointTargetPropRule,
            lambda: parts("label", "image"),
            (
                "the data have the modalities {'label': 10, 'image': 64}, "
                "the model {'image': 64, 'label': 10}"
            ),
        ),
        (
            JointTargetPropRule,
            lambda: parts("top", "bottom", "label"),
            "the same ones in the same order are needed",
        ),
        (
            JointTargetPropRule,
            of_another_kind,
            "image of the train data holds values from .*; divide by 255",
        ),
        (JointTargetPropRule, never_complete, "no two training examples have all modalities"),
        *(  # rules that would take missing modalities for zeros
            (
                rule,
                lambda: parts("image", "label", labelled=FewLabels(10)),
                "modalities are missing in the train data",
            )
            for rule in (VariationalEMRule, TargetPropRule, KLRule)
        ),
    ],
)
def test_data_that_a_rule_cannot_train_on_are_refused(rule, data, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        fit(rule(labelled()), data(), tmp_path)


ONE_EPOCH = ["--trainer.max_epochs", 1, "--trainer.check_val_every_n_epoch", 1]
SHORT = ["--config", CONFIG, *ONE_EPOCH, "--trainer.limit_train_batches", 3, *QUICK]


def test_a_model_with_latents_is_fitted_and_scored_by_the_command_line(tmp_path):
    modalities = (
        "{image: {sizes: [64, 8]}, label: {sizes: [10], kind: onehot}, "
        "phi: {sizes: [3], kind: latent}}"
    )

    root = ["--trainer.default_root_dir", tmp_path]

    assert gendae("fit", *SHORT, *root, "--model.stack.init_args.modalities", modalities) == 0

    assert "val/parzen_ll" in (tmp_path / "0001" / "metrics.csv").read_text()


def test_a_committed_configuration_tests_a_checkpoint(tmp_path, capsys):
    assert gendae("fit", *SHORT, "--trainer.default_root_dir", tmp_path) == 0

    checkpoint = tmp_path / "0001" / "checkpoints" / "best.ckpt"
    quiet = ["--trainer.enable_progress_bar", "false"]
    assert gendae("test", "--config", CONFIG, *quiet, "--ckpt_path", checkpoint) == 0
    assert "test/error_label" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"share": 0.5}, {"only": True}])
def test_repeated_images_count_once_for_the_prior(options, tmp_path):
    data = Multimodal(Digits(), ["image", "label"], labelled=FewLabels(50, **options))
    rule = fit(JointTargetPropRule(labelled(ParzenPrior(capacity=5000))), data, tmp_path)
    assert len(rule.stack.prior.codes) <= 50
    assert rule.stack.prior.bandwidth_ > 0.01 * rule.stack.prior.codes.std()


def test_noise_of_ancestral_samples_reaches_each_modality_s_codes():
    stack = labelled(GaussianPrior())
    stack.prior.fit(torch.randn(20, 6))
    codes = torch.zeros(2000, 6)
    quiet, noisy = (
        AncestralSampler(noise).start(stack, codes, seeded(0))[1] for noise in (0.0, 1.0)
    )

    assert (noisy - quiet)[:, :8].std().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(noisy[:, 8:], quiet[:, 8:])


def test_penalties_of_encoders_side_by_side_add_up():
    pair = InvertiblePair(6, form="svd")
    joint = JointStack(
        {
            "a": Modality(6, "real", [pair]),
            "b": Modality(3, "real", [Pair(Affine(3, 2), Affine(2, 3))]),
        },
        [Junction(Affine(10, 4), Affine(4, 8))],
    )

    assert torch.equal(joint.pairs[0].f.penalty(), pair.f.penalty())
    assert "penalty_f_1" in JointTargetPropRule(joint).losses((torch.randn(5, 9),))


def test_validation_counts_examples_that_have_the_modality(tmp_path):
    """The error is that of all labels together, and a batch without labels counts nothing."""
    rule = JointTargetPropRule(labelled())
    logged = []
    rule.log = lambda name, value, batch_size, **_: logged.append((name, float(value), batch_size))
    x = torch.cat([torch.rand(6, 64), torch.eye(10)[:6]], 1)
    there = torch.ones(6, 2, dtype=torch.bool)
    there[2:, 1] = False
    rule.validation_step((x, there), 0)
    sizes = {name: n for name, _, n in logged}

    assert sizes == {
        "val/error_image": 6,
        "val/error_label": 2,
        "val/error": 2,
        "val/reconstruction": 6,
    }

    logged.clear()
    there[:, 1] = False
    rule.validation_step((x, there), 0)

    assert {name for name, *_ in logged} == {"val/error_image", "val/reconstruction"}
    assert all(math.isfinite(value) for _, value, _ in logged)
