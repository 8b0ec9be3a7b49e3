"""`gendae tune`: a search for the options of a training that give the best validation score."""

import math
import pydoc
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gendae import checks
from gendae.commands.compare import (
    MOST_SEED,
    QUIET,
    Config,
    aligned,
    check_options,
    markdown,
    read_config,
    refuse_processes,
    write_config,
)
from gendae.errors import reason, shortened
from gendae.registry import import_public
from gendae.storage import inputs
from gendae.storage.atomic import write_json, write_whole
from gendae.training import fit
from gendae.training.spaces import options_of, read_space

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

    from gendae.training.study import SharedStudy

#: Files that a study writes again, beside study.db; config.yaml and the trials' folders stay.
WRITTEN = ("trials.json", "trials.md")
PRUNERS = ("median", "halving", "none")
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
    checks.one_of("--pruner", pruner, PRUNERS)
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
    folder.mkdir(parents=True, exist_ok=True)

    facts = {
        "the score": search.monitor,
        "the configuration": search.config,
        "what all trials have": search.options,
        "seed": search.seed,
    }
    study = SharedStudy(folder, search.space, facts, search.mode, search.seed, pruner)
    if not (folder / "config.yaml").exists():
        write_config(folder / "config.yaml", search.config)
    return study


def _tried(study: "SharedStudy", trial: "Trial", search: Search) -> str:
    """Carry out a trial; what became of it, in words."""
    from gendae.training.study import RUN, TrialMonitor

    monitor = TrialMonitor(trial, search.monitor)
    root = study.folder / f"trial-{trial.number}"
    try:
        run = _fitted(study.folder, root, search, trial.params, monitor)
        trial.set_user_attr(RUN, str(run))
        score = _score(monitor, search.mode)
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


def _score(monitor: Any, mode: str) -> float:  # noqa: ANN401
    """The best of a trial's scores: that of its best.ckpt."""
    finite = [score for score in monitor.scores.values() if math.isfinite(score)]
    if not finite:
        raise ValueError(
            f"{monitor.monitor} was no finite number in any of {len(monitor.scores)} validations"
        )

    return max(finite) if mode == "max" else min(finite)


def _told(values: dict[str, Any], search: Search, **outcome: object) -> dict[str, Any]:
    """What a trial leaves: its options, the command that repeats it, and what came of it."""
    return {"options": values, "command": search.command(values), **outcome}


# -- the report -----------------------------------------------------------------------------------


def _report(study: "SharedStudy", search: Search) -> list[str]:
    """Write trials.json and trials.md; the lines to print."""
    from gendae.training.study import ERROR, RUN

    ordered = sorted(study.trials, key=lambda trial: _rank(trial, study.maximize))
    rows = [_row(trial, search) for trial in ordered]
    header = ["trial", search.monitor, "", *search.space]
    written = [write_whole(study.folder / "trials.md", markdown([header, *rows]).encode())]

    content = []
    for trial in ordered:
        outcome = {"state": trial.state.name.lower(), "score": trial.value}
        outcome |= {name: trial.user_attrs.get(name) for name in (RUN, ERROR)}
        content.append({"trial": trial.number, **outcome, "options": trial.params})
    facts = {"monitor": search.monitor, "mode": search.mode, "trials": content}
    written.append(write_json(study.folder / "trials.json", facts))

    best = study.best
    if best is None:
        last = next((t.user_attrs[ERROR] for t in ordered if ERROR in t.user_attrs), "none ran")
        raise ValueError(f"{study.folder}: no trial was completed; {last}")

    lines = aligned([header, *rows[:SHOWN]])
    if len(rows) > SHOWN:
        lines.append(f".. and {len(rows) - SHOWN} more")
    return [
        *lines,
        f"best: trial {best.number}, {search.monitor} {best.value:.5g}, in {best.user_attrs[RUN]}",
        f"to train it: {search.command(best.params)}",
        *map(str, written),
    ]


def _rank(trial: "FrozenTrial", maximize: bool) -> tuple[bool, float]:
    """Completed trials first, each kind from its best to its worst."""
    score = trial.value
    if score is None:
        return (True, math.inf)

    return (trial.state.name != "COMPLETE", -score if maximize else score)


def _row(trial: "FrozenTrial", search: Search) -> list[str]:
    """A trial in the table."""
    from gendae.training.study import ERROR

    score = "" if trial.value is None else f"{trial.value:.5g}"
    states = {"COMPLETE": "", "PRUNED": "pruned", "RUNNING": "under way"}
    state = states.get(trial.state.name, "failed: " + trial.user_attrs.get(ERROR, ""))

    values = [trial.params[name] for name in search.space]
    shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return [str(trial.number), score, shortened(state, 60), *shown]
