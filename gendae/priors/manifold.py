"""Manifold Parzen windows: each is wide along the directions of its neighbours (2014, 7.3)."""

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.priors.bandwidth import HeldOut
from gendae.priors.base import Prior
from gendae.priors.centres import local_directions
from gendae.priors.parzen import Geometry, ParzenPrior
from gendae.registry import register


@register
class ManifoldParzenPrior(ParzenPrior):
    """p(h) = 1/n sum_i N(h; mu_i, Sigma_i), whose windows follow the manifold of the codes.

    Sigma_i = sigma^2 I + sum_r lambda_ir v_ir v_ir^T, with the leading directions v and variances
    lambda of the differences from mu_i to its nearest stored codes, so that samples move along the
    manifold. The target is reconstruct(h) = h + sigma^2 score(h), which keeps h's place along the
    directions:

        reconstruct(h) = sum_i w_i (mu_i + sum_r lambda_ir / (lambda_ir + sigma^2) v_ir a_ir),

    with w_i = p(i | h) and a_ir = v_ir . (h - mu_i).
    Source: Bengio et al. 2014, section 7.3, which points to Manifold Parzen Windows (Vincent &
    Bengio 2003; Bengio et al. 2006).

    Args:
        bandwidth, capacity, choice, held_out, stratified, leave_one_out, noise_scale, seed: as of
            `ParzenPrior`.
        neighbours: nearest stored codes that give a centre its directions.
        components: directions kept for each centre; memory is capacity * components * features.

    Raises:
        ValueError: as of `ParzenPrior`, and for fewer codes than neighbours.

    Example:
        >>> angle = torch.linspace(0.0, 6.2, 40)
        >>> ring = torch.stack([angle.cos(), angle.sin()], 1)
        >>> prior = ManifoldParzenPrior(0.05, neighbours=4, components=1).fit(ring)
        >>> draws = prior.sample(500, torch.Generator().manual_seed(0))
        >>> bool((draws.norm(dim=1) - 1.0).abs().mean() < 0.1)
        True
    """

    directions: Tensor
    variances: Tensor

    def __init__(
        self,
        bandwidth: float | None = None,
        capacity: int = 10_000,
        choice: str = "reservoir",
        neighbours: int = 10,
        components: int = 5,
        held_out: HeldOut | None = None,
        stratified: bool = True,
        leave_one_out: bool = True,
        noise_scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            bandwidth, capacity, choice, held_out, stratified, leave_one_out, noise_scale, seed
        )
        self.neighbours = checks.whole("neighbours", neighbours, 1)
        self.components = checks.whole("components", components, 1)

        self.register_buffer("directions", torch.empty(0))
        self.register_buffer("variances", torch.empty(0))

    def _fit_windows(self, stored: Tensor) -> None:
        """The local directions."""
        if len(stored) <= self.neighbours:
            raise ValueError(
                f"neighbours={self.neighbours} but only {len(stored)} codes are stored; "
                "at least one more than neighbours is needed"
            )

        directions, variances = local_directions(stored, self.neighbours, self.components)
        self.directions = directions
        self.variances = variances

    def _log_likelihood(self, held: Tensor, grid: Tensor) -> Tensor:
        def block(h: Tensor) -> Tensor:
            geometry = self._geometry(h)
            scores = [self._log_terms(geometry, sigma).logsumexp(1) for sigma in grid.to(h)]
            return torch.stack(scores, 1)

        return self._by_rows(held, block).double().mean(0).cpu()

    def marginal(self, observed: Tensor) -> Prior:
        return Prior.marginal(self, observed)  # no closed form

    # -- the mixture ---------------------------------------------------------------------------

    @property
    def numbers(self) -> int:
        """A distance, and a projection onto each direction."""
        return 1 + self.variances.shape[1]

    def _geometry(self, h: Tensor) -> Geometry:
        distance = self._squared_distances(h)
        return Geometry(distance, self._projections(h))

    def _projections(self, h: Tensor) -> Tensor:
        """a_ir = v_ir . (h - mu_i), (rows, n, components)."""
        directions = self.directions.to(h.dtype)
        codes = self.codes.to(h.dtype)

        centre = (directions @ codes[:, :, None])[..., 0]
        along = h @ directions.flatten(0, 1).T
        return along.unflatten(1, centre.shape) - centre

    def _mahalanobis(self, geometry: Geometry, sigma: Tensor) -> Tensor:
        ratio = self.variances / sigma**2
        return geometry.distance - (ratio / (1.0 + ratio) * geometry.along.square()).sum(-1)

    def _log_volume(self, sigma: Tensor) -> Tensor:
        ratio = self.variances / sigma**2
        return super()._log_volume(sigma) + 0.5 * torch.log1p(ratio).sum(-1)

    def _target(self, weights: Tensor, geometry: Geometry) -> Tensor:
        shrink = self.variances / (self.variances + self.bandwidth_**2)
        moved = weights[..., None] * shrink * geometry.along
        directions = self.directions.flatten(0, 1).to(weights.dtype)

        return super()._target(weights, geometry) + moved.flatten(1) @ directions

    def _window_noise(self, index: Tensor, generator: Generator | None) -> Tensor:
        noise = super()._window_noise(index, generator)
        along = self.variances[index].sqrt()
        along = along * normal_like(along, generator)

        return noise + torch.einsum("nr,nrd->nd", along, self.directions[index])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, components={self.components}"
