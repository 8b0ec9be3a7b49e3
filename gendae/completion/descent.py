"""Missing pixels of a stack of bands: from noise down through all levels, with pixels given."""

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.completion.chain import Completion
from gendae.completion.inpainting import Inpainter
from gendae.corruption import normal_like
from gendae.inference import TargetPropInference, fill
from gendae.models.blocks import Band, bands_of, denoiser_of, from_top
from gendae.models.filling import FillingBand
from gendae.models.stack import Stack
from gendae.priors.descents import Descent, LangevinDescent
from gendae.registry import Plain, build, register


@register
class DescentInpainter(Inpainter):
    """Chains that descend through the bands of a stack, in which observed pixels are clamped.

    At each level observed pixels have their values with the noise of that level, and missing ones
    follow the descent: Algorithm 6 with annealing over levels of noise. The result is the mean of
    the chains. Bands that have learned to fill in (`FillingBand`) see observed pixels without
    noise; with them a descent of one step is E[x^m | x^v].
    Source: Bengio 2014, Algorithm 6; Song and Ermon 2019, Algorithm 2, for inpainting.

    Args:
        descent: the way down, see `DescentSampler`; `LangevinDescent` to a level of 0.1 if None,
            of many levels, at which missing pixels settle beside the observed ones.
        chains: for each image.

    Raises:
        ValueError: for numbers out of range; when called, for a stack of other pairs than bands.

    Example:
        >>> from gendae.completion.inpainting import inpaint
        >>> from gendae.models.architectures import denoising_blocks
        >>> x, left = torch.rand(3, 8), torch.arange(8) < 4
        >>> y = inpaint(denoising_blocks(8), x, left, DescentInpainter(chains=2), seed=0)
        >>> torch.equal(y[:, :4], x[:, :4]), y.shape
        (True, torch.Size([3, 8]))
    """

    def __init__(self, descent: Descent | None = None, chains: int = 8) -> None:
        usual = LangevinDescent(200, stop=0.1, rounds=1, rate=0.3)
        self.descent = checks.kind("descent", build(descent) or usual, Descent)
        none = TargetPropInference(steps=0)
        super().__init__(self.descent.steps, none, chains, level=None, begin="noise")

    @classmethod
    def upgrade(cls, arguments: dict[str, Plain]) -> dict[str, Plain]:
        """No earlier version had it."""
        return arguments

    def check(self, stack: Stack) -> None:
        from_top(self.descent, bands_of("stack", stack))

    def __call__(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor,
        observed: Tensor | None = None,
        generator: Generator | None = None,
        draws: Tensor | None = None,
    ) -> Completion:
        """The mean of the chains, (batch, width); see `Inpainter`."""
        changes = []
        before = None
        for mean in self.trajectory(stack, x, mask, generator):
            if before is not None:
                changes.append((mean - before).square().mean(1).sqrt())
            before = mean

        ended = torch.ones(len(x), dtype=torch.bool, device=x.device)
        return Completion(mean, torch.stack(changes), ended)

    @torch.no_grad()
    def trajectory(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
        draws: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The mean of the chains at each level, and of what they come to, (batch, width)."""
        bands = bands_of("stack", stack)
        descent = from_top(self.descent, bands)
        given, clamped = self._repeated(x, mask)
        start = stack.prior.sample(len(given), generator).to(given)

        first = bands[0]
        if isinstance(first, FillingBand):
            units = first.units(given, clamped)
            for z in _filled(descent, bands, start, units.enter(given), clamped, generator):
                yield self._mean(units.leave(z), x, mask)
            return

        def keep(z: Tensor, level: float) -> Tensor:
            noisy = torch.add(given, normal_like(given, generator), alpha=level)
            return fill(noisy, clamped, z)

        for z in descent.way(denoiser_of(bands), start, generator, keep):
            yield self._mean(z, x, mask)


def _filled(
    descent: Descent,
    bands: Sequence[Band],
    start: Tensor,
    given: Tensor,
    mask: Tensor,
    generator: Generator | None,
) -> Iterator[Tensor]:
    """A descent of bands that see what is given, without noise, in the units of images."""

    def keep(z: Tensor, level: float) -> Tensor:
        return fill(given, mask, z)

    return descent.way(denoiser_of(bands, mask.to(given)), start, generator, keep)
