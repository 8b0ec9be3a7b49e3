"""`gendae tune`: what is tried, what comes of it, and who else is at it."""

import copy
import csv
import datetime
import json
import math
import multiprocessing
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from gendae.commands.tune import tune
from gendae.training import fit
from gendae.training.spaces import read_space
from gendae.training.study import ERROR, PROCESS, SharedStudy, TrialMonitor
from tests.commands.test_cli import gendae, one_line
from tests.commands.test_compare import write

SIZES = "model.stack.sizes"
WIDTHS = [[64, 12, 12], [64, 8, 8], [64, 12, 0]]  # the last one makes no network
SPACE = {
    "model.rates.f": {"low": "1e-4", "high": "1e-2", "log": True},
    "data.batch_size": {"low": 40, "high": 60, "step": 20},
    SIZES: WIDTHS,
}
SHORT = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]


def space(folder, content=None, name="space.yaml"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content or SPACE))
    return str(path)


def search(folder, trials, out="out", **options):
    """A search in-process: the lines that it prints."""
    config = str(write(folder))
    where = str(folder / out)
    return tune(*SHORT, config=config, space=space(folder), trials=trials, out=where, **options)


def stored(folder):
    """The trials of a study, as optuna alone reads them."""
    url = f"sqlite:///{folder / 'study.db'}"
    return optuna.load_study(study_name="gendae", storage=url).get_trials()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A folder in which 4 trials were made by two commands, and the lines of the second."""
    folder = tmp_path_factory.mktemp("tune")
    search(folder, 2, pruner="none")
    return folder, search(folder, 4, pruner="none")


def errors(run):
    """The validation errors of a run."""
    with open(f"{run}/metrics.csv") as stream:
        return [float(row["val/error"]) for row in csv.DictReader(stream) if row["val/error"]]


def test_each_trial_leaves_its_options_and_its_score(searched):
    folder, _ = searched
    report = json.loads((folder / "out/trials.json").read_text())

    assert (report["monitor"], report["mode"]) == ("val/error", "min")
    assert sorted(trial["trial"] for trial in report["trials"]) == [0, 1, 2, 3]

    for trial in report["trials"]:
        own = json.loads((folder / f"out/trial-{trial['trial']}/trial.json").read_text())
        assert own["options"] == trial["options"]
        if trial["state"] == "fail":
            assert trial["options"][SIZES] == "[64, 12, 0]"
            assert own["error"] == trial["error"] != ""
            continue

        chosen = yaml.safe_load(Path(trial["run"], "config.yaml").read_text())
        arguments = chosen["model"]["init_args"]
        rate = trial["options"]["model.rates.f"]
        assert arguments["rates"]["f"] == pytest.approx(rate, rel=1e-5)
        assert chosen["data"]["init_args"]["batch_size"] == trial["options"]["data.batch_size"]
        assert trial["score"] == own["score"] == min(errors(trial["run"]))

    states = {trial["state"] for trial in report["trials"]}
    assert states == {"complete", "fail"}


def test_the_best_trial_is_named_with_the_command_that_trains_it(searched, monkeypatch, tmp_path):
    folder, lines = searched
    done = [trial for trial in stored(folder / "out") if trial.state == TrialState.COMPLETE]
    best = min(done, key=lambda trial: trial.value)

    assert lines[1].split()[:2] == [str(best.number), f"{best.value:.5g}"]
    (told,) = (line for line in lines if line.startswith("best: "))
    assert told.startswith(f"best: trial {best.number}, val/error {best.value:.5g}, in ")
    assert (folder / "out/trials.md").read_text().count("\n") == 2 + 4

    (command,) = (line for line in lines if line.startswith("to train it: "))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    run = fit.main(words[words.index("gendae") + 1 :])
    assert min(errors(run)) == best.value


def test_what_is_tried_does_not_depend_on_interruptions(searched, tmp_path, monkeypatch):
    tried = []

    def fails(words, callbacks):
        tried.append(words)
        raise ValueError("no training here")

    monkeypatch.setattr(fit, "main", fails)
    with pytest.raises(ValueError, match="no trial was completed; no training here"):
        search(tmp_path, 4, pruner="none")

    first = [trial.params for trial in stored(searched[0] / "out")]
    assert [trial.params for trial in stored(tmp_path / "out")] == first
    assert len(tried) == 4


def test_interrupted_trials_are_made_up_for(tmp_path, monkeypatch):
    def interrupted(words, callbacks):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "main", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 1)

    with monkeypatch.context() as patch:  # killed: nothing is told to the study
        patch.setattr(SharedStudy, "interrupted", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, 1)

    gone = multiprocessing.get_context("fork").Process(target=int)
    gone.start()
    gone.join()
    *_, last = stored(tmp_path / "out")
    url = f"sqlite:///{tmp_path / 'out/study.db'}"
    storage = optuna.storages.RDBStorage(url)
    machine, _ = last.user_attrs[PROCESS]
    storage.set_trial_user_attr(last._trial_id, PROCESS, [machine, gone.pid])

    monkeypatch.setattr(fit, "main", lambda words, callbacks: 1 / 0)
    with pytest.raises(ValueError, match="division"):
        search(tmp_path, 1)

    trials = stored(tmp_path / "out")
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3
    assert [ERROR in trial.user_attrs for trial in trials] == [False, False, True]

    with pytest.raises(ValueError, match="division"):
        search(tmp_path, 4)
    with pytest.raises(ValueError, match="division"):
        search(tmp_path, 4, out="straight")
    *again, last = [trial.params for trial in stored(tmp_path / "out")]
    straight = [trial.params for trial in stored(tmp_path / "straight")]
    assert [*again[2:], last] == straight
    assert again[0] == again[1] == again[2]


def test_what_others_are_at_is_no_mistake(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "main", lambda words, callbacks: 1 / 0)
    with pytest.raises(ValueError, match="division"):
        search(tmp_path, 1)

    study = optuna.load_study(
        study_name="gendae", storage=f"sqlite:///{tmp_path / 'out/study.db'}"
    )
    other = study.ask()  # killed before it had options
    other.set_user_attr(PROCESS, ["elsewhere", 1])
    lines = search(tmp_path, 2)
    assert "no trial was completed yet; 1 under way" in lines
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["0", "failed:", "division"],
        ["1", "under", "way"],
    ]

    study.ask()  # .. and before it said whose it was
    assert "no trial was completed yet; 1 under way" in search(tmp_path, 3)
    assert [trial.state.name for trial in stored(tmp_path / "out")] == [
        "FAIL",
        "RUNNING",
        "FAIL",
        "FAIL",
    ]


def test_two_processes_share_a_study(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    both = context.Barrier(2)
    first = [True]

    def quick(words, callbacks):
        if first:
            first.clear()
            both.wait(60)  # no process is done before the other has begun
        callbacks[0].scores[1] = 0.5
        return tmp_path

    monkeypatch.setattr(fit, "main", quick)
    write(tmp_path)
    options = {"folder": tmp_path, "trials": 6}
    processes = [context.Process(target=search, kwargs=options) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    trials = stored(tmp_path / "out")
    assert [trial.number for trial in trials] == list(range(6))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    workers = {tuple(trial.user_attrs[PROCESS]) for trial in trials}
    assert {number for _, number in workers} == {process.pid for process in processes}


@pytest.mark.parametrize(("mode", "worse"), [("max", 1.0), ("min", 9.0)])
def test_a_trial_worse_than_the_median_is_ended(tmp_path, mode, worse):
    study = SharedStudy(tmp_path, {"x": FloatDistribution(0.0, 1.0)}, {}, mode, 0)
    last = {}
    for score in (4.0, 5.0, 6.0, 5.0, 5.0, 5.1 if mode == "max" else 4.9, worse):
        monitor = TrialMonitor(study.next(10), "val/score")
        for epoch in (0, 1):
            trainer = SimpleNamespace(
                callback_metrics={"val/score": score},
                sanity_checking=False,
                current_epoch=epoch,
                max_epochs=3,
                max_steps=-1,
                global_step=epoch + 1,
                is_last_batch=True,
                enable_validation=True,
                should_stop=False,
            )
            monitor.on_validation_end(trainer, None)
            last[score] = trainer.should_stop
            if trainer.should_stop:
                break

        if monitor.pruned:
            study.pruned(monitor.trial)
        else:
            study.completed(monitor.trial, score)

    assert [score for score, stopped in last.items() if stopped] == [worse]
    assert monitor.scores == {1: worse}
    assert study.study.best_value == (6.0 if mode == "max" else 4.0)


@pytest.mark.parametrize(("mode", "best"), [("max", 3.0), ("min", 1.0)])
def test_a_trial_has_one_score(tmp_path, monkeypatch, capsys, mode, best):
    def pruned(words, callbacks):
        (monitor,) = callbacks
        for epoch, score in enumerate((2.0, 3.0, 1.0, 2.5, math.nan), 1):
            monitor.scores[epoch] = score
            monitor.trial.report(score, epoch)
        monitor.pruned = callbacks[0].trial.number == 1
        return tmp_path

    config = yaml.safe_load(write(tmp_path).read_text())
    config["best"] = {"monitor": "val/score", "mode": mode}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(fit, "main", pruned)
    paths = {"config": str(tmp_path / "c.yaml"), "space": space(tmp_path)}
    tune(*SHORT, **paths, trials=2, out=str(tmp_path / "out"))

    report = json.loads((tmp_path / "out/trials.json").read_text())
    assert [trial["state"] for trial in report["trials"]] == ["complete", "pruned"]
    for trial in report["trials"]:
        own = json.loads((tmp_path / f"out/trial-{trial['trial']}/trial.json").read_text())
        assert trial["score"] == own["score"] == best
    assert f"trial 1: val/score {best:.5g}, pruned" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fact", [{1: "one"}, datetime.date(2026, 1, 2), {datetime.date(2026, 1, 2): [math.nan]}]
)
def test_whatever_yaml_holds_is_the_same_again(tmp_path, fact):
    def opened(fact):
        space = {"x": FloatDistribution(0.0, 1.0)}
        return SharedStudy(tmp_path, space, {"the configuration": fact}, "max", 0)

    opened(fact)
    opened(copy.deepcopy(fact))
    with pytest.raises(ValueError, match="holds another study: the configuration was "):
        opened({"2": fact})


def test_the_metric_that_is_not_taken_in_an_epoch_is_not_reported(tmp_path):
    study = SharedStudy(tmp_path, {"x": FloatDistribution(0.0, 1.0)}, {}, "max", 0)
    monitor = TrialMonitor(study.next(1), "val/score")
    monitor.on_validation_end(SimpleNamespace(callback_metrics={}, sanity_checking=False), None)
    assert monitor.scores == {}


# -- mistakes -------------------------------------------------------------------------------------

MISTAKES = [
    ({"model.ratess.f": [1, 2]}, "space.yaml: model.ratess: no argument of"),
    ({"model.rates.f": [1, 2], "data.batch": [1]}, "data.batch: no argument of Digits"),
    (
        {"data.batch_size": {"low": 0.5, "high": 2}},
        "data.batch_size=0.5: a whole number is needed",
    ),
    ({"model.rates.f": {"low": 2, "high": 1}}, "model.rates.f: low=2, high=1: an empty range"),
    ({"model.rates.f": {"low": 2, "hihg": 1}}, "'hihg' says nothing of a range"),
    ({"model.rates.f": {"low": 2}}, "high=None: a finite number is needed"),
    ({"model.rates.f": {"low": 0, "high": 1, "log": True}}, "log: true needs low > 0"),
    ({"model.rates.f": {"low": 0, "high": 1, "step": 2}}, "step=2: a number above 0"),
    ({"model.rates.f": {"low": 0, "high": 1, "log": 3}}, "log=3: a bool is needed"),
    ({"model.rates.f": []}, "one or more different choices are needed"),
    ({"model.rates.f": [1, 1]}, "one or more different choices are needed"),
    ({"model.rates.f": 3}, "3 is no space"),
    ({"rates.f": [1, 2]}, "accepted: model.OPTION, data.OPTION, trainer.OPTION"),
    ({"trainer.devices": [2, 4]}, "trainer.devices=2: a trial runs in one process"),
    ("- 3", "is no space: a line for each option is needed"),
    ("{", "is not a YAML file"),
]


@pytest.mark.parametrize(("content", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_a_mistake_in_a_space_is_one_line(tmp_path, capsys, content, words):
    paths = ["--config", write(tmp_path), "--space", space(tmp_path, content)]
    assert gendae("tune", *paths, "--out", tmp_path / "out") == 2
    assert words in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_another_study_is_left_as_it_is(searched, tmp_path, capsys):
    folder, _ = searched
    before = (folder / "out/study.db").read_bytes()
    config = ["--config", folder / "c.yaml", "--out", folder / "out"]
    other = space(tmp_path, {**SPACE, "model.rates.f": [0.1, 0.2]})

    assert gendae("tune", *config, "--space", other, *SHORT) == 2
    assert "out holds another study: the space of model.rates.f was " in one_line(capsys)

    longer = [*SHORT[:1], "3", *SHORT[2:]]
    assert gendae("tune", *config, "--space", folder / "space.yaml", *longer) == 2
    assert "holds another study: what all trials have was [" in one_line(capsys)
    assert (folder / "out/study.db").read_bytes() == before

    kept = tmp_path / "config.yaml"
    kept.write_text("model: mine")
    config = ["--config", folder / "c.yaml", "--out", tmp_path]
    assert gendae("tune", *config, "--space", folder / "space.yaml", *SHORT) == 2
    assert f"{kept} is another configuration than --config " in one_line(capsys)
    assert kept.read_text() == "model: mine"
    assert not (tmp_path / "study.db").exists()


def test_spaces_that_are_shipped_are_found_by_name():
    assert list(read_space("digits-kl-space")) == [
        "model.rates.f",
        "model.rates.g",
        "model.stack.noise",
        "model.stack.sizes",
    ]


def test_a_file_that_is_no_study_is_one_line(tmp_path, capsys):
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    config = ["--config", write(tmp_path), "--out", tmp_path]

    assert gendae("tune", *config, "--space", space(tmp_path)) == 2
    assert "study.db is no study that optuna can open (" in one_line(capsys)
    assert (tmp_path / "study.db").read_bytes() == b"no database" * 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trials", "0"], "--trials=0: a whole number >= 1 is needed"),
        (["--pruner", "medain"], "did you mean median?"),
        (["--seed", "-1"], "--seed=-1: a whole number >= 0 is needed"),
        (["--model.ratess.f", "1"], "model.ratess: no argument of"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(tmp_path, capsys, options, words):
    paths = ["--config", write(tmp_path), "--space", space(tmp_path), "--out", tmp_path / "out"]
    assert gendae("tune", *paths, *options) == 2
    assert words in one_line(capsys)
    assert not os.path.exists(tmp_path / "out")


def test_without_optuna_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert gendae("tune", "--config", write(tmp_path), "--space", space(tmp_path)) == 2
    assert (
        one_line(capsys) == 'gendae: error: gendae tune needs optuna; pip install "gendae[sweep]"'
    )
