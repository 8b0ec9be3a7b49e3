"""When to sample, score and draw during training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gendae import checks, credit, plots
from gendae.joint import images_of
from gendae.metrics import parzen_log_prob, sigma_grid
from gendae.rules.processes import like_parameters, of_all_ranks, share_of, sum_of_ranks
from gendae.sampling import GenerateSampler, seeded
from gendae.stack import Stack

VALIDATION_IMAGES = 1000
BLOCK = 250  # samples drawn from a seed of their own, by one process


def validation_batch(trainer: Trainer, n: int) -> tuple[Tensor, ...]:
    """The first n validation images, and their labels where there are any: (x,) or (x, y), the same on all ranks."""
    data = getattr(trainer, "datamodule", None)
    if hasattr(data, "split"):
        return tuple(part[:n] for part in data.split("valid") if part is not None)
    batches, count = [], 0  # of a loader, each rank has its share
    with torch.random.fork_rng([]):  # torch's own loader draws a seed whenever it starts
        for batch in trainer.val_dataloaders:
            batches.append(batch)
            count += len(batch[0])
            if count >= n:
                break
    device = trainer.strategy.root_device
    return tuple(
        of_all_ranks(trainer, torch.cat(parts).to(device))[:n]
        for parts in zip(*batches, strict=True)
    )


@torch.no_grad()
def samples_of_all_ranks(trainer: Trainer, stack: Stack, n: int) -> Tensor:
    """n samples of the stack's own sampler, the same for any number of ranks, each of which draws a part."""
    sampler = stack.settings.get("sampler") or GenerateSampler()
    codes = stack.prior.sample(n, seeded(0))
    x = codes.new_zeros(n, stack.sizes[0])
    blocks = zip(codes.split(BLOCK), x.split(BLOCK), strict=True)
    for seed, (start, end) in share_of(trainer, list(enumerate(blocks, 1))):
        end.copy_(sampler.from_codes(stack, start, seeded(seed)))
    return sum_of_ranks(trainer, x)


def due(trainer: Trainer, every: int) -> bool:
    """Whether this epoch of a fit is one in `every`, or the last."""
    epoch = trainer.current_epoch + 1
    return not trainer.sanity_checking and (epoch % every == 0 or epoch == trainer.max_epochs)


class ParzenMonitor(Callback):
    """Logs `val/parzen_ll` after each epoch: the score by which `best.ckpt` is chosen.

    Of several modalities, the images of the first that has any are scored. Samples come from fixed seeds, and the global
    generator is left alone. Several processes share the work; samples and score are those of one process.

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
        if not pl_module.generative or not due(trainer, self.every):
            return
        stack = pl_module.stack
        samples = samples_of_all_ranks(trainer, stack, self.n)
        if not bool(torch.isfinite(samples).all()):
            return  # the rule's own check names step, layer and term
        batch = like_parameters(stack, validation_batch(trainer, VALIDATION_IMAGES))
        x = pl_module.examples(batch)
        samples, shape = images_of(stack, samples)
        own = share_of(trainer, images_of(stack, x)[0]).contiguous()
        totals = sum_of_ranks(
            trainer, parzen_log_prob(own, samples.contiguous(), self.grid).sum(1)
        )
        score = (totals / len(x)).max()
        pl_module.log("val/parzen_ll", score.float(), prog_bar=True, rank_zero_only=False)
        if self.picture and trainer.is_global_zero and shape is not None:
            figure = plots.gallery(samples[:100] if shape != plots.POINTS else samples, shape)
            plots.save(figure, Path(trainer.default_root_dir) / "samples.png")


class CreditMonitor(Callback):
    """Logs how well a classifier's rule assigns credit, on validation images: see `gendae.credit`.

    `credit/cosine_l`, and for rules with targets `credit/improves_l` (Eq. 3.3), `credit/local_l` (Eq. 3.6) and
    `credit/inverse_l`; credit.png in the run folder shows the latest. Weights and random numbers of the training
    are those of a run without it.

    Args:
        every: epochs between two measurements, in epochs with a validation; the last one always has one. 0: none.
        n: number of validation images.

    Raises:
        ValueError: for every < 0, n < 1; at the start of a fit, for rules that do not train a classifier.
    """

    def __init__(self, every: int = 0, n: int = 1000) -> None:
        self.every = int(checks.at_least("every", every, 0))
        self.n = int(checks.at_least("n", n, 1))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before anything is written."""
        if self.every and stage == "fit":
            try:
                credit.supervised(pl_module)
            except ValueError as error:
                raise ValueError(f"credit.every={self.every}: {error}") from None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.every or trainer.state.fn != "fit" or not due(trainer, self.every):
            return
        batch = validation_batch(trainer, self.n)
        if len(batch) < 2:
            return  # the rule's own check says that there are no labels
        stack = pl_module.stack
        x, y = batch[0].to(stack.device, stack.dtype), batch[1].to(stack.device)
        found = credit.by_layer(pl_module, x, y)
        pl_module.log_dict(
            {
                f"credit/{name}_{level}": value
                for name, values in found.items()
                for level, value in values.items()
            },
            rank_zero_only=False,
        )
        if trainer.is_global_zero:
            plots.save(plots.layers(found), Path(trainer.default_root_dir) / "credit.png")
