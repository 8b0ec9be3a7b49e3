"""Blocks of a band of noise each, trained alone: the denoising auto-encoder as a deep model."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gendae import checks
from gendae.completion.descent import DescentInpainter
from gendae.corruption import Corruption, GaussianNoise
from gendae.models.blocks import bands_of
from gendae.models.classifier import Classifier, label_loss
from gendae.models.label_blocks import label_blocks
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.registry import register
from gendae.rules.base import Rule
from gendae.rules.moment import Moment
from gendae.rules.processes import log_means
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule
from gendae.sampling.descent import DescentSampler

SCHEDULES = ("joint", "in turn")


@register
class DenoisingBlocksRule(Rule):
    """Every pair of a stack of bands learns to denoise x at the levels that it owns, alone.

    denoise_g_l:  E (v + s^2) / (v s^2) (D_l(x + s n; s) - x)^2,   s in the band of pair l

    v is the square of the band's `spread`. Inputs and targets are data and noise: nothing that one
    block computes reaches another in training, neither a gradient nor an activation. The encoders
    have nothing to learn.
    Source: see `gendae.models.blocks`; Karras et al. 2022, Eq. 8 and table 1, for the loss.

    Args:
        stack: as `gendae.denoising_blocks` makes it.
        schedule: "joint" trains all blocks at every update, "in turn" one after the other.
        rates, log_every: see `Rule`.

    Raises:
        ValueError: see `Rule`; for an unknown schedule, and a stack of other pairs than bands, or
            of bands out of order.

    Example:
        >>> import torch
        >>> from gendae.models.architectures import denoising_blocks
        >>> rule = DenoisingBlocksRule(denoising_blocks(8, blocks=2))
        >>> sorted(rule.losses((torch.rand(10, 8),)))
        ['denoise_g_1', 'denoise_g_2']
    """

    DEFAULT_SETTINGS = Settings(sampler=DescentSampler(), inpainter=DescentInpainter())

    def __init__(
        self,
        stack: Stack,
        schedule: str = "joint",
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, rates, log_every)
        self.schedule = checks.one_of("schedule", schedule, SCHEDULES)

        noises = [pair.recognition.sigma for pair in self.stack.pairs]
        self.corruption: list[Corruption] = [GaussianNoise(sigma) for sigma in (0.0, *noises)]

    def _check_untrained(self) -> None:
        super()._check_untrained()
        bands_of("stack", self.stack)

    @property
    def has_phases(self) -> bool:
        return self.schedule == "in turn"

    def phase(self, moment: Moment) -> int:
        """The block that learns; 0 for all of them."""
        if self.schedule == "joint" or moment.update is None:
            return 0

        return 1 + moment.update % self.stack.depth

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Denoising losses of the blocks that learn, means over rows and units; batch[0] is x."""
        x = checks.rows("x", checks.width("x", batch[0], self.stack.sizes[0]))
        learns = self.phase(moment)

        terms = {}
        for level, band in enumerate(bands_of("stack", self.stack), 1):
            if learns in (0, level):
                terms[f"denoise_g_{level}"] = band.loss(x, moment.draws)

        return terms

    def global_loss(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> Tensor:
        """The sum of the blocks' losses: the bound on log p(x) has no other terms."""
        return self.total_loss(batch, moment)

    def fit_residuals(self, x: Tensor) -> None:
        self.stack.fit_residuals(x, self.corruption, adds_up=True)

    def _log_reconstruction(self, split: str, x: Tensor) -> None:
        """Loss of each block, for the same draws each time."""
        losses = self.losses((x,), Moment(generator=Generator().manual_seed(0)))
        log_means(self, {f"{split}/{name}": loss for name, loss in losses.items()}, len(x))


@register
class DenoisingLabelsRule(SupervisedRule):
    """Every layer of a classifier of blocks learns to denoise the label at its levels, alone.

    denoise_f_l:  E (v + s^2) / (v s^2) (D_l(y + s n; s, e_l(x)) - y)^2,   s in the band of layer l
    label_f_M:    -log p(y | y^) of the output layer, y^ the guess that the layers come to

    y is one-hot. Layers see x, noisy labels, and nothing of each other; the output layer, an
    affine map of y^, sees what comes down through them, as a constant.
    Source: see `gendae.models.blocks`.

    Args:
        stack: the classifier, as `gendae.denoising_classifier` makes it.
        input_corruption, rates, log_every: see `SupervisedRule`; the noise on x is the same for
            all layers.

    Raises:
        ValueError: see `SupervisedRule`; for a classifier of other layers than blocks, or of
            bands out of order, and for one of values.

    Example:
        >>> from gendae.models.architectures import denoising_classifier
        >>> rule = DenoisingLabelsRule(denoising_classifier([8, 6, 5], classes=3, blocks=2))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['denoise_f_1', 'denoise_f_2', 'label_f_3']
    """

    def __init__(
        self,
        stack: Classifier,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, rates=rates, log_every=log_every)

        label_blocks("stack", self.stack)
        if self.stack.predicts == "values":
            self.refuse("it predicts values, and what is denoised is a class")

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Denoising losses, means over rows and classes, and the output's in nats."""
        blocks = label_blocks("stack", self.stack)
        label = F.one_hot(y, self.stack.classes).to(x)

        terms = {}
        guess = blocks[0].begin(x)
        for level, block in enumerate(blocks, 1):
            seen = block.encoder(x)
            terms[f"denoise_f_{level}"] = block.loss(label, seen, moment.draws)
            with torch.no_grad():
                guess = block.down(guess, seen)

        logits = self.stack.output(torch.cat([x, guess], 1))
        terms[f"label_f_{len(blocks) + 1}"] = label_loss(logits[None], y)

        return terms
