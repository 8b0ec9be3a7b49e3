"""A training that goes on with other settings than the checkpoint's uses them, or says no.

What the new run keeps (config.yaml, hyper-parameters, facts) is what it used.
"""

import pytest
import yaml

from gendae.storage.sealed import read
from tests.training.resuming import keepers, quiet, train
from tests.training.test_run import fit, names

#: Of three updates an epoch; the run has two epochs.
MIDDLE = "step=2"
END = "step=3"
FINISHED = "step=6"


@pytest.fixture(autouse=True)
def silent():
    quiet()


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
