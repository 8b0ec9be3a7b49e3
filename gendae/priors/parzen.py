"""The Parzen density, as a function for scores and as a prior of stored codes (2014, 7.3)."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.priors.bandwidth import FEWEST, HeldOut
from gendae.priors.base import Prior
from gendae.priors.centres import CHOICES, choose
from gendae.priors.copying import CELL_IMAGES, MAX_CELLS, DataCopying, fresh_noise
from gendae.registry import grouped, register

#: Most entries of the distance matrix held at a time: 32 MiB in float64.
BLOCK_ENTRIES = 2**22
#: Entries whose kernels a processor computes at a time, for one bandwidth after the other: they
#: stay in its cache.
CACHED_ENTRIES = 2**18
#: Samples for each held-out code, of which the noise of samples is chosen.
DRAWS = 4
#: Held-out codes in a cell of the test that tells them from samples, about.
CELL_HELD_OUT = 20

#: Exponentials are taken as powers of 2: MKL's exp needs ten times as long where its result is
#: near 0, as most are.
LN_2 = math.log(2.0)


@checks.takes_arrays
def parzen_log_prob(x: Tensor, samples: Tensor, sigma: float | Sequence[float] | Tensor) -> Tensor:
    """Log density of x under a Parzen window: the mean of isotropic Gaussians centred on samples.

    log p(x) = log (1/n) sum_j exp(-|x - s_j|^2 / (2 sigma^2)) - D log(sigma sqrt(2 pi))

    Source: the estimator behind the log-likelihoods of 2015, section 8 (Breuleux et al. 2011).
    Distances are computed once for all sigmas, in float64 and in bounded memory: the result does
    not depend on the matmul precision, TF32 or autocast setting in force.

    Args:
        x: points, (m, D).
        samples: centres s_j, (n, D).
        sigma: bandwidth in pixel units; a number, or several.

    Returns:
        Nats in float64: (m,) for a number, (k, m) for k bandwidths.

    Raises:
        ValueError: for widths that differ, no samples, NaN or infinite values, or sigma <= 0.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> parzen_log_prob(x, torch.tensor([[0.0]]), 1.0)
        tensor([-0.9189, -1.4189], dtype=torch.float64)
    """
    checks.width("x", x, samples.shape[-1])
    checks.width("samples", samples, x.shape[-1])
    if len(samples) == 0:
        raise ValueError("samples is empty; a Parzen window needs at least one centre")

    single = isinstance(sigma, int | float) or (isinstance(sigma, Tensor) and sigma.ndim == 0)
    bandwidths = [sigma] if single else sigma
    sigmas = [float(s) for s in bandwidths]
    for s in sigmas:
        checks.at_least("sigma", s, 0.0, strict=True)

    device = x.device
    if device.type == "mps":  # no float64 there
        x = x.cpu()
        samples = samples.cpu()

    centre = checks.finite("samples", samples).double().mean(0)
    x64 = checks.finite("x", x).double() - centre
    log_p = _log_mean_kernels(x64, samples.double() - centre, sigmas)
    for i, s in enumerate(sigmas):
        log_p[i] -= x.shape[1] * math.log(s * math.sqrt(2 * math.pi))

    log_p = log_p.to(device)
    if single:
        return log_p[0]
    return log_p


def _log_mean_kernels(x: Tensor, samples: Tensor, sigmas: list[float]) -> Tensor:
    """log (1/n) sum_j exp(-|x - s_j|^2 / (2 sigma^2)) for each sigma, (k, m)."""
    half_norm = 0.5 * samples.square().sum(1)
    rows = max(1, BLOCK_ENTRIES // len(samples))
    log_p = torch.empty(len(sigmas), len(x), dtype=torch.float64, device=x.device)

    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(x), rows):
            block = slice(start, start + rows)

            # -|x - s|^2 / 2 = x.s - |s|^2 / 2 - |x|^2 / 2; the last term is the same for all s.
            affinity = torch.addmm(half_norm, x[block], samples.T, beta=-1)
            base = 0.5 * x[block].square().sum(1)
            log_p[:, block] = _log_mean_exps(affinity, base, sigmas)

    return log_p


def _rows_at_a_time(x: Tensor, columns: int) -> int:
    """How many rows of a matrix of so many columns are computed with at a time, where x is."""
    entries = CACHED_ENTRIES if x.device.type == "cpu" else BLOCK_ENTRIES
    return max(1, entries // columns)


def _log_mean_exps(affinity: Tensor, base: Tensor, sigmas: list[float]) -> Tensor:
    """log mean_j exp((affinity_ij - base_i) / sigma^2) for each sigma, (k, rows)."""
    rows = _rows_at_a_time(affinity, affinity.shape[1])

    pieces = []
    for some, below in zip(affinity.split(rows), base.split(rows), strict=True):
        top = some.amax(1, keepdim=True)
        gap = some - top
        shift = top[:, 0] - below
        pieces.append(torch.stack([shift / s**2 + _log_mean_exp(gap, s**2) for s in sigmas]))

    return torch.cat(pieces, 1)


def _log_mean_exp(gap: Tensor, variance: float) -> Tensor:
    """log mean_j exp(gap_ij / variance); the exponentials, all <= 1, in float32."""
    kernels = gap.div(variance * LN_2).float().exp2_()
    return kernels.sum(1).double().div_(gap.shape[1]).log()


def _log_sum_exp(terms: Tensor) -> Tensor:
    """log sum_j exp(terms_ij), (rows,)."""
    top = terms.amax(1, keepdim=True).clamp(min=torch.finfo(terms.dtype).min)
    kernels = terms.sub(top).div_(LN_2).exp2_()
    return top[:, 0] + kernels.sum(1).log()


class Geometry(NamedTuple):
    """Where points h lie to the centres mu_i."""

    #: |h - mu_i|^2, (rows, n).
    distance: Tensor
    #: How far along the directions of each centre, (rows, n, directions), where it has any.
    along: Tensor | None = None


@register
class ParzenPrior(Prior):
    """p(h) = 1/n sum_i N(h; mu_i, sigma^2 I), with stored codes mu_i ("templates") as centres.

    With w_i = p(i | h),

        reconstruct(h) = sum_i w_i mu_i,      score(h) = (reconstruct(h) - h) / sigma^2    (Eq. 21)

    Source: Bengio et al. 2014, section 7.3 and Eq. 21.

    Where h is a stored code, its own term is left out ("a set of training examples excluding
    h_L"); `cross_entropy` leaves a code's term out where the mean of Q is that code. Otherwise
    every training code would be its own nearest mode.

    The bandwidth of the best density is one thing, the noise of samples another: around the means
    of a clustering it is too wide. Samples are fresh where they are as near to the training codes
    as held-out codes are, which the three-sample test tells (`DataCopying`): nearer ones are
    copies, others lie off the data. It is the noise chosen, unless one is given.

    Args:
        bandwidth: sigma, in units of h; None chooses it by the likelihood of held-out codes, which
            are never stored.
        capacity: most codes stored.
        choice: "reservoir", a uniform subset, or "kmeans", the means of a clustering, with equal
            weights.
        held_out: the codes held out where the bandwidth or the noise is chosen.
        stratified: sample templates in the order of random permutations, so that each is used
            equally often. The law of each draw is the same; averages spread less.
        leave_one_out: leave a stored code's own term out, as above.
        noise_scale: multiplier of the noise added to a template by `sample`; None chooses it where
            C_T of training codes, held-out codes and samples is nearest 0, within 1/16 and 8. It
            is 1 where fewer than 100 codes can be held out.
        seed: of the choices.

    Attributes:
        bandwidth_: the sigma in use, a tensor; a rule can tie the noise of Q(h_L | x) to it.
        noise_scale_: the multiplier in use, a tensor; a number assigned to `noise_scale` sets it.

    Raises:
        ValueError: for bandwidth or capacity <= 0 and the like, unknown choices, or codes without
            variance where the bandwidth or the noise is to be chosen.

    Example:
        >>> codes = torch.tensor([[0.0], [1.0], [5.0]])
        >>> prior = ParzenPrior(bandwidth=0.5).fit(codes)
        >>> prior.reconstruct(torch.tensor([[5.2]]))
        tensor([[5.]])
        >>> prior.reconstruct(torch.tensor([[5.0]]))         # a stored code: pulled to the others
        tensor([[1.]])
    """

    codes: Tensor
    bandwidth_: Tensor
    noise_scale_: Tensor
    LATER = ("noise_scale_",)

    def __init__(
        self,
        bandwidth: float | None = None,
        capacity: int = 10_000,
        choice: str = "reservoir",
        held_out: HeldOut | None = None,
        stratified: bool = True,
        leave_one_out: bool = True,
        noise_scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if bandwidth is not None:
            checks.at_least("bandwidth", bandwidth, 0.0, strict=True)

        self.bandwidth = bandwidth
        self.capacity = checks.whole("capacity", capacity, 2)
        self.choice = checks.one_of("choice", choice, CHOICES)
        self.held_out = checks.kind("held_out", held_out or HeldOut(), HeldOut)
        self.stratified = bool(stratified)
        self.leave_one_out = bool(leave_one_out)
        self.seed = checks.seed("seed", seed)

        self.register_buffer("codes", torch.empty(0))
        self.register_buffer("bandwidth_", torch.empty(0))
        self.register_buffer("noise_scale_", torch.empty(0))
        self.noise_scale = noise_scale

    @classmethod
    def upgrade(cls, arguments: dict) -> dict:
        """Before 0.2, `local` chose the class, and what `held_out` groups was flat."""
        members = {"validation_fraction": "fraction", "bandwidth_bonus": "bonus"}
        arguments = grouped(arguments, "held_out", "HeldOut", members)

        if "local" not in arguments:
            return arguments

        local = arguments.pop("local")
        if local == "manifold":
            return {**arguments, "type": "ManifoldParzenPrior"}
        if local is not None:
            raise ValueError(f"local={local!r} is unknown; accepted: None, manifold")

        unused = ("neighbours", "components")
        return {name: value for name, value in arguments.items() if name not in unused}

    @property
    def noise_scale(self) -> float | None:
        """The multiplier that was asked for; None where `fit` chooses it."""
        return self._noise_scale

    @noise_scale.setter
    def noise_scale(self, scale: float | None) -> None:
        if scale is not None:
            scale = checks.at_least("noise_scale", scale, 0.0)
        if scale is not None and self.fitted:
            self.noise_scale_ = self.bandwidth_.new_tensor(scale)

        self._noise_scale = scale

    @property
    def noise(self) -> float:
        """The bandwidth: `reconstruct` is the denoising of noise of that level (Eq. 21)."""
        self.require_fitted()
        return float(self.bandwidth_)

    def estimate(self, codes: Tensor) -> None:
        """Choose the codes to store, their windows, the bandwidth and the noise of samples."""
        generator = torch.Generator().manual_seed(self.seed)
        codes = codes[torch.randperm(len(codes), generator=generator).to(codes.device)]
        held = self._held_out_rows(len(codes))
        fresh = codes[:held]
        training = codes[held:]

        stored = choose(training, self.capacity, self.choice, generator)
        self._fit_windows(stored)
        self.codes = stored

        bandwidth = self.bandwidth
        if bandwidth is None:
            bandwidth = self._best_bandwidth(fresh)
        self.bandwidth_ = stored.new_tensor(bandwidth)

        scale = self.noise_scale
        if scale is None:
            scale = self._best_noise_scale(training, fresh, generator)
        self.noise_scale_ = stored.new_tensor(scale)

    def _held_out_rows(self, n: int) -> int:
        """How many of n codes are held out."""
        if self.bandwidth is None:
            return self.held_out.rows(n)
        if self.noise_scale is not None or n < FEWEST:
            return 0

        held = self.held_out.rows(n)
        return held if held >= FEWEST else 0

    def _fit_windows(self, stored: Tensor) -> None:
        """What the windows around the stored codes need beside the bandwidth: nothing."""

    def _best_bandwidth(self, held: Tensor) -> float:
        spread = self._spread("bandwidth")
        return self.held_out.best(lambda grid: self._log_likelihood(held, grid), spread)

    def _best_noise_scale(self, training: Tensor, held: Tensor, generator: Generator) -> float:
        """Where samples are as near to the training codes as held-out codes are."""
        if len(held) < FEWEST:
            return 1.0

        self._spread("noise_scale")
        index = self._templates(DRAWS * len(held), generator).to(self.codes.device)
        templates = self.codes[index]
        noise = self._window_noise(index, generator)
        cells = min(len(training) // CELL_IMAGES, len(held) // CELL_HELD_OUT, MAX_CELLS)
        copying = DataCopying(training, held, max(cells, 1), seed=self.seed)

        return fresh_noise(lambda scale: copying(templates + scale * noise))

    def _spread(self, chosen: str) -> float:
        """Deviation of the stored codes; a ValueError if it is 0, so that nothing is chosen."""
        spread = self.codes.var(0, correction=0).mean().sqrt().item()
        if spread == 0.0:
            raise ValueError(
                f"codes are all equal, so that {chosen}=None cannot be chosen; give a number"
            )

        return spread

    def _log_likelihood(self, held: Tensor, grid: Tensor) -> Tensor:
        """Mean log-likelihood of held-out codes for each bandwidth, (k,)."""
        return parzen_log_prob(held, self.codes, grid).mean(1).cpu()

    # -- the mixture ---------------------------------------------------------------------------

    #: Numbers that the geometry holds for each row and code.
    numbers = 1

    def _by_rows(self, h: Tensor, function: Callable[..., Tensor], *others: Tensor) -> Tensor:
        """`function` on a few rows at a time, in at least the precision of the codes."""
        dtype = torch.promote_types(h.dtype, self.codes.dtype)
        rows = _rows_at_a_time(h, len(self.codes) * self.numbers)

        with torch.autocast(h.device.type, enabled=False):
            pieces = [x.to(dtype).split(rows) for x in (h, *others)]
            return torch.cat([function(*block) for block in zip(*pieces, strict=True)])

    def _squared_distances(self, h: Tensor) -> Tensor:
        centre = self.codes.mean(0)
        h = h - centre
        codes = (self.codes - centre).to(h.dtype)

        base = h.square().sum(1, keepdim=True) + codes.square().sum(1)
        return torch.addmm(base, h, codes.T, alpha=-2.0)

    def _geometry(self, h: Tensor) -> Geometry:
        return Geometry(self._squared_distances(h))

    def _mahalanobis(self, geometry: Geometry, sigma: Tensor) -> Tensor:
        """sigma^2 (h - mu_i)^T Sigma_i^-1 (h - mu_i), (rows, n)."""
        return geometry.distance

    def _log_volume(self, sigma: Tensor) -> Tensor:
        """1/2 log det 2 pi Sigma_i, one number or (n,)."""
        return self.codes.shape[1] * (sigma.log() + 0.5 * math.log(2.0 * math.pi))

    def _log_terms(self, geometry: Geometry, sigma: Tensor) -> Tensor:
        """log N(h; mu_i, Sigma_i), (rows, n)."""
        distance = self._mahalanobis(geometry, sigma)
        return -0.5 * distance / sigma**2 - self._log_volume(sigma)

    def _terms(
        self, geometry: Geometry, anchor: Tensor, anchor_distance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log terms of the mixture, and their number, without the term of a stored `anchor`."""
        terms = self._log_terms(geometry, self.bandwidth_.to(geometry.distance.dtype))
        count = torch.full_like(terms[:, 0], terms.shape[1])
        if not self.leave_one_out:
            return terms, count

        index, stored = self._nearest(anchor, anchor_distance)
        kept = terms.gather(1, index).masked_fill(stored, -math.inf)
        return terms.scatter(1, index, kept), count - stored[:, 0].to(count.dtype)

    @torch.no_grad()
    def _nearest(self, h: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the nearest stored code, and whether h equals it up to rounding; (rows, 1)."""
        index = distance.argmin(1, keepdim=True)
        nearest = self.codes[index[:, 0]].to(h.dtype)

        gap = (h - nearest).square().sum(1, keepdim=True)
        size = (h.square() + nearest.square()).sum(1, keepdim=True)
        tolerance = 16 * torch.finfo(self.codes.dtype).eps
        return index, gap <= tolerance**2 * size

    def log_prob(self, h: Tensor) -> Tensor:
        """log p(h) in nats, (batch,), in the precision of h.

        Memory is bounded where no gradients are taken.
        """
        self.require_fitted()

        def block(rows: Tensor) -> Tensor:
            geometry = self._geometry(rows)
            terms, count = self._terms(geometry, rows, geometry.distance)
            return _log_sum_exp(terms) - count.log()

        return self._by_rows(h, block)

    def cross_entropy(
        self, sample: Tensor, mean: Tensor, variance: Tensor | None = None
    ) -> Tensor:
        """-log p(sample) in nats, (batch,), without the term of a stored code that is Q's mean."""
        self.require_fitted()

        def block(rows: Tensor, anchor: Tensor) -> Tensor:
            anchor = anchor.detach()
            geometry = self._geometry(rows)
            terms, count = self._terms(geometry, anchor, self._squared_distances(anchor))
            return count.log() - _log_sum_exp(terms)

        return self._by_rows(sample, block, mean)

    def marginal(self, observed: Tensor) -> Prior:
        self.require_fitted()

        marginal = ParzenPrior(
            self.bandwidth,
            self.capacity,
            self.choice,
            self.held_out,
            self.stratified,
            self.leave_one_out,
            self.noise_scale,
            self.seed,
        )
        marginal.codes = self.codes[:, observed].contiguous()
        marginal.bandwidth_ = self.bandwidth_
        marginal.noise_scale_ = self.noise_scale_
        return marginal

    def score(self, h: Tensor) -> Tensor:
        """d log p(h) / dh = (reconstruct(h) - h) / sigma^2, (batch, features)."""
        return (self.reconstruct(h) - h) / self.bandwidth_**2

    def reconstruct(self, h: Tensor) -> Tensor:
        """h + sigma^2 score(h), the target of h (Eq. 21), (batch, features)."""
        self.require_fitted()

        def block(rows: Tensor) -> Tensor:
            geometry = self._geometry(rows)
            terms, _ = self._terms(geometry, rows, geometry.distance)
            return self._target(terms.softmax(1), geometry)

        return self._by_rows(h, block)

    def _target(self, weights: Tensor, geometry: Geometry) -> Tensor:
        """sum_i w_i mu_i, (rows, features)."""
        return weights @ self.codes.to(weights.dtype)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, features): a stored code, plus noise from its window."""
        self.require_fitted()

        index = self._templates(n, generator).to(self.codes.device)
        return self.codes[index] + self.noise_scale_ * self._window_noise(index, generator)

    def _window_noise(self, index: Tensor, generator: Generator | None) -> Tensor:
        """A draw from N(0, Sigma_i) for each index i of a stored code."""
        return self.bandwidth_ * normal_like(self.codes[index], generator)

    def _templates(self, n: int, generator: Generator | None) -> Tensor:
        """Indices of n stored codes, drawn where `generator` lives."""
        stored = len(self.codes)
        device = self.codes.device if generator is None else generator.device
        if not self.stratified:
            return torch.randint(stored, (n,), generator=generator, device=device)

        rounds = -(-n // stored)
        if rounds < 1:
            return torch.empty(0, dtype=torch.long)

        orders = [
            torch.randperm(stored, generator=generator, device=device) for _ in range(rounds)
        ]
        return torch.cat(orders)[:n]

    def extra_repr(self) -> str:
        bandwidth = self.bandwidth
        noise_scale = self.noise_scale
        if self.fitted:
            bandwidth = f"{float(self.bandwidth_):.4g}"
            noise_scale = f"{float(self.noise_scale_):.4g}"

        return f"{len(self.codes)} codes, bandwidth={bandwidth}, noise_scale={noise_scale}"

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Files of earlier versions have the noise of samples in their description only."""
        codes = state_dict.get(prefix + "codes", self.codes)
        stated = state_dict.get(prefix + "noise_scale_", self.noise_scale_)
        if codes.numel() > 0 and stated.numel() == 0:
            scale = 1.0 if self.noise_scale is None else self.noise_scale
            state_dict[prefix + "noise_scale_"] = codes.new_tensor(scale)

        super()._load_from_state_dict(state_dict, prefix, *args)
