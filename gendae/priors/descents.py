"""Codes from noise: ways down the levels, each step a denoising.

z starts as N(0, v + s_0^2), where the highest level s_0 leaves nothing of the code, and moves
through levels s_0 > s_1 > .. > s_stop; at the last one it is denoised once more, z = D(z; s_stop).
On the way, z is a draw from the law of codes with noise of the level that has been reached:

| descent | one step from s to a lower s' |
|---|---|
| `HeunDescent` | the flow dz/ds = (z - D(z; s)) / s, second order; first some noise (churn) |
| `AncestralDescent` | a draw from the Gaussian of z' given z and the code D(z; s) |
| `LangevinDescent` | z' = z scaled down to s', then steps of Langevin dynamics at s' |

Without churn, Heun's is the ordinary differential equation (ODE), whose noise is its start alone.
A descent may clamp: before every denoising, `keep` puts what is known, with the noise of the
level, in its place. What is missing then moves as the law given these noisy values has it.
Langevin dynamics comes to rest in that law at each level, and so, as the level goes to 0, in the
law given what is known, each mode with the share that it had where the way between them closed; a
reverse process of few steps does not.
Source: Karras et al. 2022, Eq. 3, 5 and Algorithm 2; Ho et al. 2020; Song and Ermon 2019.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.priors.denoiser import Denoise
from gendae.priors.levels import in_order
from gendae.registry import register

#: Puts known values, with the noise of a level, in the place of those of z.
Keep = Callable[[Tensor, float], Tensor]


def free(z: Tensor, level: float) -> Tensor:
    """z as it is: nothing is known."""
    return z


class Descent:
    """Base class: the levels, and the way through them; a variant defines `step`.

    Levels are s_i = (s_0^(1/rho) + i / (N - 1) (s_stop^(1/rho) - s_0^(1/rho)))^rho, i = 0 .. N-1.
    Source: Karras et al. 2022, Eq. 5.

    Args:
        steps: N, levels on the way; a single one is the highest, at which z is denoised at once.
        highest: s_0, in standard deviations of each unit.
        stop: s_stop, at which the last denoising happens. A higher one smooths the codes.
        rho: how much of the way is spent at low levels.

    Raises:
        ValueError: for no step, and levels of 0 or less or out of order.

    Example:
        >>> class Euler(Descent):                              # the flow, first order
        ...     def step(self, denoise, z, level, lower, generator):
        ...         return denoise(z, level).lerp(z, lower / level)
        >>> half = lambda z, level: z / (1.0 + level**2)       # the denoiser of N(0, 1)
        >>> z = Euler(100)(half, 20.0 * torch.ones(1, 1))
        >>> round(z.item(), 2)
        0.97
    """

    def __init__(
        self, steps: int = 18, highest: float = 20.0, stop: float = 0.2, rho: float = 7.0
    ) -> None:
        self.steps = checks.whole("steps", steps, 1, checks.REPEATS)
        self.stop, self.highest = in_order(stop=stop, highest=highest)
        self.rho = checks.at_least("rho", rho, 1.0)

    def levels(self) -> list[float]:
        """s_0 .. s_stop."""
        high = self.highest ** (1.0 / self.rho)
        low = self.stop ** (1.0 / self.rho)

        shares = (i / max(1, self.steps - 1) for i in range(self.steps))
        return [(high + share * (low - high)) ** self.rho for share in shares]

    def start(self, variances: Tensor, n: int, generator: Generator | None) -> Tensor:
        """n draws from N(0, v + s_0^2), (n, features)."""
        z = normal_like(variances.expand(n, -1), generator)
        return z * (variances + self.highest**2).sqrt()

    @torch.no_grad()
    def __call__(
        self,
        denoise: Denoise,
        z: Tensor,
        generator: Generator | None = None,
        keep: Keep = free,
    ) -> Tensor:
        """The code at the end of the way from z, (batch, features).

        Args:
            denoise: D(z; s).
            z: noise of the highest level, (batch, features).
            generator: source of noise on the way.
            keep: clamps known values to their noisy ones at a level, before every denoising.
        """
        for state in self.way(denoise, z, generator, keep):  # noqa: B007
            pass

        return state

    @torch.no_grad()
    def way(
        self,
        denoise: Denoise,
        z: Tensor,
        generator: Generator | None = None,
        keep: Keep = free,
    ) -> Iterator[Tensor]:
        """z at each level, and the denoised code: `steps` + 1 of them."""
        levels = self.levels()

        def clamped(z: Tensor, level: float) -> Tensor:
            return denoise(keep(z, level), level)

        yield keep(z, levels[0])

        for level, lower in pairwise(levels):
            z = self.step(clamped, z, level, lower, generator)
            yield keep(z, lower)

        yield keep(clamped(z, levels[-1]), 0.0)

    def step(
        self,
        denoise: Denoise,
        z: Tensor,
        level: float,
        lower: float,
        generator: Generator | None,
    ) -> Tensor:
        """z at the lower level."""
        raise NotImplementedError(f"{type(self).__name__} must define step")


@register
class HeunDescent(Descent):
    """Heun's method on the probability flow, after a little more noise (churn).

    s^ = s (1 + min(churn / N, sqrt(2) - 1)) and z^ = z + sqrt(s^^2 - s^2) n; then, with
    d(z, s) = (z - D(z; s)) / s, z' = z^ + (s' - s^) (d(z^, s^) + d(z'', s')) / 2, where z'' is the
    end of a step of Euler's.
    Source: Karras et al. 2022, Algorithm 2.

    Args:
        steps, highest, stop, rho: of the levels, see `Descent`; two denoisings for each.
        churn: noise added on the way, which undoes errors of earlier steps; 0 is the ODE.

    Raises:
        ValueError: for a negative churn; see `Descent`.
    """

    def __init__(
        self,
        steps: int = 18,
        highest: float = 20.0,
        stop: float = 0.2,
        rho: float = 7.0,
        churn: float = 10.0,
    ) -> None:
        super().__init__(steps, highest, stop, rho)
        self.churn = checks.at_least("churn", churn, 0.0)

    def step(
        self,
        denoise: Denoise,
        z: Tensor,
        level: float,
        lower: float,
        generator: Generator | None,
    ) -> Tensor:
        raised = level * (1.0 + min(self.churn / self.steps, math.sqrt(2.0) - 1.0))
        if raised > level:
            noise = math.sqrt(raised**2 - level**2)
            z = torch.add(z, normal_like(z, generator), alpha=noise)

        slope = (z - denoise(z, raised)) / raised
        end = torch.add(z, slope, alpha=lower - raised)
        slope = slope.lerp((end - denoise(end, lower)) / lower, 0.5)

        return torch.add(z, slope, alpha=lower - raised)


@register
class AncestralDescent(Descent):
    """Draws from the Gaussian of z' given z, if the code were D(z; s).

    z' ~ N(D + (s'^2 / s^2) (z - D), s'^2 (s^2 - s'^2) / s^2). One denoising a step; about twice
    the steps of Heun's are needed.
    Source: Ho et al. 2020, Eq. 6 and 7, for noise that is added without scaling.

    Args:
        steps, highest, stop, rho: of the levels, see `Descent`.

    Raises:
        ValueError: see `Descent`.
    """

    def __init__(
        self, steps: int = 40, highest: float = 20.0, stop: float = 0.2, rho: float = 7.0
    ) -> None:
        super().__init__(steps, highest, stop, rho)

    def step(
        self,
        denoise: Denoise,
        z: Tensor,
        level: float,
        lower: float,
        generator: Generator | None,
    ) -> Tensor:
        left = (lower / level) ** 2
        noise = lower * math.sqrt(1.0 - left)

        return torch.add(denoise(z, level).lerp(z, left), normal_like(z, generator), alpha=noise)


@register
class LangevinDescent(Descent):
    """Annealed Langevin dynamics: some rounds at every level, at which z comes to rest.

    z <- z + rate (D(z; s') - z) + sqrt(2 rate) s' n, `rounds` times; before them, z is moved by
    the flow to the variance of the lower level, z' = D + (s' / s) (z - D). It needs no reverse
    process, and is what a clamped chain does at one level. Small rates and many rounds are exact.
    Source: Song and Ermon 2019, Algorithm 1; Bengio 2014, section 3.2, for the chain.

    Args:
        steps, highest, stop, rho: of the levels, see `Descent`.
        rounds: steps of Langevin dynamics at each level.
        rate: of a step, in units of the level's variance.

    Raises:
        ValueError: for no rounds, or a rate outside (0, 1]; see `Descent`.
    """

    def __init__(
        self,
        steps: int = 40,
        highest: float = 20.0,
        stop: float = 0.2,
        rho: float = 7.0,
        rounds: int = 3,
        rate: float = 0.1,
    ) -> None:
        super().__init__(steps, highest, stop, rho)
        self.rounds = checks.whole("rounds", rounds, 1, checks.REPEATS)
        self.rate = checks.at_least("rate", checks.share("rate", rate), 0.0, strict=True)

    def step(
        self,
        denoise: Denoise,
        z: Tensor,
        level: float,
        lower: float,
        generator: Generator | None,
    ) -> Tensor:
        z = denoise(z, level).lerp(z, lower / level)

        noise = lower * math.sqrt(2.0 * self.rate)
        for _ in range(self.rounds):
            z = z.lerp(denoise(z, lower), self.rate)
            z = torch.add(z, normal_like(z, generator), alpha=noise)

        return z
