"""Corruption h~ given h: the noise that makes an auto-encoder a denoising one.

A layer pair trained on h~ -> h learns to move corrupted values back to probable ones, so that
reconstruction minus input estimates the score of the representation's density. Each representation
h_0 .. h_L has one corruption. All take the training progress in [0, 1], since a level may decay.
"""

from typing import cast

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.registry import register


def normal_like(h: Tensor, generator: Generator | None = None) -> Tensor:
    """Standard normal noise in the shape of `h`, drawn where `generator` lives.

    A CPU generator thus gives the same noise whatever device `h` is on.
    """
    device = _drawing_device(h, generator)
    noise = torch.randn(h.shape, generator=generator, device=device, dtype=h.dtype)

    return noise.to(h.device)


def uniform_like(h: Tensor, generator: Generator | None = None) -> Tensor:
    """Uniform noise on [0, 1) in the shape of `h`, drawn where `generator` lives."""
    device = _drawing_device(h, generator)
    noise = torch.rand(h.shape, generator=generator, device=device, dtype=h.dtype)

    return noise.to(h.device)


def _drawing_device(h: Tensor, generator: Generator | None) -> torch.device:
    if generator is None:
        return h.device
    return generator.device


def _faded(level: float, decay: float, progress: float | Tensor) -> float | Tensor:
    """A level that goes linearly from its start to the fraction `decay` of it."""
    return level * (1.0 - (1.0 - decay) * progress)


class Corruption(checks.TakesArrays):
    """Base class: a stochastic map h -> h~ of the same shape; a variant defines `__call__`.

    Files and configurations hold a corruption whose class is registered, and which keeps each
    argument of its constructor under the argument's name (`gendae.register`).

    Example:
        >>> class Dropout(Corruption):
        ...     def __init__(self, p=0.5):
        ...         self.p = p
        ...
        ...     def __call__(self, h, progress=0.0, generator=None):
        ...         return h * (uniform_like(h, generator) >= self.p)
        >>> Dropout(0.5)(torch.ones(1, 5), generator=torch.Generator().manual_seed(0))
        tensor([[0., 1., 0., 0., 0.]])
    """

    ARRAYS = ("__call__",)

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        """Corrupted copy of h.

        Args:
            h: representation, (batch, features).
            progress: fraction of the training done, in [0, 1], a number or a 0-dimensional tensor;
                decaying levels follow it.
            generator: source of randomness; the global one if None.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__")


@register
class GaussianNoise(Corruption):
    """Additive Gaussian noise, h~ = h + sigma_t * N(0, I).

    sigma_t = sigma * (1 - (1 - decay) * t) at progress t; with a half-life it is
    sigma / (1 + t / half_life) instead (Lee 2018, section 3.3).
    Source: Bengio et al. 2015, Algorithm 2 ("h~_l is a Gaussian-corrupted version of h_l").

    Args:
        sigma: standard deviation at the start of training, in units of h; 0 leaves h as it is.
        decay: fraction of sigma left at the end of training (linear in progress); 1 is constant.
        half_life: fraction of training after which half of sigma is left; None for linear decay.

    Raises:
        ValueError: for a negative or NaN sigma or decay, half_life <= 0, or a decay together with
            a half-life.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> noise = GaussianNoise(0.5, decay=0.5)(torch.zeros(1000, 10), progress=1.0, generator=g)
        >>> round(noise.std().item(), 2)
        0.25
    """

    def __init__(self, sigma: float, decay: float = 1.0, half_life: float | None = None) -> None:
        self.sigma = checks.at_least("sigma", sigma, 0.0)
        self.decay = checks.at_least("decay", decay, 0.0)
        self.half_life = half_life

        if half_life is not None:
            checks.at_least("half_life", half_life, 0.0, strict=True)
            if decay != 1.0:
                raise ValueError(
                    f"decay={decay} and half_life={half_life} exclude each other: give one of them"
                )

    def level(self, progress: float | Tensor) -> float | Tensor:
        """sigma_t."""
        if self.half_life is not None:
            return self.sigma / (1.0 + progress / self.half_life)

        return _faded(self.sigma, self.decay, progress)

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        if self.sigma == 0.0:
            return h

        level = self.level(progress)
        if isinstance(level, Tensor):  # it lies on the device, so that no Python branch reads it
            return torch.addcmul(h, normal_like(h, generator), level)

        if level == 0.0:
            return h
        return torch.add(h, normal_like(h, generator), alpha=level)


@register
class SpikeNoise(Corruption):
    """Spike-like corruption: the mean of k draws from a Bernoulli law with p(h~ = 1) = h.

    E[h~] = h and Var[h~] = h (1 - h) / k for h in [0, 1]; values outside count as 0 or 1.
    Source: Bengio et al. 2015, Algorithm 2 (top sigmoid layer, k = 3).

    Args:
        draws: number k of Bernoulli draws averaged.

    Raises:
        ValueError: if draws < 1.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> h = SpikeNoise(3)(torch.full((2, 5), 0.5), generator=g)
        >>> sorted(set((h * 3).round().int().flatten().tolist()) - {0, 1, 2, 3})
        []
    """

    def __init__(self, draws: int = 3) -> None:
        self.draws = checks.whole("draws", draws, 1, checks.REPEATS)

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        copies = h.expand(self.draws, *h.shape)
        spikes = uniform_like(copies, generator) < copies

        return spikes.to(h.dtype).mean(0)


@register
class PoissonNoise(Corruption):
    """Spikes counted: the mean of k draws from a Poisson law of rate h.

    E[h~] = h and Var[h~] = h / k; negative values count as silence. k is the time over which, or
    the number of neurons in which, spikes are counted.
    Source: Bengio et al. 2015, section 3 (spike trains S as a quantization of V).

    Args:
        draws: number k of counts averaged.

    Raises:
        ValueError: if draws < 1.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> (4 * PoissonNoise(4)(torch.full((1, 6), 0.5), generator=g)).tolist()
        [[6.0, 2.0, 1.0, 2.0, 2.0, 2.0]]
    """

    def __init__(self, draws: int = 3) -> None:
        self.draws = checks.whole("draws", draws, 1, checks.REPEATS)

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        expected = (self.draws * h).clamp(0.0, checks.MOST).nan_to_num()
        counts = torch.poisson(expected.to(_drawing_device(h, generator)), generator)

        return counts.to(h.device) / self.draws + 0.0 * h  # NaN and infinite values stay such


@register
class RelativeNoise(GaussianNoise):
    """Gaussian noise relative to the spread of h, h~ = h + sigma_t * std(h) * N(0, I).

    std is the root of the mean variance of the batch's features. The level thus means the same to
    codes that grow or shrink while they are learned. Fixed noise drowns a shrinking code, which
    then shrinks on.

    Args:
        sigma: level at the start of training, as a fraction of std(h).
        decay, half_life: see `GaussianNoise`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> h = 5.0 * torch.randn(1000, 10, generator=g)
        >>> round((RelativeNoise(0.2)(h, generator=g) - h).std().item(), 1)
        1.0
    """

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        if len(h) < 2:  # one example has no spread
            return h

        # the mean of h.var(0), which torch computes several times more slowly down columns
        deviations = (h - h.mean(0)).square().sum()
        variance = deviations / ((len(h) - 1) * h[0].numel())

        noisy = super().__call__(h, progress, generator)
        return torch.lerp(h, noisy, variance.sqrt())


@register
class FlipNoise(Corruption):
    """Each discrete unit takes its other value with a given probability.

    The values are -1 and 1 ("sign"), or 0 and 1 ("binary").

    Args:
        probability: of a flip, in [0, 1].
        unit: "sign" or "binary".

    Raises:
        ValueError: for a probability outside [0, 1] or another unit.

    Example:
        >>> FlipNoise(1.0, "binary")(torch.tensor([[0.0, 1.0]]))
        tensor([[1., 0.]])
    """

    def __init__(self, probability: float, unit: str = "sign") -> None:
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability={probability}: a number between 0 and 1 is needed")

        self.probability = probability
        self.unit = checks.one_of("unit", unit, ("sign", "binary"))

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        if self.unit == "sign":
            flipped = -h
        else:
            flipped = 1.0 - h

        flips = uniform_like(h, generator) < self.probability
        return torch.where(flips, flipped, h)


@register
class MaskingNoise(Corruption):
    """Units are hidden: some of those of each example, chosen at random, get one value.

    Each is hidden with a given probability, independently of the others; or a given number of
    them is, always as many: one for `count=1`, from which the law of a unit given the others is
    learned.
    Source: Vincent et al. 2008, section 2.3 (a fixed number of units set to 0); Bengio 2014,
    section 2.2.4 (one bit hidden).

    Args:
        probability: of each unit at the start of training, in [0, 1].
        count: of hidden units in each example, instead of a probability.
        value: of hidden units, in units of h.
        decay: fraction of the probability left at the end of training (linear in progress); 1 is
            constant.

    Raises:
        ValueError: unless one of probability and count is given, for numbers out of range, and for
            a decaying count; when called, for fewer units than are to be hidden.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> MaskingNoise(count=1)(torch.ones(2, 4), generator=g)
        tensor([[1., 1., 0., 1.],
                [0., 1., 1., 1.]])
    """

    def __init__(
        self,
        probability: float | None = None,
        count: int | None = None,
        value: float = 0.0,
        decay: float = 1.0,
    ) -> None:
        if (probability is None) == (count is None):
            raise ValueError(
                f"probability={probability} and count={count}: one of them, and no more, is needed"
            )
        if probability is not None:
            checks.share("probability", probability)
        if count is not None:
            checks.whole("count", count, 0)

        self.probability = probability
        self.count = count
        self.value = checks.real("value", value)
        self.decay = checks.at_least("decay", decay, 0.0)

        if count is not None and decay != 1.0:
            raise ValueError(
                f"decay={decay} is of a probability; count={count} stays the same: give one of "
                "them"
            )

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        if not (self.probability or self.count):
            return h

        return h.masked_fill(self._hidden(h, progress, generator), self.value)

    def _hidden(self, h: Tensor, progress: float | Tensor, generator: Generator | None) -> Tensor:
        """True where a unit is hidden."""
        uniform = uniform_like(h, generator)
        if self.probability is not None:
            return uniform < _faded(self.probability, self.decay, progress)

        count = cast(int, self.count)
        if count > h.shape[-1]:
            raise ValueError(f"count={count}: of h's {h.shape[-1]} units, no more can be hidden")

        lowest = uniform.topk(count, largest=False).indices
        return torch.zeros_like(h, dtype=torch.bool).scatter(-1, lowest, True)


@register
class SaltAndPepperNoise(Corruption):
    """Units go to the ends of their range: with a given probability to one of two values.

    Either end is as probable as the other.
    Source: Vincent et al. 2010, section 3.3.

    Args:
        probability: of each unit at the start of training, in [0, 1].
        low, high: the ends, in units of h; 0 and 1 for pixels and sigmoid units, -1 and 1 for tanh
            units.
        decay: fraction of the probability left at the end of training (linear in progress); 1 is
            constant.

    Raises:
        ValueError: for numbers out of range, or ends in the wrong order.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> SaltAndPepperNoise(0.8)(torch.full((1, 6), 0.5), generator=g)
        tensor([[1., 1., 0., 0., 0., 1.]])
    """

    def __init__(
        self, probability: float, low: float = 0.0, high: float = 1.0, decay: float = 1.0
    ) -> None:
        self.probability = checks.share("probability", probability)
        self.low = checks.real("low", low)
        self.high = checks.real("high", high)
        self.decay = checks.at_least("decay", decay, 0.0)

        if low >= high:
            raise ValueError(f"low={low}, high={high}: the lower end must be below the upper one")

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        if self.probability == 0.0:
            return h

        level = _faded(self.probability, self.decay, progress)
        uniform = uniform_like(h, generator)

        peppered = h.masked_fill(uniform < level, self.high)
        return peppered.masked_fill(uniform < 0.5 * level, self.low)


@register
class NeighbourNoise(Corruption):
    """Gaussian noise that fills the empty ball around each example.

    h~ = h + scale * d / sqrt(features) * N(0, I), where d is the median, over the batch, of the
    distance to the nearest other example of the batch. `diagnostics.nearest_neighbour_sigma`
    measures d on a whole data set. Neighbours are closer there than in a batch: hence the scale.
    Source: Bengio 2014, section 2.2.5 ("a reasonable choice for the level of corruption is given
    by the nearest-neighbor distance between examples in the corresponding representation").

    Args:
        scale: multiplier of the distance.

    Raises:
        ValueError: for a negative or NaN scale.

    Example:
        >>> g, h = torch.Generator().manual_seed(0), 3.0 * torch.eye(500)    # all sqrt(18) apart
        >>> round((NeighbourNoise(1.0)(h, generator=g) - h).norm(dim=1).mean().item(), 1)
        4.2
    """

    def __init__(self, scale: float = 0.5) -> None:
        self.scale = checks.at_least("scale", scale, 0.0)

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        if len(h) < 2 or self.scale == 0.0:  # one example has no neighbour
            return h

        distances = torch.cdist(h, h, compute_mode="donot_use_mm_for_euclid_dist")
        distances.fill_diagonal_(float("inf"))
        nearest = distances.min(1).values

        level = self.scale * nearest.median() / h.shape[1] ** 0.5
        return h + level * normal_like(h, generator)
