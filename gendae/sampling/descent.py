"""Samples of a stack of bands: from noise down through all levels (`DescentSampler`)."""

from collections.abc import Iterator

from torch import Generator, Tensor

from gendae import checks
from gendae.inference import Representations
from gendae.models.blocks import bands_of, denoiser_of, from_top
from gendae.models.stack import Stack
from gendae.priors.descents import Descent, HeunDescent
from gendae.registry import build, register
from gendae.sampling.samplers import Sampler


@register
class DescentSampler(Sampler):
    """A draw of h_L, descended through the bands of a stack, each of which denoises its levels.

    Source: see `gendae.priors.descents`.

    Args:
        descent: the way down; its levels are in units of x, and begin at that of the stack's h_L,
            whatever its own `highest` is. `HeunDescent` to a level of 0.1 if None.

    Raises:
        ValueError: when called, for a stack of other pairs than bands, and a descent that does not
            stop below the level of h_L.

    Example:
        >>> import torch
        >>> from gendae.models.architectures import denoising_blocks
        >>> _ = torch.manual_seed(0)
        >>> stack = denoising_blocks(8, blocks=2)                   # of Gaussian x, untrained
        >>> x = DescentSampler()(stack, 1000, torch.Generator().manual_seed(0))
        >>> round(x.std().item(), 1)
        0.5
    """

    def __init__(self, descent: Descent | None = None) -> None:
        self.descent = checks.kind("descent", build(descent) or HeunDescent(stop=0.1), Descent)
        super().__init__(rounds=self.descent.steps)

    def check(self, stack: Stack) -> None:
        from_top(self.descent, bands_of("stack", stack))

    def trajectory(
        self, stack: Stack, codes: Tensor, generator: Generator | None
    ) -> Iterator[Representations]:
        """x with less and less noise, from h_L to x."""
        bands = bands_of("stack", stack)
        descent = from_top(self.descent, bands)

        for z in descent.way(denoiser_of(bands), codes, generator):
            yield (z,)
