"""When to sample, score and draw during training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gendae import checks, plots
from gendae.metrics import parzen_log_prob, sigma_grid
from gendae.sampling import generate

VALIDATION_IMAGES = 1000


class ParzenMonitor(Callback):
    """Logs `val/parzen_ll` after each epoch: the score by which `best.ckpt` is chosen.

    Samples come from a fixed seed, the same on every rank, and the global generator is left alone.

    Args:
        n: number of samples.
        grid: bandwidths; the best on the validation images counts.
        every: epochs between two scores; the last epoch always has one.
        picture: write a grid of samples, samples.png, into the run folder too.
    """

    def __init__(
        self,
        n: int = 2000,
        grid: str | Sequence[float] = "goodfellow",
        every: int = 1,
        picture: bool = True,
    ) -> None:
        self.n = int(checks.at_least("n", n, 1))
        self.grid, self.picture = sigma_grid(grid), picture
        self.every = int(checks.at_least("every", every, 1))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, last = trainer.current_epoch, trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.sanity_checking or not pl_module.generative or not ((epoch + 1) % self.every == 0 or last):
            return
        stack = pl_module.stack
        samples = generate(stack, self.n, seed=0).to(pl_module.device)
        if not bool(torch.isfinite(samples).all()):
            return  # the rule's own check names step, layer and term
        x = self._validation_images(trainer).to(pl_module.device)
        score = parzen_log_prob(x, samples, self.grid).mean(1).max()
        pl_module.log("val/parzen_ll", score.float(), prog_bar=True, rank_zero_only=False)
        if self.picture and trainer.is_global_zero and "shape" in stack.facts:
            shape = tuple(stack.facts["shape"])
            figure = plots.gallery(samples[:100] if shape != plots.POINTS else samples, shape)
            plots.save(figure, Path(trainer.default_root_dir) / "samples.png")

    @staticmethod
    def _validation_images(trainer: Trainer) -> Tensor:
        data = getattr(trainer, "datamodule", None)
        if hasattr(data, "split"):
            return data.split("valid").x[:VALIDATION_IMAGES]
        batches, count = [], 0
        for batch in trainer.val_dataloaders:
            batches.append(batch[0])
            count += len(batch[0])
            if count >= VALIDATION_IMAGES:
                break
        return torch.cat(batches)[:VALIDATION_IMAGES]
