"""Losses of the latest updates, and what happens when one of them is not finite."""

from collections.abc import Callable

import torch
from torch import Tensor


class TrainingDiverged(RuntimeError):
    """A loss became NaN or infinite; the message names step, layer and term."""


class LossLedger:
    """The latest losses, kept on the device and read once in `every` updates: logging without waiting."""

    def __init__(self, every: int) -> None:
        self.every, self.names, self.rows, self.first_step = every, [], None, 0
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
        """Mean of each loss since the last flush; raises TrainingDiverged at the first non-finite one.

        Args:
            average: of rows over processes: where one diverges all must stop.
        """
        if self.filled == 0:
            return {}
        rows = average(self.rows[: self.filled]).double().cpu()
        bad = (~torch.isfinite(rows)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            name = self.names[column]
            part = {"f": ", encoder", "g": ", decoder"}.get(name.split("_")[-2], "")
            raise TrainingDiverged(
                f"loss of {name} (layer {name.split('_')[-1]}{part}) is {rows[row, column].item()} at "
                f"step {self.first_step + row}: training stopped, the last good checkpoint is kept; "
                "lower the learning rates or raise the corruption of x"
            )
        self.filled = 0  # not before: who saves what diverged asks once more
        return dict(zip(self.names, rows.mean(0).tolist(), strict=True))
