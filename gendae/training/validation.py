"""Which epochs are looked at more closely, and on which validation examples."""

from collections.abc import Iterable, Sequence

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from gendae.data.loader import Split, joined
from gendae.rules.processes import of_all_ranks


def due(trainer: Trainer, every: int) -> bool:
    """Whether this epoch of a fit is one in `every`, or the last."""
    if trainer.sanity_checking:
        return False

    epoch = trainer.current_epoch + 1

    return epoch % every == 0 or epoch == trainer.max_epochs


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
