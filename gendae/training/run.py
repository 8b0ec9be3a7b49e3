"""The checkpoints of a run of `gendae fit`, when it is interrupted and when it is resumed."""

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

from gendae.rules.resume import before_validation
from gendae.storage.atomic import write_whole
from gendae.storage.progress import check_callbacks
from gendae.storage.sealed import CheckpointError, read
from gendae.storage.verify import check_content
from gendae.training.validation import ends, ends_as_planned

#: Signals that end a fit: Ctrl-C, `kill`, and the end of the terminal where the system has it.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupted(SystemExit):
    """A signal ended the run; the exit code is 128 + its number, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class RunCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that knows that a resumed run has a new folder.

    The best checkpoint of the earlier run lies beside the one that is resumed. It is carried over
    together with its score: only a better one replaces it. If it is missing, damaged or chosen by
    another score, a line says so, and the best of the new run is kept.
    """

    @property
    def state_key(self) -> str:
        """The key of a ModelCheckpoint: checkpoints of both hold the same."""
        own = type(self).__qualname__

        return super().state_key.replace(own, ModelCheckpoint.__qualname__, 1)

    @property
    def keeps_last(self) -> bool:
        """Whether this callback writes last.ckpt: it follows no score and is not switched off."""
        return self.monitor is None and self.save_top_k != 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._scored(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._scored(trainer):
            super().on_validation_end(trainer, pl_module)

    def _scored(self, trainer: Trainer) -> bool:
        """Whether the score was taken in this epoch (`--parzen.every`): if not, nothing is chosen.

        The last epoch has a score, unless the fit stops early, and a name that nothing logs is an
        error there.
        """
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            return True

        return ends_as_planned(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.dirpath == state_dict.get("dirpath"):
            super().load_state_dict(state_dict)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        keeps_best = self.monitor is not None and self.save_top_k == 1
        if trainer.state.fn != "fit" or not keeps_best or self.dirpath is None:
            return

        earlier = Path(trainer.ckpt_path).with_name(f"{self.filename}{self.FILE_EXTENSION}")
        if earlier.parent.resolve() == Path(self.dirpath).resolve():
            return  # the same folder: Lightning's own state is right

        try:
            content = read(earlier)
            check_content(earlier, content)
            check_callbacks(earlier, content)
            score = self._score_of(content)
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
        """The best score in a checkpoint, if this score chose it."""
        state = (checkpoint.get("callbacks") or {}).get(self.state_key)
        if state is None:
            return None

        return state.get("best_model_score")

    def _carry_over(self, trainer: Trainer, earlier: Path, score: Tensor) -> None:
        """Copy the earlier best checkpoint, and take it and its score as the best so far."""
        path = os.path.join(self.dirpath, earlier.name)
        if trainer.is_global_zero:
            write_whole(path, earlier.read_bytes())

        score = score.to(trainer.strategy.root_device)
        self.best_k_models = {path: score}
        self.best_model_path = path
        self.best_model_score = score
        self.kth_best_model_path = path
        self.kth_value = score


class ValidationAtEnd(Callback):
    """Validates at the end of a fit too, where `check_val_every_n_epoch` would leave it out.

    So every run, a short trial among them, has a score, samples, and a best.ckpt of its end.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        planned = loop._should_check_val_fx
        earlier = loop.batch_progress.total.ready

        def due(fetcher: object) -> bool:
            if planned(fetcher):
                return True
            if loop.batch_progress.total.ready == earlier:
                return was_validated(trainer)

            return ends(trainer)

        loop._should_check_val_fx = due

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        vars(trainer.fit_loop.epoch_loop).pop("_should_check_val_fx", None)


def was_validated(trainer: Trainer) -> bool:
    """Whether a fit goes on after a validation at the end of an epoch, before its first batch.

    That validation was the last of a shorter fit, and not planned in the longer one: Lightning,
    which asks for it, would take the epoch for unfinished.
    """
    loop = trainer.fit_loop.epoch_loop

    return trainer.enable_validation and loop.restarted_on_last and trainer.is_last_batch


class StopAtSignal(Callback):
    """Signals end a fit with a last.ckpt, from which it goes on as if it had never stopped.

    They are Ctrl-C, SIGTERM and SIGHUP, which a closing terminal sends; those that are ignored,
    as SIGHUP under nohup, stay so. The current update is finished, and last.ckpt is written after
    it. During a validation, or right before one, the epoch is finished, which writes last.ckpt. A
    second signal ends the fit at once: the earlier last.ckpt stays. Several processes would have
    to agree on where to stop.
    For them the callback does nothing, and last.ckpt is that of the last epoch.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            heard = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
            self._handlers = {number: signal.signal(number, self._receive) for number in heard}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; a second one ends the fit at once."""
        if self.received is not None:
            raise Interrupted(number)

        self.received = number

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        # gradients that wait for the rest of their update are in no checkpoint
        if self.received is None or not pl_module.ends_update(batch_idx):
            return
        if before_validation(trainer):
            return

        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, RunCheckpoint) and callback.keeps_last:
                trainer.save_checkpoint(callback.format_checkpoint_name({}))

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
        """Give the signals back to the handlers that they had before the fit."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

        self._handlers = {}
