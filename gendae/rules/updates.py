"""Batches of a training to which nobody listens, without what Lightning does for listeners.

For every batch Lightning opens some twenty profiling contexts, asks each callback for six hooks
and gathers metrics, which takes as long as the arithmetic of a small classifier. `QuietBatches`
leaves that out, and moves the same counters: checkpoints, `global_step` and all that follows from
them are as before, bit for bit. Lightning itself takes the first and the last batch of an epoch,
those whose losses are logged, and all of them where an option or a callback may listen to any.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.core.hooks import DataHooks
from pytorch_lightning.loops.fetchers import _PrefetchDataFetcher
from pytorch_lightning.plugins import Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

from gendae.data.loader import TensorLoader

if TYPE_CHECKING:
    from gendae.rules.shell import Shell

#: The Lightning whose loop is known; another one takes all batches itself.
VERSION = "2.6."

#: Hooks of callbacks and modules inside an update.
INSIDE = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
#: Methods that a rule of one's own may have changed, through which Lightning makes an update.
OF_MODULE = (*INSIDE, "backward", "manual_backward", "optimizers")
OF_RULE = ("training_step", "gradients", "on_train_batch_start")
#: Hooks that a data module may have.
OF_DATA = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")

#: What the ledger logs, which it does in batches that Lightning takes.
LOSSES = "training_step.loss/"


class QuietBatches:
    """The `advance` of Lightning's loop over the batches of an epoch.

    Args:
        trainer: that fits the rule.
        rule: what is trained.
    """

    def __init__(self, trainer: Trainer, rule: "Shell") -> None:
        self.trainer = trainer
        self.rule = rule
        self.loop = trainer.fit_loop.epoch_loop

        self.at_start = _listeners(trainer, "on_train_batch_start")
        self.at_end = _listeners(trainer, "on_train_batch_end")
        self.module_at_end = _changed(rule, LightningModule, "on_train_batch_end")

    def __call__(self, fetcher: _PrefetchDataFetcher) -> None:
        if self.is_heard(fetcher):
            type(self.loop).advance(self.loop, fetcher)
            return

        batch, _, _ = next(fetcher)
        index = self.loop.batch_idx + 1
        progress = self.loop.batch_progress
        progress.is_last_batch = fetcher.done
        batch = self._received(batch)

        results = self.trainer._results
        results.batch = batch
        logged = len(results)

        progress.increment_ready()
        self._call(self.at_start, "on_train_batch_start", batch, index)
        self.rule.on_train_batch_start(batch, index)
        progress.increment_started()
        self._update(batch, index)
        progress.increment_processed()
        self._call(self.at_end, "on_train_batch_end", {}, batch, index)
        if self.module_at_end:
            self.rule.on_train_batch_end({}, batch, index)

        progress.increment_completed()
        if len(results) > logged:
            self.trainer._logger_connector.on_batch_end()
            self.trainer._logger_connector.update_train_step_metrics()

        results.batch = None
        self.rule._current_fx_name = None

    def is_heard(self, fetcher: _PrefetchDataFetcher) -> bool:
        """Whether Lightning is to take the next batch."""
        first = self.loop.restarting or self.loop.batch_progress.current.ready == 0
        last = fetcher.fetched + 1 >= fetcher.length
        if first or last or self.rule.ledger.is_due:
            return True

        return any(not name.startswith(LOSSES) for name in self.trainer._results)

    def _received(self, batch: Sequence[Tensor]) -> Sequence[Tensor]:
        batch = self.rule.on_before_batch_transfer(batch, 0)
        batch = self.rule.transfer_batch_to_device(batch, self.rule.device, 0)

        return self.rule.on_after_batch_transfer(batch, 0)

    def _call(self, callbacks: Sequence[Callback], hook: str, *arguments: object) -> None:
        self.rule._current_fx_name = hook
        for callback in callbacks:
            getattr(callback, hook)(self.trainer, self.rule, *arguments)

    def _update(self, batch: Sequence[Tensor], index: int) -> None:
        self.rule._current_fx_name = "training_step"
        self.rule.quiet = self
        try:
            self.rule.training_step(batch, index)
        finally:
            self.rule.quiet = None

    def take_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step of the optimizer, which `global_step` counts."""
        steps = self.loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        self.rule.on_before_optimizer_step(optimizer)
        optimizer.step()
        steps.increment_completed()


def install(rule: "Shell", base: type["Shell"]) -> None:
    """Let the Trainer that is about to train a rule take its batches quietly, where it can.

    Args:
        rule: the rule.
        base: the class of rules whose methods Lightning calls.
    """
    loop = rule.trainer.fit_loop.epoch_loop
    vars(loop).pop("advance", None)  # that of an earlier fit

    if nobody_listens(rule, base):
        loop.advance = QuietBatches(rule.trainer, rule)


def nobody_listens(rule: "Shell", base: type["Shell"]) -> bool:
    """Whether no option, no callback and no method of one's own may listen to every batch."""
    trainer = rule.trainer
    plain = (
        pl.__version__.startswith(VERSION)
        and type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) is Precision
        and type(trainer.profiler) is PassThroughProfiler
        and type(trainer.fit_loop._data_fetcher) is _PrefetchDataFetcher
        and type(trainer.train_dataloader) is TensorLoader
        and not trainer.fast_dev_run
        and not trainer.lr_scheduler_configs
    )

    return plain and not (
        any(_listeners(trainer, hook) for hook in INSIDE)
        or any(_changed(trainer.datamodule, DataHooks, hook) for hook in OF_DATA)
        or any(_changed(rule, base, name) for name in (*OF_MODULE, *OF_RULE))
    )


def _listeners(trainer: Trainer, hook: str) -> list[Callback]:
    """Callbacks with a hook, but those content with batches whose losses are logged."""
    heard = [callback for callback in trainer.callbacks if _changed(callback, Callback, hook)]
    return [callback for callback in heard if getattr(callback, "hears_every_batch", True)]


def _changed(thing: object, base: type, name: str) -> bool:
    """Whether a method is not that of a base class."""
    own = name in getattr(thing, "__dict__", {})
    return thing is not None and (own or getattr(type(thing), name) is not getattr(base, name))
