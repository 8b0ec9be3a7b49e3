"""Every argument of Lightning's Trainer, and every callback of it: it works, or is refused.

Both lists are found by inspection, so that a new one fails here until its place is known. A fit
with an option that works leaves a trained rule; one that is refused makes no update.
"""

import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, Trainer, callbacks
from pytorch_lightning.strategies import FSDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from gendae.data.loader import Split, TensorLoader
from gendae.rules import options
from gendae.training.callbacks import ParzenMonitor
from tests.training.resuming import (
    QUIET,
    RULES,
    FewDigits,
    differences,
    digest,
    keepers,
    quiet,
    train,
)
from tests.training.test_run import fit


@pytest.fixture(autouse=True)
def silent():
    quiet()


@dataclass
class Case:
    """Options of a Trainer; words of the refusal, or None; updates that are made, of eight."""

    options: dict = field(default_factory=dict)
    refused: str | None = None
    updates: int = 8


def fits(**options):
    return Case(options)


def refused(words, **options):
    return Case(options, words, 0)


ARGUMENTS = {
    "accelerator": [fits(accelerator="cpu"), refused("accelerator", accelerator="abacus")],
    "strategy": [fits(strategy="auto"), refused("fsdp", strategy="fsdp")],
    "devices": [fits(devices=1), refused("devices=0", devices=0)],
    "num_nodes": [fits(num_nodes=1)],
    "precision": [
        *(fits(precision=name) for name in options.PRECISIONS),
        *(refused("accepted: 32-true", precision=name) for name in ("bf16-true", "16-true")),
    ],
    "logger": [fits(logger=False), fits(logger=True)],
    "callbacks": [fits(callbacks=None)],  # below, one by one
    "fast_dev_run": [Case({"fast_dev_run": True}, updates=1)],
    "max_epochs": [Case({"max_epochs": 1}, updates=4), Case({"max_epochs": 0}, updates=0)],
    "min_epochs": [fits(min_epochs=2)],
    "max_steps": [Case({"max_steps": 3}, updates=3)],
    "min_steps": [fits(min_steps=8)],
    "max_time": [fits(max_time="00:01:00:00")],
    "limit_train_batches": [Case({"limit_train_batches": 3}, updates=6)],
    "limit_val_batches": [fits(limit_val_batches=0), fits(limit_val_batches=1)],
    "limit_test_batches": [fits(limit_test_batches=1)],
    "limit_predict_batches": [fits(limit_predict_batches=1)],
    "overfit_batches": [
        Case({"overfit_batches": 2}, updates=4),
        refused("0.1 \\* 4 < 1", overfit_batches=0.1),
    ],
    "val_check_interval": [fits(val_check_interval=0.5)],
    "check_val_every_n_epoch": [fits(check_val_every_n_epoch=2)],
    "num_sanity_val_steps": [fits(num_sanity_val_steps=1)],
    "log_every_n_steps": [fits(log_every_n_steps=1)],
    "enable_checkpointing": [fits(enable_checkpointing=True)],
    "enable_progress_bar": [fits(enable_progress_bar=True)],
    "enable_model_summary": [fits(enable_model_summary=True)],
    "accumulate_grad_batches": [Case({"accumulate_grad_batches": 3}, updates=4)],
    "gradient_clip_val": [refused("rates.clip=1.0", gradient_clip_val=1.0)],
    "gradient_clip_algorithm": [fits(gradient_clip_algorithm="value")],  # of no clipping
    "deterministic": [fits(deterministic=True)],
    "benchmark": [fits(benchmark=True)],
    "inference_mode": [fits(inference_mode=False)],
    "use_distributed_sampler": [fits(use_distributed_sampler=False)],
    "profiler": [fits(profiler="simple")],
    "detect_anomaly": [fits(detect_anomaly=True)],
    "barebones": [fits(barebones=True)],
    "plugins": [fits(plugins=[])],
    "sync_batchnorm": [fits(sync_batchnorm=True)],
    "reload_dataloaders_every_n_epochs": [fits(reload_dataloaders_every_n_epochs=1)],
    "default_root_dir": [fits()],
    "enable_autolog_hparams": [fits(enable_autolog_hparams=False)],
    "model_registry": [fits(model_registry="name")],
}


def score(**settings):
    return {"monitor": "val/reconstruction_1", **settings}


def works(make, **options):
    return [(make, Case(options))]


def never(make):
    return [(make, Case(refused="is not supported: "))]


CALLBACKS = {
    "BackboneFinetuning": never(callbacks.BackboneFinetuning),
    "BaseFinetuning": never(callbacks.BaseFinetuning),
    "BasePredictionWriter": works(callbacks.BasePredictionWriter),
    "BatchSizeFinder": never(callbacks.BatchSizeFinder),
    "Callback": works(callbacks.Callback),
    "Checkpoint": works(callbacks.Checkpoint, enable_checkpointing=True),
    "DeviceStatsMonitor": works(lambda: callbacks.DeviceStatsMonitor(True), logger=True),
    "EMAWeightAveraging": works(lambda: callbacks.EMAWeightAveraging(decay=0.5)),
    "EarlyStopping": [
        *works(lambda: callbacks.EarlyStopping(**score())),
        *works(lambda: callbacks.EarlyStopping("loss/target_f_1")),
        *works(lambda: callbacks.EarlyStopping("val_loss", strict=False)),
        (
            lambda: callbacks.EarlyStopping("val_loss"),
            Case(refused="EarlyStopping: monitor='val_loss' is logged by nothing; .*val/recon"),
        ),
        (lambda: callbacks.EarlyStopping("loss/f_1"), Case(refused="loss/target_f_1")),
    ],
    "GradientAccumulationScheduler": never(
        lambda: callbacks.GradientAccumulationScheduler({0: 2})
    ),
    "LambdaCallback": works(callbacks.LambdaCallback),
    "LearningRateFinder": never(callbacks.LearningRateFinder),
    "LearningRateMonitor": [
        *works(callbacks.LearningRateMonitor, logger=True),
        (callbacks.LearningRateMonitor, Case(refused="has no logger")),
    ],
    "ModelCheckpoint": [
        *works(lambda: callbacks.ModelCheckpoint(**score()), enable_checkpointing=True),
        (
            lambda: callbacks.ModelCheckpoint(monitor="val/nothing"),
            Case({"enable_checkpointing": True}, "is logged by nothing"),
        ),
    ],
    "ModelPruning": never(lambda: callbacks.ModelPruning("l1_unstructured", amount=0.5)),
    "ModelSummary": works(callbacks.ModelSummary),
    "OnExceptionCheckpoint": works(
        lambda: callbacks.OnExceptionCheckpoint("."), enable_checkpointing=True
    ),
    "ProgressBar": works(callbacks.ProgressBar, enable_progress_bar=True),
    "RichModelSummary": works(callbacks.RichModelSummary),
    "RichProgressBar": works(callbacks.RichProgressBar, enable_progress_bar=True),
    "SpikeDetection": never(callbacks.SpikeDetection),
    "StochasticWeightAveraging": never(lambda: callbacks.StochasticWeightAveraging(1e-2)),
    "TQDMProgressBar": works(callbacks.TQDMProgressBar, enable_progress_bar=True),
    "ThroughputMonitor": works(
        lambda: callbacks.ThroughputMonitor(lambda batch: len(batch[0])), logger=True
    ),
    "Timer": works(lambda: callbacks.Timer("00:01:00:00")),
    "WeightAveraging": works(callbacks.WeightAveraging),
}


def public_callbacks():
    """Names of Lightning's callbacks."""
    package = callbacks
    names = set()
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for name, member in vars(importlib.import_module(module.name)).items():
            own = inspect.isclass(member) and issubclass(member, Callback)
            if own and member.__module__.startswith(package.__name__) and name[0] != "_":
                names.add(name)

    return names


def test_every_argument_of_a_trainer_has_a_place():
    assert ARGUMENTS.keys() == inspect.signature(Trainer).parameters.keys()


def test_every_callback_has_a_place():
    assert CALLBACKS.keys() == public_callbacks()


def outcome(case, *made):
    """What a fit ends in: its trainer, after the case's updates; none after a refusal."""
    rule = RULES["back step"]()
    quiet_options = {"enable_checkpointing": False, "max_epochs": 2, "default_root_dir": "."}
    given = {**QUIET, **quiet_options, "callbacks": list(made) or None, **case.options}
    if given.get("barebones"):
        given = {"barebones": True, "max_epochs": 2, "accelerator": "cpu", "devices": 1}

    def trained():
        trainer = Trainer(**given)
        trainer.fit(rule, FewDigits())
        return trainer

    if case.refused is None:
        trainer = trained()
        assert trainer.global_step == case.updates
        assert rule.stack.prior.fitted == (case.updates > 0)
        return

    errors = (ValueError, MisconfigurationException)
    with pytest.raises(errors, match=re.compile(case.refused, re.DOTALL | re.IGNORECASE)):
        trained()
    assert rule.global_step == 0


def walk(cases, quick):
    """All members of the cases; those that are not among the quick ones are exhaustive."""
    for name, members in cases.items():
        marks = [] if name in quick else [pytest.mark.exhaustive]
        for number, member in enumerate(members):
            yield pytest.param(member, id=f"{name}-{number}", marks=marks)


QUICK = {
    "overfit_batches",
    "precision",
    "reload_dataloaders_every_n_epochs",
    "barebones",
    "BatchSizeFinder",
    "LearningRateFinder",
    "StochasticWeightAveraging",
    "EarlyStopping",
    "ModelPruning",
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize("case", walk(ARGUMENTS, QUICK))
def test_an_argument_of_a_trainer_works_or_is_refused(case, elsewhere):
    outcome(case)


@pytest.mark.parametrize("member", walk(CALLBACKS, QUICK))
def test_a_callback_works_or_is_refused(member, elsewhere):
    make, case = member
    try:
        callback = make()
    except ModuleNotFoundError as error:  # rich is no requirement of gendae
        pytest.skip(str(error))

    outcome(case, callback)


def test_a_strategy_that_shares_out_weights_is_refused():
    with pytest.raises(ValueError, match="strategy=FSDPStrategy.*accepted: auto, ddp"):
        options.check_options(SimpleNamespace(strategy=FSDPStrategy()))


# -- gendae's loader -------------------------------------------------------------------------


class Seen(Callback):
    """Which images the updates saw, by epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, trainer, rule):
        self.epochs.append([])

    def on_train_batch_end(self, trainer, rule, outputs, batch, index):
        self.epochs[-1].append(digest(batch[0]))


def seen(**options):
    seen = Seen()
    train("back step", callbacks=[seen], **{"max_epochs": 3, **options})
    return seen.epochs


def test_the_same_batches_are_overfitted_in_every_epoch():
    first, second, third = seen(overfit_batches=2)
    assert first == second == third
    assert len(set(first)) == 2


def test_the_prior_of_overfitted_batches_is_that_of_their_codes():
    rule = RULES["back step"]()
    Trainer(**QUIET, max_epochs=1, overfit_batches=2).fit(rule, FewDigits())

    codes = rule.codes(FewDigits().split("train").x[:100])
    torch.testing.assert_close(rule.stack.prior.mean, codes.mean(0))


def test_reloaded_data_come_in_the_order_of_their_epoch():
    assert seen(reload_dataloaders_every_n_epochs=1) == seen()


def test_a_reloaded_training_resumes_bit_equal(tmp_path):
    often = {"reload_dataloaders_every_n_epochs": 1, "max_epochs": 3}
    whole = train("back step", callbacks=keepers(tmp_path), **often)
    assert differences(whole, train("back step", 99, tmp_path / "batch=6.ckpt", **often)) == []


def test_a_loader_of_other_processes_is_refused():
    loader = TensorLoader(FewDigits().split("train"), 50, shuffle=True, ranks=2)
    with pytest.raises(ValueError, match="ranks=2, and the Trainer 1 processes"):
        Trainer(**QUIET, max_epochs=1).fit(RULES["back step"](), loader)


def test_a_split_of_an_order_that_is_fixed():
    loader = TensorLoader(Split(torch.arange(7.0)[:, None]), 2, shuffle=True)
    loader.fixed = True
    epochs = [[batch.x.flatten().tolist() for batch in loader] for _ in range(2)]

    assert epochs == 2 * [[[0, 1], [2, 3], [4, 5]]]
    assert [batch.x.flatten().tolist() for batch in loader.first(2)] == epochs[0][:2]


# -- averages of weights ---------------------------------------------------------------------


def averaged():
    return callbacks.EMAWeightAveraging(decay=0.5)


class Weights(Callback):
    """The weights after each update, but those of the prior."""

    def __init__(self):
        self.all = []

    def on_train_batch_end(self, trainer, rule, *_):
        named = rule.named_parameters()
        self.all.append({n: p.detach().clone() for n, p in named if ".prior." not in n})


@pytest.mark.parametrize(
    "case",
    [
        "em",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in (
                "kl under parzen",
                "target prop under an auto-encoder",
                "joint",
                "hebbian",
            )
        ),
    ],
)
def test_averages_of_weights_have_a_prior_of_their_own(case, tmp_path):
    """The training is that without averages; what it ends with are averages, resumed or not."""
    weights = Weights()
    plain = train(case)
    whole = train(case, callbacks=[weights, averaged(), *keepers(tmp_path)])
    assert whole["diary"] == plain["diary"]

    mean = weights.all[0]
    for later in weights.all[1:]:
        mean = {name: 0.5 * value + 0.5 * later[name] for name, value in mean.items()}
    for name, value in mean.items():
        torch.testing.assert_close(whole["weights"][name], value)

    checkpoint = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)
    for name, value in whole["weights"].items():
        assert torch.equal(checkpoint["state_dict"][name], value)
    for name, value in plain["weights"].items():
        assert torch.equal(checkpoint["current_model_state"][name], value)

    for name in ("batch=3", "epoch=0"):
        resumed = train(case, 99, tmp_path / f"{name}.ckpt", callbacks=[averaged()])
        assert differences(whole, resumed) == []


def test_the_prior_and_the_score_of_averages_are_theirs():
    rule = RULES["back step"]()
    monitor = ParzenMonitor(100, picture=False)
    trainer = Trainer(**QUIET, max_epochs=2, callbacks=[averaged(), monitor])
    trainer.fit(rule, FewDigits())

    codes = rule.codes(FewDigits().split("train").x)
    torch.testing.assert_close(rule.stack.prior.mean, codes.mean(0))

    score = trainer.callback_metrics["val/parzen_ll"]
    (again,) = trainer.validate(rule, FewDigits(), verbose=False)
    torch.testing.assert_close(torch.tensor(again["val/parzen_ll"]), score.cpu())


# -- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--trainer.barebones true", "trainer.barebones=true: "),
        ("--trainer.enable_checkpointing false", "--best.save_top_k 0"),
        ("--trainer.overfit_batches 0.01", "0.01 * 3 < 1"),
        ("--trainer.precision bf16-true", "accepted: 32-true"),
        ("--trainer.precision transformer-engine", "transformer_engine"),
        ("--trainer.strategy deepspeed", "DeepSpeed"),
        ("--trainer.callbacks+=LearningRateFinder", "callbacks=LearningRateFinder"),
        ("--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/error", "val/error"),
        ("--best.monitor val/nothing", "is logged by nothing"),
    ],
)
def test_a_refused_option_is_one_line_and_leaves_no_folder(tmp_path, capsys, arguments, words):
    assert fit(tmp_path, *arguments.split()) == 2

    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gendae")]
    assert len(said) == 1 and words in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_what_lightning_tells_of_later_is_one_line(tmp_path, capsys, monkeypatch):
    """Where a callback of another package may log the name, the fit begins."""
    monkeypatch.setattr("gendae.rules.monitors.OURS", ("gendae.",))
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/mine"]

    assert fit(tmp_path, *stopping) == 2
    assert "gendae: error: Early stopping conditioned on" in capsys.readouterr().err
    assert (tmp_path / "0001/config.yaml").is_file()


def test_a_fast_dev_run_leaves_no_folder(tmp_path):
    assert fit(tmp_path, "--trainer.fast_dev_run", "true") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("logger", [True, False])
def test_no_logger_is_no_log(tmp_path, logger):
    assert fit(tmp_path, "--trainer.logger", str(logger).lower(), "--trainer.max_epochs", 1) == 0
    assert (tmp_path / "0001/metrics.csv").exists() == logger
