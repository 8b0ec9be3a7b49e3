"""Losses of the latest updates, and what happens when one of them is not finite."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from gendae.rules.batches import advice
from gendae.rules.processes import mean_of_ranks
from gendae.storage import verify


class TrainingDiverged(RuntimeError):
    """A loss became NaN or infinite; the message names step, layer and term."""


class LossLedger:
    """The latest losses, kept on the device and read once in `every` updates.

    Logging then does not wait for the device.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.clear()

    def clear(self) -> None:
        """Forget all losses."""
        self.names: list[str] = []
        self.rows: Tensor | None = None
        self.steps: list[int] = []

    @property
    def filled(self) -> int:
        """Number of updates whose losses wait to be read."""
        return len(self.steps)

    # -- in training ---------------------------------------------------------------------------

    def note(self, rule: LightningModule, step: int, losses: dict[str, Tensor]) -> None:
        """Store one update's losses; read all that wait, where that is due."""
        if self.filled and self.names != list(losses):  # another phase of training
            self._log(rule, step)

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
        if self.filled and not bool(average(self.rows[: self.filled]).isfinite().all()):
            self._means(rule)

        bad = verify.non_finite_parts(checkpoint)
        if bad:
            raise TrainingDiverged(
                f"{bad} hold NaN or infinite values at step {rule.global_step}: nothing is saved, "
                f"the last good checkpoint is kept; {advice(rule)}"
            )

    # -- rows of losses ------------------------------------------------------------------------

    def record(self, step: int, losses: dict[str, Tensor]) -> bool:
        """Store one update's losses; True once the ledger is full."""
        values = torch.stack(list(losses.values())).detach()

        if self.rows is None or self.names != list(losses):
            self.names = list(losses)
            self.rows = values.new_zeros(self.every, len(values))

        self.rows[self.filled] = values
        self.steps.append(step)
        return self.filled == self.every

    def flush(self, average: Callable[[Tensor], Tensor] = lambda rows: rows) -> dict[str, float]:
        """Mean of each loss since the last flush.

        Args:
            average: takes the mean of rows over processes: where one diverges all must stop.

        Raises:
            TrainingDiverged: at the first loss that is not finite.
        """
        if self.filled == 0:
            return {}

        rows = average(self.rows[: self.filled]).double().cpu()
        self._stop_where_not_finite(rows)

        # only now: after a divergence, a callback that saves the model flushes once more
        self.steps = []
        return dict(zip(self.names, rows.mean(0).tolist(), strict=True))

    def _stop_where_not_finite(self, rows: Tensor) -> None:
        bad = (~torch.isfinite(rows)).nonzero()
        if len(bad) == 0:
            return

        row, column = bad[0].tolist()
        name = self.names[column]
        words = name.split("_")
        part = {"f": ", encoder", "g": ", decoder"}.get(words[-2], "")

        raise TrainingDiverged(
            f"loss of {name} (layer {words[-1]}{part}) is {rows[row, column].item()} at "
            f"step {self.steps[row]}: training stopped, the last good checkpoint is kept"
        )
