"""Every argument of Lightning's Trainer, and every callback of it: it works, or is refused.

Both lists are found by inspection, so that a new one fails here until its place is known. A fit
with an option that works leaves a trained rule; one that is refused makes no update.
"""

import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, Trainer, callbacks
from pytorch_lightning.strategies import FSDPStrategy
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.optim import LBFGS, SGD, lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gendae.data.loader import Split, TensorLoader
from gendae.rules import options
from gendae.rules.backstep import BackStepRule
from gendae.rules.rates import Rates
from gendae.rules.shell import Shell
from gendae.training.callbacks import ParzenMonitor
from tests.training.resuming import (
    QUIET,
    RULES,
    FewDigits,
    differences,
    digest,
    keepers,
    quiet,
    stack,
    train,
)
from tests.training.test_run import fit


@pytest.fixture(autouse=True)
def silent(tmp_path, monkeypatch):
    """Nothing is said, and nothing is left in the current folder."""
    quiet()
    monkeypatch.chdir(tmp_path)


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
    "accumulate_grad_batches": [
        Case({"accumulate_grad_batches": 3}, updates=4),
        *(refused("a whole number >= 1", accumulate_grad_batches=n) for n in (0, -1, 2.5)),
    ],
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
        (lambda: callbacks.EarlyStopping("lr-AdamW/f_1"), Case(refused="is logged by nothing")),
        (
            lambda: callbacks.EarlyStopping(**score()),
            Case({"limit_val_batches": 0}, "is logged by nothing; accepted: loss/"),
        ),
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
        (
            lambda: callbacks.ModelCheckpoint(train_time_interval=timedelta(seconds=1)),
            Case({"enable_checkpointing": True}, "train_time_interval=0:00:01 would save nothing"),
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
    "ModelCheckpoint",
    "accumulate_grad_batches",
}


@pytest.fixture
def restored():
    """Switches of torch that a Trainer sets are as before."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize("case", walk(ARGUMENTS, QUICK))
def test_an_argument_of_a_trainer_works_or_is_refused(case, restored):
    outcome(case)


@pytest.mark.parametrize("member", walk(CALLBACKS, QUICK))
def test_a_callback_works_or_is_refused(member, restored):
    make, case = member
    try:
        callback = make()
    except ModuleNotFoundError as error:  # rich is no requirement of gendae
        pytest.skip(str(error))

    outcome(case, callback)


def test_a_strategy_that_shares_out_weights_is_refused():
    with pytest.raises(ValueError, match="strategy=FSDPStrategy.*accepted: auto, ddp"):
        options.check_options(SimpleNamespace(strategy=FSDPStrategy()))


@pytest.mark.parametrize("find", ["lr_find", "scale_batch_size"])
def test_a_tuner_is_refused(find):
    tuner = Tuner(Trainer(**QUIET, max_epochs=1))
    with pytest.raises(ValueError, match="is not supported: .* set "):
        getattr(tuner, find)(RULES["back step"](), FewDigits())


# -- hooks -----------------------------------------------------------------------------------

HOOKS = [
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
]


class Listener(Callback):
    """Which hooks of an update were called, in order."""

    def __init__(self):
        self.called = []


def listens(name):
    def hook(self, *_):
        self.called.append(name)

    return hook


for name in HOOKS:
    setattr(Listener, name, listens(name))


@pytest.mark.parametrize("batches", [1, 2])
def test_hooks_of_an_update_are_called_in_the_order_of_lightning(batches):
    listener = Listener()
    train("back step", callbacks=[listener], max_epochs=1, accumulate_grad_batches=batches)

    begins = HOOKS[:2]
    backward = HOOKS[2:4]
    ends = HOOKS[4:]
    if batches == 2:
        update = [*begins, *backward, HOOKS[5], HOOKS[0], *backward, *ends]
    else:
        update = [*begins, *backward, *ends]
    assert listener.called == 4 // batches * update


class Norms(Callback):
    """The norms of all groups' gradients, before the steps and after them."""

    def __init__(self):
        self.before = []
        self.after = []

    def on_before_optimizer_step(self, trainer, rule, optimizer):
        self.before += self.of(optimizer)

    def on_train_batch_end(self, trainer, rule, *_):
        self.after += self.of(rule.optimizers())

    def of(self, optimizer):
        groups = [group["params"] for group in optimizer.param_groups]
        return [float(torch.stack([p.grad.norm() for p in group]).norm()) for group in groups]


def test_callbacks_see_gradients_before_they_are_clipped():
    norms = Norms()
    rule = BackStepRule(stack(), rates=Rates(clip=1e-3))
    Trainer(**QUIET, max_epochs=1, callbacks=[norms]).fit(rule, FewDigits())

    assert min(norms.before) > 1.1e-3
    assert max(norms.after) < 1.1e-3


def heir(**methods):
    """A rule of a class of one's own."""
    return type("Mine", (BackStepRule,), methods)


@pytest.mark.parametrize("name", options.own_hooks(Shell))
def test_a_hook_that_leaves_out_the_rule_s_own_is_said(name):
    with pytest.warns(UserWarning, match=rf"Mine.{name} does not call super\(\).{name}\("):
        heir(**{name: lambda self, *_: None})(stack())


@pytest.mark.parametrize("name", options.UNCALLED)
def test_a_hook_that_nothing_calls_is_refused(name):
    with pytest.raises(ValueError, match=f"Mine.{name} would never be called.*; use "):
        heir(**{name: lambda self, *_: None})(stack())


class Polite(BackStepRule):
    """A rule with more hooks, which call those of the rule."""

    seen = 0

    def on_train_start(self):
        super().on_train_start()
        self.seen += 1

    def on_train_end(self):
        BackStepRule.on_train_end(self)
        self.seen += 1

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return super().on_after_batch_transfer((0.5 * batch[0],), dataloader_idx)

    def on_train_epoch_end(self):
        self.seen += 1


def test_hooks_that_call_the_rule_s_own_work():
    rule = Polite(stack())
    Trainer(**QUIET, max_epochs=1).fit(rule, FewDigits())

    assert rule.seen == 3
    assert rule.stack.prior.fitted


# -- optimizers ------------------------------------------------------------------------------


def configured(make):
    """A rule whose optimizer is made by a function of it and of its parent's."""
    return heir(
        configure_optimizers=lambda rule: make(rule, BackStepRule.configure_optimizers(rule))
    )


UNUSABLE = {
    "scheduler": (lambda r, o: ([o], [lr_scheduler.StepLR(o, 1)]), "StepLR, which would never"),
    "scheduler of a score": (
        lambda r, o: {
            "optimizer": o,
            "lr_scheduler": {"scheduler": lr_scheduler.ReduceLROnPlateau(o), "monitor": "val/x"},
        },
        "ReduceLROnPlateau, which would never step: rates follow",
    ),
    "two": (lambda r, o: [o, SGD(r.parameters(), 0.1)], "gives 2 optimizers; one is needed"),
    "none": (lambda r, o: None, "gives 0 optimizers; one is needed"),
    "of several looks": (lambda r, o: LBFGS(r.parameters()), "LBFGS cannot be used"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_optimizer_that_no_rule_can_follow_is_refused(name):
    make, words = UNUSABLE[name]
    rule = configured(make)(stack())
    with pytest.raises(ValueError, match=f"^configure_optimizers.*{words}"):
        Trainer(**QUIET, max_epochs=1).fit(rule, FewDigits())
    assert rule.global_step == 0


def test_an_optimizer_of_one_s_own_has_the_decline_of_the_rates():
    rule = configured(lambda rule, _: SGD(rule.parameters(), 0.1))(stack())
    Trainer(**QUIET, max_epochs=1).fit(rule, FewDigits())

    (group,) = rule.optimizers().param_groups
    assert group["lr"] == pytest.approx(0.1 * 1 / 4)


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Muon"])
def test_rates_name_an_optimizer_that_cannot_be_used(name):
    if not hasattr(torch.optim, name):
        pytest.skip("of later versions of torch")

    with pytest.raises(ValueError, match=f"rates.optimizer.*{name}"):
        BackStepRule(stack(), rates=Rates(optimizer=f"torch.optim.{name}")).configure_optimizers()


# -- what a fit finds ------------------------------------------------------------------------


def changed(function):
    rule = RULES["back step"]()
    function(rule)
    return rule


def inferred():
    with torch.inference_mode():
        return RULES["back step"]()


def compiled_layer(rule):
    rule.stack.pairs[0].f = torch.compile(rule.stack.pairs[0].f, backend="eager")


UNTRAINABLE = {
    "half": (lambda: RULES["back step"]().half(), "is torch.float16; accepted: torch.float32"),
    "bfloat16": (lambda: RULES["back step"]().bfloat16(), "is torch.bfloat16; accepted"),
    "complex": (lambda: RULES["back step"]().to(torch.cfloat), "is torch.complex64; accepted"),
    "meta": (lambda: RULES["back step"]().to("meta"), "on the device meta, which holds no"),
    "one layer in double": (lambda: changed(lambda r: r.stack.pairs[0].double()), "several types"),
    "frozen": (lambda: changed(lambda r: r.freeze()), "nothing learns"),
    "made in inference mode": (inferred, "was made within torch.inference_mode"),
    "compiled": (
        lambda: torch.compile(RULES["back step"](), backend="eager"),
        r"^torch.compile\(rule\) would compile",
    ),
    "compiled layer": (lambda: changed(compiled_layer), "pairs.0.f was replaced by torch.compile"),
}


@pytest.mark.parametrize("name", UNTRAINABLE)
def test_weights_that_cannot_be_trained_are_refused(name):
    make, words = UNTRAINABLE[name]
    trainer = Trainer(**QUIET, max_epochs=1)
    with pytest.raises(ValueError, match=words):
        trainer.fit(make(), FewDigits())
    assert trainer.global_step == 0


def test_a_rule_that_was_compiled_trains_afterwards():
    rule = RULES["back step"]()
    trainer = Trainer(**QUIET, max_epochs=1)
    with pytest.raises(ValueError, match="would compile"):
        trainer.fit(torch.compile(rule, backend="eager"), FewDigits())

    trainer.fit(rule, FewDigits())
    assert trainer.global_step == 4


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (torch.inference_mode(), "within torch.inference_mode"),
        (torch.device("meta"), "the default device meta"),
    ],
    ids=["inference mode", "meta"],
)
def test_surroundings_without_gradients_or_numbers_are_refused(context, words):
    rule = RULES["back step"]()
    data = FewDigits()
    with pytest.raises(ValueError, match=words), context:
        Trainer(**QUIET, max_epochs=1).fit(rule, data)


def test_no_gradients_around_a_fit_make_no_difference():
    with torch.no_grad():
        inside = train("back step", max_epochs=1)

    assert differences(train("back step", max_epochs=1), inside) == []


def test_a_prediction_is_refused_unless_a_rule_defines_one():
    loader = DataLoader(FewDigits().split("train").x[:4], 2)
    with pytest.raises(
        ValueError, match="BackStepRule has no predict_step; use rule.stack.encode"
    ):
        Trainer(**QUIET).predict(RULES["back step"](), loader)

    rule = heir(
        predict_step=lambda rule, batch, batch_idx: rule.stack.encode(batch.x)[-1],
        on_after_batch_transfer=lambda rule, batch, index: Split(batch),
    )(stack())
    first, _ = Trainer(**QUIET).predict(rule, loader)
    assert first.shape == (2, 8)


@pytest.mark.parametrize(
    "options", [{"max_epochs": 0}, {"max_steps": 0}, {"max_time": {"seconds": 0}}]
)
def test_a_fit_without_updates_says_so(options, capsys):
    train("back step", **options)
    assert "gendae: nothing was trained: max_epochs=" in capsys.readouterr().err


def test_a_trainer_that_has_trained_says_that_it_does_no_more(capsys):
    trainer = Trainer(**QUIET, max_epochs=1)
    trainer.fit(RULES["back step"](), FewDigits())
    assert capsys.readouterr().err == ""

    trainer.fit(RULES["back step"](), FewDigits())
    assert "nothing was trained after 4 updates of this Trainer" in capsys.readouterr().err


# -- loaders of one's own --------------------------------------------------------------------


class Stream(IterableDataset):
    """The same digits again and again, or a number of them."""

    def __init__(self, most=None):
        self.x = FewDigits().split("train").x
        self.most = most
        self.drawn = 0

    def __iter__(self):
        number = 0
        while self.most is None or number < self.most:
            number += 1
            self.drawn += 1
            yield (self.x[number % len(self.x)],)


def test_a_stream_without_end_gives_the_prior_what_it_gave_the_training():
    stream = Stream()
    rule = RULES["back step"]()
    Trainer(**QUIET, max_steps=5).fit(rule, DataLoader(stream, 4))

    assert rule.stack.prior.fitted
    assert stream.drawn <= 2 * 6 * 4


def test_a_stream_of_some_length_gives_the_prior_all_of_it():
    rule = RULES["back step"]()
    Trainer(**QUIET, max_epochs=2).fit(rule, DataLoader(Stream(20), 4))

    x = FewDigits().split("train").x[1:21]
    torch.testing.assert_close(rule.stack.prior.mean, rule.codes(x).mean(0))


def rows(n=8):
    return DataLoader(TensorDataset(FewDigits().split("train").x[:n]), 4)


@pytest.mark.parametrize(
    ("train_data", "validation", "words"),
    [
        (lambda: (batch for batch in rows()), None, "are a generator, which can be gone through"),
        (rows, lambda: [rows(), rows()], "2 loaders of validation data are given"),
        (lambda: DataLoader(Stream(0), 4), None, "the training data gave no batches"),
    ],
    ids=["a generator", "two for validation", "nothing"],
)
def test_loaders_that_no_rule_can_use(train_data, validation, words):
    rule = RULES["back step"]()
    with pytest.raises(ValueError, match=words):
        given = validation and validation()
        Trainer(**QUIET, max_epochs=1).fit(rule, train_data(), given)
    assert rule.global_step == 0


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
    trainer = Trainer(**QUIET, max_epochs=1, overfit_batches=2, enable_checkpointing=False)
    trainer.fit(rule, FewDigits())

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
    callbacks = [averaged(), monitor]
    trainer = Trainer(**QUIET, max_epochs=2, callbacks=callbacks, enable_checkpointing=False)
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
        ("--last.train_time_interval 0:00:01", "would save nothing"),
        ("--trainer.accumulate_grad_batches 0", "accumulate_grad_batches=0: a whole number"),
        ("--model.rates.optimizer torch.optim.SparseAdam", "SparseAdam cannot be used"),
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


@pytest.mark.parametrize("option", ["--trainer.fast_dev_run=true", "--trainer.max_epochs=0"])
def test_a_run_with_nothing_to_keep_leaves_no_folder(tmp_path, option):
    assert fit(tmp_path, option) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("logger", [True, False])
def test_no_logger_is_no_log(tmp_path, logger):
    assert fit(tmp_path, "--trainer.logger", str(logger).lower(), "--trainer.max_epochs", 1) == 0
    assert (tmp_path / "0001/metrics.csv").exists() == logger
