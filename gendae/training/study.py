"""A study: a search through a space of options, in a folder that several processes may share.

The trials are in an SQLite file, study.db, which optuna reads and writes. A process that is killed
loses the trial it was at; the others, or a later one, try its options again.
"""

import contextlib
import json
import math
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna import Study, Trial
from optuna.exceptions import OptunaError
from optuna.pruners import BasePruner
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from pytorch_lightning import Callback, LightningModule, Trainer
from sqlalchemy.exc import SQLAlchemyError

from gendae.errors import shortened
from gendae.storage.atomic import alive, origin
from gendae.training.validation import ends

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FILE = "study.db"
#: Seconds that a process waits for another one which writes into the file.
PATIENCE = 120
#: What ends a trial that promises little, by the scores of others in the same epoch.
PRUNERS = {
    "median": optuna.pruners.MedianPruner,
    "halving": optuna.pruners.SuccessiveHalvingPruner,
    "none": optuna.pruners.NopPruner,
}
#: Attributes of a trial: the process that runs it, why it failed, its run folder.
PROCESS = "process"
ERROR = "error"
RUN = "run"


class SharedStudy:
    """A study of optuna in a folder.

    Args:
        folder: of study.db, which is made or continued.
        space: the distributions of options, by name.
        facts: what else its scores depend on, as YAML holds it: another study has others.
        mode: "max" or "min", the better end of the score.
        seed: of what is tried: trial k of a study is the same, however often it was interrupted,
            as long as one process tries.
        pruner: a name of `PRUNERS`.

    Raises:
        ValueError: if the folder holds a study of another space, or with other facts; if its
            study.db is none.
    """

    def __init__(
        self,
        folder: Path,
        space: dict[str, "BaseDistribution"],
        facts: dict[str, Any],
        mode: str,
        seed: int,
        pruner: str = "median",
    ) -> None:
        self.folder = folder
        self.space = space
        self.seed = seed
        self.maximize = mode == "max"
        self.lock = JournalFileOpenLock(str(folder / FILE))

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        direction = "maximize" if self.maximize else "minimize"
        with self._alone():
            self.study = _opened(folder / FILE, direction, PRUNERS[pruner]())
            self._check_same(_plain({"direction": direction, **facts, **_spaces(space)}))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process of the study is within."""
        self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def _check_same(self, facts: dict[str, Any]) -> None:
        """Keep what the scores depend on, or compare it with what was kept."""
        kept = self.study.user_attrs
        if not kept:
            self.study.set_user_attr("facts", json.dumps(facts))
            return

        earlier = json.loads(kept["facts"])
        for name in [*earlier, *facts]:
            if earlier.get(name) != facts.get(name):
                was = shortened(str(earlier.get(name, "not there")), 100)
                now = shortened(str(facts.get(name, "not there")), 100)
                raise ValueError(
                    f"{self.folder} holds another study: {name} was {was} and now is {now}; name "
                    "another folder"
                )

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that count: not those that were interrupted."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if _counts(trial)]

    def snapshot(self) -> list[FrozenTrial]:
        """The trials that count, none of them half made by another process."""
        with self._alone():
            return self.trials

    def score(self, trial: FrozenTrial) -> float | None:
        """The best score of a trial that went to its end or was ended early; else None."""
        if trial.state == TrialState.COMPLETE:
            return trial.value
        if trial.state != TrialState.PRUNED:
            return None

        return best_of(trial.intermediate_values.values(), self.maximize)

    def next(self, n: int) -> Trial | None:
        """The next trial, its options chosen; None where n trials are done or under way."""
        with self._alone():
            self._release_dead()
            done = len(self.trials)
            if done >= n:
                return None

            self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + done)
            trial = self.study.ask(fixed_distributions=self.space)
            trial.set_user_attr(PROCESS, [origin(), os.getpid()])
            return trial

    def _release_dead(self) -> None:
        """End the trials of processes of this machine that are gone.

        A trial of no process is one that was made by a process killed on the way.
        """
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            machine, process = trial.user_attrs.get(PROCESS, (None, 0))
            gone = machine == origin() and not alive(process)
            if machine is None or gone:
                self._give_up(trial)

    def _give_up(self, trial: Trial | FrozenTrial) -> None:
        """End a trial without a score, and keep its options for the next one."""
        self.study.tell(trial.number, state=TrialState.FAIL)
        if trial.params.keys() == self.space.keys():
            self.study.enqueue_trial(trial.params)

    def completed(self, trial: Trial, score: float) -> None:
        """A trial that went to its end."""
        self.study.tell(trial, score)

    def pruned(self, trial: Trial) -> None:
        """A trial that was ended early."""
        self.study.tell(trial, state=TrialState.PRUNED)

    def failed(self, trial: Trial, error: str) -> None:
        """A trial that gave no score."""
        trial.set_user_attr(ERROR, error)
        self.study.tell(trial, state=TrialState.FAIL)

    def interrupted(self, trial: Trial) -> None:
        """A trial whose options another one will try."""
        with self._alone():
            self._give_up(trial)


def best_of(scores: Iterable[float], maximize: bool) -> float | None:
    """The best of the scores that are finite; None if none is.

    Example:
        >>> best_of([2.0, float("nan"), 1.0], maximize=False)
        1.0
    """
    finite = [score for score in scores if math.isfinite(score)]
    pick = max if maximize else min
    return pick(finite, default=None)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial was begun and not interrupted."""
    if trial.state == TrialState.FAIL:
        return ERROR in trial.user_attrs

    return trial.state != TrialState.WAITING


def _plain(value: Any) -> Any:  # noqa: ANN401 - what YAML holds
    """Data as JSON keeps them: keys are texts, and so is what JSON has not, such as a date."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]

    kept = value is None or isinstance(value, str | int)
    if kept or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _spaces(space: dict[str, "BaseDistribution"]) -> dict[str, str]:
    """Distributions in words, by option."""
    return {f"the space of {name}": str(values) for name, values in space.items()}


def _opened(file: Path, direction: str, pruner: BasePruner) -> Study:
    """The study in a file, which is made if there is none.

    Raises:
        ValueError: if the file holds something else.
    """
    try:
        return optuna.create_study(
            study_name="gendae",
            storage=_storage(file),
            direction=direction,
            pruner=pruner,
            load_if_exists=True,
        )
    except (SQLAlchemyError, OptunaError, RuntimeError) as error:
        first, *_ = str(error).splitlines()
        raise ValueError(f"{file} is no study that optuna can open ({first})") from None


def _storage(file: Path) -> RDBStorage:
    """The file as optuna's storage; its name is passed by, since in a URL not every one can be."""
    connect = partial(sqlite3.connect, file, timeout=PATIENCE, check_same_thread=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return RDBStorage(f"sqlite:///{FILE}", {"creator": connect})


class TrialMonitor(Callback):
    """Reports the score of each validation to a trial, and ends the fit of one that is pruned.

    Args:
        trial: of optuna.
        monitor: the name that the score is logged by.

    Attributes:
        scores: by epoch, from 1.
        pruned: whether the trial was ended early.
    """

    def __init__(self, trial: Trial, monitor: str) -> None:
        self.trial = trial
        self.monitor = monitor
        self.scores: dict[int, float] = {}
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = trainer.callback_metrics.get(self.monitor)
        if score is None or trainer.sanity_checking:
            return

        epoch = trainer.current_epoch + 1
        self.scores[epoch] = float(score)
        self.trial.report(float(score), epoch)
        if not ends(trainer) and self.trial.should_prune():
            self.pruned = True
            trainer.should_stop = True
