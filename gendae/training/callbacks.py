"""When to sample, score and draw during training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gendae import checks, plots
from gendae.metrics.parzen import sigma_grid
from gendae.models.joint import images_of
from gendae.models.stack import Stack
from gendae.priors.parzen import parzen_log_prob
from gendae.rules import credit
from gendae.rules.processes import like_parameters, share_of, sum_of_ranks
from gendae.sampling.samplers import sampler_of, seeded
from gendae.training.pictures import Samples, show
from gendae.training.validation import due, validation_batch

VALIDATION_IMAGES = 1000
BLOCK = 250  # samples that one process draws from one seed


@torch.no_grad()
def samples_of_all_ranks(trainer: Trainer, stack: Stack, n: int) -> Tensor:
    """n samples of the stack's own sampler, the same for any number of ranks.

    Each rank draws some blocks of samples and leaves zeros in the others; the sum has all.
    """
    sampler = sampler_of(stack)
    codes = stack.prior.sample(n, seeded(0))
    samples = codes.new_zeros(n, stack.sizes[0])

    starts = range(0, n, BLOCK)
    for start in share_of(trainer, starts):
        block = slice(start, start + BLOCK)
        seed = 1 + start // BLOCK
        samples[block] = sampler.from_codes(stack, codes[block], seeded(seed))

    return sum_of_ranks(trainer, samples)


class ParzenMonitor(Callback):
    """Logs `val/parzen_ll` after each epoch: the score by which `best.ckpt` is chosen.

    Of several modalities, the first one of images is scored. Samples come from fixed seeds, and
    the global generator is left alone. Several processes share the work; samples and score are
    those of one process.

    Args:
        n: number of samples.
        grid: bandwidths; the best on the validation images counts.
        every: epochs between two scores; the last epoch always has one, but where a fit stops
            early by what its validation shows.
        picture: write samples.png into the run folder too, the samples of `Pictures` after each
            score.
    """

    #: How the names begin that are logged.
    logs = ("val/parzen_ll",)

    def __init__(
        self,
        n: int = 2000,
        grid: str | Sequence[float] = "goodfellow",
        every: int = 1,
        picture: bool = True,
    ) -> None:
        self.n = checks.whole("n", n, 1)
        self.grid = sigma_grid(grid)
        self.every = checks.whole("every", every, 1)
        self.picture = picture

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not pl_module.generative or not due(trainer, self.every):
            return

        stack = pl_module.stack
        samples = samples_of_all_ranks(trainer, stack, self.n)
        if not bool(torch.isfinite(samples).all()):
            return  # the rule's own check names step, layer and term

        batch = like_parameters(stack, validation_batch(trainer, VALIDATION_IMAGES))
        x = pl_module.examples(batch)
        samples, _ = images_of(stack, samples)
        images, _ = images_of(stack, x)

        score = self._score(trainer, images, samples)
        pl_module.log("val/parzen_ll", score.float(), prog_bar=True, rank_zero_only=False)

        shown = Samples()
        if self.picture and trainer.is_global_zero and shown.suits(pl_module):
            figure = shown.draw(pl_module, x)
            plots.save(figure, Path(trainer.default_root_dir) / "samples.png")

    def _score(self, trainer: Trainer, images: Tensor, samples: Tensor) -> Tensor:
        """Mean log-density of the images, at the best bandwidth; each rank computes a share."""
        share = share_of(trainer, images).contiguous()
        log_prob = parzen_log_prob(share, samples.contiguous(), self.grid)
        totals = sum_of_ranks(trainer, log_prob.sum(1))

        return (totals / len(images)).max()


class CreditMonitor(Callback):
    """Logs how well a rule assigns credit, on validation images: see `rules.credit`.

    The names are `credit/cosine_f_l` and `credit/cosine_g_l` for generative stacks. For
    classifiers they are `credit/cosine_l`, and for rules with targets also `credit/improves_l`
    (Eq. 3.3), `credit/local_l` (Eq. 3.6) and `credit/inverse_l`. credit.png in the run folder
    shows the latest values; numbered files and loggers have all of them, as `Pictures` has, unless
    its `every` is 0.
    Weights and random numbers of the training are those of a run without this callback.

    Args:
        every: epochs between two measurements, in epochs with a validation; the last epoch always
            has one, but where a fit stops early by what this validation shows. 0: none.
        n: number of validation images.

    Raises:
        ValueError: for every < 0, n < 1; at the start of a fit, for joint stacks.
    """

    logs = ("credit/",)

    def __init__(self, every: int = 0, n: int = 1000) -> None:
        self.every = checks.whole("every", every, 0)
        self.n = checks.whole("n", n, 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before anything is written."""
        if not self.every or stage != "fit":
            return

        try:
            credit.need_global_loss(pl_module)
        except ValueError as error:
            raise ValueError(f"credit.every={self.every}: {error}") from None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.every or trainer.state.fn != "fit" or not due(trainer, self.every):
            return

        batch = validation_batch(trainer, self.n)
        if batch.y is None and not pl_module.generative:
            return  # the rule's own check says that there are no labels

        stack = pl_module.stack
        x = batch.x.to(stack.device, stack.dtype)
        y = None if batch.y is None else batch.y.to(stack.device)
        measures = credit.by_layer(pl_module, x, y)

        logged = {}
        for name, values in measures.items():
            logged |= {f"credit/{name}_{level}": value for level, value in values.items()}

        pl_module.log_dict(logged, rank_zero_only=False)

        if trainer.is_global_zero:
            figure = plots.layers(measures)
            plots.save(figure, Path(trainer.default_root_dir) / "credit.png")
            show(trainer, "credit", figure)
