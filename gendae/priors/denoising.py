"""A denoising auto-encoder of codes at all levels of noise, as a top-level prior.

At one level of noise the paper's auto-encoder over h_L says where codes are likelier, but not how
to get there: its chain mixes badly. Given the level, and trained at all of them, it leads from
noise to a code, by local denoising targets alone, and log p(h_L) is an integral along the way.

Three nouns: `Levels`, the noise that training meets; `Denoiser`, D(z; s); `Descent`, the way from
noise to codes. A `Flow` goes the other way, for log p.
Source: Bengio et al. 2014, sections 2.2.4 and 2.2.7 (the auto-encoder prior, and what its
denoising estimates); Song and Ermon 2019 and Karras et al. 2022 (all levels).
"""

import copy
from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.corruption import normal_like
from gendae.priors.base import JITTER, NOISE, Prior, ScaledPrior, floored, usable_codes
from gendae.priors.denoiser import Denoiser, LevelMLP, denoising_loss, fresh
from gendae.priors.descents import Descent, HeunDescent, LangevinDescent
from gendae.priors.fitting import AveragedLearning, Fitting
from gendae.priors.flow import Flow
from gendae.priors.levels import Levels, LogNormalLevels
from gendae.priors.marginal import Marginal
from gendae.registry import register

COORDINATES = ("units", "directions")
#: The way on which missing units descend, by default.
CLAMPED = LangevinDescent(30, stop=0.1, rounds=30, rate=0.5)


@register
class DenoisingPrior(ScaledPrior):
    """P(h) implied by a denoiser of codes at every level of noise.

    Codes are standardised, z = (h - mean) / deviation unit by unit; D(z~; s) gives z back from
    z~ = z + s N(0, I). Samples descend from noise through the levels, and

        reconstruct(h) = mean + deviation D(z; s),      score(z) = (D(z; s) - z) / s^2

    at the level of `noise`. log p(h) is that of codes with a very little noise (`Flow.lowest`).
    Each fit begins anew.
    Source: see `gendae.priors.denoising`.

    Args:
        network: F of the denoiser, called as F(z, ln s / 4) and giving the shape of z; it may
            have `prepare(features, condition)`. `LevelMLP` if None. It is copied for each block.
        levels: the law of levels in training; `LogNormalLevels` if None.
        learning: epochs, rate, batches, seed, a budget of time, processes.
        descent: how samples come about; `HeunDescent` if None.
        flow: how log p(h) is integrated; `Flow` if None.
        coordinates: "units" standardises unit by unit; "directions" turns z to its principal
            directions, each with a variance of its own, which helps where units are many and
            correlated.
        blocks: B, networks that share the law of levels out, with no parameter and no gradient in
            common.
        noise: level at which `reconstruct` denoises, in units of h; a tenth of the codes' spread
            if None. Each unit's share of it goes with its deviation.

    Raises:
        ValueError: for numbers out of range and unknown coordinates; from `fit`, for no more codes
            than units, codes that are all equal, units with two values, or if training diverges.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> codes = 3.0 + 2.0 * torch.randn(500, 2, generator=g)
        >>> prior = DenoisingPrior(LevelMLP(16, 1), learning=AveragedLearning(2)).fit(codes)
        >>> h = prior.sample(1000, g)
        >>> h.mean().round().item(), h.std().round().item()
        (3.0, 2.0)
        >>> prior.log_prob(h[:5]).shape
        torch.Size([5])
    """

    ARRAYS = (*ScaledPrior.ARRAYS, "begin", "loss", "complete")

    needs_noise = True
    slow_density = True
    network: nn.Module

    def __init__(
        self,
        network: nn.Module | None = None,
        levels: Levels | None = None,
        learning: AveragedLearning | None = None,
        descent: Descent | None = None,
        flow: Flow | None = None,
        coordinates: str = "units",
        blocks: int = 1,
        noise: float | None = None,
    ) -> None:
        super().__init__(noise)
        self._own_level: float | None = None
        # a pattern for the networks of the denoiser: no part of the model itself
        object.__setattr__(
            self, "network", checks.kind("network", network or LevelMLP(), nn.Module)
        )
        self.levels = checks.kind("levels", levels or LogNormalLevels(), Levels)
        self.learning = checks.kind("learning", learning or AveragedLearning(), AveragedLearning)
        self.descent = checks.kind("descent", descent or HeunDescent(), Descent)
        self.flow = checks.kind("flow", flow or Flow(), Flow)
        self.coordinates = checks.one_of("coordinates", coordinates, COORDINATES)
        self.blocks = checks.whole("blocks", blocks, 1, checks.REPEATS)

        turned = torch.empty(0) if coordinates == "directions" else None
        self.register_buffer("center", torch.empty(0))
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("basis", turned)
        self.denoiser: Denoiser | None = None

    #: Width of what the networks are told of each code, and the chance that training hides it.
    condition_width = 0
    dropout = 0.0

    def told_of(self, codes: Tensor, conditions: Tensor | None = None) -> Tensor | None:
        """What the networks are told of each code, (n, condition_width); here nothing."""
        return None

    def prepare(self, features: int) -> None:
        """Create the networks for this width, drawn from the prior's own seed.

        They need no gradient outside `fit`: no rule's optimizer trains them.
        """
        if self.denoiser is not None and len(self.denoiser.variances) == features:
            return

        if self.fitted:
            raise ValueError(
                f"DenoisingPrior was fitted on codes of width {len(self.center)}, not {features}; "
                "make a new one"
            )

        self._draw(features)

    def _draw(self, features: int) -> None:
        seed = self.learning.seed
        networks = []
        for block in range(self.blocks):
            own = checks.folded(seed + 15_485_863 * block)
            networks.append(fresh(self.network, features, self.condition_width, own))

        bounds = self.levels.bounds(self.blocks)
        self.denoiser = Denoiser(networks, bounds, torch.ones(features))
        self.denoiser.to(self.center.device, self.center.dtype).requires_grad_(False)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        center = state_dict.get(prefix + "center")
        if center is not None and center.numel() and self.denoiser is None:
            self.prepare(len(center))

        self._own_level = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    # -- training ------------------------------------------------------------------------------

    def estimate(self, codes: Tensor, conditions: Tensor | None = None) -> None:
        """Standardise, and train the networks of all blocks."""
        fitting = self.begin(codes, conditions)
        fitting.run()
        self.finish(fitting)

    def begin(self, codes: Tensor, conditions: Tensor | None = None) -> Fitting:
        """A training on these codes that can be kept and gone on with; `finish` takes its end.

        `fit` is begin, `advance` until `done`, and finish. Until then the prior is as it was.

        Args:
            codes: of the training set, (n, features).
            conditions: as of `fit`.

        Raises:
            ValueError: as from `fit`.

        Example:
            >>> prior = DenoisingPrior(LevelMLP(8, 1), learning=AveragedLearning(2))
            >>> codes = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
            >>> fitting = prior.begin(codes)
            >>> fitting.advance()
            >>> kept = fitting.state_dict()                     # after an interrupt:
            >>> again = prior.begin(codes)
            >>> again.load_state_dict(kept)
            >>> again.advance()
            >>> again.done, prior.finish(again).fitted
            (True, True)
        """
        with torch.inference_mode(False), torch.no_grad():
            codes = usable_codes(codes)
            check_codes(codes)
            told = self.told_of(codes, conditions)

            law = copy.deepcopy(self).to(codes.device, codes.dtype)
            law.measure(codes, told)
            z = law.standardised(codes)

        networks = list(law.denoiser.networks)
        variances = law.denoiser.variances
        fitting = Fitting(networks, self.levels, self.learning, z, variances, told, self.dropout)
        fitting.law = law

        return fitting

    def finish(self, fitting: Fitting) -> "DenoisingPrior":
        """Take what a training that is done has measured and learned; returns the prior."""
        networks = fitting.finish()

        law = fitting.law
        for name, buffer in law.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.denoiser = law.denoiser
        self.denoiser.networks = nn.ModuleList(networks)
        self._own_level = None

        return self.requires_grad_(False)

    def measure(self, codes: Tensor, told: Tensor | None) -> None:
        """Set what is known of codes before any network learns, and draw fresh networks."""
        self.center = codes.mean(0)
        self.scale = floored(codes.var(0), codes.dtype).sqrt()
        variances = self._turn((codes - self.center) / self.scale)

        self._draw(codes.shape[1])
        self.denoiser.variances = variances

    def _turn(self, z: Tensor) -> Tensor:
        """Variances of z, and its principal directions where these are the coordinates."""
        if self.basis is None:
            return torch.ones_like(self.center)

        covariance = z.double().T @ z.double() / (len(z) - 1)
        variances, basis = torch.linalg.eigh(covariance.cpu())
        self.basis = basis.to(z)

        return variances.clamp_min(JITTER).to(z)

    def standardised(self, h: Tensor) -> Tensor:
        """z of h, (batch, features).

        Raises:
            ValueError: before `fit`, and for another width.
        """
        self.require_fitted()
        checks.width("h", h, len(self.center))

        return self._along((h - self.center) / self.scale)

    def restored(self, z: Tensor) -> Tensor:
        """h of z, (batch, features)."""
        return torch.addcmul(self.center, self.scale, self._across(z))

    def _along(self, units: Tensor) -> Tensor:
        """Standardised units, turned to the coordinates of z."""
        return units if self.basis is None else units @ self.basis

    def _across(self, z: Tensor) -> Tensor:
        """z, turned back to standardised units."""
        return z if self.basis is None else z @ self.basis.T

    # -- use -----------------------------------------------------------------------------------

    @property
    def fitted(self) -> bool:
        return self.center.numel() > 0

    @property
    def variance(self) -> Tensor:
        return self.scale.square().mean()

    @property
    def own_level(self) -> float:
        """The level of `noise`, in standard deviations of each unit."""
        if self.given_noise is None:
            return NOISE
        if self._own_level is None:  # kept, so that no device is waited for at each update
            self._own_level = self.given_noise / float(self.variance.sqrt())

        return self._own_level

    @property
    def noise_of_units(self) -> Tensor:
        """The noise that `reconstruct` takes away, of each unit, (features,)."""
        return self.own_level * self.scale

    def denoise(self, z: Tensor, level: float) -> Tensor:
        """D(z; s), standardised as z is, (batch, features)."""
        self.require_fitted()
        return self.denoiser(z, level, self.told_of(z))

    def loss(self, h: Tensor, generator: Generator | None = None) -> Tensor:
        """The denoising loss of codes at levels of training, (); 1 is Gaussian codes' denoiser."""
        z = self.standardised(h)
        source = generator or torch.Generator().manual_seed(0)
        told = self.told_of(z)
        variances = self.denoiser.variances
        count = len(self.denoiser.networks)

        total = z.new_zeros(())
        for block, network in enumerate(self.denoiser.networks):
            shares = (block / count, (block + 1) / count)
            sigma = self.levels.draw(len(z), source, shares).to(z)[:, None]
            noise = normal_like(z, source)
            total = total + denoising_loss(network, z, sigma, noise, variances, told)

        return total / count

    def reconstruct(self, h: Tensor) -> Tensor:
        """mean + deviation D(z; s), the target of h, (batch, features); gradients pass to h."""
        self.require_fitted()
        return self.restored(self.denoise(self.standardised(h), self.own_level))

    def score(self, h: Tensor) -> Tensor:
        """d log p(h) / dh of codes with noise of the prior's level, (batch, features)."""
        with torch.no_grad():
            return (self.reconstruct(h) - h) / self.noise_of_units.square()

    def log_prob(self, h: Tensor) -> Tensor:
        """log p(h) in nats, (batch,); its gradient is the score at the flow's lowest level.

        It costs 2 `steps` of the flow times as many reverse passes as there are units.
        """
        self.require_fitted()
        z = self.standardised(h.detach())
        log_p = self.flow(self.denoise, z, self.denoiser.variances) - self.scale.log().sum()

        if not (torch.is_grad_enabled() and h.requires_grad):
            return log_p

        with torch.no_grad():
            lowest = self.flow.lowest
            moved = self.restored(self.denoise(z, lowest)) - self.restored(z)
            score = moved / (lowest * self.scale).square()

        return log_p + (score * (h - h.detach())).sum(-1)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, features): noise, descended to codes."""
        self.require_fitted()
        z = self.descent.start(self.denoiser.variances, n, generator)

        return self.restored(self.descent(self.denoise, z, generator))

    def way(self, n: int, generator: Generator | None = None) -> Iterator[Tensor]:
        """The codes to which each level of a descent would lead, (n, features) each.

        It is D(z; s) of the z that has been reached: at first the mean of all codes, at the end
        what `sample` gives.
        """
        self.require_fitted()
        z = self.descent.start(self.denoiser.variances, n, generator)
        states = self.descent.way(self.denoise, z, generator)

        for level, state in zip(self.descent.levels(), states, strict=False):
            yield self.restored(self.denoise(state, level))

    def complete(
        self,
        h: Tensor,
        observed: Tensor,
        generator: Generator | None = None,
        descent: Descent | None = None,
    ) -> Tensor:
        """Codes with draws of their missing units given the observed ones, (batch, features).

        Missing units descend from noise while the observed ones are clamped to z + s n.
        Source: Bengio 2014, Algorithm 6 and section 3.2; Song and Ermon 2019, Algorithm 3.

        Args:
            h: codes; the values of missing units are ignored, (batch, features).
            observed: True where a unit is given, (features,) or (batch, features).
            generator: source of noise.
            descent: `CLAMPED` if None, Langevin dynamics down to a low level: the more rounds, the
                nearer the draws are to the law of the denoiser.

        Raises:
            ValueError: before `fit`, and for a mask of another shape.
        """
        self.require_fitted()
        observed = checks.mask("observed", observed, *h.shape).to(h.device).expand_as(h)
        known = (h.masked_fill(~observed, 0.0) - self.center) / self.scale
        descent = descent or CLAMPED

        def keep(z: Tensor, level: float) -> Tensor:
            noisy = torch.add(known, normal_like(known, generator), alpha=level)
            return self._along(torch.where(observed, noisy, self._across(z)))

        z = descent.start(self.denoiser.variances, len(h), generator)
        filled = self.restored(descent(self.denoise, z, generator, keep))

        return torch.where(observed, h, filled)

    def marginal(self, observed: Tensor) -> Prior:
        """The law of the units where `observed` is True, which is sampled only; (features,)."""
        self.require_fitted()
        return Marginal(self, checks.mask("observed", observed, 1, len(self.center)).flatten())

    def extra_repr(self) -> str:
        if not self.fitted:
            return f"blocks={self.blocks}, coordinates={self.coordinates}"

        weights = sum(weight.numel() for weight in self.denoiser.networks.parameters())
        return f"{len(self.center)} units, {weights:,} weights, blocks={self.blocks}"


def check_codes(codes: Tensor) -> None:
    """Raise a ValueError for codes that no denoiser of real numbers can learn."""
    n, features = codes.shape
    if n <= features:
        raise ValueError(
            f"codes has {n} rows of {features} units; more rows than units are needed"
        )

    low = codes.amin(0)
    high = codes.amax(0)
    if bool((low == high).all()):
        raise ValueError("codes are all equal: there is nothing to denoise")

    two_valued = ((codes == low) | (codes == high)).all(0) & (low < high)
    if n > 2 and bool(two_valued.any()):
        unit = int(two_valued.nonzero()[0])
        raise ValueError(
            f"unit {unit} of the codes has two values, {low[unit]:g} and {high[unit]:g}: a "
            "denoiser of Gaussian noise gives real numbers; accepted for discrete units: "
            "FactorialPrior, ParzenPrior"
        )
