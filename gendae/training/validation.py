"""Which validations are looked at more closely, and on which examples."""

from collections.abc import Iterable, Sequence

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from gendae.data.loader import Split, joined
from gendae.rules.processes import of_all_ranks


def due(trainer: Trainer, every: int) -> bool:
    """Whether this validation is looked at more closely: one epoch in `every`, and the last.

    A validation by itself always is. What ends a fit is known before its last validation, unless
    that is an early stopping, which decides after it.
    """
    if trainer.sanity_checking:
        return False
    if trainer.state.fn != "fit":
        return True

    return (trainer.current_epoch + 1) % every == 0 or ends(trainer)


def ends(trainer: Trainer) -> bool:
    """Whether the latest batch is the last of a fit that validates."""
    if not trainer.enable_validation:
        return False

    stops_early = trainer.should_stop and trainer.fit_loop._can_stop_early
    return stops_early or ends_as_planned(trainer)


def ends_as_planned(trainer: Trainer) -> bool:
    """Whether the latest batch is the last one by `max_steps` or `max_epochs`."""
    if trainer.global_step == trainer.max_steps:
        return True

    return trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs


def validation_batch(trainer: Trainer, n: int) -> Split:
    """The first n validation examples, the same on all ranks."""
    data = getattr(trainer, "datamodule", None)
    if hasattr(data, "split"):
        return data.split("valid")[:n]

    share = joined(_batches_with(trainer.val_dataloaders, n))
    device = trainer.strategy.root_device

    return share.map(lambda part: of_all_ranks(trainer, part.to(device))[:n])


def _batches_with(loader: Iterable[Sequence[Tensor]], n: int) -> list[Split]:
    """The first batches of a loader, until they hold n examples."""
    batches = []
    count = 0
    with torch.random.fork_rng([]):  # torch's own loader draws a seed whenever it starts
        for batch in loader:
            batches.append(Split.of(batch))
            count += len(batch[0])
            if count >= n:
                break

    return batches
