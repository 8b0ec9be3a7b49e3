"""`gendae tune`: a search for the options of a training that give the best validation score."""

import math
import pydoc
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gendae import checks
from gendae.commands.common import aligned, markdown
from gendae.errors import reason, shortened
from gendae.registry import import_public
from gendae.storage import inputs
from gendae.storage.atomic import write_json, write_whole
from gendae.training import fit
from gendae.training.configurations import (
    MOST_SEED,
    QUIET,
    Config,
    check_options,
    read_config,
    refuse_processes,
    write_config,
)
from gendae.training.mistakes import read_yaml
from gendae.training.spaces import options_of, read_space

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

    from gendae.training.study import SharedStudy

#: Files that a study writes again, beside study.db; config.yaml and the trials' folders stay.
WRITTEN = ("trials.json", "trials.md")
#: Most trials that are printed; the files have all.
SHOWN = 10


def tune(
    *options: str,
    config: str,
    space: str,
    trials: int = 20,
    out: str | None = None,
    pruner: str = "median",
    seed: int = 0,
) -> list[str]:
    """Search a space of options for the best validation score, with optuna.

    The score is that by which a run chooses best.ckpt. The same command goes on where a study was
    interrupted; several processes may work at one study, each started by the same command.

    Args:
        options: --trainer.OPTION, --model.OPTION and --data.OPTION of `gendae fit`, the same in
            all trials.
        config: YAML file of `gendae fit`: rule, network, data, trainer.
        space: YAML file of the options to search, each with {low, high, log, step} or a list of
            choices.
        trials: how many, all processes and earlier commands together.
        out: folder of the study, which is made or continued; by default the next number in tune.
        pruner: what ends trials early: median, halving or none.
        seed: of weights and noise of all trials, and of what is tried.
    """
    checks.library("optuna", "sweep", "gendae tune")
    checks.whole("--trials", trials, 1)
    checks.one_of("--pruner", pruner, _pruners())
    checks.whole("--seed", seed, 0, MOST_SEED)

    search = Search.prepared(config, space, list(options), seed)
    folder = fit.new_run_folder("tune") if out is None else Path(out)
    study = _opened(folder, search, pruner)
    print(f"gendae: study {folder}, best by {search.monitor} ({search.mode})", file=sys.stderr)

    while (trial := study.next(trials)) is not None:
        said = _tried(study, trial, search)
        print(f"trial {trial.number}: {said}", file=sys.stderr, flush=True)

    return _report(study, search)


class Search(NamedTuple):
    """What is searched.

    Args:
        name: the configuration's file, as it was given.
        config: what it holds.
        space: distributions of options, by name.
        options: that all trials have.
        seed: of all trials.
        monitor, mode: the score, and its better end.
    """

    name: str
    config: Config
    space: dict[str, Any]
    options: list[str]
    seed: int
    monitor: str
    mode: str

    @classmethod
    def prepared(cls, config: str, space: str, options: list[str], seed: int) -> "Search":
        """A search whose options the configuration has.

        Raises:
            FileNotFoundError, ValueError: in one line, before anything is written.
        """
        content = read_config(config)
        distributions = read_space(space)
        first = options_of({name: _first(values) for name, values in distributions.items()})

        refuse_processes(content, [*options, *first], "a trial")
        check_options(content, options)
        try:
            check_options(content, [*options, *first])
        except ValueError as error:
            raise ValueError(f"{space}: {error}") from None

        monitor, mode = _score_of(content)
        return cls(config, content, distributions, options, seed, monitor, mode)

    def command(self, values: dict[str, Any]) -> str:
        """The command that trains with these values of the options."""
        own = ["--seed_everything", str(self.seed)]
        chosen = options_of(values)
        return shlex.join(["gendae", "fit", "--config", self.name, *self.options, *chosen, *own])


def _pruners() -> tuple[str, ...]:
    """Names of what ends trials early."""
    from gendae.training.study import PRUNERS

    return tuple(PRUNERS)


def _first(values: Any) -> Any:  # noqa: ANN401 - a distribution
    """A value of a distribution: its lower end, or its first choice."""
    return values.choices[0] if hasattr(values, "choices") else values.low


def _score_of(config: Config) -> tuple[str, str]:
    """Name and better end of the score by which a run of a configuration chooses best.ckpt."""
    best = config.get("best") or {}
    if best.get("monitor") is not None:
        return best["monitor"], best.get("mode", "min")

    import_public()
    return pydoc.locate(config["model"]["class_path"]).score


def _opened(folder: Path, search: Search, pruner: str) -> "SharedStudy":
    """The study of a folder, which is made if there is none."""
    from gendae.training.study import FILE, SharedStudy

    for name in (*WRITTEN, FILE):
        inputs.refuse_input(folder / name)

    file = folder / "config.yaml"
    if file.exists() and read_yaml(file) != search.config:
        raise ValueError(
            f"{file} is another configuration than --config {search.name}; name another folder"
        )

    facts = {
        "the score": search.monitor,
        "the configuration": search.config,
        "what all trials have": search.options,
        "seed": search.seed,
    }
    folder.mkdir(parents=True, exist_ok=True)
    study = SharedStudy(folder, search.space, facts, search.mode, search.seed, pruner)
    if not file.exists():
        write_config(file, search.config)
    return study


def _tried(study: "SharedStudy", trial: "Trial", search: Search) -> str:
    """Carry out a trial; what became of it, in words."""
    from gendae.training.study import RUN, TrialMonitor

    monitor = TrialMonitor(trial, search.monitor)
    root = study.folder / f"trial-{trial.number}"
    try:
        run = _fitted(study.folder, root, search, trial.params, monitor)
        trial.set_user_attr(RUN, str(run))
        score = _score(study, monitor)
    except Exception as error:  # noqa: BLE001 - whatever a combination of options leads to
        said = reason(error)
        study.failed(trial, said)
        write_json(root / "trial.json", _told(trial.params, search, error=said))
        return f"failed: {said}"
    except BaseException:  # a signal
        study.interrupted(trial)
        print(f"gendae: the same command goes on, with --out {study.folder}", file=sys.stderr)
        raise

    said = f"{search.monitor} {score:.5g}"
    if monitor.pruned:
        study.pruned(trial)
        said += f", pruned after epoch {max(monitor.scores)}"
    else:
        study.completed(trial, score)

    content = _told(trial.params, search, score=score, pruned=monitor.pruned, run=str(run))
    write_json(root / "trial.json", content)
    return said


def _fitted(
    folder: Path,
    root: Path,
    search: Search,
    values: dict[str, Any],
    monitor: Any,  # noqa: ANN401 - a callback, of a module that is imported late
) -> Path:
    """The run folder of the fit of a trial."""
    own = ["--seed_everything", str(search.seed), "--trainer.default_root_dir", str(root)]
    words = [*QUIET, *search.options, *options_of(values), *own]
    return fit.main(["fit", "--config", str(folder / "config.yaml"), *words], [monitor])


def _score(study: "SharedStudy", monitor: Any) -> float:  # noqa: ANN401
    """The best of a trial's scores: that of its best.ckpt."""
    from gendae.training.study import best_of

    score = best_of(monitor.scores.values(), study.maximize)
    if score is None:
        raise ValueError(
            f"{monitor.monitor} was no finite number in any of {len(monitor.scores)} validations"
        )
    return score


def _told(values: dict[str, Any], search: Search, **outcome: object) -> dict[str, Any]:
    """What a trial leaves: its options, the command that repeats it, and what came of it."""
    return {"options": values, "command": search.command(values), **outcome}


# -- the report -----------------------------------------------------------------------------------


def _report(study: "SharedStudy", search: Search) -> list[str]:
    """Write trials.json and trials.md; the lines to print.

    Raises:
        ValueError: if all trials failed.
    """
    from gendae.training.study import ERROR

    ordered = sorted(study.snapshot(), key=lambda trial: _rank(trial, study))
    header = ["trial", search.monitor, "", *search.space]
    rows = [_row(trial, study, search) for trial in ordered]
    written = [write_whole(study.folder / "trials.md", markdown([header, *rows]).encode())]

    content = [_entry(trial, study) for trial in ordered]
    facts = {"monitor": search.monitor, "mode": search.mode, "trials": content}
    written.append(write_json(study.folder / "trials.json", facts))

    states = [trial.state.name for trial in ordered]
    if not {"COMPLETE", "RUNNING"} & set(states):
        last = next((t.user_attrs[ERROR] for t in ordered if ERROR in t.user_attrs), "none ran")
        raise ValueError(f"{study.folder}: no trial was completed; {last}")

    lines = aligned([header, *rows[:SHOWN]])
    if len(rows) > SHOWN:
        lines.append(f".. and {len(rows) - SHOWN} more")
    if states[0] == "COMPLETE":
        lines += _best(ordered[0], search)
    else:
        lines.append(f"no trial was completed yet; {states.count('RUNNING')} under way")
    return [*lines, *map(str, written)]


def _best(trial: "FrozenTrial", search: Search) -> list[str]:
    """Which trial is the best, and the command that trains it."""
    from gendae.training.study import RUN

    score = f"{search.monitor} {trial.value:.5g}"
    return [
        f"best: trial {trial.number}, {score}, in {trial.user_attrs[RUN]}",
        f"to train it: {search.command(trial.params)}",
    ]


def _entry(trial: "FrozenTrial", study: "SharedStudy") -> dict[str, Any]:
    """A trial in trials.json."""
    from gendae.training.study import ERROR, RUN

    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "score": study.score(trial),
        RUN: trial.user_attrs.get(RUN),
        ERROR: trial.user_attrs.get(ERROR),
        "options": trial.params,
    }


def _rank(trial: "FrozenTrial", study: "SharedStudy") -> tuple[bool, float]:
    """Completed trials first, each kind from its best to its worst."""
    score = study.score(trial)
    if score is None:
        return (True, math.inf)

    return (trial.state.name != "COMPLETE", -score if study.maximize else score)


def _row(trial: "FrozenTrial", study: "SharedStudy", search: Search) -> list[str]:
    """A trial in the table; another process may have been killed before it chose all options."""
    from gendae.training.study import ERROR

    value = study.score(trial)
    score = "" if value is None else f"{value:.5g}"
    states = {"COMPLETE": "", "PRUNED": "pruned", "RUNNING": "under way"}
    state = states.get(trial.state.name, "failed: " + trial.user_attrs.get(ERROR, ""))

    values = [trial.params.get(name, "") for name in search.space]
    shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return [str(trial.number), score, shortened(state, 60), *shown]
