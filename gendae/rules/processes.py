"""Training in several processes (DDP): rows of all of them, in the order that one process has.

Process r of R computes on rows r, r + R, r + 2 R, .. of the data alone; DDP averages the
gradients. Every other result (a fit, a score, a decision) must be of all rows, or the processes
drift apart.
"""

from collections.abc import Sequence

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from gendae import checks
from gendae.data.loader import Split
from gendae.models.stack import Stack


def of_all_ranks(trainer: Trainer, rows: Tensor) -> Tensor:
    """The rows of all processes, row i of process r at i R + r: as one process would have them.

    Processes may have different numbers of rows, or none.

    Args:
        trainer: tells how many processes there are; all of them must call.
        rows: this process's, (n, ..).
    """
    if trainer.world_size == 1:
        return rows

    gather = trainer.strategy.all_gather
    counts = gather(torch.tensor(len(rows), device=rows.device))

    # only equal shapes can be gathered
    padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
    padded[: len(rows)] = rows

    there = torch.arange(len(padded), device=rows.device)[:, None] < counts
    return gather(padded).transpose(0, 1)[there]


def sum_of_ranks(trainer: Trainer, values: Tensor) -> Tensor:
    """Sum of a tensor over all processes, the same on each; all of them must call."""
    return trainer.strategy.reduce(values.clone(), reduce_op="sum")


def mean_of_ranks(trainer: Trainer, values: Tensor) -> Tensor:
    """Mean of a tensor over all processes, the same on each; all of them must call."""
    return sum_of_ranks(trainer, values) / trainer.world_size


def share_of(trainer: Trainer, rows: Tensor) -> Tensor:
    """This process's share of rows that all processes have."""
    return rows[trainer.global_rank :: trainer.world_size]


def log_means(module: LightningModule, values: dict[str, Tensor], n: int, **options: bool) -> None:
    """Log means over a batch of n examples.

    An epoch's means are then over all examples of all processes.

    All processes must log the same names in the same order; one whose batch is empty adds nothing.

    Args:
        module: whose step this is.
        values: means by name.
        n: number of examples in this process's batch.
        options: those of `LightningModule.log_dict`.
    """
    if n == 0:
        values = {name: torch.zeros_like(value) for name, value in values.items()}

    # a float: the average of whole numbers over processes is rounded down by Lightning
    module.log_dict(values, batch_size=float(n), on_epoch=True, sync_dist=True, **options)


def like_parameters(stack: Stack, batch: Sequence[Tensor]) -> Split:
    """A batch as rows on the stack's device, real numbers in its precision.

    Raises:
        ValueError: for what is no batch of real numbers, see `checks.batch` and `checks.numbers`.
    """
    like = next(stack.parameters())
    x, *others = Split.of(batch)
    rows = checks.flat(checks.numbers("x of the batch", x, like))

    y, observed = (
        None if part is None else checks.numbers("y of the batch", part, like, kept=True)
        for part in others
    )
    return Split(rows, y, observed)


def first_said(trainer: Trainer, said: str | None) -> str | None:
    """What the first process that says anything says; all of them must call."""
    if trainer.world_size == 1:
        return said

    words: list[str | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(words, said)
    return next(filter(None, words), None)
