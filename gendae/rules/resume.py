"""Going on where a training was interrupted: what Lightning passes over when it resumes.

Lightning gives an optimizer the rates of the checkpoint, and begins the data anew. Here a training
goes on with the settings that it is given: those that are not the checkpoint's are said in one
line. Only within an epoch the batches must stay as they were.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Trainer

from gendae import checks
from gendae.data.base import facts_of
from gendae.data.loader import TensorLoader
from gendae.errors import shortened
from gendae.registry import Plain, arguments

if TYPE_CHECKING:
    from gendae.rules.shell import Shell

#: What a `Rule` takes from a checkpoint itself when it goes on.
CONTINUED = (
    "gendae",
    "generator",
    "recent_codes",
    "prior_fitted_at",
    "prior_due",
    "global_step",
    "hyper_parameters",
    "loops",
    "run",
)
#: Settings of a rule that count for first weights only.
BEGINNING = {"init", "gain"}
#: Options of a Trainer that decide what a run computes.
OPTIONS = (
    "accumulate_grad_batches",
    "max_epochs",
    "max_steps",
    "limit_train_batches",
    "check_val_every_n_epoch",
    "precision",
)


class Resume:
    """What a checkpoint says of a training that is to go on, until it has been taken up.

    Attributes:
        content: the parts of the checkpoint that the rule needs; empty without one.
        step: updates that had been made when this fit began.
        offset: updates to be added to those made so that progress is that of the epochs, where the
            number of updates of an epoch has changed.
    """

    def __init__(self) -> None:
        self.content: dict[str, Any] = {}
        self.step = 0
        self.offset = 0.0

        self._groups: list[dict[str, Any]] = []
        self._loader: TensorLoader | None = None

    def take(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the start of the fit will ask for; an epoch that is over is so for any data.

        (Of a loader with more batches than before, Lightning would go on with the rest of them.)
        """
        self.content = {key: checkpoint[key] for key in CONTINUED if key in checkpoint}
        if self._epoch_is_over:
            for state in self._loaders:
                state["position"] = checks.MOST

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the earlier training."""
        return self.content.get("gendae", {}).get("facts", {})

    # -- settings --------------------------------------------------------------------------------

    def begin(self, rule: "Shell") -> None:
        """Keep the settings of the optimizer, before those of the checkpoint take their place."""
        self.step = self.content.get("global_step", rule.global_step)
        self.offset = 0.0
        self._loader = None
        self._groups = [_settings(group) for group in rule.optimizers().param_groups]

    def compare(self, rule: "Shell") -> None:
        """Use the settings of this run, and say which are not those of the checkpoint.

        Raises:
            ValueError: for other batches in the middle of an epoch, and for loaders that no
                training can use.
        """
        check_loaders(rule.trainer)
        self._follow_options(rule.trainer)
        if not self.content:
            return

        for group, settings in zip(rule.optimizers().param_groups, self._groups, strict=True):
            group.update(settings)

        earlier = self.content.get("run", {})
        now = run_of(rule.trainer)
        data = list(self._changes_of_data(rule))
        batches = list(changes(_batches(earlier), _batches(now)))
        if self._within_epoch and (data or batches):
            raise ValueError(
                f"{rule.trainer.ckpt_path} was written in the middle of an epoch, which cannot go "
                f"on with other batches: {', '.join(batches + data)}; resume with the settings of "
                "its run, or from a checkpoint of the end of an epoch"
            )

        if not self._within_epoch:
            _end_epoch(rule.trainer)
        self.offset = _offset(earlier, now, self.content["global_step"])
        theirs = self.content.get("hyper_parameters", {})
        settings = changes(theirs, arguments(rule, foreign=True), skip=BEGINNING)
        options = changes(earlier.get("options", {}), now["options"])
        changed = [*settings, *batches, *options, *data]
        if changed:
            say(rule.trainer, f"goes on with other settings: {', '.join(changed)}")

    def _changes_of_data(self, rule: "Shell") -> Iterator[str]:
        data = getattr(rule.trainer, "datamodule", None)
        theirs = self.facts.get("dataset", {})
        ours = facts_of(data).get("dataset", {})

        return changes(theirs, ours, "data", skip={"batch_size"})

    @property
    def _within_epoch(self) -> bool:
        batches = self._fit_loop.get("epoch_loop.batch_progress", {})
        begun = batches.get("current", {}).get("ready", 0) > 0

        return begun and not self._epoch_is_over

    @property
    def _epoch_is_over(self) -> bool:
        return bool(self._fit_loop.get("epoch_loop.batch_progress", {}).get("is_last_batch"))

    @property
    def _fit_loop(self) -> dict[str, Any]:
        """The state of Lightning's loop."""
        return self.content.get("loops", {}).get("fit_loop", {})

    @property
    def _loaders(self) -> list[dict[str, Any]]:
        """The states of gendae's loaders, one at most."""
        states = self._fit_loop.get("state_dict", {}).get("combined_loader", [])
        return [state for state in states if "position" in state]

    def idle(self, step: int) -> bool:
        """Whether a fit has made no update, of its own, so far."""
        return self.step == step

    def end(self, trainer: Trainer) -> None:
        """Say so where a fit had nothing to do."""
        self.content = {}
        if not self.idle(trainer.global_step):
            return

        origin = trainer.ckpt_path or "this Trainer"
        made = f" after {self.step} updates of {origin}" if self.step else ""
        say(
            trainer,
            f"nothing was trained{made}: max_epochs={trainer.max_epochs}, max_steps="
            f"{trainer.max_steps}, {trainer.num_training_batches} batches in an epoch, and limits "
            "of time, leave no update",
        )

    # -- the order of the data -------------------------------------------------------------------

    def begin_epoch(self, trainer: Trainer) -> None:
        """Let gendae's loader go on where it was: between epochs Lightning starts it anew."""
        self._follow_options(trainer)

        loader = trainer.train_dataloader
        if not isinstance(loader, TensorLoader):
            return
        if self.content.get("global_step") != trainer.global_step:
            return

        for state in self._loaders:
            loader.load_state_dict(state)

    def _follow_options(self, trainer: Trainer) -> None:
        """Options that Lightning carries out on samplers, which gendae's loader has none of."""
        loader = trainer.train_dataloader
        if not isinstance(loader, TensorLoader):
            return

        if trainer.overfit_batches > 0:
            loader.fixed = True
        if self._loader not in (None, loader):  # reload_dataloaders_every_n_epochs
            loader.load_state_dict({"epoch": self._loader.epoch + 1, "position": 0})

        self._loader = loader

    def prior_is_due(self, step: int) -> bool:
        """Whether the interrupted training was about to fit its prior; asked once."""
        content = self.content
        self.content = {}
        return bool(content.get("prior_due")) and content["global_step"] == step


# -- what a run computes with ------------------------------------------------------------------


def run_of(trainer: Trainer, offset: float = 0.0) -> dict[str, Any]:
    """What a checkpoint keeps of its run's options: batches, processes, length."""
    options = {name: getattr(trainer, name) for name in OPTIONS}
    options["val_check_interval"] = _plain(trainer.val_check_interval)
    size = getattr(trainer.train_dataloader, "batch_size", None)
    epochs = trainer.max_epochs

    updates = 0.0
    if trainer.max_steps == -1 and epochs is not None and epochs > 0:
        updates = trainer.estimated_stepping_batches / epochs

    return {
        "batch_size": size,
        "batches_of_epoch": trainer.num_training_batches,
        "overfit_batches": trainer.overfit_batches,
        "processes": trainer.world_size,
        "options": options,
        "updates_of_epoch": updates,
        "offset": offset,
    }


def _plain(interval: float | timedelta) -> float | str:
    """An option that may be a time, as a checkpoint can hold it."""
    return str(interval) if isinstance(interval, timedelta) else interval


def _batches(run: dict[str, Any]) -> dict[str, Any]:
    """What decides which examples a batch of all processes holds, as far as it is known."""
    known = {name: run[name] for name in ("batches_of_epoch", "overfit_batches") if name in run}
    if run.get("batch_size") is not None:
        known["examples of a batch"] = run["batch_size"] * run["processes"]

    return known


def _end_epoch(trainer: Trainer) -> None:
    """Let the epoch of a checkpoint be over, of however many batches the next ones are.

    Lightning compares the batches of the checkpoint's epoch with those of an epoch now: where
    these are more, it would train on the rest as if they were the next epoch.
    """
    counts = trainer.fit_loop.epoch_loop.batch_progress.current
    missing = trainer.num_training_batches - counts.ready
    if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or not 0 < missing < math.inf:
        return

    for name in ("ready", "started", "processed", "completed"):
        setattr(counts, name, getattr(counts, name) + missing)


def _offset(earlier: dict[str, Any], now: dict[str, Any], step: int) -> float:
    """What to add to the updates made, so that their share of all is that of the epochs made."""
    before = earlier.get("updates_of_epoch", 0.0)
    after = now["updates_of_epoch"]
    if not before or not after:
        return 0.0

    offset = earlier.get("offset", 0.0)
    if before == after:
        return offset

    return (step + offset) * after / before - step


def check_loaders(trainer: Trainer) -> None:
    """Raise a ValueError for loaders that a training would fail with, or be wrong, later on."""
    loader = trainer.train_dataloader
    if isinstance(loader, TensorLoader) and loader.ranks != trainer.world_size:
        raise ValueError(
            f"the TensorLoader has ranks={loader.ranks}, and the Trainer {trainer.world_size} "
            "processes: use a gendae.Data, whose loaders follow the Trainer"
        )

    if isinstance(loader, Iterator):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"the training data are a {type(loader).__name__}, which can be gone through once; "
            "epochs and the prior need a loader, such as a torch.utils.data.DataLoader"
        )

    validation = trainer.val_dataloaders
    if isinstance(validation, Sequence | Mapping) and len(validation) > 1:
        raise ValueError(
            f"{len(validation)} loaders of validation data are given: one is needed, such as that "
            "of a torch.utils.data.ConcatDataset"
        )


def changes(earlier: Plain, now: Plain, name: str = "", skip: set[str] = frozenset()) -> Iterator:
    """What differs between two descriptions, as NAME=VALUE (was VALUE).

    Arguments that only one of them has do not count.

    Example:
        >>> list(changes({"rates": {"f": 0.1, "g": 1.0}}, {"rates": {"f": 0.2, "g": 1.0}}))
        ['rates.f=0.2 (was 0.1)']
    """
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in earlier:
            if key in now and key not in skip:
                place = f"{name}.{key}" if name else key
                yield from changes(earlier[key], now[key], place, skip)
    elif earlier != now:
        yield f"{name}={_brief(now)} (was {_brief(earlier)})"


def _brief(value: Plain) -> str:
    if isinstance(value, dict) and "type" in value:
        return value["type"]

    return shortened(repr(value), 60)


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a group of parameters; its rate now is a matter of progress."""
    return {key: value for key, value in group.items() if key not in ("params", "lr")}


def say(trainer: Trainer, line: str) -> None:
    """Tell the user, once for all processes."""
    if trainer.is_global_zero:
        print(f"gendae: {line}", file=sys.stderr)


def before_validation(trainer: Trainer) -> bool:
    """Whether a validation follows the latest batch."""
    epochs = trainer.check_val_every_n_epoch
    batches = trainer.val_check_batch
    validates = trainer.state.fn == "fit" and trainer.enable_validation
    if not validates or not batches or batches == float("inf"):
        return False

    if epochs is None:
        return (trainer.fit_loop.total_batch_idx + 1) % batches == 0

    if (trainer.current_epoch + 1) % epochs != 0:
        return False
    return (trainer.fit_loop.batch_idx + 1) % batches == 0
