"""One seed, one result: whatever is logged, drawn, scored or shown on the way."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger

from gendae import load
from gendae.data.images import Digits
from gendae.data.multimodal import FewLabels, Multimodal
from gendae.metrics.features import FeatureClassifier
from gendae.metrics.quality import sample_quality
from gendae.models.architectures import deep_autoencoder, deep_classifier, joint_autoencoder
from gendae.priors.autoencoder import AutoencoderPrior, Walk
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.rules.backprop import BackpropRule
from gendae.rules.difference import DifferenceTargetPropRule
from gendae.rules.joint import JointTargetPropRule
from gendae.rules.kl import KLRule
from gendae.rules.missing import Inferring
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.variational_em import VariationalEMRule
from gendae.sampling.samplers import generate
from gendae.training.callbacks import CreditMonitor, ParzenMonitor
from tests.commands.test_cli import DIGITS, gendae
from tests.rules.test_base import trainer

SIZES = [64, 20, 8]
RULES = {
    "VariationalEMRule": lambda: VariationalEMRule(deep_autoencoder(SIZES), warmup=5),
    "KLRule, Parzen": lambda: KLRule(
        deep_autoencoder(SIZES, ["softplus", "linear"], noise=0.3, prior=ParzenPrior()),
        training_prior=GaussianPrior("identity", 1.0),
    ),
    "TargetPropRule, chain": lambda: TargetPropRule(
        deep_autoencoder(SIZES, prior=AutoencoderPrior(walk=Walk(50)))
    ),
    "DifferenceTargetPropRule": lambda: DifferenceTargetPropRule(deep_classifier(SIZES)),
    "BackpropRule": lambda: BackpropRule(deep_classifier(SIZES)),
}


def weights_of(make, tmp_path=None, **options):
    torch.manual_seed(0)
    rule = make()
    trainer(max_epochs=2, **options).fit(rule, Digits())
    return rule, torch.cat([p.detach().flatten() for p in rule.stack.parameters()])


class Looks(ParzenMonitor):
    """Draws from the global generator's neighbours: samples, FID, KID, after every epoch."""

    def on_validation_epoch_end(self, trainer, pl_module):
        super().on_validation_epoch_end(trainer, pl_module)
        if pl_module.generative:
            samples = generate(pl_module.stack, 60, seed=1)
            valid = trainer.datamodule.split("valid").x
            sample_quality(samples, valid[:60], valid[60:120], FeatureClassifier((8, 8)))


@pytest.mark.parametrize("name", RULES)
def test_watching_does_not_change_the_weights(tmp_path, name):
    """Logger, bar, summary, pictures, scores, credit, checkpoints: all of them against none."""
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_last=True)
    watched = [Looks(200), keep, TQDMProgressBar()]
    if "Difference" in name or "Backprop" in name:
        watched.append(CreditMonitor(every=1, n=100))

    _, quiet = weights_of(RULES[name])
    rule, loud = weights_of(
        RULES[name],
        callbacks=watched,
        logger=CSVLogger(tmp_path),
        enable_progress_bar=True,
        enable_checkpointing=True,
        enable_model_summary=True,
        log_every_n_steps=1,
        default_root_dir=tmp_path,
    )

    assert torch.equal(quiet, loud)
    assert list(tmp_path.rglob("metrics.csv"))
    if rule.generative:
        assert (tmp_path / "samples.png").is_file()


def few_labels(**options):
    torch.manual_seed(0)
    members = {"image": {"sizes": [64, 8]}, "label": {"sizes": [10], "kind": "onehot"}}
    rule = JointTargetPropRule(joint_autoencoder(members, [6]), inferring=Inferring(weight=1.0))
    data = Multimodal(Digits(), ["image", "label"], labelled=FewLabels(100))
    limits = {"max_epochs": 3, "limit_train_batches": 3, "num_sanity_val_steps": 2}
    trainer(**limits, **options).fit(rule, data)

    return torch.cat([p.detach().flatten() for p in rule.stack.parameters()])


def read_every(updates):
    return weights_of(lambda: VariationalEMRule(deep_autoencoder(SIZES), log_every=updates))[1]


@pytest.mark.parametrize(
    ("often", "rarely"),
    [
        (lambda: read_every(1), lambda: read_every(50)),
        (lambda: few_labels(), lambda: few_labels(check_val_every_n_epoch=3)),
    ],
    ids=["losses are read", "one validates"],
)
def test_how_often_one_looks_does_not_change_the_weights(often, rarely):
    assert torch.equal(often(), rarely())


def test_two_runs_of_the_command_line_are_bit_equal_and_another_seed_is_not(tmp_path):
    def fitted(name, seed, *options):
        root = ["--trainer.default_root_dir", tmp_path / name]
        short = ["--seed_everything", seed, "--trainer.max_epochs", 2]
        assert gendae("fit", "--config", DIGITS, *short, *root, *options) == 0
        return load(tmp_path / name / "0001" / "checkpoints" / "last.ckpt")

    quiet = ["--trainer.enable_progress_bar", "false"]
    first = fitted("first", 3)
    again = fitted("again", 3, "--parzen.every", 2, "--parzen.n", 100, *quiet)
    other = fitted("other", 4)
    weights = first.state_dict()

    assert all(torch.equal(value, again.state_dict()[name]) for name, value in weights.items())
    assert not torch.equal(weights["pairs.0.f.weight"], other.state_dict()["pairs.0.f.weight"])
    assert torch.equal(generate(first, 5, seed=0), generate(again, 5, seed=0))
