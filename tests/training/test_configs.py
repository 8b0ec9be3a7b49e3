"""Every committed configuration trains and is kept by files; the small ones are run."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from gendae import Digits, ParzenPrior, deep_autoencoder, generate, load, save
from gendae.metrics.features import CLASSIFIERS
from gendae.rules.base import Rule
from gendae.rules.moment import Moment
from tests.commands.test_cli import QUICK, gendae

FOLDER = Path(__file__).parents[2] / "configs"
MODELS = sorted(f.name for f in FOLDER.glob("*.yaml") if f.stem not in CLASSIFIERS.values())
IS_CLASSIFIER = re.compile(r"class_path: .*(_classifier|lenet)$", re.MULTILINE)
CLASSIFIERS = [name for name in MODELS if IS_CLASSIFIER.search((FOLDER / name).read_text())]
ONE_EPOCH = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
SHORT = ["--trainer.limit_train_batches", "3", "--trainer.enable_model_summary", "false"]
FAST = [*ONE_EPOCH, *SHORT, *QUICK, "--seed_everything", "0"]


def rule_of(name):
    parser = ArgumentParser()
    parser.add_subclass_arguments(Rule, "model")
    config = yaml.safe_load((FOLDER / name).read_text())
    return parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model


def two_updates(rule, batch):
    """Names of all parameters, and of those that two updates move."""
    optimizer = rule.configure_optimizers()
    before = {k: v.clone() for k, v in rule.stack.named_parameters() if not k.startswith("prior.")}
    if rule.prior_in_losses is not None:  # fitted as training begins
        rule.prior_fit.follow(rule, batch, rule.prior_in_losses, Moment())

    for _ in range(2):  # a map that starts at zero hides what is below it from the first step
        losses = rule.losses(batch)
        assert all(torch.isfinite(v) for v in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    now = dict(rule.stack.named_parameters())
    return set(before), {k for k in before if not torch.equal(now[k], before[k])}


@pytest.mark.parametrize("name", [name for name in MODELS if name not in CLASSIFIERS])
def test_configuration_trains_and_is_kept_by_files(name, tmp_path):
    torch.manual_seed(0)
    rule = rule_of(name)
    x = torch.rand(64, rule.stack.sizes[0])
    batch = (x, torch.randint(10, (64,))) if rule.learns_label else (x,)
    parameters, moved = two_updates(rule, batch)

    assert moved == parameters, parameters - moved

    if hasattr(rule.stack.prior, "learning"):
        rule.stack.prior.learning.epochs = 2
    rule.fit_prior([(x,)])
    samples = generate(rule.stack, 5, seed=0)

    assert samples.shape == x[:5].shape

    again = load(save(rule.stack, tmp_path / "stack.safetensors"))
    assert torch.equal(again.reconstruct(x), rule.stack.reconstruct(x))
    assert torch.equal(generate(again, 5, seed=0), samples)


def answers_for(stack, n):
    """What a classifier is to tell of n examples."""
    shape = (n,) if stack.steps is None else (n, stack.steps)
    if stack.predicts == "values":
        return torch.rand(*shape, stack.classes)

    return torch.randint(stack.classes, shape)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_trains_and_is_kept_by_files(name, tmp_path):
    torch.manual_seed(0)
    rule = rule_of(name)
    x = torch.rand(64, rule.stack.sizes[0])
    y = answers_for(rule.stack, 64)
    parameters, moved = two_updates(rule, (x, y))
    idle = {id(p) for module in rule.idle() for p in module.parameters()}
    busy = {name for name, p in rule.stack.named_parameters() if id(p) not in idle}

    assert moved == busy & parameters

    again = load(save(rule.stack, tmp_path / "classifier.safetensors"))
    assert torch.equal(again.predict(x, samples=2), rule.stack.predict(x, samples=2))


def fit(name, folder, *arguments):
    """The last checkpoint of a short fit."""
    root = ["--trainer.default_root_dir", folder]
    assert gendae("fit", "--config", FOLDER / name, *root, *FAST, *arguments) == 0
    return next(folder.glob("*/checkpoints/last.ckpt"))


@pytest.fixture(scope="module", params=["digits-kl.yaml", "digits-targetprop.yaml"])
def trained(request, tmp_path_factory):
    return fit(request.param, tmp_path_factory.mktemp("runs"))


def test_commands_work_on_every_kind(trained, tmp_path, capsys):
    assert gendae("sample", trained, "--n", 9, "--out", tmp_path / "a.png") == 0
    assert gendae("inpaint", trained, "--n", 3, "--out", tmp_path / "b.png") == 0

    level = ["--sampler", "level", "--level", 0, "--steps", 5, "--n", 4]
    assert gendae("chain", trained, *level, "--out", tmp_path / "c.png") == 0
    assert "effective sample size" in capsys.readouterr().out

    files = sorted(f.name for f in tmp_path.iterdir())
    assert files == ["a.png", "b.png", "c-autocorrelation.png", "c.png"]

    assert gendae("evaluate", trained, "--n", 100, "--json", tmp_path / "e.json") == 0

    scores = json.loads((tmp_path / "e.json").read_text())
    names = {"parzen_ll", "fid", "kid", "precision", "recall", "density", "coverage", "copying"}
    assert names <= set(scores)


@pytest.mark.parametrize(
    "options", [{"units": "sign"}, {"units": "binary", "stochastic": True}], ids=["sign", "binary"]
)
def test_discrete_stacks_are_evaluated_too(options, tmp_path):
    """No inference trace and no bound, but every measure of samples; inpainting works."""
    torch.manual_seed(0)
    stack = deep_autoencoder(
        [64, 20, 10], observation="bernoulli", prior=ParzenPrior(0.2), **options
    )
    stack.prior.fit(stack.encode(Digits().split("train").x)[-1])
    stack.facts = {"dataset": {"type": "Digits"}, "shape": [8, 8]}
    model = save(stack, tmp_path / "m.safetensors")

    assert gendae("evaluate", model, "--n", 100, "--json", tmp_path / "e.json") == 0

    scores = json.loads((tmp_path / "e.json").read_text())
    assert scores["iw_bound"] is None and scores["log_joint"] is None
    assert scores["fid"] > 0
    assert gendae("inpaint", model, "--n", 2, "--out", tmp_path / "i.png") == 0


def test_spectrum_reads_learned_noise_and_refuses_where_there_is_none(trained, tmp_path, capsys):
    learned = "KLRule" in str(load(trained).facts["rule"])
    code = gendae("spectrum", trained, "--out", tmp_path / "s.png")
    printed = capsys.readouterr()

    if learned:
        assert code == 0
        assert "signal dimensions" in printed.out
    else:
        assert code == 2
        assert "needs learned noise" in printed.err


def test_a_chain_of_a_direct_prior_is_refused_in_one_line(trained, tmp_path, capsys):
    for sampler in ("level", "ancestral"):
        out = tmp_path / "c.png"
        assert gendae("chain", trained, "--sampler", sampler, "--out", out) == 2

        error = capsys.readouterr().err
        assert "level" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["toy-kl.yaml", "toy-targetprop.yaml"])
def test_toys_train_from_the_command_line(name, tmp_path):
    last = fit(name, tmp_path, "--data.n", 600, "--data.distribution", "rings")
    assert last.is_file()


@pytest.mark.parametrize(
    "words", [["--model", "TargetPropRule"], ["--model=gendae.TargetPropRule"]]
)
def test_another_rule_takes_a_network_with_settings(words, tmp_path):
    config = yaml.safe_load((FOLDER / "digits-kl.yaml").read_text())
    sampler = {"class_path": "gendae.LatentChainSampler", "init_args": {"rounds": 3}}
    settings = {"class_path": "gendae.Settings", "init_args": {"sampler": sampler}}
    config["model"]["init_args"]["stack"]["init_args"]["settings"] = settings
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))

    begin = ["fit", "--config", str(tmp_path / "own.yaml"), *words, *FAST]
    assert gendae(*begin, "--trainer.default_root_dir", str(tmp_path / "runs")) == 0
    trained = load(tmp_path / "runs/0001/checkpoints/last.ckpt")
    assert trained.settings.sampler.rounds == 3
    assert trained.facts["rule"] == "TargetPropRule"


def test_a_configuration_without_its_folder_is_one_file():
    names = [file.stem for file in FOLDER.rglob("*.yaml")]
    assert len(names) == len(set(names))
