"""The Parzen density, as a function for scores and as a prior of stored codes (2014, 7.3)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.priors.base import Prior
from gendae.priors.centres import CHOICES, choose, local_directions
from gendae.registry import register

#: Most entries of the distance matrix held at a time: 32 MiB in float64.
BLOCK_ENTRIES = 2**22


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

            for i, s in enumerate(sigmas):
                log_p[i, block] = _log_mean_exp(affinity, s**2) - base / s**2

    return log_p


def _log_mean_exp(affinity: Tensor, variance: float) -> Tensor:
    """log mean_j exp(affinity_ij / variance); the exponentials, all <= 1, in float32."""
    top = affinity.max(1, keepdim=True).values
    exponent = (affinity - top).div_(variance).float()
    log_mean = exponent.exp_().sum(1).double().div_(affinity.shape[1]).log()

    return top[:, 0] / variance + log_mean


#: Most codes held out to choose a bandwidth.
HELD_OUT = 1000


@register
class ParzenPrior(Prior):
    """p(h) = 1/n sum_i N(h; mu_i, Sigma_i), with stored codes mu_i ("templates") as centres.

    Sigma_i = sigma^2 I. For local="manifold" it is sigma^2 I plus the leading directions of the
    differences from mu_i to its nearest stored codes, so that samples move along the codes'
    manifold. With w_i = p(i | h),

        reconstruct(h) = sum_i w_i mu_i,      score(h) = (reconstruct(h) - h) / sigma^2    (Eq. 21)

    and in the manifold form h + sigma^2 score(h), which keeps h's place along the directions.
    Source: Bengio et al. 2014, section 7.3 and Eq. 21, which points to Manifold Parzen Windows
    (Vincent & Bengio 2003; Bengio et al. 2006).

    Where h is a stored code, its own term is left out ("a set of training examples excluding
    h_L"); `cross_entropy` leaves a code's term out where the mean of Q is that code. Otherwise
    every training code would be its own nearest mode.

    Args:
        bandwidth: sigma, in units of h; None chooses it by the likelihood of held-out codes, which
            are never stored.
        capacity: most codes stored.
        choice: "reservoir", a uniform subset, or "kmeans", the means of a clustering, with equal
            weights.
        local: None for round windows, or "manifold".
        neighbours: nearest stored codes that give a centre its directions.
        components: directions kept for each centre; memory is capacity * components * features.
        validation_fraction: share of the codes held out (1000 at most) where the bandwidth is
            chosen.
        stratified: sample templates in the order of random permutations, so that each is used
            equally often. The law of each draw is the same; averages spread less.
        leave_one_out: leave a stored code's own term out, as above.
        noise_scale: multiplier of the noise added to a template by `sample`.
        bandwidth_bonus: nats for each unit of log sigma, added where the bandwidth is chosen: the
            paper's "regularizer that pushes the variances of each component to be as large as
            possible". Keep it below the width of h.
        seed: of the choice of codes.

    Attributes:
        bandwidth_: the sigma in use, a tensor; a rule can tie the noise of Q(h_L | x) to it.

    Raises:
        ValueError: for bandwidth or capacity <= 0 and the like, unknown choices, fewer codes than
            neighbours, or codes without variance where the bandwidth is to be chosen.

    Example:
        >>> codes = torch.tensor([[0.0], [1.0], [5.0]])
        >>> prior = ParzenPrior(bandwidth=0.5).fit(codes)
        >>> prior.reconstruct(torch.tensor([[5.2]]))
        tensor([[5.]])
        >>> prior.reconstruct(torch.tensor([[5.0]]))         # a stored code: pulled to the others
        tensor([[1.]])
    """

    def __init__(
        self,
        bandwidth: float | None = None,
        capacity: int = 10_000,
        choice: str = "reservoir",
        local: str | None = None,
        neighbours: int = 10,
        components: int = 5,
        validation_fraction: float = 0.1,
        stratified: bool = True,
        leave_one_out: bool = True,
        noise_scale: float = 1.0,
        bandwidth_bonus: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_windows(bandwidth, local, validation_fraction)

        self.bandwidth = bandwidth
        self.local = local
        self.validation_fraction = validation_fraction
        self.capacity = checks.whole("capacity", capacity, 2)
        self.choice = checks.one_of("choice", choice, CHOICES)
        self.neighbours = checks.whole("neighbours", neighbours, 1)
        self.components = checks.whole("components", components, 1)
        self.stratified = bool(stratified)
        self.leave_one_out = bool(leave_one_out)
        self.noise_scale = checks.at_least("noise_scale", noise_scale, 0.0)
        self.bandwidth_bonus = checks.at_least("bandwidth_bonus", bandwidth_bonus, 0.0)
        self.seed = int(seed)

        self.register_buffer("codes", torch.empty(0))
        self.register_buffer("bandwidth_", torch.empty(0))
        if local:
            self.register_buffer("directions", torch.empty(0))
            self.register_buffer("variances", torch.empty(0))

    @property
    def noise(self) -> float:
        """The bandwidth: `reconstruct` is the denoising of noise of that level (Eq. 21)."""
        self.require_fitted()
        return float(self.bandwidth_)

    def estimate(self, codes: Tensor) -> None:
        """Choose the codes to store, their local directions and the bandwidth."""
        n = len(codes)
        generator = torch.Generator().manual_seed(self.seed)

        held = 0
        if self.bandwidth is None:
            held = min(HELD_OUT, max(1, round(self.validation_fraction * n)))
            if n - held < 2:
                raise ValueError(f"codes has {n} rows; bandwidth=None needs at least three")

        codes = codes[torch.randperm(n, generator=generator).to(codes.device)]
        stored = choose(codes[held:], self.capacity, self.choice, generator)
        if self.local:
            self._fit_directions(stored)
        self.codes = stored

        bandwidth = self.bandwidth
        if bandwidth is None:
            bandwidth = self._best_bandwidth(codes[:held])
        self.bandwidth_ = stored.new_tensor(bandwidth)

    def _fit_directions(self, stored: Tensor) -> None:
        if len(stored) <= self.neighbours:
            raise ValueError(
                f"neighbours={self.neighbours} but only {len(stored)} codes are stored; "
                "at least one more than neighbours is needed"
            )

        directions, variances = local_directions(stored, self.neighbours, self.components)
        self.directions = directions
        self.variances = variances

    def _best_bandwidth(self, held: Tensor) -> float:
        """The maximum of held-out likelihood plus bonus on a logarithmic grid, refined once."""
        spread = self.codes.var(0, correction=0).mean().sqrt().item()
        if spread == 0.0:
            raise ValueError(
                "codes are all equal, so that bandwidth=None cannot be chosen; give a number"
            )

        grid = torch.logspace(-3, 0.3, 28, dtype=torch.float64) * spread
        for _ in range(2):
            values = self._held_out(held, grid) + self.bandwidth_bonus * grid.log()
            best = int(values.argmax())
            bandwidth = grid[best].item()

            low = grid[max(best - 1, 0)]
            high = grid[min(best + 1, len(grid) - 1)]
            grid = torch.logspace(low.log10().item(), high.log10().item(), 9, dtype=torch.float64)

        return bandwidth

    def _held_out(self, held: Tensor, grid: Tensor) -> Tensor:
        """Mean log-likelihood of held-out codes for each bandwidth."""
        if not self.local:
            return parzen_log_prob(held, self.codes, grid).mean(1).cpu()

        def block(h: Tensor) -> Tensor:
            geometry = self._geometry(h)
            scores = [self._log_terms(*geometry, sigma).logsumexp(1) for sigma in grid.to(h)]
            return torch.stack(scores, 1)

        return self._by_rows(held, block).double().mean(0).cpu()

    # -- the mixture ---------------------------------------------------------------------------

    def _by_rows(self, h: Tensor, function: Callable[..., Tensor], *others: Tensor) -> Tensor:
        """`function` on a few rows at a time, in at least the precision of the codes."""
        dtype = torch.promote_types(h.dtype, self.codes.dtype)

        # For each row and code: a distance, and a projection onto each direction.
        numbers = 1
        if self.local:
            numbers += self.variances.shape[1]
        rows = max(1, BLOCK_ENTRIES // (len(self.codes) * numbers))

        with torch.autocast(h.device.type, enabled=False):
            pieces = [x.to(dtype).split(rows) for x in (h, *others)]
            return torch.cat([function(*block) for block in zip(*pieces, strict=True)])

    def _squared_distances(self, h: Tensor) -> Tensor:
        centre = self.codes.mean(0)
        h = h - centre
        codes = (self.codes - centre).to(h.dtype)

        base = h.square().sum(1, keepdim=True) + codes.square().sum(1)
        return torch.addmm(base, h, codes.T, alpha=-2.0)

    def _projections(self, h: Tensor) -> Tensor:
        """v_ir . (h - mu_i), (rows, n, components)."""
        directions = self.directions.to(h.dtype)
        codes = self.codes.to(h.dtype)

        centre = (directions @ codes[:, :, None])[..., 0]
        along = h @ directions.flatten(0, 1).T
        return along.unflatten(1, centre.shape) - centre

    def _geometry(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """Squared distances to the centres, and how far along each centre's directions."""
        distance = self._squared_distances(h)
        if not self.local:
            return distance, None
        return distance, self._projections(h)

    def _log_terms(self, distance: Tensor, along: Tensor | None, sigma: Tensor) -> Tensor:
        """log N(h; mu_i, Sigma_i), (rows, n)."""
        log_volume = self.codes.shape[1] * (sigma.log() + 0.5 * math.log(2.0 * math.pi))
        if along is not None:
            ratio = self.variances / sigma**2
            distance = distance - (ratio / (1.0 + ratio) * along.square()).sum(-1)
            log_volume = log_volume + 0.5 * torch.log1p(ratio).sum(-1)

        return -0.5 * distance / sigma**2 - log_volume

    def _terms(
        self, distance: Tensor, along: Tensor | None, anchor: Tensor, anchor_distance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log terms of the mixture, and their number, without the term of a stored `anchor`."""
        terms = self._log_terms(distance, along, self.bandwidth_.to(distance.dtype))
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
            distance, along = self._geometry(rows)
            terms, count = self._terms(distance, along, rows, distance)
            return terms.logsumexp(1) - count.log()

        return self._by_rows(h, block)

    def cross_entropy(
        self, sample: Tensor, mean: Tensor, variance: Tensor | None = None
    ) -> Tensor:
        """-log p(sample) in nats, (batch,), without the term of a stored code that is Q's mean."""
        self.require_fitted()

        def block(rows: Tensor, anchor: Tensor) -> Tensor:
            anchor = anchor.detach()
            distance, along = self._geometry(rows)
            terms, count = self._terms(distance, along, anchor, self._squared_distances(anchor))
            return count.log() - terms.logsumexp(1)

        return self._by_rows(sample, block, mean)

    def marginal(self, observed: Tensor) -> "ParzenPrior":
        self.require_fitted()
        if self.local:
            return super().marginal(observed)

        marginal = ParzenPrior(leave_one_out=self.leave_one_out)
        marginal.codes = self.codes[:, observed].contiguous()
        marginal.bandwidth_ = self.bandwidth_
        return marginal

    def score(self, h: Tensor) -> Tensor:
        """d log p(h) / dh = (reconstruct(h) - h) / sigma^2, (batch, features)."""
        return (self.reconstruct(h) - h) / self.bandwidth_**2

    def reconstruct(self, h: Tensor) -> Tensor:
        """sum_i w_i mu_i, the target of h (Eq. 21), (batch, features)."""
        self.require_fitted()

        def block(rows: Tensor) -> Tensor:
            distance, along = self._geometry(rows)
            terms, _ = self._terms(distance, along, rows, distance)
            weights = terms.softmax(1)
            pulled = weights @ self.codes.to(rows.dtype)
            if along is None:
                return pulled

            shrink = self.variances / (self.variances + self.bandwidth_**2)
            moved = weights[..., None] * shrink * along
            directions = self.directions.flatten(0, 1).to(rows.dtype)
            return pulled + moved.flatten(1) @ directions

        return self._by_rows(h, block)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, features): a stored code, plus noise from its window."""
        self.require_fitted()

        index = self._templates(n, generator).to(self.codes.device)
        h = self.codes[index]

        noise = self.bandwidth_ * normal_like(h, generator)
        if self.local:
            along = self.variances[index].sqrt()
            along = along * normal_like(along, generator)
            noise = noise + torch.einsum("nr,nrd->nd", along, self.directions[index])

        return h + self.noise_scale * noise

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
        if self.fitted:
            bandwidth = f"{float(self.bandwidth_):.4g}"

        return f"{len(self.codes)} codes, bandwidth={bandwidth}, local={self.local!r}"


def _check_windows(bandwidth: float | None, local: str | None, validation_fraction: float) -> None:
    if bandwidth is not None:
        checks.at_least("bandwidth", bandwidth, 0.0, strict=True)

    if local not in (None, "manifold"):
        raise ValueError(f"local={local!r} is unknown; accepted: None, manifold")

    if not 0.0 < validation_fraction < 1.0:
        raise ValueError(f"validation_fraction={validation_fraction} is a share: between 0 and 1")
