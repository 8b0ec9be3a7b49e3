"""The learning rule: locality, equality with a plain loop, divergence, bad arguments, Trainer."""

import csv
import time

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendae import generate, inpaint, load, save
from gendae.corruption import GaussianNoise, RelativeNoise, SpikeNoise
from gendae.data.base import Data
from gendae.data.images import Digits
from gendae.data.loader import Split
from gendae.inference import GradientInference, LangevinInference, TargetPropInference
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.layers.wrapped import Wrapped
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.registry import arguments
from gendae.rules.backstep import BackStepRule
from gendae.rules.differences import DifferenceLoop
from gendae.rules.kl import KLRule
from gendae.rules.ledger import LossLedger, TrainingDiverged
from gendae.rules.loops import ShortAndLongLoops
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.variational_em import VariationalEMRule
from tests.conftest import small_stack
from tests.roles import Edges


def trainer(**kwargs):
    options = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "accelerator": "cpu",
        "devices": 1,
    }
    return Trainer(**{**options, **kwargs})


def test_losses_are_the_m_step_of_algorithm_2():
    """Without noise: half squared errors between inferred neighbours."""
    stack = small_stack()
    x = torch.rand(10, 8)
    rule = VariationalEMRule(stack, corruption=[GaussianNoise(0.0)] * 4)
    h = TargetPropInference()(stack, x)
    losses = rule.losses((x,))

    for level, pair in enumerate(stack.pairs, 1):
        f = 0.5 * (pair.f(h[level - 1]) - h[level]).square().sum(1).mean()
        g = 0.5 * (pair.g(h[level]) - h[level - 1]).square().sum(1).mean()
        assert losses[f"f_{level}"].item() == pytest.approx(f.item(), rel=1e-5)
        assert losses[f"g_{level}"].item() == pytest.approx(g.item(), rel=1e-5)


def test_decoders_may_have_their_own_corruption():
    stack = small_stack()
    x = torch.rand(10, 8)
    quiet = [GaussianNoise(0.0)] * 4
    loud = VariationalEMRule(stack, corruption=quiet, decoder_corruption=[GaussianNoise(5.0)] * 3)
    calm = VariationalEMRule(stack, corruption=quiet)

    a = loud.losses((x,))
    b = calm.losses((x,))
    assert torch.equal(a["f_2"], b["f_2"])
    assert a["g_2"] > b["g_2"]


@pytest.mark.parametrize(
    ("rule", "sizes", "kinds", "sigmas"),
    [
        (VariationalEMRule, (8, 6, 4), [*[GaussianNoise] * 2, SpikeNoise], [0.5, 0.3]),
        (VariationalEMRule, (8, 6), [GaussianNoise, SpikeNoise], [0.5]),
        (VariationalEMRule, (8, 6, 5, 4), [RelativeNoise] * 4, [0.3] * 4),
        (BackStepRule, (8, 6, 5, 4), [GaussianNoise] * 4, [0.3, 0.1, 0.1, 0.1]),
    ],
)
def test_default_corruption_fits_any_depth(rule, sizes, kinds, sigmas):
    corruption = rule(small_stack(sizes)).corruption

    assert [type(noise) for noise in corruption] == kinds
    assert [noise.sigma for noise in corruption if isinstance(noise, GaussianNoise)] == sigmas


def test_warm_up_of_the_inference_steps():
    rule = VariationalEMRule(small_stack(), warmup=100)
    updates = (None, 0, 50, 99, 100, 1000)

    steps = [rule.inference_steps(Moment(update=update)) for update in updates]

    assert steps == [15, 0, 7, 14, 15, 15]


def plain_loop(rule, data, epochs):
    """What Trainer.fit does, in a dozen lines."""
    loader = data.train_dataloader()
    optimizer = rule.configure_optimizers()
    noise = torch.Generator().manual_seed(torch.initial_seed())
    total = epochs * len(loader)
    update = 0

    for _ in range(epochs):
        for batch in loader:
            moment = Moment(update / total, noise, update)
            rule.begin_update(optimizer, moment)

            optimizer.zero_grad()
            sum(rule.losses(batch, moment).values()).backward()
            optimizer.step()
            update += 1


def test_em_without_steps_trains_discrete_units_and_sets_what_they_are_used_with():
    rule = VariationalEMRule(
        deep_autoencoder([8, 6, 4], units="sign"), inference=TargetPropInference(steps=0)
    )
    x = torch.rand(30, 8)
    sum(rule.losses((x,)).values()).backward()
    rule.fit_prior([(x,)])

    assert generate(rule.stack, 3, seed=0).shape == (3, 8)
    assert inpaint(rule.stack, x, torch.arange(8) < 4, seed=0).shape == x.shape


@pytest.mark.parametrize(
    "make",
    [
        VariationalEMRule,
        lambda stack: TargetPropRule(stack, DifferenceLoop(start=5)),
        lambda stack: TargetPropRule(stack, ShortAndLongLoops(pace=0.1)),
    ],
    ids=["em", "a loop that turns", "a loop with a pace"],
)
def test_trainer_is_bit_equal_to_a_plain_loop_and_counts_updates(make):
    weights = []
    for use_trainer in (True, False):
        torch.manual_seed(0)
        rule = make(deep_autoencoder([64, 30, 10]))
        data = Digits()
        torch.manual_seed(5)

        if use_trainer:
            t = trainer(max_epochs=2)
            t.fit(rule, data)
            assert t.global_step == 2 * len(data.train_dataloader())
        else:
            plain_loop(rule, data, 2)

        weights.append(torch.cat([p.detach().flatten() for p in rule.stack.parameters()]))

    assert torch.equal(*weights)


def test_training_lowers_every_loss_and_fits_the_prior(tmp_path):
    rule = VariationalEMRule(deep_autoencoder([64, 50, 10]), log_every=11)
    data = Digits()
    seen = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append({k: v.item() for k, v in trainer.callback_metrics.items() if "loss" in k})

    trainer(max_epochs=25, callbacks=[Watch()]).fit(rule, data)

    assert set(seen[-1]) == {"loss/f_1", "loss/g_1", "loss/f_2", "loss/g_2"}
    assert seen[-1]["loss/g_1"] < 0.5 * seen[0]["loss/g_1"]

    codes = rule.stack.encode(data.split("train").x)[-1]
    assert torch.allclose(rule.stack.prior.mean, codes.mean(0), atol=1e-3)
    assert rule.stack.facts["dataset"] == {"type": "Digits", "batch_size": 100, "seed": 0}


def test_the_prior_may_be_fitted_on_inferred_codes():
    stack = small_stack()
    rule = VariationalEMRule(stack, prior_codes="inferred")
    x = torch.rand(30, 8)
    rule.fit_prior([(x,)])
    assert torch.allclose(stack.prior.mean, rule.inference(stack, x)[-1].mean(0), atol=1e-5)


@pytest.mark.parametrize("inference", [TargetPropInference, GradientInference, LangevinInference])
def test_inference_may_use_a_prior_that_training_fits(inference):
    stack = deep_autoencoder([64, 8])
    steps = 12 if inference is LangevinInference else 3  # it adapts for ten
    rule = VariationalEMRule(stack, inference(steps, 0.01, use_prior=True), prior_codes="inferred")
    trainer(max_epochs=1).fit(rule, Digits())

    h = stack.encode(Digits().split("train").x)[-1]
    assert torch.allclose(stack.prior.mean, h.mean(0), atol=0.1)


# -- divergence ----------------------------------------------------------------------------------


class Poisoned(VariationalEMRule):
    """NaN in the loss of g_2 at update 7."""

    def losses(self, batch, moment=Moment()):
        losses = super().losses(batch, moment)
        if moment.update == 7:
            losses["g_2"] = losses["g_2"] * float("nan")
        return losses


class Renamed(KLRule):
    """What it does not name it hands on; one argument is kept, and one is not."""

    def __init__(self, stack, pull=0.5, lost=None, **options):
        super().__init__(stack, **options)
        self.pull = pull
        if lost is None:
            self.lost = lost


def test_a_rule_of_one_s_own_may_hand_options_on():
    stack = deep_autoencoder([5, 3], ["linear"], prior=GaussianPrior("identity", 1.0))
    rule = Renamed(stack, alpha=0.25)
    kept = arguments(rule, foreign=True)

    assert (kept["pull"], kept["alpha"], kept["reach"]) == (0.5, 0.25, "full")
    with pytest.raises(ValueError, match="Renamed has no attribute 'lost': arguments of a"):
        arguments(Renamed(stack, lost=1), foreign=True)


@pytest.mark.parametrize("log_every", [1, 50])
def test_nan_stops_training_and_names_step_layer_and_term(log_every):
    rule = Poisoned(deep_autoencoder([64, 30, 10]), log_every=log_every)
    words = r"loss of g_2 \(layer 2, decoder\) is nan at step 7"

    with pytest.raises(TrainingDiverged, match=words):
        trainer(max_epochs=2).fit(rule, Digits())


def test_the_last_good_checkpoint_survives_divergence(tmp_path):
    keep = ModelCheckpoint(
        tmp_path,
        every_n_train_steps=3,
        filename="kept",
        save_last=True,
        enable_version_counter=False,
    )
    rule = Poisoned(deep_autoencoder([64, 30, 10]))

    with pytest.raises(TrainingDiverged):
        trainer(callbacks=[keep], enable_checkpointing=True).fit(rule, Digits())

    stack = load(tmp_path / "last.ckpt")
    assert stack.facts["updates"] == 6
    assert all(torch.isfinite(p).all() for p in stack.parameters())


def test_ledger_reports_means_once():
    ledger = LossLedger(3)
    full = []
    for i in range(3):
        losses = {"f_1": torch.tensor(float(i)), "g_1": torch.tensor(1.0)}
        full.append(ledger.record(i, losses))

    assert full == [False, False, True]
    assert ledger.flush() == {"f_1": 1.0, "g_1": 1.0}
    assert ledger.flush() == {}


def test_losses_that_not_every_update_has_are_means_of_those_that_have_them():
    ledger = LossLedger(4)
    ledger.record(0, {"f_1": torch.tensor(1.0)})
    ledger.record(1, {"g_1": torch.tensor(5.0), "f_1": torch.tensor(3.0)})
    ledger.record(2, {"g_1": torch.tensor(7.0)})

    assert ledger.flush() == {"f_1": 2.0, "g_1": 6.0}


def test_the_first_loss_that_is_not_finite_stops_a_training_of_several_phases():
    ledger = LossLedger(4)
    ledger.record(0, {"f_1": torch.tensor(1.0)})
    ledger.record(5, {"f_1": torch.tensor(1.0), "lack_g_2": torch.tensor(torch.nan)})
    ledger.record(6, {"f_1": torch.tensor(torch.inf)})

    for _ in range(2):  # what saves the model then asks once more
        with pytest.raises(TrainingDiverged, match="lack_g_2 .layer 2, decoder. is nan at step 5"):
            ledger.flush()


def test_losses_are_read_every_so_many_updates_also_where_feedback_learns_at_some(monkeypatch):
    """Two readings in a hundred updates, through the start and every tenth update of feedback."""
    readings = []
    flush = LossLedger.flush
    monkeypatch.setattr(
        LossLedger, "flush", lambda self, *a: readings.append(self.filled) or flush(self, *a)
    )

    rule = TargetPropRule(deep_autoencoder([64, 4, 3]), DifferenceLoop(start=20), log_every=50)
    fit = trainer(limit_train_batches=100, limit_val_batches=0)
    fit.fit(rule, Digits(batch_size=10))

    assert readings == [50, 50]


# -- with the Trainer ----------------------------------------------------------------------------


def of_modules(f):
    """A stack of any modules, which say nothing of their widths, over a map of 8 pixels."""
    g = nn.Sequential(nn.Linear(9, 8), nn.Sigmoid())
    return Stack(Pair(f, g), Pair(nn.Linear(9, 4), Affine(4, 9, "tanh")))


@pytest.mark.parametrize(
    ("make", "shape", "refused"),
    [
        (lambda: deep_autoencoder([8, 6, 4]), (8,), None),
        (lambda: of_modules(nn.Linear(8, 9)), (8,), "a Linear cannot be stored"),
        (lambda: of_modules(Wrapped(Edges(), (1, 2, 4))), (1, 2, 4), "a Sequential cannot be"),
        (lambda: Stack(Pair(Wrapped(Edges(), (1, 2, 4)), Affine(9, 8))), (1, 2, 4), None),
    ],
    ids=["rows", "modules of rows", "modules of images", "registered modules"],
)
def test_a_loader_of_one_s_own_trains_and_resumes(make, shape, refused, tmp_path):
    """Rows, or NCHW images; files take modules whose classes are registered, and no others."""
    x = torch.rand(48, *shape)
    loaders = [DataLoader(TensorDataset(x), 16) for _ in range(2)]

    def fitted(seed, *callbacks, resume=None):
        torch.manual_seed(seed)
        rule = VariationalEMRule(make())
        t = trainer(max_epochs=2, callbacks=list(callbacks), enable_checkpointing=True)
        t.fit(rule, *loaders, ckpt_path=resume)
        assert "val/reconstruction_1" in t.callback_metrics

        return rule.stack

    stack = fitted(0, ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1))
    resumed = fitted(9, ModelCheckpoint(tmp_path / "again"), resume=tmp_path / "epoch=0.ckpt")

    assert stack.prior.fitted
    for name, value in stack.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name

    path = tmp_path / "m.safetensors"
    if refused is None:
        rows = x.flatten(1)
        assert torch.equal(load(save(stack, path)).reconstruct(rows), stack.reconstruct(rows))
        return

    with pytest.raises(ValueError, match=f"^{refused}.*use gendae.register on its class$"):
        save(stack, path)
    assert not path.exists()


class Hundreds(Digits):
    """400 digits to train on."""

    def read(self):
        splits, shape = super().read()
        return {name: split[:400] for name, split in splits.items()}, shape


class Fixed(Data):
    def read(self):
        x = torch.rand(30, 8, generator=torch.Generator().manual_seed(0))
        return {name: Split(x) for name in ("train", "valid", "test")}, (2, 4)


def test_validation_logs_reconstruction_per_layer():
    rule = VariationalEMRule(deep_autoencoder([8, 6, 4]))
    t = trainer()
    t.fit(rule, Fixed(batch_size=10))
    metrics = t.validate(rule, Fixed(), verbose=False)[0]

    x = Fixed().split("valid").x
    for level in (1, 2):
        expected = (rule.stack.reconstruct(x, level) - x).square().sum(1).mean().item()
        assert metrics[f"val/reconstruction_{level}"] == pytest.approx(expected, rel=1e-5)


def test_the_loop_costs_little_more_than_the_losses_alone():
    """The Trainer's share of a step, as a ratio: per-step logging would show here."""
    rule = VariationalEMRule(deep_autoencoder([64, 200, 50]))
    data = Digits()
    batch = next(iter(data.train_dataloader()))
    optimizer = rule.configure_optimizers()

    def step():
        optimizer.zero_grad()
        sum(rule.losses(batch).values()).backward()
        optimizer.step()

    for _ in range(5):
        step()

    start = time.perf_counter()
    for _ in range(110):
        step()
    alone = time.perf_counter() - start

    t = trainer(max_epochs=10, check_val_every_n_epoch=100)
    start = time.perf_counter()
    t.fit(rule, data)
    assert time.perf_counter() - start < 2.5 * alone + 2.0


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
def test_accumulated_batches_are_one_larger_batch(precision):
    """Gradients of 4 batches of 25 make one update, whose number all of them have."""
    seen = {}
    weights = []

    class Watched(BackStepRule):
        def losses(self, batch, moment=Moment()):
            seen.setdefault(len(batch[0]), []).append((moment.update, moment.progress))
            return super().losses(batch, moment)

    for size, accumulated in ((25, 4), (100, 1)):
        torch.manual_seed(0)
        rates = Rates(f=0.02, g=0.02, optimizer="torch.optim.SGD", clip=1.0)
        noise = [GaussianNoise(0.0)] * 3
        rule = Watched(deep_autoencoder([64, 20, 8]), corruption=noise, rates=rates)
        run = trainer(max_epochs=3, accumulate_grad_batches=accumulated, precision=precision)
        run.fit(rule, Hundreds(size))

        assert run.global_step == 12
        assert rule.prior_fit.step == 12
        weights.append(torch.cat([p.detach().flatten() for p in rule.stack.pairs.parameters()]))

    small, large = weights
    assert torch.allclose(small, large, rtol=0.0, atol=1e-6)
    assert seen[25] == [moment for moment in seen[100] for _ in range(4)]
    assert [update for update, _ in seen[100]] == list(range(12))


def test_losses_are_written_once_for_each_reading(tmp_path):
    """22 updates in 2 epochs, read after every 4th and at the end of each epoch."""
    t = trainer(max_epochs=2, logger=CSVLogger(tmp_path), log_every_n_steps=1, limit_val_batches=0)
    t.fit(VariationalEMRule(deep_autoencoder([64, 30, 10]), log_every=4), Digits())

    with open(next(tmp_path.rglob("metrics.csv")), newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["loss/f_1"]]
    assert [int(row["step"]) for row in rows] == [3, 7, 10, 14, 18, 21]
    assert [row["epoch"] for row in rows] == ["0"] * 3 + ["1"] * 3
