"""How wide P(h_l | h_L) is under the noise of training, and rounds that draw from it.

A round takes h_l up to the top and down again, h_l <- D(h~_l). A chain of such rounds has the law
of the data if it corrupts h_l as training did and then draws from P(h_l | h~_l), of which D is the
mean only. With training noise of deviation n and J = dD/dh~, the law's covariance is n^2 J. A
second noise of deviation n that goes through D gives n^2 J J^T, which is the same where D projects
onto a manifold; what that leaves open is drawn unit by unit:

    h_l <- D(h_l + sqrt(2) n xi) + s eta,    s_j^2 = E (h_j - D_j(h~))^2 - n^2 (J J^T)_jj

xi and eta are standard normal; what s means to units of another kind, such as pixels in [0, 1],
their law says (`Law.near`). Each level that the round passes has its noise of training, too.
Source: Bengio 2014, sections 2.2.4 and 2.2.7 ("in general one should also add noise").
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae.corruption import Corruption, normal_like
from gendae.laws import Law
from gendae.layers.pair import Pair

#: What acts on a level: a corruption, Gaussian noise of these deviations, or nothing.
Noise = Corruption | Tensor | None


class LoopNoise(NamedTuple):
    """Deviations of the noise of a round from h_l, in units of the representations.

    Attributes:
        entering: n, training noise on h_l, (width of h_l,).
        passing: own noise of h_{l+1} .. h_L, which the round passes.
        rest: s, what is left of the width of P(h_l | h_L), (width of h_l,).
    """

    entering: Tensor
    passing: tuple[Tensor, ...]
    rest: Tensor

    def climb(
        self, pairs: Sequence[Pair], h: Tensor, scale: float, generator: Generator | None
    ) -> Tensor:
        """h_L from h_l by the pairs above it, with `scale` times the noise.

        Units that are drawn are drawn once, whatever the scale.
        """
        h = pairs[0].observation.disturbed(h, self.entering, scale, generator)

        for pair, width in zip(pairs, self.passing, strict=True):
            h = pair.encode(h, generator)
            h = pair.recognition.disturbed(h, width, scale, generator)

        return h

    def draw(self, law: Law, mean: Tensor, scale: float, generator: Generator | None) -> Tensor:
        """A draw by the law of h_l around the mean of a round, with `scale` times the width s."""
        return law.near(mean, scale * self.rest, generator)


#: Noise of a round at temperature 1: that of the corruption, and that of the draw.
ROUND = math.sqrt(2.0)


class Widths(NamedTuple):
    """What `measure` finds, each as one row over the units of several levels.

    Attributes:
        residuals: root mean square of h_l - D(h~_l), one number for each l = 0 .. L-1.
        loops: `entering` and `rest` of h_0 .. h_{L-1}, (2, units).
        noises: own noise of h_1 .. h_L, (units,).
    """

    residuals: Tensor
    loops: Tensor
    noises: Tensor


def measure(
    pairs: Sequence[Pair],
    laws: Sequence[Law],
    h: Sequence[Tensor],
    noise: Sequence[Noise],
    adds_up: bool,
    generator: Generator,
) -> Widths:
    """Widths on clean representations h_0 .. h_L, under the noise of training.

    Args:
        pairs: of the stack.
        laws: of h_0 .. h_{L-1} around their reconstructions.
        h: h_0 .. h_L, (batch, width) each.
        noise: of h_0 .. h_L.
        adds_up: whether training encodes h~_{l-1} to h~_l, so that lower noise adds to it.
        generator: source of the noise.
    """
    own = [rms(corrupt(c, layer, generator) - layer) for c, layer in zip(noise, h, strict=True)]
    total = own
    if adds_up:
        total = _climbed(pairs, h, noise, generator)

    residuals = []
    rests = []
    for level in range(len(pairs)):
        around = LoopNoise(total[level], tuple(own[level + 1 :]), torch.zeros_like(own[level]))
        missed, rest = _miss(pairs[level:], laws[level], h[level], around, generator)
        residuals.append(missed.square().mean().sqrt())
        rests.append(rest)

    loops = torch.stack([torch.cat(total[:-1]), torch.cat(rests)])
    return Widths(torch.stack(residuals), loops, torch.cat(own[1:]))


def _climbed(
    pairs: Sequence[Pair], h: Sequence[Tensor], noise: Sequence[Noise], generator: Generator
) -> list[Tensor]:
    """Deviations of h~_l from h_l, where each h~_l is encoded from the one below it."""
    noisy = corrupt(noise[0], h[0], generator)

    total = [rms(noisy - h[0])]
    for pair, c, layer in zip(pairs, noise[1:], h[1:], strict=True):
        noisy = corrupt(c, pair.encode(noisy, generator), generator)
        total.append(rms(noisy - layer))

    return total


def _miss(
    pairs: Sequence[Pair], law: Law, h: Tensor, noise: LoopNoise, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Deviation of h from D(h~), and its rest s, unit by unit, from two rounds of each row."""
    ends = []
    for _ in range(2):
        code = noise.climb(pairs, h, 1.0, generator)
        for pair in reversed(pairs):
            code = pair.decode(code)
        ends.append(code)

    errors = torch.stack([(end - h).square().mean(0) for end in ends]).mean(0)
    gone_through = 0.5 * (ends[0] - ends[1]).square().mean(0)

    squares = (errors - gone_through).clamp_min(0.0)

    return errors.sqrt(), law.width_of(squares, ends[0])


def corrupt(noise: Noise, h: Tensor, generator: Generator) -> Tensor:
    """h with the noise of a level, as at the end of training."""
    if noise is None:
        return h
    if isinstance(noise, Tensor):
        return torch.addcmul(h, noise, normal_like(h, generator))

    return noise(h, 1.0, generator)


def rms(error: Tensor) -> Tensor:
    """Root mean square of each unit, (features,)."""
    return error.square().mean(0).sqrt()
