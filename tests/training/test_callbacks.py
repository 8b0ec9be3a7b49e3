"""The callback and the flag that measure credit, and leave no trace in the training they watch."""

import csv
import math

import pytest
import torch
import yaml
from torch.utils.data import DataLoader, TensorDataset

from gendae import plots
from gendae.corruption import GaussianNoise
from gendae.data.images import Digits
from gendae.data.multimodal import Multimodal
from gendae.models.architectures import deep_classifier, joint_autoencoder
from gendae.rules import credit
from gendae.rules.difference import DifferenceTargetPropRule, InverseLearning
from gendae.rules.joint import JointTargetPropRule
from gendae.rules.supervised import SupervisedRule
from gendae.training.callbacks import CreditMonitor
from tests.commands.test_cli import gendae
from tests.rules.test_base import trainer

# -- the monitor ----------------------------------------------------------------------------------


def trained(folder, monitor, loaders=False, **options):
    torch.manual_seed(0)
    noise = GaussianNoise(0.1)
    stack = deep_classifier([64, 12, 10], **options)
    rule = DifferenceTargetPropRule(
        stack, samples=2, input_corruption=noise, inverses=InverseLearning(schedule="alternate")
    )
    limits = {"max_epochs": 2, "limit_train_batches": 8, "num_sanity_val_steps": 2}
    run = trainer(callbacks=[CreditMonitor(monitor, 50)], default_root_dir=folder, **limits)

    if loaders:
        splits = (Digits().split(name) for name in ("train", "valid"))
        train, valid = (TensorDataset(split.x, split.y) for split in splits)
        run.fit(rule, DataLoader(train, 100, shuffle=True), DataLoader(valid, 40))
    else:
        run.fit(rule, Digits())

    random = [torch.get_rng_state(), rule.source_of_noise.generator.get_state()]
    return run, [*rule.state_dict().values(), *random]


@pytest.mark.parametrize("loaders", [True, False])
@pytest.mark.parametrize("stochastic", [True, False])
def test_training_is_the_same_with_and_without_the_monitor(tmp_path, stochastic, loaders):
    with_it, a = trained(tmp_path / "a", 1, loaders, stochastic=stochastic)
    without, b = trained(tmp_path / "b", 0, loaders, stochastic=stochastic)

    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))

    of_levels = "cosine_1 cosine_2 cosine_3 improves_1 improves_2 local_1 inverse_2"
    expected = {f"credit/{name}" for name in of_levels.split()}
    assert {key for key in with_it.callback_metrics if key.startswith("credit")} == expected
    assert not [key for key in without.callback_metrics if key.startswith("credit")]
    assert (tmp_path / "a/credit.png").is_file()
    assert not (tmp_path / "b/credit.png").exists()


def test_the_monitor_logs_what_credit_measures_on_the_first_validation_images(tmp_path):
    run, _ = trained(tmp_path, 2)
    x, y, _ = Digits().split("valid")[:50]
    measured = credit.by_layer(run.lightning_module, x, y)

    for name, values in measured.items():
        for level, value in values.items():
            logged = run.callback_metrics[f"credit/{name}_{level}"].item()
            assert logged == pytest.approx(value, abs=1e-6)


def test_the_monitor_refuses_rules_without_a_global_loss(tmp_path):
    members = {"image": {"sizes": [64, 8]}, "label": {"sizes": [10], "kind": "onehot"}}
    rule = JointTargetPropRule(joint_autoencoder(members, [6]))

    def fit(every):
        limits = {"limit_train_batches": 1, "num_sanity_val_steps": 2}
        run = trainer(callbacks=[CreditMonitor(every)], default_root_dir=tmp_path, **limits)
        run.fit(rule, Multimodal(Digits(), ["image", "label"]))

    with pytest.raises(
        ValueError, match=r"credit\.every=1: rule=JointTargetPropRule has no global loss"
    ):
        fit(1)

    fit(0)


def test_the_figure_has_a_curve_for_each_measure():
    figure = plots.layers({"cosine": {1: math.nan, 2: 0.5, 3: 1.0}, "inverse": {2: 1.5}})
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cosine", "inverse"]
    assert [float(tick) for tick in axes.get_xticks()] == [1.0, 2.0, 3.0]


# -- the command line -----------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    """A small configuration: a network, its rule, and data."""
    stack = {"class_path": "gendae.deep_classifier", "init_args": {"sizes": [64, 12, 10]}}
    noise = {"class_path": "gendae.GaussianNoise", "init_args": {"sigma": 0.1}}
    rule = {
        "stack": stack,
        "inverses": {"sigma": 0.2},
        "input_corruption": noise,
        "rates": {"f": 0.02, "g": 0.01},
    }
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    root = str(tmp_path / "runs")
    content = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 3, "default_root_dir": root, "accelerator": "cpu", **quiet},
        "model": {"class_path": "gendae.DifferenceTargetPropRule", "init_args": rule},
        "data": {"class_path": "gendae.Digits"},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))

    return str(path)


def columns(run):
    """metrics.csv as {column: numbers}."""
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


def test_one_flag_measures_credit(config, tmp_path):
    assert gendae("fit", "--config", config, "--credit.every", 2, "--credit.n", 100) == 0

    run = tmp_path / "runs/0001"
    logged = columns(run)

    assert len(logged["val/error"]) == 3
    assert len(logged["credit/cosine_1"]) == len(logged["credit/inverse_2"]) == 2  # epochs 2 and 3
    assert logged["credit/cosine_3"] == pytest.approx([1.0, 1.0])
    assert (run / "credit.png").stat().st_size > 1000

    assert gendae("fit", "--config", config) == 0

    plain = columns(tmp_path / "runs/0002")
    assert not [name for name in plain if name.startswith("credit")]
    assert plain["val/loss"] == logged["val/loss"]


def test_one_flag_changes_the_rule_alone(config, tmp_path, capsys):
    """Arguments that the new rule does not take are dropped; all else is the configuration's."""
    rule = ["--model", "BackpropRule", "--credit.every", 1]
    assert gendae("fit", "--config", config, *rule) == 0

    run = tmp_path / "runs/0001"
    saved = yaml.safe_load((run / "config.yaml").read_text())
    arguments = saved["model"]["init_args"]

    assert saved["model"]["class_path"].endswith(".BackpropRule")
    assert arguments["stack"]["init_args"]["sizes"] == [64, 12, 10]
    assert (arguments["rates"]["f"], arguments["rates"]["g"]) == (0.02, 0.01)
    assert arguments["input_corruption"]["init_args"]["sigma"] == 0.1
    assert not {"inverses", "iterations", "step"} & set(arguments)
    assert SupervisedRule.score == ("val/error", "min")
    assert (saved["best"]["monitor"], saved["best"]["mode"]) == SupervisedRule.score

    logged = columns(run)
    assert logged["credit/cosine_1"] == pytest.approx([1.0] * 3)
    assert "credit/improves_1" not in logged

    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == logged["val/error"].index(min(logged["val/error"])) != 0

    capsys.readouterr()
    arguments = ["--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/best.ckpt"]
    assert gendae("test", *arguments) == 0

    assert "test/error" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_the_flag_is_refused_in_one_line_where_it_means_nothing(tmp_path, capsys):
    root = ["--trainer.default_root_dir", tmp_path / "runs"]
    assert (
        gendae("fit", "--config", "configs/digits-joint-label.yaml", "--credit.every", 1, *root)
        == 2
    )

    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "credit.every=1: rule=JointTargetPropRule has no global loss" in error
    assert not (tmp_path / "runs").exists()
