"""Parts of a round of a clamped chain, and where its missing elements start."""

import copy
import math

import torch
from torch import Generator, Tensor

from gendae.corruption import uniform_like
from gendae.laws import Bernoulli, Categorical, Discrete, Gaussian, Law
from gendae.models.joint import JointStack
from gendae.models.modalities import Laws
from gendae.models.stack import Stack
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
    if not getattr(prior, "leave_one_out", False):
        return prior

    prior = copy.copy(prior)
    prior.leave_one_out = False

    return prior


def change(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Root mean square of the change of missing elements, (batch,)."""
    missing = ~mask.expand_as(new)
    squares = ((new - old).square() * missing).sum(1)
    elements = missing.sum(1).clamp_min(1)

    return squares.div(elements).sqrt()


def laws_of(stack: Stack, level: int) -> Laws | None:
    """The laws of the modalities' slices of h_level; None without slices."""
    if isinstance(stack, JointStack) and level <= stack.level and len(stack.names) > 1:
        return stack.laws(level)

    return None


def drawn(law: object) -> bool:
    """Whether a chain draws values from this law, a discrete one, instead of adding noise."""
    return (
        isinstance(law, Categorical)
        or (isinstance(law, Bernoulli) and law.binary)
        or (isinstance(law, Discrete) and law.stochastic)
    )


def draw(
    stack: Stack, level: int, mean: Tensor, temperature: float, generator: Generator | None
) -> Tensor:
    """Discrete slices moved from their mean towards a draw, by the temperature, at most 1."""
    laws = laws_of(stack, level)
    if laws is None or not any(drawn(law) for law in laws.laws):
        return mean

    parts = []
    for law, part in laws.parts(mean):
        if drawn(law):
            part = torch.lerp(part, law.sample(part, generator), min(1.0, temperature))
        parts.append(part)

    return torch.cat(parts, -1)


def chain_noise(stack: Stack, level: int) -> Tensor | float:
    """Deviation of a chain's noise at temperature 1."""
    if level == stack.depth:
        # a step of Langevin's, together with the denoising that follows
        return math.sqrt(2.0) * stack.prior.noise

    if stack.residuals.numel() <= level:
        raise ValueError(
            "the stack does not know how far its reconstructions miss h: call "
            "stack.fit_residuals(x), or give the completer a corruption"
        )

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
    noise = chain_noise(stack, level)
    if noise == 0.0:
        raise ValueError(
            "begin='prior' weighs draws of the prior by a noise of 0, at which none of them fits; "
            "give the prior a noise, or choose another start: mask, noise"
        )

    laws = laws_of(stack, level) or _law_of_all(stack, level, h.shape[1])
    means = pool.split(laws.widths, -1)

    total = h.new_zeros(len(h), len(pool))
    for (law, values, weights), mean in zip(laws.parts(h, seen), means, strict=True):
        total += _agreement_under(law, values, weights, mean, noise)

    return total


def _law_of_all(stack: Stack, level: int, width: int) -> Laws:
    """The law of a h_level without slices; Gaussian at the top, where no layer predicts it."""
    if level == stack.depth:
        return Laws([Gaussian()], [width])

    return Laws([stack.pairs[level].observation], [width])


def _agreement_under(
    law: Law, values: Tensor, seen: Tensor, means: Tensor, noise: Tensor | float
) -> Tensor:
    """See `agreement`, of one slice; the deviation of a law of real values is the noise."""
    if isinstance(law, Categorical):
        return _agreement_of_classes(values, seen, means)

    if isinstance(law, Bernoulli):
        return _agreement_of_bits(values, seen, means)

    return _squared_distance(values, seen, means) / -(2.0 * noise**2)


def _agreement_of_classes(values: Tensor, seen: Tensor, means: Tensor) -> Tensor:
    """sum_j x_j log p_j over the observed elements, (batch, pool)."""
    return (values * seen) @ means.clamp_min(1e-6).log().T


def _agreement_of_bits(values: Tensor, seen: Tensor, means: Tensor) -> Tensor:
    """sum_j x_j log p_j + (1 - x_j) log(1 - p_j) over the observed elements, (batch, pool)."""
    p = means.clamp(1e-6, 1.0 - 1e-6)
    ones = (values * seen) @ p.log().T
    zeros = ((1.0 - values) * seen) @ (1.0 - p).log().T

    return ones + zeros


def _squared_distance(values: Tensor, seen: Tensor, means: Tensor) -> Tensor:
    """sum_j (x_j - m_j)^2 over the observed elements, (batch, pool)."""
    squares = (values.square() * seen).sum(1, keepdim=True)
    distance = squares - 2.0 * (values * seen) @ means.T

    return distance + seen @ means.square().T
