"""What a run of `gendae fit` keeps: last.ckpt and best.ckpt, when it is interrupted and when it is taken up again."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from gendae.checkpointing import CheckpointError, read
from gendae.restoring import before_validation
from gendae.writing import write_whole

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """A signal ended the run; the exit code is 128 + its number, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class RunCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that knows that a resumed run has a folder of its own.

    The best checkpoint of the earlier run, beside the one that is resumed, is carried over together with its score: only
    a better one replaces it. Where it is missing, damaged or chosen by another score, a line says so, and the best of
    the new run is kept.
    """

    @property
    def state_key(self) -> str:
        """As that of a ModelCheckpoint: checkpoints of both hold the same."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._scored(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._scored(trainer):
            super().on_validation_end(trainer, pl_module)

    def _scored(self, trainer: Trainer) -> bool:
        """Nothing is chosen after an epoch in which the score was not taken (`--parzen.every`); the last always has one."""
        last = (
            trainer.current_epoch + 1 == trainer.max_epochs
        )  # a name that nothing logs is an error there
        return self.monitor is None or self.monitor in trainer.callback_metrics or last

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.dirpath == state_dict.get("dirpath"):
            super().load_state_dict(state_dict)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if (
            trainer.state.fn != "fit"
            or self.monitor is None
            or self.save_top_k != 1
            or self.dirpath is None
        ):
            return
        earlier = Path(trainer.ckpt_path).with_name(f"{self.filename}{self.FILE_EXTENSION}")
        if earlier.parent.resolve() == Path(self.dirpath).resolve():
            return  # the same folder: Lightning's own state is right
        try:
            score = self._score_of(read(earlier))
            if score is None:
                raise CheckpointError(earlier, f"not chosen by {self.monitor}")
        except (OSError, CheckpointError) as error:
            print(
                f"gendae: the best of the earlier run is not carried over: {error}",
                file=sys.stderr,
            )
            return
        self._carry_over(trainer, earlier, score)

    def _score_of(self, checkpoint: dict[str, Any]) -> Tensor | None:
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        return None if state is None else state.get("best_model_score")

    def _carry_over(self, trainer: Trainer, earlier: Path, score: Tensor) -> None:
        path = os.path.join(self.dirpath, earlier.name)
        if trainer.is_global_zero:
            write_whole(path, earlier.read_bytes())
        score = score.to(trainer.strategy.root_device)
        self.best_k_models = {path: score}
        self.best_model_path = self.kth_best_model_path = path
        self.best_model_score = self.kth_value = score


class StopAtSignal(Callback):
    """Ctrl-C and SIGTERM end a fit with a last.ckpt from which it goes on as if nothing had happened.

    The update that is being made is finished and last.ckpt written there; during a validation, or right before one, the
    epoch is finished, which writes it. A second signal ends the fit at once, with the last.ckpt that there is. Not
    for several processes, which would have to agree on where to stop: theirs is the one of the last epoch.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(number)
        self.received = number

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if self.received is None or before_validation(trainer):
            return
        for keep in trainer.checkpoint_callbacks:
            if isinstance(keep, RunCheckpoint) and keep.monitor is None and keep.save_top_k != 0:
                trainer.save_checkpoint(keep.format_checkpoint_name({}))
        self._stop()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _stop(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
