"""The learning rule: locality, equality with a plain loop, divergence, bad arguments, the Trainer."""

import time

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from gendae.corruption import GaussianNoise, SpikeNoise
from gendae.data.base import Data
from gendae.data.images import Digits
from gendae.data.loader import Split
from gendae.inference import TargetPropInference
from gendae.models.architectures import deep_autoencoder
from gendae.rules.ledger import LossLedger, TrainingDiverged
from gendae.rules.variational_em import VariationalEMRule
from tests.conftest import small_stack


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


def test_no_gradient_crosses_a_layer():
    """d loss(term) / d theta = 0 for every parameter of every other map, and not for its own."""
    stack = small_stack()
    losses = VariationalEMRule(stack).losses((torch.rand(10, 8),))
    maps = {
        f"{d}_{level}": getattr(pair, d) for level, pair in enumerate(stack.pairs, 1) for d in "fg"
    }
    assert set(losses) == set(maps)
    for term, loss in losses.items():
        for owner, layer in maps.items():
            gradients = torch.autograd.grad(
                loss, list(layer.parameters()), retain_graph=True, allow_unused=True
            )
            if owner == term:
                assert all(g.abs().sum() > 0 for g in gradients)
            else:
                assert all(g is None for g in gradients), f"{term} reaches {owner}"


def test_losses_are_the_m_step_of_algorithm_2():
    """Without noise: half squared errors between inferred neighbours."""
    stack, x = small_stack(), torch.rand(10, 8)
    rule = VariationalEMRule(stack, corruption=[GaussianNoise(0.0)] * 4)
    h = TargetPropInference()(stack, x)
    losses = rule.losses((x,))
    for level, pair in enumerate(stack.pairs, 1):
        f = 0.5 * (pair.f(h[level - 1]) - h[level]).square().sum(1).mean()
        g = 0.5 * (pair.g(h[level]) - h[level - 1]).square().sum(1).mean()
        assert losses[f"f_{level}"].item() == pytest.approx(f.item(), rel=1e-5)
        assert losses[f"g_{level}"].item() == pytest.approx(g.item(), rel=1e-5)


def test_decoders_may_have_their_own_corruption():
    stack, x = small_stack(), torch.rand(10, 8)
    quiet = [GaussianNoise(0.0)] * 4
    loud = VariationalEMRule(stack, corruption=quiet, decoder_corruption=[GaussianNoise(5.0)] * 3)
    calm = VariationalEMRule(stack, corruption=quiet)
    a, b = loud.losses((x,)), calm.losses((x,))
    assert torch.equal(a["f_2"], b["f_2"])
    assert a["g_2"] > b["g_2"]


def test_rates_and_decays_per_layer_and_direction():
    rule = VariationalEMRule(
        small_stack(), lr_f=[0.1, 0.2, 0.3], lr_g=0.5, weight_decay_g=[0.0, 1e-2, 0.0]
    )
    groups = {g["name"]: g for g in rule.configure_optimizers().param_groups}
    assert [groups[f"f_{i}"]["lr"] for i in (1, 2, 3)] == [0.1, 0.2, 0.3]
    assert groups["g_2"]["lr"] == 0.5
    assert groups["g_2"]["weight_decay"] == 1e-2
    assert groups["f_2"]["weight_decay"] == 0.0


def test_default_corruption_fits_any_depth():
    kinds = [type(c) for c in VariationalEMRule(small_stack()).corruption]
    assert kinds == [GaussianNoise, GaussianNoise, GaussianNoise, SpikeNoise]


def test_warm_up_of_the_inference_steps():
    rule = VariationalEMRule(small_stack(), warmup=100)
    assert rule.inference_steps() == 15
    steps = []
    for rule.updates in (0, 50, 99, 100, 1000):
        steps.append(rule.inference_steps())
    assert steps == [0, 7, 14, 15, 15]


def plain_loop(rule, data, epochs):
    """What Trainer.fit does, in a dozen lines."""
    loader = data.train_dataloader()
    optimizer = rule.configure_optimizers()
    rule.generator = torch.Generator().manual_seed(torch.initial_seed())
    total, rule.updates = epochs * len(loader), 0
    for _ in range(epochs):
        for batch in loader:
            rule.progress = rule.updates / total
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rule.rate_factor()
            optimizer.zero_grad()
            sum(rule.losses(batch).values()).backward()
            optimizer.step()
            rule.updates += 1


def test_trainer_is_bit_equal_to_a_plain_loop_and_counts_updates():
    weights = []
    for use_trainer in (True, False):
        torch.manual_seed(0)
        rule, data = VariationalEMRule(deep_autoencoder([64, 30, 10])), Digits()
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
    rule, data = VariationalEMRule(deep_autoencoder([64, 50, 10]), log_every=11), Digits()
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


# -- divergence --------------------------------------------------------------------------------------


class Poisoned(VariationalEMRule):
    """NaN in the loss of g_2 at update 7."""

    def losses(self, batch):
        losses = super().losses(batch)
        if self.updates == 7:
            losses["g_2"] = losses["g_2"] * float("nan")
        return losses


@pytest.mark.parametrize("log_every", [1, 50])
def test_nan_stops_training_and_names_step_layer_and_term(log_every):
    rule = Poisoned(deep_autoencoder([64, 30, 10]), log_every=log_every)
    with pytest.raises(
        TrainingDiverged, match=r"loss of g_2 \(layer 2, decoder\) is nan at step 7"
    ):
        trainer(max_epochs=2).fit(rule, Digits())


def test_the_last_good_checkpoint_survives_divergence(tmp_path):
    from pytorch_lightning.callbacks import ModelCheckpoint

    from gendae import load

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
    full = [
        ledger.record(i, {"f_1": torch.tensor(float(i)), "g_1": torch.tensor(1.0)})
        for i in range(3)
    ]
    assert full == [False, False, True]
    assert ledger.flush() == {"f_1": 1.0, "g_1": 1.0}
    assert ledger.flush() == {}


# -- bad arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"lr_f": [0.1]}, "lr_f has 1 entries"),
        ({"lr_g": -1.0}, "lr_g=-1.0"),
        ({"hold": 2.0}, "hold=2.0"),
        ({"corruption": [GaussianNoise(0.1)]}, "4 representations"),
        ({"decoder_corruption": [GaussianNoise(0.1)]}, "3 decoders"),
        ({"prior_codes": "both"}, "feedforward, inferred"),
        ({"warmup": -1}, "warmup=-1"),
    ],
)
def test_bad_arguments(kwargs, words):
    with pytest.raises(ValueError, match=words):
        VariationalEMRule(small_stack(), **kwargs)


def test_half_precision_is_refused_and_bfloat16_trains():
    with pytest.raises(ValueError, match="precision"):
        rule = VariationalEMRule(deep_autoencoder([64, 30, 10]))
        rule._trainer = type("T", (), {"precision": "16-mixed"})()
        rule.on_fit_start()
    rule = VariationalEMRule(deep_autoencoder([64, 30, 10]))
    trainer(precision="bf16-mixed", max_epochs=1).fit(rule, Digits())
    assert all(torch.isfinite(p).all() for p in rule.stack.parameters())


# -- with the Trainer --------------------------------------------------------------------------------


def test_a_user_s_own_loader_works():
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.rand(64, 8)), batch_size=16, num_workers=0
    )
    rule = VariationalEMRule(deep_autoencoder([8, 6, 4]))
    trainer().fit(rule, loader)
    assert rule.stack.prior.fitted


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
    rule, data = VariationalEMRule(deep_autoencoder([64, 200, 50])), Digits()
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
    rule.updates = 10**6
    t = trainer(max_epochs=10, check_val_every_n_epoch=100)
    rule.warmup = 0
    start = time.perf_counter()
    t.fit(rule, data)
    assert time.perf_counter() - start < 2.5 * alone + 2.0


def test_losses_are_written_once_for_each_reading(tmp_path):
    """22 updates in 2 epochs, read after every 4th and at the end of each epoch."""
    import csv

    from pytorch_lightning.loggers import CSVLogger

    t = trainer(max_epochs=2, logger=CSVLogger(tmp_path), log_every_n_steps=1, limit_val_batches=0)
    t.fit(VariationalEMRule(deep_autoencoder([64, 30, 10]), log_every=4), Digits())
    with open(next(tmp_path.rglob("metrics.csv")), newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["loss/f_1"]]
    assert [int(row["step"]) for row in rows] == [3, 7, 10, 14, 18, 21]
    assert [row["epoch"] for row in rows] == ["0"] * 3 + ["1"] * 3
