"""Measures of sample quality and of inference.

The Parzen score is the mean log density of test images under a Parzen window around samples. It
can be gamed (k-means centroids beat real images). So `parzen_report` always sets the same score of
training images, centroids and the mean image beside it.
"""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics import Metric

from gendae import checks
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import parzen_log_prob
from gendae.sampling.samplers import generate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Bandwidths by name: the 10 points of Goodfellow et al. 2014 (parzen_ll.py), and 29 finer ones.
GRIDS: dict[str, list[float]] = {
    "goodfellow": torch.logspace(-1, 0, 10, dtype=torch.float64).tolist(),
    "fine": torch.logspace(-1, math.log10(0.5), 29, dtype=torch.float64).tolist(),
}
PAPER_SIGMA = 0.2  # the bandwidth of the 236 nats of 2015, section 8
SIGMA_IMAGES = 1000  # the reference script chooses sigma on at most so many validation images


def sigma_grid(grid: str | Sequence[float]) -> list[float]:
    """The bandwidths of a named grid, or those given.

    Example:
        >>> [round(s, 4) for s in sigma_grid("goodfellow")][:3]
        [0.1, 0.1292, 0.1668]
    """
    if isinstance(grid, str):
        return GRIDS[checks.one_of("grid", grid, GRIDS)]

    bandwidths = checks.several("grid", grid)
    if not bandwidths:
        raise ValueError("grid is empty; give at least one bandwidth")
    return [float(s) for s in bandwidths]


@checks.takes_arrays
def choose_sigma(
    validation: Tensor, samples: Tensor, grid: str | Sequence[float] = "fine"
) -> float:
    """The bandwidth with the highest mean log density of the first 1,000 validation images."""
    (sigma,) = _chosen_sigmas(validation, samples, [sigma_grid(grid)])
    return sigma


def _chosen_sigmas(validation: Tensor, samples: Tensor, grids: list[list[float]]) -> list[float]:
    """The best bandwidth of each grid; distances are computed once for all."""
    checks.rows("validation", validation)

    sigmas = [sigma for grid in grids for sigma in grid]
    scores = parzen_log_prob(validation[:SIGMA_IMAGES], samples, sigmas).mean(1)

    parts = scores.split([len(grid) for grid in grids])
    return [grid[int(part.argmax())] for grid, part in zip(grids, parts, strict=True)]


class ParzenLogLikelihood(Metric):
    """Mean Parzen log-likelihood of the images it is updated with, in nats; streams over them.

    Only sums are kept, so that memory does not grow with the test set. Each of several processes
    is updated with its share of the images, and gives the number of all of them. Samples must be
    the same on all ranks (draw them with one seed).
    Source: 2015, section 8; protocol of Goodfellow et al. 2014.

    Args:
        samples: centres, (n, D); means of x, not draws.
        sigma: bandwidth; None chooses it on `validation`.
        validation: images on which sigma is chosen.
        grid: bandwidths to choose from: "fine", "goodfellow" or numbers.
        kwargs: arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: if neither sigma nor validation is given, for widths that differ, or for bad
            values.

    Example:
        >>> metric = ParzenLogLikelihood(torch.zeros(1, 2), sigma=1.0)
        >>> metric.update(torch.zeros(3, 2))
        >>> round(metric.compute().item(), 4), metric.standard_error.item()
        (-1.8379, 0.0)
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = True

    @checks.takes_arrays
    def __init__(
        self,
        samples: Tensor,
        sigma: float | None = None,
        validation: Tensor | None = None,
        grid: str | Sequence[float] = "fine",
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        if sigma is None:
            if validation is None:
                raise ValueError("sigma=None needs validation images to choose it on")
            sigma = choose_sigma(validation, samples, grid)

        self.sigma = checks.at_least("sigma", float(sigma), 0.0, strict=True)
        self.register_buffer("samples", samples, persistent=False)
        for name in ("total", "squares", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @checks.takes_arrays
    def update(self, x: Tensor) -> None:
        """Add images, (batch, D)."""
        log_p = parzen_log_prob(x.to(self.samples.device), self.samples, self.sigma)
        self.total = self.total + log_p.sum()
        self.squares = self.squares + log_p.square().sum()
        self.count = self.count + len(log_p)

    def compute(self) -> Tensor:
        """Mean log-likelihood in nats."""
        if self.count == 0:
            raise ValueError("the metric has seen no images; update it with at least one")

        return self.total / self.count

    def plot(
        self, val: Tensor | Sequence[Tensor] | None = None, ax: "Axes | None" = None
    ) -> "tuple[Figure, Axes]":
        """A figure of values of the metric, in nats; of its present one by default.

        Args:
            val: a value of `compute` or `forward`, or several of them in their order.
            ax: axes to draw on; new ones if None.
        """
        return self._plot(val, ax)

    @property
    def standard_error(self) -> Tensor:
        """std / sqrt(n) over the images of all processes, as published (denominator n in std).

        All processes must ask for it.
        """
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync and not self._is_synced
        ):
            variance = self.squares / self.count - (self.total / self.count) ** 2
            return (variance.clamp(min=0.0) / self.count).sqrt()


@checks.takes_arrays
def parzen_score(samples: Tensor, test: Tensor, validation: Tensor) -> dict[str, float]:
    """Parzen score of samples by both published protocols and at the paper's bandwidth, in nats.

    `ll` +- `se` at `sigma` from the fine grid; `ll_goodfellow` at `sigma_goodfellow` from the 10
    points; `ll_at_0.2`. Both sigmas are chosen on validation images. Distances are computed once
    for all.
    """
    checks.rows("test", test)

    chosen = _chosen_sigmas(validation, samples, [GRIDS["fine"], GRIDS["goodfellow"]])
    fine, goodfellow, fixed = parzen_log_prob(test, samples, [*chosen, PAPER_SIGMA])
    standard_error = fine.std(correction=0) / math.sqrt(len(fine))

    return {
        "ll": fine.mean().item(),
        "se": standard_error.item(),
        "sigma": chosen[0],
        "ll_goodfellow": goodfellow.mean().item(),
        "sigma_goodfellow": chosen[1],
        "ll_at_0.2": fixed.mean().item(),
    }


@checks.takes_arrays
def kmeans_centroids(x: Tensor, n: int, seed: int = 0) -> Tensor:
    """n k-means centroids of x.

    Two Lloyd steps from random images suffice for a baseline. scikit-learn takes the first one and
    assigns images for the second, whose means are taken here: it would go on to assign all images
    once more, only for their labels.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    checks.rows("x", checks.finite("x", x), n)

    kmeans = KMeans(n, init="random", n_init=1, max_iter=1, random_state=checks.folded(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans.fit(x.cpu().numpy())

    first = torch.from_numpy(kmeans.cluster_centers_).to(x.device)
    labels = torch.from_numpy(kmeans.labels_).long().to(x.device)
    counts = labels.bincount(minlength=n)[:, None]
    sums = torch.zeros_like(first).index_add_(0, labels, x.to(first.dtype))
    return torch.where(counts > 0, sums / counts, first).to(x)  # nothing may be nearest to one


@checks.takes_arrays
def parzen_report(
    named_samples: dict[str, Tensor],
    train: Tensor,
    validation: Tensor,
    test: Tensor,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Parzen scores of several sets of samples beside the baselines at the same number of samples.

    Baselines are the first training images, k-means centroids, and the mean image. Their number is
    capped at what the training split has.
    """
    n = max(len(s) for s in named_samples.values())
    clusters = max(1, min(n, len(train) // 2))
    sets = {
        **named_samples,
        "training images": train[:n],
        "k-means centroids": kmeans_centroids(train, clusters, seed),
        "mean image": train.mean(0, keepdim=True),
    }

    return {name: {"n": len(s), **parzen_score(s, test, validation)} for name, s in sets.items()}


#: Multipliers of the Gaussian top's variances that `choose_prior` tries; 4 is the paper's.
VARIANCE_SCALES = (0.5, 0.7, 0.85, 1.0, 2.0, 4.0, 6.0, 9.0, 12.0, 16.0)


@checks.takes_arrays
@torch.no_grad()
def choose_prior(
    stack: Stack,
    train: Tensor,
    validation: Tensor,
    n: int = 10_000,
    scales: Sequence[float] = VARIANCE_SCALES,
    seed: int = 0,
) -> dict[str, float]:
    """Give the stack the Gaussian top whose samples score best on validation images.

    Candidates are all pairs of a covariance and a multiplier. Each is fitted on the feed-forward
    codes of the training images, sampled with the stack's own sampler, and scored with the best
    bandwidth of the fine grid.

    Returns:
        Validation score of each candidate in nats, by "covariance x multiplier".
    """
    codes = torch.cat([stack.encode(x.to(stack.device))[-1] for x in train.split(1000)])
    x = checks.rows("validation", validation)[:SIGMA_IMAGES].to(stack.device)

    scores: dict[str, float] = {}
    candidates: dict[str, GaussianPrior] = {}
    for covariance in ("diagonal", "full"):
        for scale in scales:
            name = f"{covariance} x {scale:g}"
            candidates[name] = GaussianPrior(covariance, scale).to(stack.device).fit(codes)

            stack.prior = candidates[name]
            samples = generate(stack, n, seed=seed).to(stack.device)
            log_p = parzen_log_prob(x, samples, GRIDS["fine"])
            scores[name] = log_p.mean(1).max().item()

    best = max(scores, key=scores.__getitem__)
    stack.prior = candidates[best]
    return scores
