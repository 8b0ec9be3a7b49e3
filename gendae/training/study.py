"""A study: a search through a space of options, in a folder that several processes may share.

The trials are in an SQLite file, study.db, which optuna reads and writes. A process that is killed
loses the trial it was at; the others, and a later one, make up for it.
"""

import contextlib
import json
import os
import sqlite3
import warnings
from collections.abc import Iterator
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
        facts: what else its scores depend on, as plain data: another study has others.
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
            self._check_same({"direction": direction, **facts, **_spaces(space)})

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

    @property
    def best(self) -> FrozenTrial | None:
        """The trial with the best score, of those that were completed."""
        completed = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        if not completed:
            return None

        pick = max if self.maximize else min
        return pick(completed, key=lambda trial: trial.value)

    def next(self, n: int) -> Trial | None:
        """The next trial, its options chosen; None where n trials are done or under way."""
        with self._alone():
            self._release_dead()
            if len(self.trials) >= n:
                return None

            number = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + number)
            trial = self.study.ask(fixed_distributions=self.space)
            trial.set_user_attr(PROCESS, [origin(), os.getpid()])
            return trial

    def _release_dead(self) -> None:
        """End the trials of processes of this machine that are gone."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            machine, process = trial.user_attrs.get(PROCESS, (None, 0))
            if machine == origin() and not alive(process):
                self.study.tell(trial.number, state=TrialState.FAIL)

    def completed(self, trial: Trial, score: float) -> None:
        """A trial that went to its end."""
        self.study.tell(trial, score)

    def pruned(self, trial: Trial) -> None:
        """A trial that was ended early; its score is the last one."""
        self.study.tell(trial, state=TrialState.PRUNED)

    def failed(self, trial: Trial, error: str) -> None:
        """A trial that gave no score."""
        trial.set_user_attr(ERROR, error)
        self.study.tell(trial, state=TrialState.FAIL)

    def interrupted(self, trial: Trial) -> None:
        """A trial that another one will make up for."""
        self.study.tell(trial, state=TrialState.FAIL)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial was not interrupted."""
    return trial.state != TrialState.FAIL or ERROR in trial.user_attrs


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
