"""Parts of a round of a clamped chain, and where its missing elements start."""

import copy
import math

import torch
from torch import Generator, Tensor

from gendae.corruption import uniform_like
from gendae.models.joint import JointStack
from gendae.models.modalities import Laws
from gendae.models.stack import Stack
from gendae.models.widths import ROUND, LoopNoise
from gendae.priors.base import Prior
from gendae.sampling.samplers import BATCH, POOL


def around(stack: Stack, level: int, h: Tensor, use_prior: bool = False) -> Tensor:
    """h_level up to the top and down again, without noise.

    At the top itself, that is the prior's reconstruction.
    """
    top = stack.up(h, level)[-1]
    if use_prior or level == stack.depth:
        top = whole(stack.prior).reconstruct(top)

    return stack.down(top, stop=level)[0]


def whole(prior: Prior) -> Prior:
    """The prior, a Parzen window with all of its terms: a chain may come across a stored code."""
    if not prior.leave_one_out:
        return prior

    prior = copy.copy(prior)
    prior.leave_one_out = False

    return prior


def laws_of(stack: Stack, level: int) -> Laws | None:
    """The laws of the modalities' slices of h_level; None without slices."""
    if isinstance(stack, JointStack) and level <= stack.level and len(stack.names) > 1:
        return stack.laws(level)

    return None


def draw(
    stack: Stack, level: int, mean: Tensor, temperature: float, generator: Generator | None
) -> Tensor:
    """Discrete slices moved from their mean towards a draw, by the temperature, at most 1."""
    laws = laws_of(stack, level)
    if laws is None or not laws.drawn:
        return mean

    parts = []
    for law, part in laws.parts(mean):
        if law.drawn:
            part = torch.lerp(part, law.sample(part, generator), min(1.0, temperature))
        parts.append(part)

    return torch.cat(parts, -1)


def noisy_around(
    stack: Stack,
    level: int,
    h: Tensor,
    temperature: float,
    generator: Generator | None,
    use_prior: bool = False,
) -> Tensor:
    """h_level up to the top and down again: a draw from P(h_level | h~), not its mean.

    Drawn slices, such as labels, get no noise here. See `gendae.models.widths`.
    """
    noise = spared(stack, level, stack.loop_noise(level))
    pairs = list(stack.pairs[level:])

    top = noise.climb(pairs, h, ROUND * temperature, generator)
    if use_prior:
        top = whole(stack.prior).reconstruct(top)

    draws = generator if temperature > 0.0 else None
    mean = stack.down(top, stop=level, generator=draws)[0]

    return draw_near(stack, level, mean, temperature, generator)


def draw_near(
    stack: Stack, level: int, mean: Tensor, temperature: float, generator: Generator | None
) -> Tensor:
    """A draw from P(h_level | h_L) around its mean, in the range of each modality's values."""
    noise = spared(stack, level, stack.loop_noise(level))
    h = noise.draw(stack.law(level), mean, temperature, generator)
    if level > 0 or not isinstance(stack, JointStack):
        return h

    slices = stack.separate(h).items()
    return torch.cat([stack.modalities[name].bounded(part) for name, part in slices], -1)


def spared(stack: Stack, level: int, noise: LoopNoise) -> LoopNoise:
    """The noise of a round without that of slices which `draw` draws."""
    laws = laws_of(stack, level)
    if laws is None or not laws.drawn:
        return noise

    keep = []
    for law, part in laws.parts(noise.entering):
        keep.append(torch.full_like(part, float(not law.drawn)))
    kept = torch.cat(keep)
    return noise._replace(entering=noise.entering * kept, rest=noise.rest * kept)


def deviation(stack: Stack, level: int) -> Tensor | float:
    """How far h_level lies from a mean of the model: the width of its draws, in units of h."""
    if level == stack.depth:
        # the noise of a step of the prior's chain
        return math.sqrt(2.0) * stack.prior.noise_of_units

    stack.require_residuals(level)
    return float(stack.residuals[level])


def from_prior(
    stack: Stack, level: int, h: Tensor, mask: Tensor, generator: Generator | None
) -> Tensor:
    """Draws of h_level under the prior, resampled by the likelihood of the observed elements.

    That is importance resampling.
    """
    pool = stack.prior.sample(POOL, generator)
    pool = stack.down(pool, stop=level)[0]

    draws = []
    masks = mask.expand_as(h).split(BATCH)
    for rows, seen in zip(h.split(BATCH), masks, strict=True):
        score = agreement(stack, level, rows, seen.to(h.dtype), pool)

        # score + Gumbel noise is greatest at a draw from softmax(score)
        uniform = uniform_like(score, generator).clamp_min(1e-30)
        gumbel = -(-uniform.log()).log()
        draws.append(pool[(score + gumbel).argmax(1)])

    return torch.cat(draws)


def likeliest_draws(stack: Stack, x: Tensor, mask: Tensor, draws: Tensor, chains: int) -> Tensor:
    """For each row, the likeliest given its observed elements among draws of its chain's own.

    Unlike `from_prior`'s, starts of the same x differ: each chain has other draws to choose from.

    Args:
        stack: the model.
        x: (chains times batch, width), the same batch for each chain.
        mask: True where an element is observed, of the shape of x.
        draws: of x, (chains times any number, width).
        chains: how many times the batch is repeated.
    """
    starts = []
    parts = zip(x.chunk(chains), mask.chunk(chains), draws.chunk(chains), strict=True)
    for rows, seen, own in parts:
        score = stack.law(0).pool_log_prob(rows, seen.to(x.dtype), own, noise=1.0)
        starts.append(own[score.argmax(1)])

    return torch.cat(starts)


def agreement(stack: Stack, level: int, h: Tensor, seen: Tensor, pool: Tensor) -> Tensor:
    """log-likelihood of the observed elements of each h around each mean of the pool.

    Up to a constant, (batch, pool).

    Args:
        stack: the model.
        level: l of the h_l.
        h: (batch, width).
        seen: 1 where an element of h is observed, 0 elsewhere, (batch, width).
        pool: the means, (pool, width).
    """
    noise = deviation(stack, level)
    if noise == 0.0:
        raise ValueError(
            "begin='prior' weighs draws of the prior by a noise of 0, at which none of them fits; "
            "give the prior a noise, or choose another start: mask, noise"
        )

    return stack.law(level).pool_log_prob(h, seen, pool, noise)
