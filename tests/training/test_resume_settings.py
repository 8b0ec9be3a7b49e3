"""A training that goes on with other settings than the checkpoint's uses them, or says no.

What the new run keeps (config.yaml, hyper-parameters, facts) is what it used.
"""

import pytest
import yaml
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from gendae.storage.sealed import CheckpointError, read
from tests.training.resuming import QUIET, RULES, FewDigits, keepers, quiet, train
from tests.training.test_run import fit, names

#: Of three updates an epoch; the run has two epochs.
MIDDLE = "step=2"
END = "step=3"
FINISHED = "step=6"


@pytest.fixture(autouse=True)
def silent(tmp_path, monkeypatch):
    """Nothing is said, and nothing is left in the current folder."""
    quiet()
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The folder of a run of two epochs with a checkpoint of each update."""
    quiet()
    folder = tmp_path_factory.mktemp("earlier")
    every = ["--last.every_n_train_steps", 1, "--last.save_top_k", -1, "--last.filename", "{step}"]
    assert fit(folder, "--trainer.max_epochs", 2, *every) == 0

    return folder / "0001/checkpoints"


def resumed(tmp_path, capsys, checkpoint, *options):
    """Exit code, what was said, and the last checkpoint and configuration of the new run."""
    capsys.readouterr()
    epochs = [] if "--trainer.max_epochs" in options else ["--trainer.max_epochs", 2]
    code = fit(tmp_path, "--ckpt_path", f"{checkpoint}.ckpt", *epochs, *options)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gendae")]

    last = tmp_path / "0001/checkpoints/last.ckpt"
    if not last.exists():
        return code, said, None, None

    return code, said, read(last), yaml.safe_load((tmp_path / "0001/config.yaml").read_text())


SAME = "--model.rates.f 1e-3"
USED = [
    (MIDDLE, SAME, None),
    (END, SAME, None),
    (MIDDLE, "--model.rates.f 0.1", "rates.f=0.1 (was 0.001)"),
    (MIDDLE, "--model.rates.decay_g 0.01", "rates.decay_g=0.01 (was 0.0)"),
    (END, "--data.batch_size 100", "examples of a batch=100 (was 300)"),
    (END, "--data.seed 7", "data.seed=7 (was 0)"),
    (MIDDLE, "--trainer.max_epochs 4", "max_epochs=4 (was 2)"),
    (END, "--trainer.accumulate_grad_batches 3", "accumulate_grad_batches=3 (was 1)"),
    (END, "--seed_everything 7", "seed_everything=7 is not used"),
]


@pytest.mark.parametrize(("point", "options", "words"), USED)
def test_other_settings_are_used_said_and_recorded(
    earlier, tmp_path, capsys, point, options, words
):
    code, said, last, config = resumed(tmp_path, capsys, earlier / point, *options.split())
    assert code == 0
    assert len(said) == (words is not None)
    assert words is None or words in said[0]

    rates = config["model"]["init_args"].get("rates") or {}
    group, *_, other = last["optimizer_states"][0]["param_groups"]
    assert group["initial_lr"] == rates.get("f", 1e-3)
    assert other["weight_decay"] == rates.get("decay_g", 0.0)

    facts = last["gendae"]["facts"]
    described = facts["dataset"]
    given = config["data"]["init_args"]
    assert (described["batch_size"], described["seed"]) == (given["batch_size"], given["seed"])
    assert facts["seed"] == config["seed_everything"] == 0
    assert facts["epochs"] == config["trainer"]["max_epochs"]


@pytest.mark.parametrize("options", ["--data.batch_size 100", "--data.seed 7"])
def test_other_batches_within_an_epoch_are_refused(earlier, tmp_path, capsys, options):
    code, said, *_ = resumed(tmp_path, capsys, earlier / MIDDLE, *options.split())

    assert code == 2
    assert len(said) == 1 and "in the middle of an epoch" in said[0] and "(was " in said[0]
    assert names(tmp_path) == ["c.yaml"]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_finished_run_says_that_nothing_was_trained(earlier, tmp_path, capsys, epochs):
    options = ["--trainer.max_epochs", epochs]
    code, said, *_ = resumed(tmp_path, capsys, earlier / FINISHED, *options)

    assert code == 0
    assert len(said) == 1 and "nothing was trained" in said[0] and str(epochs) in said[0]
    assert names(tmp_path) == ["c.yaml"]


def test_rates_go_on_from_the_epoch_that_the_training_is_in(tmp_path):
    """Where an epoch has more updates than before, the same share of the training is over."""
    diary = train("back step", callbacks=keepers(tmp_path), max_epochs=4)["diary"]
    assert len(diary) == 16

    rest = train(
        "back step", 1, tmp_path / "epoch=1.ckpt", accumulate_grad_batches=2, max_epochs=4
    )
    progress = [page[5] for page in rest["diary"].values()]
    assert progress[0] >= 0.5
    assert progress[-1] == 1.0
    assert progress == sorted(progress)


# -- epochs of other lengths -----------------------------------------------------------------


class Seen(Callback):
    """Epoch and number of each batch."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, rule, outputs, batch, index):
        self.batches.append((trainer.current_epoch, index))


#: When the checkpoint of the first epoch's end is written.
WRITTEN = {
    "after its last update": {"every_n_train_steps": 1},
    "before its validation": {"save_on_train_epoch_end": True},
    "after its validation": {"save_on_train_epoch_end": False},
}


def own_loaders(batches):
    loader = DataLoader(TensorDataset(FewDigits().split("train").x[: 10 * batches]), 10)
    return loader, loader


def of_digits(batches):
    return (FewDigits(200 // batches),)


@pytest.mark.parametrize("batches", [2, 5])
@pytest.mark.parametrize("loader", [own_loaders, of_digits])
@pytest.mark.parametrize("written", WRITTEN)
def test_the_next_epochs_are_whole_whatever_their_length(tmp_path, loader, written, batches):
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **WRITTEN[written])
    Trainer(**QUIET, max_epochs=1, callbacks=[keep]).fit(RULES["back step"](), *loader(4))

    seen = Seen()
    rest = Trainer(**QUIET, max_epochs=3, callbacks=[seen], enable_checkpointing=False)
    rest.fit(RULES["back step"](), *loader(batches), ckpt_path=tmp_path / "step=4.ckpt")
    assert seen.batches == [(epoch, index) for epoch in (1, 2) for index in range(batches)]


@pytest.mark.parametrize("batches", [2, 3, 6])
def test_an_epoch_of_another_length_does_not_go_on(tmp_path, batches):
    train("back step", callbacks=keepers(tmp_path), max_epochs=1)
    rule = RULES["back step"]()
    limited = {"limit_train_batches": batches} if batches < 4 else {}
    data = FewDigits() if limited else FewDigits(200 // batches)

    with pytest.raises(ValueError, match=f"in the middle of an epoch.*batches_of_epoch={batches}"):
        Trainer(**QUIET, max_epochs=1, **limited).fit(
            rule, data, ckpt_path=tmp_path / "batch=3.ckpt"
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "bf16-mixed"}, "precision='bf16-mixed' (was '32-true')"),
        ({"check_val_every_n_epoch": 2}, "check_val_every_n_epoch=2 (was 1)"),
        ({"val_check_interval": 2}, "val_check_interval=2 (was 1.0)"),
    ],
)
def test_other_options_are_said(tmp_path, capsys, options, words):
    train("back step", callbacks=keepers(tmp_path), max_epochs=1)
    train("back step", resume=tmp_path / "batch=2.ckpt", max_epochs=1, **options)
    assert f"goes on with other settings: {words}" in capsys.readouterr().err


def test_another_precision_of_the_weights_is_named(tmp_path):
    train("back step", callbacks=keepers(tmp_path), max_epochs=1, precision="64-true")
    with pytest.raises(CheckpointError, match="in another precision: .*float64.*float32"):
        train("back step", resume=tmp_path / "epoch=0.ckpt")
