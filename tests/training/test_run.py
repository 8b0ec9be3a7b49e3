"""`gendae fit` that is interrupted, resumed, given a useless checkpoint, or meets a full disk."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from gendae import cli, load, save
from gendae.models.architectures import deep_autoencoder
from gendae.rules.backstep import BackStepRule
from gendae.storage.sealed import read
from tests.rules.test_base import trainer
from tests.training.resuming import RULES, FewDigits, quiet


@pytest.fixture(autouse=True)
def silent():
    quiet()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


CONFIG = """
seed_everything: 0
trainer: {max_epochs: 3, enable_progress_bar: false, enable_model_summary: false, logger: false}
model:
  class_path: gendae.BackStepRule
  init_args:
    stack: {class_path: gendae.deep_autoencoder, init_args: {sizes: [64, 20, 8]}}
data: {class_path: gendae.Digits, init_args: {batch_size: 300}}
parzen: {n: 50, grid: [0.3], picture: false}
pictures: {every: 0}
"""


def fit(folder, *arguments, command="fit"):
    config = folder / "c.yaml"
    if not config.exists():
        config.write_text(CONFIG)

    return cli.main(
        [
            command,
            "--config",
            str(config),
            "--trainer.default_root_dir",
            str(folder),
            *map(str, arguments),
        ]
    )


def signals(monkeypatch, rule, hook, *at):
    """Send signals to this process at hooks of a rule: (number of the update, signal)."""
    own = getattr(rule, hook)
    left = list(at)

    def hooked(self, *arguments):
        own(self, *arguments)
        while left and left[0][0] == self.global_step:
            os.kill(os.getpid(), left.pop(0)[1])

    monkeypatch.setattr(rule, hook, hooked)


def weights(path):
    return torch.cat([p.detach().flatten() for p in load(path).state_dict().values()])


PLACES = {
    "in an epoch": ("on_train_batch_start", 4, 5),
    "in a validation": ("on_validation_start", 3, 3),
    "in its last batch": ("on_train_batch_start", 2, 3),
    "in the last validation": ("on_validation_start", 9, 9),
}
ENDS = [
    *((number, place) for number in (signal.SIGINT, signal.SIGTERM) for place in PLACES),
    (signal.SIGHUP, "in an epoch"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of a run that nothing ended."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert fit(folder) == 0
    return weights(folder / "0001/checkpoints/last.ckpt")


@pytest.mark.parametrize(("number", "place"), ENDS, ids=[f"{n.name} {p}" for n, p in ENDS])
def test_signals_leave_a_last_checkpoint_that_goes_on_bit_equal(
    undisturbed, tmp_path, monkeypatch, capfd, number, place
):
    hook, at, saved = PLACES[place]
    capfd.readouterr()
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    with monkeypatch.context() as patch:
        signals(patch, BackStepRule, hook, (at, number))
        with pytest.raises(SystemExit) as caught:
            fit(tmp_path)

    assert caught.value.code == 128 + number
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers

    run = tmp_path / "0001"
    last = run / "checkpoints/last.ckpt"
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("gendae")]
    name = signal.Signals(number).name

    assert said == [
        (
            f"gendae: {name} ended the run; to go on: "
            f"gendae fit --config {run}/config.yaml --ckpt_path {last}"
        )
    ]
    assert load(last).facts["updates"] == saved
    assert cli.main(["fit", "--config", f"{run}/config.yaml", "--ckpt_path", str(last)]) == 0

    if saved < 9:  # else there was nothing left to do
        last = tmp_path / "0002/checkpoints/last.ckpt"

    assert torch.equal(weights(last), undisturbed)


def test_a_signal_in_the_last_batch_of_an_epoch_without_validation(tmp_path, monkeypatch):
    """No later validation would write last.ckpt: it is written at once."""
    signals(monkeypatch, BackStepRule, "on_train_batch_start", (5, signal.SIGTERM))
    with pytest.raises(SystemExit):
        fit(tmp_path, "--trainer.check_val_every_n_epoch", 3)
    assert load(tmp_path / "0001/checkpoints/last.ckpt").facts["updates"] == 6


def test_a_second_signal_ends_the_run_at_once(tmp_path, monkeypatch, capfd):
    signals(
        monkeypatch, BackStepRule, "on_validation_start", (3, signal.SIGINT), (3, signal.SIGTERM)
    )

    with pytest.raises(SystemExit) as caught:
        fit(tmp_path)

    # without a checkpoint to go on with
    assert caught.value.code == 143
    assert "gendae: SIGTERM ended the run\n" in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_control_c_before_the_first_update(tmp_path, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(BackStepRule, "configure_optimizers", interrupted)
    with pytest.raises(SystemExit) as caught:
        fit(tmp_path)
    assert caught.value.code == 130


def test_the_best_of_an_earlier_run_is_carried_over_and_only_a_better_one_replaces_it(
    tmp_path, monkeypatch, capsys
):
    """Scores of four runs of one epoch more each; the second is worse, the third better."""
    scores = iter([5.0, 4.0, 6.0, 1.0])
    monkeypatch.setattr(
        "gendae.training.callbacks.ParzenMonitor.on_validation_epoch_end",
        lambda self, trainer, module: module.log("val/parzen_ll", next(scores)),
    )

    best = {}
    for run, (expected, epochs) in enumerate([(5.0, 1), (5.0, 1), (6.0, 3), (6.0, 3)], 1):
        resume = (
            ["--ckpt_path", tmp_path / f"{run - 1:04d}/checkpoints/last.ckpt"] if run > 1 else []
        )
        assert fit(tmp_path, "--trainer.max_epochs", run, *resume) == 0

        folder = tmp_path / f"{run:04d}/checkpoints"
        assert names(folder) == ["best.ckpt", "last.ckpt"]

        best[run] = (folder / "best.ckpt").read_bytes()
        assert load(folder / "best.ckpt").facts["epochs"] == epochs
        assert load(folder / "last.ckpt").facts["epochs"] == run

        states = read(folder / "best.ckpt")["callbacks"]
        assert (
            max(
                float(s["best_model_score"])
                for s in states.values()
                if s.get("best_model_score") is not None
            )
            == expected
        )

    assert best[1] == best[2] != best[3] == best[4]
    assert "carried over" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda p: p.unlink(), "there is no such file"),
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "damaged"),
    ],
)
def test_a_best_that_is_lost_is_said(tmp_path, capsys, damage, words):
    assert fit(tmp_path, "--trainer.max_epochs", 1) == 0

    damage(tmp_path / "0001/checkpoints/best.ckpt")
    capsys.readouterr()

    assert (
        fit(
            tmp_path,
            "--trainer.max_epochs",
            2,
            "--ckpt_path",
            tmp_path / "0001/checkpoints/last.ckpt",
        )
        == 0
    )

    said = [line for line in capsys.readouterr().err.splitlines() if "carried over" in line]
    assert len(said) == 1 and "0001/checkpoints/best.ckpt" in said[0] and words in said[0]
    assert load(tmp_path / "0002/checkpoints/best.ckpt").facts["epochs"] == 2


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize(
    "kind", ["missing", "damaged", "safetensors", "another rule", "another width", "the word last"]
)
def test_a_ckpt_path_that_cannot_be_used_ends_in_one_line_and_leaves_nothing(
    tmp_path, capsys, command, kind
):
    path = tmp_path / "m.ckpt"
    options = []
    rule = RULES["em"]() if kind == "another rule" else BackStepRule(deep_autoencoder([64, 12, 8]))

    if kind == "safetensors":
        path = save(rule.stack, tmp_path / "m.safetensors")
    elif kind not in ("missing", "the word last"):
        run = trainer()
        run.fit(rule, FewDigits())
        run.save_checkpoint(path)

    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:-1])

    if kind == "the word last":
        path = "last"

    before = set(names(tmp_path)) | {"c.yaml"}
    capsys.readouterr()

    assert fit(tmp_path, "--ckpt_path", path, *options, command=command) == 2

    said = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("gendae: error")
    ]
    assert len(said) == 1 and str(path) in said[0] and "weights_only" not in said[0]
    assert set(names(tmp_path)) == before


FULL = """
    import resource, signal, sys
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    from gendae import cli
    from gendae.rules.backstep import BackStepRule
    def limit(self):
        if self.current_epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    BackStepRule.on_validation_epoch_end = limit
    sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_full_disk_ends_fit_with_one_line_and_the_checkpoints_of_the_epoch_before(tmp_path):
    """A limit of the size of files stands for the disk's: no checkpoint of epoch 2 fits."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    python = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FULL)]
    root = ["--trainer.default_root_dir", str(tmp_path)]
    command = [*python, "fit", "--config", str(tmp_path / "c.yaml"), *root]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 2, done.stderr[-2000:]

    said = [line for line in done.stderr.splitlines() if "was not written" in line]
    assert len(said) == 1 and ".ckpt was not written (File too large)" in said[0]
    assert "Traceback" not in done.stderr

    folder = tmp_path / "0001/checkpoints"
    assert names(folder) == ["best.ckpt", "last.ckpt"]
    for name in names(folder):
        assert load(folder / name).facts["epochs"] == 1
    assert (folder / "best.ckpt").stat().st_size > 30_000
