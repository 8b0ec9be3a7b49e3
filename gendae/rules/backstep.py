"""The back-propagation-free denoising auto-encoder: the back step gives the encoder its target."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gendae import checks
from gendae.completion.inpainting import Inpainter
from gendae.corruption import Corruption, GaussianNoise
from gendae.layers.pair import Pair
from gendae.models.noise import corruption_of_each
from gendae.models.stack import Stack
from gendae.registry import build, register
from gendae.rules.base import PerLayer, Rule
from gendae.sampling.samplers import AncestralSampler, Sampler


@register
class BackStepRule(Rule):
    """Denoising auto-encoders, one in each pair, trained by difference target propagation.

    h = f(h_{l-1}),  z = g(h + e)
    reconstruct_g_l: |z - h_{l-1}|^2, h taken as a constant: the target of z is its input
    target_f_l:      |f(h_{l-1} + e) - h^|^2,  z^ = h_{l-1}
                     h^ = h + f(z^) - f(z) = 2 h - f(z)                               (Eq. 3.23)

    The last loss is the encoder's own denoising, moved by what a back step through f says of z's
    error. Higher pairs learn from the h_{l-1} below them as it is.
    Source: Lee 2018, section 3.2.4, Eq. 3.20 to 3.23; Bengio 2014 (slides), "Back-Step BFAE".

    Args:
        stack: the model; `TiedPair` has the paper's tied weights.
        corruption: noise e of h_0 .. h_L; Gaussian, 0.3 on x and 0.1 above, if None.
        sampler, inpainter: what the trained stack is sampled and inpainted with; see
            `TargetPropRule`.
        lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every: see `Rule`.

    Raises:
        ValueError: see `Rule`; for a wrong number of corruptions; in training, for x of another
            width.

    Example:
        >>> from gendae.layers.pair import TiedPair
        >>> rule = BackStepRule(Stack(TiedPair(8, 4)))
        >>> sorted(rule.losses((torch.rand(10, 8),)))
        ['reconstruct_g_1', 'target_f_1']
    """

    def __init__(
        self,
        stack: Stack,
        corruption: Sequence[Corruption] | None = None,
        sampler: Sampler | None = None,
        inpainter: Inpainter | None = None,
        lr_f: PerLayer = 1e-3,
        lr_g: PerLayer = 1e-3,
        weight_decay_f: PerLayer = 0.0,
        weight_decay_g: PerLayer = 0.0,
        hold: float = 0.0,
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every)

        if corruption is None:
            corruption = [GaussianNoise(0.3), *(GaussianNoise(0.1) for _ in self.stack.pairs)]
        self.corruption = corruption_of_each(self.stack, build(corruption))

        self.sampler: Sampler = build(sampler) or AncestralSampler()
        self.inpainter: Inpainter = build(inpainter) or Inpainter.encode_decode()
        self.stack.settings = {"sampler": self.sampler, "inpainting": self.inpainter}

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Squared errors summed over units, mean over the batch; batch[0] is x."""
        h = checks.rows("x", checks.width("x", batch[0], self.stack.sizes[0]))

        terms: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            below = h
            with torch.no_grad():
                h = pair.encode(below)
            terms |= self._pair(level, pair, below, h)

        return terms

    def _pair(self, level: int, pair: Pair, below: Tensor, h: Tensor) -> dict[str, Tensor]:
        """The errors of g_l's reconstruction and of f_l's back step."""
        z = pair.g(self._corrupt(level, h))
        with torch.no_grad():
            h_hat = 2.0 * h - pair.encode(z)

        again = pair.f(self._corrupt(level - 1, below))

        return {
            f"reconstruct_g_{level}": (z - below).square().sum(-1).mean(),
            f"target_f_{level}": (again - h_hat).square().sum(-1).mean(),
        }

    def _corrupt(self, level: int, h: Tensor) -> Tensor:
        return self.corruption[level](h, self.progress, self.generator)
