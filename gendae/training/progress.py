"""What a training is doing: one bar over all epochs on a terminal, or a line for each validation.

Lightning's bars begin anew in every epoch, of which small data have hundreds, and fill a log file.
"""

import sys
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

BAR = "{desc} |{bar:30}| {elapsed}<{remaining}{postfix}"


class EpochBar(ProgressBar):
    """One bar over all epochs, with the sum of the losses and the score of the rule.

    It moves when losses are logged, once in `log_every` updates and at the end of an epoch: other
    batches it does not listen to. Where standard error is no terminal it writes a line after each
    validation instead.
    """

    #: See `gendae.rules.updates`.
    hears_every_batch = False

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._began = 0.0
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **_: Any) -> None:  # noqa: ANN401 - what print takes
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic()
        total = trainer.max_epochs
        if total == -1:
            total = None

        hidden = None if self._enabled else True  # None: unless it is a terminal
        self._bar = tqdm(
            total=total,
            initial=trainer.current_epoch,
            bar_format=BAR,
            file=sys.stderr,
            dynamic_ncols=True,
            disable=hidden,
        )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        part = (batch_idx + 1) / trainer.num_training_batches
        self._move(trainer, pl_module, trainer.current_epoch + part)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._move(trainer, pl_module, trainer.current_epoch + 1.0)

    def _move(self, trainer: Trainer, rule: LightningModule, epochs: float) -> None:
        if self._bar.disable:
            return

        self._bar.set_description_str(epoch_of(trainer), refresh=False)
        self._bar.set_postfix_str(measures(trainer, rule), refresh=False)
        self._bar.update(epochs - self._bar.n)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        told = self._bar is not None and self._bar.disable and self._enabled
        if not told or trainer.sanity_checking:
            return

        seconds = time.monotonic() - self._began
        line = f"{epoch_of(trainer)}: {measures(trainer, pl_module)}  ({seconds:.0f} s)"
        print(line, file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

        self._bar = None


def epoch_of(trainer: Trainer) -> str:
    """The epoch in words, from 1."""
    epoch = f"epoch {trainer.current_epoch + 1}"
    return epoch if trainer.max_epochs == -1 else f"{epoch} of {trainer.max_epochs}"


def measures(trainer: Trainer, rule: LightningModule) -> str:
    """The sum of the latest losses, which an update follows, and the latest score."""
    metrics = trainer.callback_metrics
    losses = [float(value) for name, value in metrics.items() if name.startswith("loss/")]

    words = []
    if losses:
        words.append(f"loss {sum(losses):.4g}")

    score, _ = rule.score
    if score in metrics:
        words.append(f"{score} {float(metrics[score]):.4g}")

    return ", ".join(words)
