"""Losses of the latest updates, and what happens when one of them is not finite."""

from collections.abc import Callable

import torch
from torch import Tensor


class TrainingDiverged(RuntimeError):
    """A loss became NaN or infinite; the message names step, layer and term."""


class LossLedger:
    """The latest losses, kept on the device and read once in `every` updates.

    Logging then does not wait for the device.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.names = []
        self.rows = None
        self.first_step = 0
        self.filled = 0

    def record(self, step: int, losses: dict[str, Tensor]) -> bool:
        """Store one update's losses; True once the ledger is full."""
        values = torch.stack(list(losses.values())).detach()

        if self.rows is None or self.names != list(losses):
            self.names = list(losses)
            self.rows = values.new_zeros(self.every, len(values))
        if self.filled == 0:
            self.first_step = step

        self.rows[self.filled] = values
        self.filled += 1
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
        self.filled = 0
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
            f"step {self.first_step + row}: training stopped, the last good checkpoint is kept; "
            "lower the learning rates or raise the corruption of x"
        )
