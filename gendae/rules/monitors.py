"""What callbacks wait for: a name that nothing logs ends a training before it begins.

Lightning would tell after the first epoch, or after the last. Which names a rule logs is seen in a
rehearsal: a copy of it takes one batch.
"""

import copy
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.callbacks import LearningRateMonitor
from torch import Generator

from gendae.data.loader import Split
from gendae.errors import choice
from gendae.rules.moment import Moment
from gendae.rules.processes import like_parameters

if TYPE_CHECKING:
    from gendae.rules.shell import Shell

#: How names begin that Lightning logs by itself.
ALWAYS = ("epoch", "step")
OURS = ("gendae.", "pytorch_lightning.")


def check(rule: "Shell") -> None:
    """Raise a ValueError for the first callback that monitors what nothing logs.

    Callbacks of other packages may log names of their own: where there are any, Lightning's own
    check remains.
    """
    trainer = rule.trainer
    known = all(type(callback).__module__.startswith(OURS) for callback in trainer.callbacks)
    logged = (*ALWAYS, *_beginnings(rule))
    waiting = [callback for callback in trainer.callbacks if _waits(callback, logged)]
    if not waiting or not known:
        return

    names = rehearsed(rule)
    if names is None:
        return

    for callback in waiting:
        name = callback.monitor
        if name not in names:
            accepted = choice(name, sorted(names | set(_beginnings(rule))))
            raise ValueError(
                f"{type(callback).__name__}: monitor={name!r} is logged by nothing; {accepted}"
            )


def _waits(callback: Callback, logged: tuple[str, ...]) -> bool:
    """Whether a callback fails without what it monitors, which may be more than callbacks log."""
    name = getattr(callback, "monitor", None)
    lenient = not getattr(callback, "strict", True) or getattr(callback, "save_top_k", 1) == 0

    return isinstance(name, str) and not lenient and not name.startswith(logged)


def _beginnings(rule: "Shell") -> list[str]:
    """How the names begin that callbacks of gendae log, and losses of other phases."""
    beginnings = []
    for callback in rule.trainer.callbacks:
        beginnings += getattr(callback, "logs", ())
        if isinstance(callback, LearningRateMonitor):
            beginnings.append("lr-")
    if rule.has_phases:
        beginnings.append("loss/")

    return beginnings


def rehearsed(rule: "Shell") -> set[str] | None:
    """The names that a rule logs of a batch; None where a single batch cannot tell."""
    names: set[str] = set()

    def note(values: Any, *_: object, **__: object) -> None:  # noqa: ANN401 - a name, or many
        names.update([values] if isinstance(values, str) else values)

    actor = copy.deepcopy(rule)
    actor.log = note
    actor.log_dict = note
    try:
        with torch.random.fork_rng(_devices(rule)):
            moment = Moment(0.0, _noise(rule), 0, rule.learning(0, 0))
            batch = next(iter(rule.training_batches()))
            _rehearse(actor, batch, moment, note, rule.trainer.enable_validation)
    except Exception:  # noqa: BLE001 - what is wrong with the batch is said in training
        return None

    return names


def _rehearse(
    actor: "Shell",
    batch: Any,  # noqa: ANN401
    moment: Moment,
    note: Any,  # noqa: ANN401
    validates: bool,
) -> None:
    batch = Split.of(actor.on_after_batch_transfer(like_parameters(actor.stack, batch), 0))
    batch = batch._replace(observed=None)  # as if all modalities were there: each is logged

    if actor.generative:
        actor.fit_prior([batch])
    if actor.prior_in_losses is not None:
        actor.prior_fit.follow(actor, batch, actor.prior_in_losses, moment)
    note(f"loss/{name}" for name in actor.losses(batch, moment))

    if not validates:
        return

    with torch.no_grad():
        actor.on_validation_epoch_start()
        actor.validation_step(batch, 0)


def _noise(rule: LightningModule) -> Generator:
    return Generator(rule.device).manual_seed(0)


def _devices(rule: LightningModule) -> list[torch.device]:
    """Devices whose generators are to be left as they are, beside the CPU's."""
    return [rule.device] if rule.device.type == "cuda" else []
