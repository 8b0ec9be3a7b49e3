"""Losses of the latest updates, and what happens when one of them is not finite."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from gendae.rules.batches import advice
from gendae.rules.processes import mean_of_ranks
from gendae.storage import verify


class TrainingDiverged(RuntimeError):
    """A loss became NaN or infinite; the message names step, layer and term."""


class Update(NamedTuple):
    """The losses of one update.

    Attributes:
        step: number of updates before it.
        names: of the losses, which differ between phases of a training.
        values: on the device, one for each name.
    """

    step: int
    names: list[str]
    values: Tensor


class LossLedger:
    """The latest losses, kept on the device and read once in `every` updates.

    Logging then does not wait for the device, whatever losses each of the updates has.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.clear()

    def clear(self) -> None:
        """Forget all losses."""
        self.updates: list[Update] = []

    @property
    def filled(self) -> int:
        """Number of updates whose losses wait to be read."""
        return len(self.updates)

    @property
    def is_due(self) -> bool:
        """Whether the next update's losses are the last that fit in before all are read."""
        return self.filled + 1 >= self.every

    # -- in training ---------------------------------------------------------------------------

    def note(self, rule: LightningModule, step: int, losses: dict[str, Tensor]) -> None:
        """Store one update's losses; read all that wait, where that is due."""
        full = self.record(step, losses)
        if full or rule.trainer.is_last_batch:
            self._log(rule, step)

    def _log(self, rule: LightningModule, step: int) -> None:
        means = self._means(rule)
        losses = {f"loss/{name}": value for name, value in means.items()}

        # for callbacks; a Trainer would write them again after every update
        rule.log_dict(losses, logger=False)

        for logger in rule.loggers:
            logger.log_metrics({**losses, "epoch": rule.current_epoch}, step)

    def _means(self, rule: LightningModule) -> dict[str, float]:
        """See `flush`; a divergence comes with what to do about it."""
        try:
            return self.flush(partial(mean_of_ranks, rule.trainer))
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error}; {advice(rule)}") from None

    def refuse_diverged(self, rule: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raise where losses or weights are not finite: a good checkpoint is never overwritten."""
        average = partial(mean_of_ranks, rule.trainer)
        if self.filled and not bool(average(self._values()).isfinite().all()):
            self._means(rule)

        bad = verify.non_finite_parts(checkpoint)
        if bad:
            raise TrainingDiverged(
                f"{bad} hold NaN or infinite values at step {rule.global_step}: nothing is saved, "
                f"the last good checkpoint is kept; {advice(rule)}"
            )

    # -- rows of losses ------------------------------------------------------------------------

    def record(self, step: int, losses: dict[str, Tensor]) -> bool:
        """Store one update's losses, of any names; True once the ledger is full."""
        values = torch.stack(list(losses.values())).detach()
        self.updates.append(Update(step, list(losses), values))

        return self.filled == self.every

    def flush(self, average: Callable[[Tensor], Tensor] = lambda rows: rows) -> dict[str, float]:
        """Mean of each loss since the last flush, over the updates that had it.

        Args:
            average: takes the mean of losses over processes: where one diverges all must stop.

        Raises:
            TrainingDiverged: at the first loss that is not finite.
        """
        if self.filled == 0:
            return {}

        losses: dict[str, list[float]] = {}
        values = iter(average(self._values()).tolist())
        for update in self.updates:
            for name in update.names:
                loss = next(values)
                stop_where_not_finite(name, loss, update.step)
                losses.setdefault(name, []).append(loss)

        # only now: after a divergence, a callback that saves the model flushes once more
        self.clear()
        return {name: sum(values) / len(values) for name, values in losses.items()}

    def _values(self) -> Tensor:
        """All losses that wait, one after the other, so that the device is waited for once."""
        return torch.cat([update.values for update in self.updates])


def stop_where_not_finite(name: str, loss: float, step: int) -> None:
    """Raise a TrainingDiverged for a loss that is NaN or infinite."""
    if math.isfinite(loss):
        return

    words = name.split("_")
    part = {"f": ", encoder", "g": ", decoder"}.get(words[-2], "")

    raise TrainingDiverged(
        f"loss of {name} (layer {words[-1]}{part}) is {loss} at step {step}: training stopped, "
        "the last good checkpoint is kept"
    )
