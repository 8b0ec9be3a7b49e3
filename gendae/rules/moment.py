"""The moment of an update: all that losses depend on besides the batch and the weights.

Losses are functions of (weights, batch, moment). What changes from update to update is an
argument, so that nobody has to set an attribute of a rule, nor put it back.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Moment:
    """How far training has come, where its noise comes from, and which maps learn.

    Args:
        progress: fraction of the training done, in [0, 1]: noise levels that decay follow it. A
            0-dimensional tensor stands for it where an update is recorded.
        generator: source of all noise and draws; the global generator if None.
        update: number of updates done; None outside a Trainer, where no warm-up takes place.
        learn: directions whose losses are wanted, encoders "f" and decoders "g".

    Example:
        >>> Moment(update=50).share(of=200), Moment().share(of=200)
        (0.25, 1.0)
    """

    progress: float | Tensor = 0.0
    generator: Generator | None = None
    update: int | None = None
    learn: tuple[str, ...] = ("f", "g")

    @property
    def draws(self) -> Generator:
        """Source of draws that are wanted in any case: the generator, or the global one."""
        return self.generator or torch.default_generator

    def share(self, of: int) -> float:
        """The part of a warm-up of `of` updates that is over, in [0, 1]; 1 outside a Trainer."""
        if self.update is None or self.update >= of:
            return 1.0

        return self.update / of
