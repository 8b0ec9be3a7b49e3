"""Sampling from any level l: h_l ~ P(H_l) by a chain over the layers above, then down to x.

Below the top the chain corrupts h_l, encodes it to the top and decodes it again: the denoising
auto-encoder that h_l sees above it. At the top the prior itself is asked: directly where it can be
sampled directly, by its own chain (Algorithm 3) where it is an auto-encoder.
Source: Bengio 2014, section 2.2.7.
"""

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import Corruption, GaussianNoise, normal_like
from gendae.inference import Representations
from gendae.layers.pair import Pair
from gendae.models.stack import Stack
from gendae.registry import build, register
from gendae.sampling.samplers import Sampler


@register
class LevelSampler(Sampler):
    """Chain over the auto-encoder above level l:  h_l <- g_{l+1}(.. g_L(h_L)) + residual noise.

    Each round corrupts h_l, climbs to h_L, and comes down again. Under the noise of training, with
    a draw from P(H_l | h_L) instead of its mean, the chain has the law of the data's h_l. Samples
    of x are means all the same: the last round of a chain at level 0 draws nothing.

    A corruption of your own takes the place of the noise of training; h_L is then drawn from
    Q(H_L | h_{L-1}) where that law is a learned one, as the listing's default says.
    Source: Bengio 2014, section 2.2.7 and Algorithm 3.

    Args:
        level: l in 0 .. L; None is the top, where the prior's own chain is run.
        rounds: K, transitions from a sample of the prior.
        corruption: of h_l before it is encoded. If None, the noise that the stack was trained with
            at h_l and above (`Stack.loop_noise`); GaussianNoise(0.3) where it does not know that.
        residual: scale of the draws: 1 gives those of the width measured by `Stack.fit_residuals`;
            0 means, sharper samples of a law that is too narrow. If None, 1 with the noise of
            training and 0 otherwise.

    Raises:
        ValueError: for negative numbers; when called, for a level that the stack does not have,
            residual noise that was not measured, or a chain at the top under a prior that is
            sampled directly.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> from gendae.sampling.samplers import seeded
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> _ = stack.prior.fit(stack.encode(torch.rand(20, 8))[-1])
        >>> LevelSampler(level=1, rounds=5)(stack, 3, seeded(0)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        level: int | None = None,
        rounds: int = 20,
        corruption: Corruption | None = None,
        residual: float | None = None,
    ) -> None:
        super().__init__(rounds)
        if level is not None:
            level = checks.whole("level", level, 0)

        self.level = level
        self.corruption: Corruption | None = build(corruption)
        self.residual = residual
        if residual is not None:
            self.residual = checks.at_least("residual", residual, 0.0)

    def trajectory(
        self, stack: Stack, codes: Tensor, generator: Generator | None
    ) -> Iterator[Representations]:
        """Of a chain at level 0, the last transition is to its mean."""
        h = self.start(stack, codes, generator)
        yield h

        for k in range(1, self.rounds + 1):
            h = self._move(stack, h, generator, draws=k < self.rounds or self.level != 0)
            yield h

    def step(
        self, stack: Stack, h: Representations, generator: Generator | None
    ) -> Representations:
        return self._move(stack, h, generator, draws=True)

    def _move(
        self, stack: Stack, h: Representations, generator: Generator | None, draws: bool
    ) -> Representations:
        level = stack.depth if self.level is None else self.level
        if level > stack.depth:
            raise ValueError(f"level={level} is not in 0 .. {stack.depth}")

        if level == stack.depth:
            new = stack.prior.chain(h[-1], 1, generator)[-1]
        else:
            new = self._up_and_down(stack, h[level], level, generator, draws)

        return (*stack.down(new, level), *h[level + 1 :])

    def _up_and_down(
        self, stack: Stack, h: Tensor, level: int, generator: Generator | None, draws: bool
    ) -> Tensor:
        if self.corruption is None and stack.loops.numel() > 0:
            return self._as_trained(stack, h, level, generator, draws)

        corruption = self.corruption or GaussianNoise(0.3)
        h = corruption(h, 1.0, generator)
        below_top = stack.up(h, level, stack.depth - 1, generator)[-1]
        top = self._encode_to_top(stack.pairs[-1], below_top, generator)
        h = stack.down(top, stop=level)[0]

        if self.residual is None or self.residual == 0.0 or not draws:
            return h

        width = self.residual * self._width(stack, level)
        return torch.add(h, width * normal_like(h, generator))

    def _as_trained(
        self, stack: Stack, h: Tensor, level: int, generator: Generator | None, draws: bool
    ) -> Tensor:
        """A round under the noise of training; see `gendae.models.widths`."""
        residual = 1.0 if self.residual is None else self.residual
        noise = stack.loop_noise(level)

        scale = math.sqrt(1.0 + residual**2)
        top = noise.climb(list(stack.pairs[level:]), h, scale, generator)
        if not draws:
            return stack.down(top, stop=level)[0]

        mean = stack.down(top, stop=level, generator=generator)[0]
        return noise.draw(stack.law(level), mean, residual, generator)

    def _encode_to_top(self, top: Pair, h: Tensor, generator: Generator | None) -> Tensor:
        if top.recognition.learnable:  # drawn from: the default of Algorithm 3
            return top.recognition.sample(top.f(h), generator, h)

        return top.encode(h, generator)

    def _width(self, stack: Stack, level: int) -> Tensor:
        if stack.residuals.numel() == 0:
            raise ValueError(
                f"residual={self.residual:g} needs measured residuals: call "
                "stack.fit_residuals(x) with training images, or pass residual=0"
            )

        return stack.residuals[level]


@torch.no_grad()
def chain_states(
    stack: Stack, sampler: Sampler, n: int, steps: int, generator: Generator | None = None
) -> Iterator[Tensor]:
    """x after 0, 1 .. `steps` transitions of n chains, (n, width of x) each, for diagnostics.

    Raises:
        ValueError: for a sampler without transitions.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> _ = stack.prior.fit(stack.encode(torch.rand(20, 8))[-1])
        >>> len(list(chain_states(stack, LevelSampler(level=1), n=2, steps=3)))
        4
    """
    if type(sampler).step is Sampler.step:
        raise ValueError(
            f"{type(sampler).__name__} has no transitions; use level, generate, chain or joint"
        )

    h = sampler.start(stack, stack.prior.sample(n, generator), generator)
    yield h[0]

    for _ in range(steps):
        h = sampler.step(stack, h, generator)
        yield h[0]
