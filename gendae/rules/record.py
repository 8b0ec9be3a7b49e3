"""The record of a training: facts that the model keeps."""

import time
from typing import Any

import torch
from pytorch_lightning import LightningModule

from gendae.data.base import facts_of

#: Facts that say which data a model was trained on.
OF_DATA = ("dataset", "data")


class Record:
    """Writes the facts of a training into `stack.facts`, and counts its seconds."""

    def __init__(self) -> None:
        self.started: float | None = None

    def begin(self, rule: LightningModule, data: object, earlier: dict[str, Any]) -> None:
        """Note the start of a fit.

        Args:
            rule: the rule that trains.
            data: its data module, if there is one.
            earlier: facts of the training that goes on, if one does.
        """
        for fact in OF_DATA:  # a model that was trained before may be trained on others
            rule.stack.facts.pop(fact, None)

        rule.stack.facts.update(
            rule=type(rule).__name__,
            seed=earlier.get("seed", torch.initial_seed()),
            **facts_of(data),
        )
        self.started = time.perf_counter() - earlier.get("seconds", 0.0)

    def update(self, rule: LightningModule) -> None:
        """Note how far the training has come."""
        running = int(not rule.trainer.state.finished)
        rule.stack.facts.update(epochs=rule.current_epoch + running, updates=rule.global_step)
        if self.started is not None:
            rule.stack.facts["seconds"] = round(time.perf_counter() - self.started, 1)
