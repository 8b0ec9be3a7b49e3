"""Laws: how a representation varies around the mean that a layer computes.

Q(h_l | h_{l-1}) lies around f_l, and P(h_{l-1} | h_l) around g_l. A law says how likely a value is
(`log_prob`), what a layer's loss is (`energy`), how noise is injected (`sample`, Algorithm 1 of
2014) and what the next layer sees where no noise is wanted (`transmit`): the mean itself for real
units, a sign or a bit for discrete ones. A clamped chain further asks whether it draws the values
(`drawn`), and how well observed elements fit many means at once (`pool_log_prob`).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.distributions import Bernoulli as BernoulliLaw
from torch.distributions import Distribution, Normal, OneHotCategorical

from gendae import checks
from gendae.corruption import normal_like, uniform_like
from gendae.registry import build, register

LOG_2PI = math.log(2.0 * math.pi)


def cross_entropy(p: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each unit, in nats; never in half precision, even under autocast."""
    if p.dtype in (torch.bfloat16, torch.float16):
        p = p.float()
        target = target.float()

    with torch.autocast(p.device.type, enabled=False):
        return F.binary_cross_entropy(p, target.to(p), reduction="none")


class Law(checks.TakesArrays, nn.Module):
    """Base class: independent units around a mean.

    A variant defines `distribution`; the rest follows from it where that is one of real units with
    an inverse distribution function. `given` is always the layer's input, for laws whose width
    depends on it. Files hold a law whose class is registered (`gendae.register`).

    Example:
        >>> class Laplace(Law):
        ...     def distribution(self, mean, given=None):
        ...         return torch.distributions.Laplace(mean, 1.0, validate_args=False)
        >>> law, mean = Laplace(), torch.zeros(1, 2)
        >>> law.energy(mean + 1.0, mean).round(decimals=4)                     # 2 (1 + log 2)
        tensor([3.3863])
        >>> law.sample(mean).shape, law.entropy(mean).round(decimals=4)
        (torch.Size([1, 2]), tensor([3.3863]))
    """

    ARRAYS = ("distribution", "log_prob", "energy", "entropy", "variance", "sample", "transmit")

    #: The activation that gives means in the range of the values; None where any layer does.
    activation: str | None = None
    #: Whether `sample` is noisy, so that log q(h | x) and an entropy exist.
    stochastic = True
    #: Whether the values are discrete, so that `log_prob` is no density, but a probability.
    discrete = False
    #: Whether `transmit` sends discrete values, along which there is no derivative.
    hard = False
    #: Whether a clamped chain draws the values, instead of adding noise to them.
    drawn = False
    #: Whether the values are codes around f_l: a `Pair` says so of its recognition law.
    of_codes = False

    def __init__(self) -> None:
        super().__init__()

    @property
    def learnable(self) -> bool:
        """Whether the law has parameters."""
        return next(self.parameters(), None) is not None

    @property
    def follows_input(self) -> bool:
        """Whether its width depends on the layer's input."""
        return any(getattr(law, "given", None) is not None for law in self.modules())

    def blocks(self, features: int) -> list[tuple["Law", int]]:
        """The laws of a layer's units, and of how many units each is: one, but for `Laws`."""
        return [(self, features)]

    def conditioned(self, given: Tensor | None) -> "Law":
        """The law for one input of the layer: what depends on it is computed once."""
        return self

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        """The law as a torch distribution."""
        raise NotImplementedError(f"{type(self).__name__} must define distribution")

    def log_prob(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        """log p(h) in nats, summed over features, (batch,)."""
        return self.distribution(mean, given).log_prob(h).sum(-1)

    def energy(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        """The loss of a layer: -log p(h), summed over features; a constant may be left out.

        Its gradients are those of -log p(h), also in the law's own parameters. A variant that
        gives others says so.
        """
        return -self.log_prob(h, mean, given)

    def entropy(self, mean: Tensor, given: Tensor | None = None) -> Tensor:
        """Entropy in nats, summed over features, (batch,)."""
        return self.distribution(mean, given).entropy().sum(-1)

    def variance(self, mean: Tensor, given: Tensor | None = None) -> Tensor | None:
        """Variance of each unit if the law is Gaussian, else None; for priors' closed forms."""
        return None

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        """A draw through which gradients reach the mean."""
        epsilon = torch.finfo(mean.dtype).eps
        uniform = uniform_like(mean, generator).clamp(epsilon, 1.0 - epsilon)

        return self.distribution(mean, given).icdf(uniform)

    def transmit(self, mean: Tensor, generator: Generator | None = None) -> Tensor:
        """What the next layer sees of the mean."""
        return mean

    def noisy(self, mean: Tensor, scale: float, generator: Generator | None = None) -> Tensor:
        """The mean with `scale` times the noise of Gaussian units; what other units transmit."""
        variance = self.variance(mean)
        if variance is None or not self.stochastic:
            return self.transmit(mean, generator)

        return mean + scale * variance.sqrt() * normal_like(mean, generator)

    def width_of(self, squares: Tensor, mean: Tensor) -> Tensor:
        """What `near` needs to give these mean squared errors around the means, (features,).

        Args:
            squares: mean squared error of each unit, (features,).
            mean: (batch, features).
        """
        return torch.ones_like(squares) if self.drawn else squares.sqrt()

    def near(self, mean: Tensor, width: Tensor, generator: Generator | None = None) -> Tensor:
        """A draw around the mean of a model, whose width was measured and not learned.

        Values that are drawn have no width but their law's: they are drawn where it is above 0.
        Deterministic units stay at the mean.
        """
        if self.drawn:
            return torch.where(width > 0.0, self.sample(mean, generator), mean)
        if self.hard:
            return mean

        return torch.addcmul(mean, width, normal_like(mean, generator))

    def disturbed(
        self, h: Tensor, width: Tensor, scale: float, generator: Generator | None = None
    ) -> Tensor:
        """Values h under `scale` times noise of a root mean square, of the kind they can have.

        It is Gaussian noise, but for units of two values, of which some flip. Values that are
        drawn have it once at most: it is for others that a round has a second noise.

        Args:
            h: (batch, features).
            width: root mean square, (features,).
            scale: of the noise.
            generator: source of the noise.
        """
        if self.drawn:
            scale = min(scale, 1.0)

        return self._disturbed(h, scale * width, generator)

    def _disturbed(self, h: Tensor, width: Tensor, generator: Generator | None) -> Tensor:
        return torch.addcmul(h, width, normal_like(h, generator))

    def pool_log_prob(
        self, h: Tensor, seen: Tensor, pool: Tensor, noise: Tensor | float
    ) -> Tensor:
        """log p of the observed elements of each h around each mean of a pool, (batch, pool).

        It is known up to a constant. Real values deviate from the mean by the noise of a chain:

        -1 / (2 noise^2) sum_j (h_j - mean_j)^2

        Args:
            h: (batch, width).
            seen: 1 where an element of h is observed, 0 elsewhere, (batch, width).
            pool: the means, (pool, width).
            noise: deviation of the chain's noise, in units of h.
        """
        squares = (h.square() * seen).sum(1, keepdim=True)
        distance = squares - 2.0 * (h * seen) @ pool.T
        distance = distance + seen @ pool.square().T

        return distance / -(2.0 * noise**2)


@register
class Gaussian(Law):
    """N(h; mean, sigma^2 I), the same sigma for all units; the papers take sigma = 1.

    Args:
        sigma: standard deviation, in units of h.
        stochastic: if False, the units are deterministic: a draw is the mean, and sigma says only
            what an error costs. Such a layer has no noise in Algorithm 1, and no entropy.

    Raises:
        ValueError: for sigma <= 0; from `distribution`, for deterministic units.

    Example:
        >>> law, zero = Gaussian(1.0), torch.zeros(1, 4)
        >>> round(law.log_prob(zero, zero).item(), 4), law.energy(zero + 1, zero).item()
        (-3.6758, 2.0)
        >>> Gaussian(stochastic=False).sample(zero)
        tensor([[0., 0., 0., 0.]])
    """

    def __init__(self, sigma: float = 1.0, stochastic: bool = True) -> None:
        super().__init__()
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)
        self.stochastic = bool(stochastic)

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        if not self.stochastic:
            raise ValueError(
                "stochastic=False: deterministic units have no density; use Gaussian(sigma)"
            )

        return Normal(mean, self.sigma, validate_args=False)

    def energy(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        squared_error = (h - mean).square().sum(-1)
        return squared_error / (2.0 * self.sigma**2)

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        if not self.stochastic:
            return mean

        noise = normal_like(mean, generator)
        return torch.add(mean, noise, alpha=self.sigma)

    def variance(self, mean: Tensor, given: Tensor | None = None) -> Tensor:
        if not self.stochastic:
            return torch.zeros_like(mean)

        return torch.full_like(mean, self.sigma**2)

    def extra_repr(self) -> str:
        return f"{self.sigma:g}, stochastic={self.stochastic}"


@register
class LearnedGaussian(Law):
    """N(h; mean, diag sigma^2) with a learned log sigma: corruption that is learned (2014, 7.4).

    As noise of codes, Algorithm 1 balances sigma: the entropy, the sum of log sigma_j, pushes it
    up, and the reconstruction pushes it down in every dimension that carries signal. In a loss of
    its own, `energy`, sigma goes to the deviation of the errors, whichever rule is descended.

    Args:
        features: width of h.
        sigma: standard deviation at the start, in units of h.
        per: one log sigma for each "unit", or one for the "layer" (Algorithm 1's log sigma_l).
        given: width of the layer's input, where sigma is to depend on it; None for a sigma that
            does not depend on x, which the paper argues for.
        hidden: widths of hidden relu layers between the input and log sigma; an affine map if
            empty.

    Raises:
        ValueError: for sigma <= 0, an unknown `per`, or per="layer" together with `given`.

    Example:
        >>> law, mean = LearnedGaussian(3, sigma=1.0), torch.zeros(2, 3)
        >>> round(law.entropy(mean)[0].item(), 4)                  # 3/2 log(2 pi e)
        4.2568
        >>> LearnedGaussian(3, given=5).variance(mean, torch.rand(2, 5)).shape
        torch.Size([2, 3])
    """

    PER = ("unit", "layer")
    #: log sigma is kept in this range, so that no unit's noise vanishes or overflows.
    BOUNDS = (-7.0, 3.0)

    def __init__(
        self,
        features: int,
        sigma: float = 0.3,
        per: str = "unit",
        given: int | None = None,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.features = checks.whole("features", features, 1)
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)
        self.per = checks.one_of("per", per, self.PER)
        self.given = given
        self.hidden = checks.wholes("hidden", hidden, 1)

        if given is not None and per == "layer":
            raise ValueError(
                "per='layer' is one number; with `given`, sigma depends on x: use per='unit'"
            )

        count = {"unit": features, "layer": 1}[per]
        self.log_sigma = nn.Parameter(torch.full((count,), math.log(sigma)))
        if given is None:
            self.of_input = None
        else:
            self.of_input = self._map(given)

    def _map(self, given: int) -> nn.Sequential:
        """Input -> change of log sigma, 0 at the start."""
        widths = [given, *self.hidden]
        layers: list[nn.Module] = []
        for low, high in pairwise(widths):
            layers += [nn.Linear(low, high), nn.ReLU()]

        last = nn.Linear(widths[-1], self.features, bias=False)
        nn.init.zeros_(last.weight)

        return nn.Sequential(*layers, last)

    def conditioned(self, given: Tensor | None) -> "DiagonalGaussian":
        return DiagonalGaussian(self.log_scale(given))

    def scale(self, mean: Tensor, given: Tensor | None = None) -> Tensor:
        """sigma of each unit, in the shape of the mean."""
        return self.log_scale(given).exp().expand_as(mean)

    def log_scale(self, given: Tensor | None = None) -> Tensor:
        """log sigma of each unit, (features,), or (batch, features) where it depends on x."""
        log_sigma: Tensor = self.log_sigma
        if self.of_input is not None:
            if given is None:
                raise ValueError(
                    "given=None: sigma depends on the layer's input, which is not told here; "
                    "pass it as `given`, or use LearnedGaussian(given=None)"
                )
            *hidden, last = self.of_input
            for layer in hidden:
                given = layer(given)
            log_sigma = F.linear(given, cast(nn.Linear, last).weight, log_sigma)

        return log_sigma.clamp(*self.BOUNDS)

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        return self.conditioned(given).distribution(mean)

    def energy(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        """sum_j (h_j - mean_j)^2 / (2 sigma_j^2) + log sigma_j, which is -log p(h) but a constant.

        Around an encoder (`of_codes`) only sigma has this gradient, while the mean has that of
        |h - mean|^2 / 2. What f_l learns are targets that may come ever nearer: a sigma that
        follows them would rescale the loss of its layer without bound. There a sigma that depends
        on x learns only where x is passed as `given`.
        """
        if not self.of_codes:
            return self._cost(h - mean, self.scale(mean, given))

        error = h - mean
        squares = error.square().sum(-1) / 2.0
        if self.of_input is not None and given is None:
            return squares

        cost = self._cost(error.detach(), self.scale(mean, given))
        return squares + cost

    def _cost(self, error: Tensor, scale: Tensor) -> Tensor:
        """-log p of an error, without its constant."""
        return ((error / scale).square() / 2.0 + scale.log()).sum(-1)

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        return self.conditioned(given).sample(mean, generator)

    def variance(self, mean: Tensor, given: Tensor | None = None) -> Tensor:
        return self.conditioned(given).variance(mean)

    def extra_repr(self) -> str:
        return f"{self.features}, sigma={self.sigma:g}, per={self.per!r}, given={self.given}"


class DiagonalGaussian(Law):
    """N(h; mean, diag sigma^2) for one batch, whose log sigma has been computed.

    Args:
        log_sigma: (features,) or (batch, features), broadcast against the mean.
    """

    def __init__(self, log_sigma: Tensor) -> None:
        super().__init__()
        self.log_sigma = log_sigma
        self.scale = log_sigma.exp()

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        return Normal(mean, self.scale.expand_as(mean), validate_args=False)

    def entropy(self, mean: Tensor, given: Tensor | None = None) -> Tensor:
        of_units = self.log_sigma + (LOG_2PI + 1.0) / 2.0
        return of_units.expand_as(mean).sum(-1)

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        return torch.addcmul(mean, self.scale, normal_like(mean, generator))

    def variance(self, mean: Tensor, given: Tensor | None = None) -> Tensor:
        return self.scale.square().expand_as(mean)


#: Range of the share of m (1 - m) that the variance of a grey value around its mean m can have.
LEAST_SPREAD = 1e-6
MOST_SPREAD = 0.95


def beta_like(a: Tensor, b: Tensor, generator: Generator | None = None) -> Tensor:
    """Draws of Beta(a, b), drawn where `generator` lives; 0 for a = 0, and 1 for b = 0."""
    device = a.device if generator is None else generator.device
    parts = torch.stack([a, b]).to(device)
    tiny = torch.finfo(a.dtype).tiny

    one, other = torch._standard_gamma(parts.clamp_min(tiny), generator=generator)
    draws = one / (one + other).clamp_min(tiny)

    return draws.to(a.device)


@register
class Bernoulli(Law):
    """Independent binary units with p(h = 1) = mean; values in [0, 1] count as probabilities.

    Args:
        binary: the values are 0 and 1 only (not grey, as pixels are), so that clamped chains draw
            them.

    Example:
        >>> Bernoulli().energy(torch.ones(1, 2), torch.full((1, 2), 0.5)).round(decimals=4)
        tensor([1.3863])
    """

    activation = "sigmoid"
    discrete = True

    def __init__(self, binary: bool = False) -> None:
        super().__init__()
        self.binary = bool(binary)
        self.drawn = self.binary

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        return BernoulliLaw(probs=mean, validate_args=False)

    def energy(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        return cross_entropy(mean, h.clamp(0.0, 1.0)).sum(-1)

    def energy_of_logits(self, h: Tensor, a: Tensor) -> Tensor:
        """`energy` around sigmoid(a): exact for any a, and several times as fast."""
        if a.dtype in (torch.bfloat16, torch.float16):
            a = a.float()

        target = h.clamp(0.0, 1.0).to(a)
        return F.binary_cross_entropy_with_logits(a, target, reduction="none").sum(-1)

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        draw = (uniform_like(mean, generator) < mean).to(mean.dtype)
        return draw + (mean - mean.detach())

    def width_of(self, squares: Tensor, mean: Tensor) -> Tensor:
        """Root of the variance's share of m (1 - m), the most that values in [0, 1] can have.

        It is the same for all units: many of an image's hardly ever vary.
        """
        if self.drawn:
            return super().width_of(squares, mean)

        most = (mean * (1.0 - mean)).mean(0).sum()
        share = squares.sum() / most.clamp_min(torch.finfo(mean.dtype).tiny)

        return share.clamp_max(MOST_SPREAD).sqrt().expand_as(squares)

    def near(self, mean: Tensor, width: Tensor, generator: Generator | None = None) -> Tensor:
        """Beta with this mean and the variance width^2 m (1 - m), so that grey stays in [0, 1]."""
        if self.drawn:
            return super().near(mean, width, generator)

        share = width.square().clamp(LEAST_SPREAD, MOST_SPREAD)
        count = 1.0 / share - 1.0
        draws = beta_like(count * mean, count * (1.0 - mean), generator)

        return torch.where(width > 0.0, draws, mean)

    def pool_log_prob(
        self, h: Tensor, seen: Tensor, pool: Tensor, noise: Tensor | float
    ) -> Tensor:
        """sum_j h_j log p_j + (1 - h_j) log(1 - p_j) over the observed elements, (batch, pool)."""
        p = pool.clamp(1e-6, 1.0 - 1e-6)
        ones = (h * seen) @ p.log().T
        zeros = ((1.0 - h) * seen) @ (1.0 - p).log().T

        return ones + zeros

    def _disturbed(self, h: Tensor, width: Tensor, generator: Generator | None) -> Tensor:
        if self.binary:
            return flipped(h, 0.0, width, generator)

        return super()._disturbed(h, width, generator)

    def extra_repr(self) -> str:
        return f"binary={self.binary}"


def flipped(h: Tensor, low: float, width: Tensor, generator: Generator | None) -> Tensor:
    """Units of two values, low and 1, that deviate by this root mean square, (features,).

    Each takes its other value with probability width^2 / (1 - low)^2, 1/2 at most.
    """
    chance = (width / (1.0 - low)).square().clamp_max(0.5)
    flips = uniform_like(h, generator) < chance

    return torch.where(flips, 1.0 + low - h, h)


#: For each kind of discrete unit, the lower end of its mean's range and the activation with it.
UNITS = {"sign": (-1.0, "tanh"), "binary": (0.0, "sigmoid")}
LOWEST = {activation: low for low, activation in UNITS.values()}


@register
class Discrete(Law):
    """Units that send one of two values.

    The values are -1 and 1 ("sign", a tanh layer), or 0 and 1 ("binary", a sigmoid layer).
    The mean stays real, so that a layer can be trained towards a target (cross-entropy of the
    target, read as a probability), while the next layer only ever sees the discrete value. No
    derivative crosses the discretisation, except in `sample`, whose straight-through gradient
    serves `reach="full"` alone.
    Source: Bengio 2014, sections 2.2.6 and 7.4.

    Args:
        unit: "sign" or "binary".
        stochastic: draw the value instead of taking the more probable one; the probability of the
            upper value is the mean, mapped to [0, 1]. Without a generator `transmit` is always
            deterministic.

    Raises:
        ValueError: for another unit; from `log_prob`, for values outside the unit's range, or for
            deterministic units.

    Example:
        >>> Discrete("sign").transmit(torch.tensor([[-0.2, 0.7]]))
        tensor([[-1.,  1.]])
        >>> Discrete("sign").energy(torch.ones(1, 1), torch.zeros(1, 1)).round(decimals=4)
        tensor([0.6931])
    """

    EPSILON = 1e-6
    discrete = True
    hard = True

    def __init__(self, unit: str = "sign", stochastic: bool = False) -> None:
        super().__init__()
        self.unit = checks.one_of("unit", unit, UNITS)
        self.stochastic = bool(stochastic)
        self.drawn = self.stochastic
        self.low, self.activation = UNITS[unit]

    def probability(self, h: Tensor) -> Tensor:
        """p(upper value), from a mean or target in the unit's range."""
        return ((h - self.low) / (1.0 - self.low)).clamp(0.0, 1.0)

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        """The law of the bits (h - low) / (1 - low)."""
        if not self.stochastic:
            raise ValueError(
                "stochastic=False: deterministic units have no density; use "
                "Discrete(stochastic=True), or a Gaussian law"
            )

        probability = self.probability(mean).clamp(self.EPSILON, 1 - self.EPSILON)
        return BernoulliLaw(probs=probability, validate_args=False)

    def log_prob(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        law = self.distribution(mean)
        outside = (h < self.low) | (h > 1.0)
        if bool(outside.any()):
            raise ValueError(
                f"h holds values from {h.min().item():g} to {h.max().item():g}; {self.unit} "
                f"units lie in [{self.low:g}, 1]: clamp or threshold them"
            )

        return law.log_prob(self.probability(h)).sum(-1)

    def energy(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        p = self.probability(mean).clamp(self.EPSILON, 1.0 - self.EPSILON)
        return cross_entropy(p, self.probability(h)).sum(-1)

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        values = self._values(mean, self.stochastic, generator)
        return values + (mean - mean.detach())

    def transmit(self, mean: Tensor, generator: Generator | None = None) -> Tensor:
        draw = self.stochastic and generator is not None
        return self._values(mean, draw, generator)

    def _disturbed(self, h: Tensor, width: Tensor, generator: Generator | None) -> Tensor:
        return flipped(h, self.low, width, generator)

    def _values(self, mean: Tensor, draw: bool, generator: Generator | None) -> Tensor:
        """Values of the units: drawn, or the more probable ones."""
        threshold: Tensor | float = 0.5
        if draw:
            threshold = uniform_like(mean, generator)

        bits = (threshold < self.probability(mean)).to(mean.dtype)
        return bits * (1.0 - self.low) + self.low

    def extra_repr(self) -> str:
        return f"{self.unit!r}, stochastic={self.stochastic}"


@register
class Categorical(Law):
    """One of several classes, as a one-hot row.

    The mean, of a softmax layer, holds the probabilities of the classes. A row of probabilities
    counts as an expected one-hot row.
    Source: Bengio 2014, section 3.1 ("a softmax layer, and cross-entropy as a reconstruction
    error").

    Example:
        >>> law, p = Categorical(), torch.tensor([[0.25, 0.75]])
        >>> law.energy(torch.tensor([[0.0, 1.0]]), p).round(decimals=4)             # -log 0.75
        tensor([0.2877])
    """

    activation = "softmax"
    discrete = True
    drawn = True
    EPSILON = 1e-30  # below any probability that matters of a softmax in single precision

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        return OneHotCategorical(probs=mean, validate_args=False)

    def energy(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        log_p = mean.clamp_min(self.EPSILON).log()
        return -(h * log_p).sum(-1)

    def log_prob(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        return -self.energy(h, mean)

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        # the draw is scaled by the sum of the probabilities, which may miss 1 by rounding
        cumulated = mean.cumsum(-1)
        draw = uniform_like(mean[..., :1], generator) * cumulated[..., -1:]

        # the first class whose cumulated probability exceeds the draw
        index = (draw < cumulated).int().argmax(-1, keepdim=True)

        one_hot = torch.zeros_like(mean).scatter(-1, index, 1.0)
        return one_hot + (mean - mean.detach())

    def entropy(self, mean: Tensor, given: Tensor | None = None) -> Tensor:
        return self.energy(mean, mean)

    def pool_log_prob(
        self, h: Tensor, seen: Tensor, pool: Tensor, noise: Tensor | float
    ) -> Tensor:
        """sum_j h_j log p_j over the observed elements, (batch, pool)."""
        return (h * seen) @ pool.clamp_min(1e-6).log().T


@register
class Laws(Law):
    """Independent laws of blocks of units: real and discrete ones side by side.

    h = (h^(1) .. h^(N)),  log p(h) = sum_t log p_t(h^(t))

    A layer whose blocks need several activations is one with `Heads`.
    Source: Bengio 2014, section 2.2.6 (continuous and discrete units in one layer).

    Args:
        laws: one for each block.
        widths: of the blocks.
        inputs: widths of blocks of the layer's input, one for each law, for laws that depend on
            theirs; None: on all of the input.

    Raises:
        ValueError: unless there are as many widths as laws.

    Example:
        >>> law = Laws([Gaussian(0.5), Discrete("binary")], [2, 1])
        >>> law.transmit(torch.tensor([[0.3, -1.2, 0.8]]))
        tensor([[ 0.3000, -1.2000,  1.0000]])
    """

    def __init__(
        self, laws: Sequence[Law], widths: Sequence[int], inputs: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.laws = [checks.kind("laws", law, Law) for law in build(checks.several("laws", laws))]
        self.widths = checks.wholes("widths", widths, 1)
        self.inputs = None if inputs is None else checks.wholes("inputs", inputs, 1)
        if len(self.laws) != len(self.widths):
            raise ValueError(f"widths={self.widths}: {len(self.laws)} laws need as many widths")

        self.learned = nn.ModuleList(law for law in self.laws if law.learnable)
        self.stochastic = any(law.stochastic for law in self.laws)
        self.discrete = all(law.discrete for law in self.laws)
        self.hard = any(law.hard for law in self.laws)
        self.drawn = any(law.drawn for law in self.laws)

    def blocks(self, features: int) -> list[tuple[Law, int]]:
        return list(zip(self.laws, self.widths, strict=True))

    def conditioned(self, given: Tensor | None) -> "Laws":
        parts = zip(self.laws, self._given(given), strict=True)
        return Laws([law.conditioned(part) for law, part in parts], self.widths, self.inputs)

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        raise ValueError(
            "the laws of several blocks are no single torch distribution; use log_prob, sample"
        )

    def parts(self, *tensors: Tensor | None) -> list[tuple]:
        """(law, slice of each tensor) for every block; the slices of None are None."""
        columns = [self._slices(tensor, self.widths) for tensor in tensors]
        return list(zip(self.laws, *columns, strict=True))

    def _given(self, given: Tensor | None) -> Sequence[Tensor | None]:
        """What each law depends on: its slice of the layer's input, or all of it."""
        if not self.inputs:
            return [given] * len(self.laws)

        return self._slices(given, self.inputs)

    def _slices(
        self, tensor: Tensor | None, widths: Sequence[int] | None
    ) -> Sequence[Tensor | None]:
        if tensor is None:
            return [None] * len(self.laws)

        return tensor.split(widths, -1)

    def energies(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        """Energy of each slice, (batch, N)."""
        parts = zip(self.parts(h, mean), self._given(given), strict=True)
        return torch.stack([law.energy(a, m, c) for (law, a, m), c in parts], -1)

    def energy(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        return self.energies(h, mean, given).sum(-1)

    def log_prob(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        parts = zip(self.parts(h, mean), self._given(given), strict=True)
        return sum(law.log_prob(a, m, c) for (law, a, m), c in parts)

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        parts = zip(self.parts(mean), self._given(given), strict=True)
        return torch.cat([law.sample(m, generator, c) for (law, m), c in parts], -1)

    def transmit(self, mean: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.cat([law.transmit(m, generator) for law, m in self.parts(mean)], -1)

    def entropy(self, mean: Tensor, given: Tensor | None = None) -> Tensor:
        total = mean.new_zeros(mean.shape[:-1])

        for (law, m), c in zip(self.parts(mean), self._given(given), strict=True):
            if law.stochastic:
                total = total + law.entropy(m, c)

        return total

    def variance(self, mean: Tensor, given: Tensor | None = None) -> Tensor | None:
        parts = []
        for (law, m), c in zip(self.parts(mean), self._given(given), strict=True):
            variance = law.variance(m, c)
            if variance is None:
                return None
            parts.append(variance)

        return torch.cat(parts, -1)

    def noisy(self, mean: Tensor, scale: float, generator: Generator | None = None) -> Tensor:
        return torch.cat([law.noisy(m, scale, generator) for law, m in self.parts(mean)], -1)

    def width_of(self, squares: Tensor, mean: Tensor) -> Tensor:
        return torch.cat([law.width_of(s, m) for law, s, m in self.parts(squares, mean)], -1)

    def near(self, mean: Tensor, width: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.cat([law.near(m, w, generator) for law, m, w in self.parts(mean, width)], -1)

    def disturbed(
        self, h: Tensor, width: Tensor, scale: float, generator: Generator | None = None
    ) -> Tensor:
        parts = self.parts(h, width)
        return torch.cat([law.disturbed(a, w, scale, generator) for law, a, w in parts], -1)

    def pool_log_prob(
        self, h: Tensor, seen: Tensor, pool: Tensor, noise: Tensor | float
    ) -> Tensor:
        total = h.new_zeros(len(h), len(pool))
        for law, *parts in self.parts(h, seen, pool):
            total += law.pool_log_prob(*parts, noise)

        return total

    def extra_repr(self) -> str:
        blocks = zip(self.laws, self.widths, strict=True)
        return ", ".join(f"{width} {type(law).__name__}" for law, width in blocks)


#: Laws of x by the names that architectures give them.
OBSERVATIONS = {"gaussian": Gaussian, "bernoulli": Bernoulli}
