"""Going on where a training was interrupted: what Lightning passes over when it resumes.

Lightning gives an optimizer the rates of the checkpoint, and begins the data anew. Here a training
goes on with the settings that it is given: those that are not the checkpoint's are said in one
line. Only within an epoch the batches must stay as they were.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Trainer

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
OPTIONS = ("accumulate_grad_batches", "max_epochs", "max_steps", "limit_train_batches")


class Resume:
    """What a checkpoint says of a training that is to go on, until it has been taken up.

    Attributes:
        content: the parts of the checkpoint that the rule needs; empty without one.
        step: updates that the checkpoint's training had made; None without one.
        offset: updates to be added to those made so that progress is that of the epochs, where the
            number of updates of an epoch has changed.
    """

    def __init__(self) -> None:
        self.content: dict[str, Any] = {}
        self.step: int | None = None
        self.offset = 0.0

        self._groups: list[dict[str, Any]] = []
        self._loader: TensorLoader | None = None

    def take(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the start of the fit will ask for."""
        self.content = {key: checkpoint[key] for key in CONTINUED if key in checkpoint}

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the earlier training."""
        return self.content.get("gendae", {}).get("facts", {})

    # -- settings --------------------------------------------------------------------------------

    def begin(self, rule: "Shell") -> None:
        """Keep the settings of the optimizer, before those of the checkpoint take their place."""
        self.step = self.content.get("global_step")
        self.offset = 0.0
        self._loader = None
        self._groups = [_settings(group) for group in rule.optimizers().param_groups]

    def compare(self, rule: "Shell") -> None:
        """Use the settings of this run, and say which are not those of the checkpoint.

        Raises:
            ValueError: for other batches in the middle of an epoch.
        """
        check_loader(rule.trainer)
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
        fit_loop = self.content.get("loops", {}).get("fit_loop", {})
        batches = fit_loop.get("epoch_loop.batch_progress", {})
        begun = batches.get("current", {}).get("ready", 0) > 0

        return begun and not batches.get("is_last_batch")

    def idle(self, step: int) -> bool:
        """Whether the training that goes on has made no update since."""
        return self.step is not None and self.step == step

    def end(self, trainer: Trainer) -> None:
        """Say so where a resumed training had nothing left to do."""
        self.content = {}
        if self.idle(trainer.global_step):
            say(
                trainer,
                f"nothing was trained: {trainer.ckpt_path} has all updates of max_epochs="
                f"{trainer.max_epochs}, max_steps={trainer.max_steps}",
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

        fit_loop = self.content.get("loops", {}).get("fit_loop", {})
        states = fit_loop.get("state_dict", {}).get("combined_loader", [])
        if len(states) != 1:
            return

        loader.load_state_dict(states[0])
        if fit_loop.get("epoch_loop.batch_progress", {}).get("is_last_batch"):
            loader.position = len(loader)  # an epoch that `limit_train_batches` cut is over, too

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
    size = getattr(trainer.train_dataloader, "batch_size", None)
    epochs = trainer.max_epochs

    updates = 0.0
    if trainer.max_steps == -1 and epochs is not None and epochs > 0:
        updates = trainer.estimated_stepping_batches / epochs

    return {
        "batch_size": size,
        "processes": trainer.world_size,
        "options": options,
        "updates_of_epoch": updates,
        "offset": offset,
    }


def _batches(run: dict[str, Any]) -> dict[str, Any]:
    """How many examples a batch of all processes has."""
    size = run.get("batch_size")
    if size is None:
        return {}

    return {"examples of a batch": size * run["processes"]}


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


def check_loader(trainer: Trainer) -> None:
    """Raise a ValueError for a loader of gendae's that was made for other processes."""
    loader = trainer.train_dataloader
    if isinstance(loader, TensorLoader) and loader.ranks != trainer.world_size:
        raise ValueError(
            f"the TensorLoader has ranks={loader.ranks}, and the Trainer {trainer.world_size} "
            "processes: use a gendae.Data, whose loaders follow the Trainer"
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
