"""Blocks that own a band of noise each: pairs whose encoder adds it and whose decoder takes it.

    h_0 = x,   h_l = h_{l-1} + sqrt(s_l^2 - s_{l-1}^2) n,   0 = s_0 < s_1 < .. < s_L

so that h_l is x with noise of level s_l, and h_L is noise. Q(h_l | h_{l-1}) is this, and has
nothing to learn: f_l leaves its input as it is. P(h_{l-1} | h_l) lies around the mean of h_{l-1},

    g_l(h_l) = D_l + (s_{l-1} / s_l)^2 (h_l - D_l),   D_l = D_l(h_l; s_l)

if x were D_l(h_l; s_l), which estimates E[x | h_l]. D_l is a denoising auto-encoder of all levels
of its band, s_{l-1} .. s_l; see `gendae.priors.denoiser`. With Q fixed, the bound on log p(x) is a
sum of terms with the parameters of one pair each: to train pairs alone, and all of them through
the whole chain, has the same optimum.
Source: Bengio 2014, sections 2.2.4 and 3.2 (denoising auto-encoders, a chain over them);
Sohl-Dickstein et al. 2015 (the chain); Karras et al. 2022 (D); Li et al. 2025 (NoProp), Shing et
al. 2025 (DiffusionBlocks): blocks that are trained alone.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.corruption import normal_like, uniform_like
from gendae.laws import Gaussian
from gendae.layers.pair import Pair
from gendae.models.stack import Stack
from gendae.priors.denoiser import Denoise, LevelMLP, denoised, denoising_loss, fresh
from gendae.priors.descents import Descent
from gendae.priors.levels import TAIL, Levels, LogNormalLevels
from gendae.registry import register

#: Of x, pixels in [0, 1] among others: root of the mean square.
SPREAD = 0.5


@register
class Unchanged(nn.Module):
    """h as it is, or the first units of it: a layer to which its law adds noise.

    It has nothing to learn.

    Args:
        in_features: width of h.
        out_features: how many of its units are given; all if None.

    Raises:
        ValueError: for a width below 1, or more units than there are.

    Example:
        >>> Unchanged(3, 2)(torch.ones(1, 3))
        tensor([[1., 1.]])
    """

    activation = "linear"

    def __init__(self, in_features: int, out_features: int | None = None) -> None:
        super().__init__()
        self.in_features = checks.whole("in_features", in_features, 1)
        self.out_features = self.in_features
        if out_features is not None:
            self.out_features = checks.whole("out_features", out_features, 1)

        if self.out_features > self.in_features:
            raise ValueError(
                f"out_features={out_features}: of {in_features} units no more can be given"
            )

    def forward(self, h: Tensor) -> Tensor:
        return h[:, : self.out_features]


@register
class Band(nn.Module):
    """g_l: x from x with noise of any level between two quantiles of a law of levels.

    As a layer it goes from the band's highest level to its lowest; a band that begins at the
    share 0 gives x itself.

    Args:
        features: width of x.
        levels: the law of levels in training, in units of x; of ln s ~ N(-1.2, 1.2^2) if None.
        shares: quantiles of it between which the band's levels lie.
        network: F of the denoiser, called as F(z, ln s / 4), and as F(z, ln s / 4, condition)
            where there is one; it may have `prepare(features, condition)`. `LevelMLP` if None. The
            band has a copy with weights of its own.
        spread: root of x's mean square, by which F's input and output are scaled; 0.5 is about
            that of pixels.
        condition: width of what x is conditioned on.

    Raises:
        ValueError: for numbers below 1, shares out of order or outside [0, 1], a spread of 0.

    Example:
        >>> band = Band(2, shares=(0.5, 1.0), network=LevelMLP(16, 1))
        >>> h = 0.5 * torch.ones(1, 2)
        >>> band.denoise(h, level=0.5)                              # of Gaussian x, untrained
        tensor([[0.2500, 0.2500]], grad_fn=<AddBackward0>)
        >>> round(band.low, 2), round(band.high, 1)
        (0.3, 50.3)
    """

    activation = "linear"

    def __init__(
        self,
        features: int,
        levels: Levels | None = None,
        shares: Sequence[float] = (0.0, 1.0),
        network: nn.Module | None = None,
        spread: float = SPREAD,
        condition: int = 0,
    ) -> None:
        super().__init__()
        self.features = checks.whole("features", features, 1)
        self.condition = checks.whole("condition", condition, 0)
        self.levels = checks.kind("levels", levels or LogNormalLevels(-1.2, 1.2), Levels)
        self.shares = _in_order(shares)
        self.spread = checks.at_least("spread", spread, 0.0, strict=True)

        pattern = checks.kind("network", network or LevelMLP(), nn.Module)
        seed = int(torch.randint(2**31, ()))
        self.network = fresh(pattern, self.features, self.condition, seed)

        self.in_features = self.features
        self.out_features = self.features
        self.in_shape = tuple(getattr(self.network, "in_shape", (self.features,)))
        self.out_shape = self.in_shape

    @property
    def low(self) -> float:
        """s_{l-1}, the level of what the layer gives; 0 at the lowest band."""
        return 0.0 if self.shares[0] == 0.0 else self.lowest

    @property
    def lowest(self) -> float:
        """The lowest level of training, which is no 0."""
        return self._level(self.shares[0])

    @property
    def high(self) -> float:
        """s_l, the level of what the layer takes."""
        return self._level(self.shares[1])

    def _level(self, share: float) -> float:
        exact = torch.tensor(share, dtype=torch.float64).clamp(TAIL, 1.0 - TAIL)
        return float(self.levels.quantile(exact))

    def variances(self, z: Tensor) -> Tensor:
        """v, (), in the type of z."""
        return z.new_full((), self.spread**2)

    def denoise(self, z: Tensor, level: float, condition: Tensor | None = None) -> Tensor:
        """D(z; s), (batch, features)."""
        sigma = z.new_full((len(z), 1), level)
        return denoised(self.network, z, sigma, self.variances(z), condition)

    def forward(self, h: Tensor) -> Tensor:
        """The mean of x at the lowest level, given h at the highest, (batch, features)."""
        return self.denoise(h, self.high).lerp(h, (self.low / self.high) ** 2)

    def loss(self, x: Tensor, generator: Generator, condition: Tensor | None = None) -> Tensor:
        """The denoising loss of x at levels of the band, (); 1 is the denoiser of Gaussian x."""
        # a level for each row by itself, so that processes which share a batch learn the same
        sigma = self.levels.between(uniform_like(x[:, :1], generator), self.shares)
        noise = normal_like(x, generator)

        return denoising_loss(self.network, x, sigma, noise, self.variances(x), condition)

    def extra_repr(self) -> str:
        return f"{self.features} units, levels {self.low:.3g} .. {self.high:.3g}"


def _in_order(shares: Sequence[float]) -> tuple[float, float]:
    """Two shares, the lower one first.

    Example:
        >>> _in_order([0.5, 0.25])
        Traceback (most recent call last):
        ValueError: shares=[0.5, 0.25]: two numbers in [0, 1] are needed, the lower one first
    """
    numbers = [checks.real("shares", share) for share in checks.several("shares", shares)]
    if len(numbers) != 2 or not 0.0 <= numbers[0] < numbers[1] <= 1.0:
        raise ValueError(
            f"shares={list(shares)}: two numbers in [0, 1] are needed, the lower one first"
        )

    return numbers[0], numbers[1]


def noise_pair(band: Band) -> Pair:
    """A pair whose encoder adds the noise of a band, and whose decoder is the band.

    The law around the decoder is that of Gaussian x, for which untrained bands are exact.

    Example:
        >>> pair = noise_pair(Band(3, network=LevelMLP(8, 1)))
        >>> round(pair.recognition.sigma, 1), round(pair.observation.sigma, 2)
        (50.3, 0.5)
    """
    low = band.low**2
    high = band.high**2
    v = band.spread**2
    left = (v + low) * (high - low) / (v + high)

    return Pair(
        Unchanged(band.features),
        band,
        observation=Gaussian(math.sqrt(left)),
        recognition=Gaussian(math.sqrt(high - low)),
    )


def bands_of(name: str, stack: Stack) -> list[Band]:
    """The decoders of a stack of bands, lowest levels first.

    Args:
        name: of the argument, for the message.
        stack: as `gendae.denoising_blocks` makes it.

    Raises:
        ValueError: for other decoders and encoders, and bands that leave levels out.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> bands_of("stack", deep_autoencoder([8, 4]))
        Traceback (most recent call last):
        ValueError: stack: pair 1 is of Affine and Affine; accepted: Unchanged and Band, as ...
    """
    bands: list[Band] = []
    for level, pair in enumerate(stack.pairs, 1):
        if not (isinstance(pair.f, Unchanged) and isinstance(pair.g, Band)):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"{name}: pair {level} is of {type(pair.f).__name__} and {type(pair.g).__name__}; "
                "accepted: Unchanged and Band, as gendae.denoising_blocks gives"
            )
        bands.append(pair.g)

    check_order(name, bands)
    return bands


def check_order(name: str, bands: Sequence[Band]) -> None:
    """Raise a ValueError unless each band begins where the one before it ends, the first at 0.

    All of them have to be of one kind, too.
    """
    kinds = {type(band).__name__ for band in bands}
    if len(kinds) > 1:
        raise ValueError(f"{name}: bands of one kind are needed, these are {sorted(kinds)}")

    below = 0.0
    for level, band in enumerate(bands, 1):
        if not math.isclose(band.low, below, rel_tol=1e-6):
            raise ValueError(
                f"{name}: band {level} begins at level {band.low:.4g}, and what is below it ends "
                f"at {below:.4g}; bands have to follow one another, lowest levels first"
            )
        below = band.high


def from_top(descent: Descent, bands: Sequence[Band]) -> Descent:
    """A descent that begins at the highest level of several bands.

    Args:
        descent: of any levels.
        bands: lowest levels first.

    Raises:
        ValueError: where it stops above that level.
    """
    top = bands[-1].high
    if descent.stop >= top:
        raise ValueError(
            f"descent.stop={descent.stop}: it has to be below {top:.4g}, the level of h_L, where "
            "the way down begins"
        )

    descent = copy.copy(descent)
    descent.highest = top

    return descent


def denoiser_of(bands: Sequence[Band], condition: Tensor | None = None) -> Denoise:
    """D(z; s) of several bands: the one that owns a level denoises there.

    Args:
        bands: lowest levels first.
        condition: what x is conditioned on.
    """

    def denoise(z: Tensor, level: float) -> Tensor:
        owner = sum(level >= band.high for band in bands[:-1])
        return bands[owner].denoise(z, level, condition)

    return denoise
