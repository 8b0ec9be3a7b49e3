"""The back-propagation-free denoising auto-encoder: the back step gives the encoder its target."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption, GaussianNoise
from gendae.models.noise import corruption_of_each
from gendae.models.stack import Stack
from gendae.registry import register
from gendae.rules.base import Rule
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.targets import squared_error


@register
class BackStepRule(Rule):
    """Denoising auto-encoders, one in each pair, trained by difference target propagation.

    h = f(h_{l-1}),  z = g(h + e)
    reconstruct_g_l: |z - h_{l-1}|^2, h taken as a constant: the target of z is its input
    target_f_l:      |f(h_{l-1} + e) - h^|^2,  z^ = h_{l-1}
                     h^ = h + f(z^) - f(z) = 2 h - f(z)                               (Eq. 3.23)

    The last loss is the encoder's own denoising, moved by what a back step through f says of z's
    error. Higher pairs learn from the h_{l-1} below them as it is. Laws of the pairs do not
    enter: errors are squared whatever they are, and a learned sigma stays as it is.
    Source: Lee 2018, section 3.2.4, Eq. 3.20 to 3.23; Bengio 2014 (slides), "Back-Step BFAE".

    Args:
        stack: the model; `TiedPair` has the paper's tied weights.
        corruption: noise e of h_0 .. h_L; Gaussian, 0.3 on x and 0.1 above, if None.
        rates, log_every: see `Rule`.

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
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, rates, log_every)

        if corruption is None:
            corruption = [GaussianNoise(0.3), *(GaussianNoise(0.1) for _ in self.stack.pairs)]
        self.corruption: list[Corruption] = corruption_of_each(self.stack, corruption)

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Squared errors summed over units, mean over the batch; batch[0] is x."""
        h = checks.rows("x", checks.width("x", batch[0], self.stack.sizes[0]))

        terms: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            below = h
            with torch.no_grad():
                h = pair.encode(below)
            terms |= self._pair(level, below, h, moment)

        return terms

    def _pair(self, level: int, below: Tensor, h: Tensor, moment: Moment) -> dict[str, Tensor]:
        """The errors of g_l's reconstruction and of f_l's back step."""
        pair = self.stack.pairs[level - 1]
        z = pair.g(self._corrupt(level, h, moment))
        with torch.no_grad():
            h_hat = 2.0 * h - pair.encode(z)

        again = pair.f(self._corrupt(level - 1, below, moment))

        return {
            f"reconstruct_g_{level}": squared_error(z, below),
            f"target_f_{level}": squared_error(again, h_hat),
        }

    def _corrupt(self, level: int, h: Tensor, moment: Moment) -> Tensor:
        return self.corruption[level](h, moment.progress, moment.generator)
