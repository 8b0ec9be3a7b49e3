"""Sample quality beside the Parzen score: do samples look like data, cover the data, or copy the training set?

All measures compare sets of feature vectors. `features` of a network gives them: those of a digit classifier
(gendae.classifier), or the pixels themselves where there is no such network (`PixelFeatures`). Held-out images
are the reference of every measure, so that the numbers of training images, of other held-out images and of
k-means centroids can be set beside those of a model.
"""

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from gendae import checks
from gendae.metrics import kmeans_centroids

#: Most entries of a distance matrix held at a time: 32 MiB in float64.
BLOCK_ENTRIES = 2**22
BATCH = 100  # images at a time through a network: larger ones are slower on a CPU


class PixelFeatures(nn.Module):
    """The pixels as features, where no classifier of the data exists.

    Example:
        >>> PixelFeatures()(torch.ones(1, 3))
        tensor([[1., 1., 1.]])
    """

    classes = 0

    def features(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        return x


def _checked(name: str, x: Tensor, columns: int, rows: int) -> Tensor:
    checks.finite(name, checks.width(name, x, columns))
    if len(x) < rows:
        raise ValueError(f"{name} has {len(x)} rows; at least {rows} are needed")
    return x.detach().cpu()


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|mu_r - mu_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2)): FID on these features.

    Source: Heusel et al. 2017, Eq. 6; biased upwards for few samples, so compare equal numbers only.

    Args:
        real, fake: features, (n, d) and (m, d).

    Raises:
        ValueError: for fewer than two rows, widths that differ, or NaN.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> round(frechet_distance(x, x + 3.0), 6)
        9.0
    """
    width = real.shape[-1]
    metric = FrechetInceptionDistance(feature=_identity(width)).set_dtype(torch.float64)
    metric.update(_checked("real", real, width, 2).double(), real=True)
    metric.update(_checked("fake", fake, width, 2).double(), real=False)
    return metric.compute().item()


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 50, subset_size: int = 1000, seed: int = 0
) -> float:
    """Unbiased squared MMD under the kernel (x.y / d + 1)^3, the mean over random subsets: KID.

    Source: Binkowski et al. 2018. The subsets are drawn from `seed`; the global generator is left alone.

    Args:
        real, fake: features, (n, d) and (m, d).
        subsets: number of subsets.
        subset_size: rows of each; fewer where a set has fewer.

    Raises:
        ValueError: for fewer than two rows, widths that differ, or NaN.
    """
    width = real.shape[-1]
    real, fake = _checked("real", real, width, 2), _checked("fake", fake, width, 2)
    size = min(subset_size, len(real), len(fake))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features.*")
        metric = KernelInceptionDistance(feature=_identity(width), subsets=subsets, subset_size=size)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return metric.compute()[0].item()


def _identity(width: int) -> nn.Module:
    identity = PixelFeatures()
    identity.num_features = width  # torchmetrics would try the network on an image otherwise
    return identity


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Distances of a few rows of a at a time to all rows of b, in float64."""
    rows = max(1, BLOCK_ENTRIES // max(b.shape))
    for start in range(0, len(a), rows):
        block = slice(start, start + rows)
        yield block, torch.cdist(a[block].double(), b)


def neighbour_radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th nearest other row, (n,)."""
    parts = []
    for block, distances in _blocks(x, x):
        rows = torch.arange(len(x))[block]
        distances[torch.arange(len(rows)), rows] = math.inf  # itself
        parts.append(distances.topk(k, largest=False).values[:, -1])
    return torch.cat(parts)


class Manifold(NamedTuple):
    """k-nearest-neighbour precision, recall, density and coverage."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall_density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> Manifold:
    """How much of `fake` lies where `real` is, and how much of `real` where `fake` is.

    With B(x) the ball around x up to its k-th nearest neighbour in x's own set:
    precision = share of fake rows in any B(real); recall = share of real rows in any B(fake);
    density = mean number of B(real) that hold a fake row, divided by k (may exceed 1);
    coverage = share of B(real) that hold a fake row.
    Source: Kynkaanniemi et al. 2019 (precision, recall; k = 3); Naeem et al. 2020 (density, coverage; k = 5).

    Args:
        real, fake: features, (n, d) and (m, d).
        k: neighbours that set the radius.

    Raises:
        ValueError: for k < 1, fewer than k + 1 rows, widths that differ, or NaN.

    Example:
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> precision_recall_density_coverage(x, x + 100.0)
        Manifold(precision=0.0, recall=0.0, density=0.0, coverage=0.0)
    """
    checks.at_least("k", k, 1)
    real = _checked("real", real, real.shape[-1], k + 1)
    fake = _checked("fake", fake, real.shape[-1], k + 1)
    centre = real.double().mean(0)
    real, fake = real - centre, fake - centre
    real_radii, fake_radii = neighbour_radii(real, k), neighbour_radii(fake, k)
    inside, hits = 0, 0
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for block, distances in _blocks(fake, real):
        in_real = distances <= real_radii
        inside += in_real.any(1).sum()
        hits += in_real.sum()
        covered |= in_real.any(0)
        recalled |= (distances <= fake_radii[block, None]).any(0)
    m, n = len(fake), len(real)
    return Manifold(int(inside) / m, int(recalled.sum()) / n, int(hits) / (k * m), int(covered.sum()) / n)


#: Cells hold about so many training images, and there are at most 50, as in the authors' MNIST experiment.
CELL_IMAGES, MAX_CELLS = 1000, 50
#: Cells with fewer generated rows do not count; the authors' tau is 20 / m.
MIN_GENERATED = 20


def rank_z(a: Tensor, b: Tensor) -> Tensor:
    """z-scored Mann-Whitney U of a against b: negative where a tends to be smaller.

    U counts pairs with a > b, ties as one half; z = (U - n m / 2) / sqrt(n m (n + m + 1) / 12).

    Example:
        >>> rank_z(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])).round(decimals=4)
        tensor(-1.5492, dtype=torch.float64)
    """
    b = b.sort().values
    below = torch.searchsorted(b, a) + torch.searchsorted(b, a, right=True)
    n, m = len(a), len(b)
    return (below.double().sum() / 2 - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


class DataCopying:
    """Three-sample test of copying: are samples nearer to training images than held-out images are?

    Space is cut into k-means cells of the training set. In each cell, d(x) is the distance of x to the
    nearest training row there, and z compares d of generated rows with d of held-out rows (`rank_z`). The
    statistic is C_T = sum_cells P(cell) z(cell) / sum_cells P(cell), with the held-out shares P as weights,
    over cells with more than 20 generated rows. Far below 0: copying; about 0: as near as fresh data; far
    above 0: samples lie off the data. Under the null its standard deviation is sqrt(sum P^2) / sum P, 0.14 for
    50 equal cells and 1 for a single one; it grows with the root of the number of rows.
    Source: Meehan, Chaudhuri, Dasgupta 2020, sections 3 and 4, and the authors' code (neighbours within the cell).

    Args:
        train: features of the training rows, (n, d).
        held_out: features of rows from the same law, not used in training.
        cells: number of k-means cells; 1 is the global test; one for each 1,000 training rows if None,
            at most 50.
        seed: of k-means.

    Raises:
        ValueError: for cells < 1, too few rows, widths that differ, or NaN.

    Example:
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> DataCopying(x[:200], x[200:], cells=1)(x[:100]) < -8
        True
    """

    def __init__(
        self, train: Tensor, held_out: Tensor, cells: int | None = None, seed: int = 0
    ) -> None:
        if cells is None:
            cells = min(max(len(train) // CELL_IMAGES, 1), MAX_CELLS)
        checks.at_least("cells", cells, 1)
        self.columns = train.shape[-1]
        train = _checked("train", train, self.columns, cells)
        held_out = _checked("held_out", held_out, self.columns, 1)
        self.means = self._means(train, cells, seed)
        labels = self._cell(train)
        self.train = [train[labels == i] for i in range(cells)]
        self.held_out = self._distances(held_out)
        self.shares = torch.tensor([len(d) for d in self.held_out], dtype=torch.float64) / len(held_out)

    @staticmethod
    def _means(train: Tensor, cells: int, seed: int) -> Tensor:
        from sklearn.cluster import KMeans

        if cells == 1:
            return train.mean(0, dtype=torch.float64)[None]
        kmeans = KMeans(cells, n_init=1, max_iter=10, random_state=seed).fit(train.float().numpy())
        return torch.from_numpy(kmeans.cluster_centers_).double()

    def _cell(self, x: Tensor) -> Tensor:
        return torch.cat([distances.argmin(1) for _, distances in _blocks(x, self.means)])

    def _distances(self, x: Tensor) -> list[Tensor]:
        """Distances to the nearest training row of the same cell, by cell."""
        labels = self._cell(x)
        result = []
        for i, train in enumerate(self.train):
            rows = x[labels == i].double() - self.means[i]
            near = train.double() - self.means[i]
            nearest = [d.min(1).values for _, d in _blocks(rows, near)] if len(near) else []
            result.append(torch.cat(nearest) if nearest else rows.new_empty(0))
        return result

    def per_cell(self, generated: Tensor) -> tuple[Tensor, Tensor]:
        """z of each cell that counts, and its held-out share."""
        x = _checked("generated", generated, self.columns, 1)
        counted = [(rank_z(g, h), p) for g, h, p in zip(self._distances(x), self.held_out, self.shares,
                                                       strict=True)
                   if len(g) > MIN_GENERATED and len(h)]
        z, p = zip(*counted, strict=True) if counted else ((), ())
        return torch.tensor(z, dtype=torch.float64), torch.tensor(p, dtype=torch.float64)

    def __call__(self, generated: Tensor) -> float:
        """C_T of generated rows, (m, d); NaN where no cell has more than 20 of them."""
        z, p = self.per_cell(generated)
        return (z @ p / p.sum()).item()


def data_copying(
    train: Tensor, held_out: Tensor, generated: Tensor, cells: int | None = None, seed: int = 0
) -> float:
    """C_T of generated rows, see `DataCopying`."""
    return DataCopying(train, held_out, cells, seed)(generated)


@torch.no_grad()
def in_batches(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features of images, and class probabilities where the network has classes; in CPU memory."""
    features, probabilities = [], []
    for batch in x.split(BATCH):
        features.append(network.features(batch).cpu())
        if network.classes:
            probabilities.append(network.head(features[-1].to(batch)).softmax(1).cpu())
    return torch.cat(features), torch.cat(probabilities) if probabilities else None


class Quality:
    """All measures of samples against one training set and one held-out set.

    Args:
        train: training images, (n, pixels), in [0, 1].
        held_out: the reference of every measure: test images.
        network: a frozen FeatureClassifier, or PixelFeatures.
        k: neighbours of precision, recall, density and coverage.
        cells: see `DataCopying`.
        seed: of k-means and of KID's subsets.

    Raises:
        ValueError: for widths that differ, fewer than k + 1 rows, or NaN.
    """

    def __init__(
        self,
        train: Tensor,
        held_out: Tensor,
        network: nn.Module,
        k: int = 5,
        cells: int | None = None,
        seed: int = 0,
    ) -> None:
        self.network, self.k, self.seed = network, k, seed
        self.real = in_batches(network, held_out)[0]
        self.copying_pixels = DataCopying(train, held_out, cells, seed)
        self.copying = self.copying_pixels
        if network.classes:
            self.copying = DataCopying(in_batches(network, train)[0], self.real, cells, seed)

    def __call__(self, samples: Tensor) -> dict[str, float | list[float] | None]:
        """The measures by name; classes and confidence are None for a network without classes."""
        fake, probabilities = in_batches(self.network, samples)
        classes, confidence = None, None
        if probabilities is not None:
            counts = probabilities.argmax(1).bincount(minlength=self.network.classes)
            classes = (counts / len(samples)).tolist()
            confidence = probabilities.max(1).values.mean().item()
        return {
            "n": len(samples),
            "fid": frechet_distance(self.real, fake),
            "kid": kernel_distance(self.real, fake, seed=self.seed),
            **precision_recall_density_coverage(self.real, fake, self.k)._asdict(),
            "copying": self.copying(fake),
            "copying_pixels": self.copying_pixels(samples),
            "classes": classes,
            "confidence": confidence,
        }


def sample_quality(
    samples: Tensor, train: Tensor, held_out: Tensor, network: nn.Module, k: int = 5, seed: int = 0
) -> dict[str, float | list[float] | None]:
    """FID, KID, precision, recall, density, coverage, copying and class shares of samples.

    Args:
        samples: images, (m, pixels).
        train, held_out, network, k, seed: see `Quality`.

    Returns:
        n, fid, kid, precision, recall, density, coverage, copying (C_T on features), copying_pixels (C_T on
        pixels), classes (share of each class) and confidence (mean largest class probability).

    Example:
        >>> x = torch.rand(300, 4, generator=torch.Generator().manual_seed(0))
        >>> row = sample_quality(x[:100], x[:200], x[200:], PixelFeatures())
        >>> row["copying"] < -8, row["classes"]
        (True, None)
    """
    return Quality(train, held_out, network, k, seed=seed)(samples)


def quality_report(
    named_samples: dict[str, Tensor],
    train: Tensor,
    validation: Tensor,
    test: Tensor,
    network: nn.Module,
    centroids: Tensor | None = None,
    seed: int = 0,
) -> dict[str, dict]:
    """Sample quality of several sets of samples and of real images, all against the test images.

    Beside the samples: the first training images, validation images (no set is compared with itself), and
    k-means centroids of the training images, at the same number of images or as many as there are.
    """
    n = max(len(s) for s in named_samples.values())
    if centroids is None:
        centroids = kmeans_centroids(train, max(1, min(n, len(train) // 2)), seed)
    quality = Quality(train, test, network, seed=seed)
    sets = {
        **named_samples, "training images": train[:n], "held-out images": validation[:n],
        "k-means centroids": centroids,
    }
    return {name: quality(x) for name, x in sets.items()}
