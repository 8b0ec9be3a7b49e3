"""Nearest neighbours between sets of features: precision, recall and copying of samples.

Distances are taken in float64, a block of rows at a time: memory does not grow with the sets.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gendae import checks

#: Most entries of a distance matrix held at a time: 32 MiB in float64.
BLOCK_ENTRIES = 2**22


def checked(name: str, x: Tensor, columns: int, rows: int) -> Tensor:
    """`x` in CPU memory, if it is finite and has `columns` columns and at least `rows` rows."""
    checks.finite(name, checks.width(name, x, columns))

    return checks.rows(name, x, rows).detach().cpu()


def blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Distances of a few rows of a at a time to all rows of b, in float64."""
    rows = max(1, BLOCK_ENTRIES // max(b.shape))

    for start in range(0, len(a), rows):
        block = slice(start, start + rows)
        yield block, torch.cdist(a[block].double(), b)


def neighbour_radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th nearest other row, (n,)."""
    x = x - x.double().mean(0)  # distances of centred rows round less
    radii = []
    for block, distances in blocks(x, x):
        columns = torch.arange(len(x))[block]
        rows = torch.arange(len(columns))
        distances[rows, columns] = math.inf  # a row is no neighbour of itself

        nearest = distances.topk(k, largest=False).values
        radii.append(nearest[:, -1])

    return torch.cat(radii)


class Manifold(NamedTuple):
    """k-nearest-neighbour precision, recall, density and coverage."""

    precision: float
    recall: float
    density: float
    coverage: float


@checks.takes_arrays
def precision_recall_density_coverage(
    real: Tensor, fake: Tensor, k: int = 5, radii: Tensor | None = None
) -> Manifold:
    """How much of `fake` lies where `real` is, and how much of `real` where `fake` is.

    B(x) is the ball around x up to its k-th nearest neighbour in the set of x:
    precision = share of fake rows in any B(real); recall = share of real rows in any B(fake);
    density = mean number of B(real) that hold a fake row, divided by k (may exceed 1);
    coverage = share of B(real) that hold a fake row.
    Source: Kynkaanniemi et al. 2019 (precision, recall; k = 3); Naeem et al. 2020 (density,
    coverage; k = 5).

    Args:
        real, fake: features, (n, d) and (m, d).
        k: neighbours that set the radius.
        radii: `neighbour_radii` of the real rows, where they are known already, (n,).

    Raises:
        ValueError: for k < 1, fewer than k + 1 rows, widths that differ, or NaN.

    Example:
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> precision_recall_density_coverage(x, x + 100.0)
        Manifold(precision=0.0, recall=0.0, density=0.0, coverage=0.0)
    """
    checks.whole("k", k, 1)
    real = checked("real", real, real.shape[-1], k + 1)
    fake = checked("fake", fake, real.shape[-1], k + 1)

    centre = real.double().mean(0)
    real = real - centre
    fake = fake - centre
    if radii is None:
        radii = neighbour_radii(real, k)
    fake_radii = neighbour_radii(fake, k)

    inside = 0
    hits = 0
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for block, distances in blocks(fake, real):
        in_real = distances <= radii
        inside += in_real.any(1).sum()
        hits += in_real.sum()
        covered |= in_real.any(0)
        recalled |= (distances <= fake_radii[block, None]).any(0)

    n = len(real)
    m = len(fake)

    return Manifold(
        precision=int(inside) / m,
        recall=int(recalled.sum()) / n,
        density=int(hits) / (k * m),
        coverage=int(covered.sum()) / n,
    )


#: Training images in a cell, about, and the largest number of cells, as in the authors' experiment
#: on MNIST.
CELL_IMAGES = 1000
MAX_CELLS = 50
#: Cells with fewer generated rows do not count; the authors' tau is 20 / m.
MIN_GENERATED = 20


@checks.takes_arrays
def rank_z(a: Tensor, b: Tensor) -> Tensor:
    """z-scored Mann-Whitney U of a against b: negative where a tends to be smaller.

    U counts pairs with a > b, ties as one half; z = (U - n m / 2) / sqrt(n m (n + m + 1) / 12).

    Raises:
        ValueError: where one of the two is empty.

    Example:
        >>> rank_z(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])).round(decimals=4)
        tensor(-1.5492, dtype=torch.float64)
    """
    a = checks.rows("a", a).contiguous()
    b = checks.rows("b", b).sort().values
    n = len(a)
    m = len(b)

    below = torch.searchsorted(b, a) + torch.searchsorted(b, a, right=True)
    u = below.double().sum() / 2

    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


class DataCopying:
    """Three-sample test of copying: are samples nearer to training than held-out images are?

    Space is cut into k-means cells of the training set. In each cell, d(x) is the distance of x to
    the nearest training row of the cell, and z compares d of generated rows with d of held-out
    rows (`rank_z`). The statistic is C_T = sum_cells P(cell) z(cell) / sum_cells P(cell), over
    cells with more than 20 generated rows; the weights P are the cells' shares of held-out rows.

    Far below 0 the samples are copies; at about 0 they are as near as fresh data; far above 0 they
    lie off the data. For fresh data the standard deviation of C_T is sqrt(sum P^2) / sum P: 0.14
    for 50 equal cells, 1 for a single one. For other data it grows with the root of the number of
    rows.
    Source: Meehan, Chaudhuri, Dasgupta 2020; neighbours within the cell, as in the authors' code.

    Args:
        train: features of the training rows, (n, d).
        held_out: features of rows from the same law, not used in training.
        cells: number of k-means cells; 1 is the global test. None: one for each 1,000 training
            rows, at most 50.
        seed: of k-means.

    Raises:
        ValueError: for cells < 1, too few rows, widths that differ, or NaN.

    Example:
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> DataCopying(x[:200], x[200:], cells=1)(x[:100]) < -8
        True
    """

    @checks.takes_arrays
    def __init__(
        self, train: Tensor, held_out: Tensor, cells: int | None = None, seed: int = 0
    ) -> None:
        if cells is None:
            cells = min(max(len(train) // CELL_IMAGES, 1), MAX_CELLS)
        checks.whole("cells", cells, 1)

        self.columns = train.shape[-1]
        train = checked("train", train, self.columns, cells)
        held_out = checked("held_out", held_out, self.columns, 1)

        self.means = self._means(train, cells, seed)
        labels = self._cell(train)
        self.train = [train[labels == i] for i in range(cells)]
        self.held_out = self._distances(held_out)

    @staticmethod
    def _means(train: Tensor, cells: int, seed: int) -> Tensor:
        from sklearn.cluster import KMeans

        if cells == 1:
            return train.mean(0, dtype=torch.float64)[None]

        kmeans = KMeans(cells, n_init=1, max_iter=10, random_state=checks.folded(seed))
        kmeans.fit(train.float().numpy())

        return torch.from_numpy(kmeans.cluster_centers_).double()

    def _cell(self, x: Tensor) -> Tensor:
        return torch.cat([distances.argmin(1) for _, distances in blocks(x, self.means)])

    def _distances(self, x: Tensor) -> list[Tensor]:
        """Distances to the nearest training row of the same cell, by cell."""
        labels = self._cell(x)

        distances = []
        for cell, (train, mean) in enumerate(zip(self.train, self.means, strict=True)):
            rows = x[labels == cell].double() - mean
            distances.append(_to_nearest(rows, train.double() - mean))

        return distances

    @checks.takes_arrays
    def per_cell(self, generated: Tensor, held_out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z of each cell that counts, and its held-out share; other held-out rows may be given."""
        x = checked("generated", generated, self.columns, 1)
        reference = self.held_out
        if held_out is not None:
            reference = self._distances(checked("held_out", held_out, self.columns, 1))

        z = []
        shares = []
        total = sum(len(fresh) for fresh in reference)
        for ours, fresh in zip(self._distances(x), reference, strict=True):
            if len(ours) > MIN_GENERATED and len(fresh):
                z.append(rank_z(ours, fresh))
                shares.append(len(fresh) / total)

        return torch.tensor(z, dtype=torch.float64), torch.tensor(shares, dtype=torch.float64)

    @checks.takes_arrays
    def __call__(self, generated: Tensor, held_out: Tensor | None = None) -> float:
        """C_T of generated rows, (m, d); NaN where no cell has more than 20 of them."""
        z, p = self.per_cell(generated, held_out)

        return (z @ p / p.sum()).item()


def _to_nearest(rows: Tensor, others: Tensor) -> Tensor:
    """Distance of each row to the nearest of the others, (n,); empty if there are none."""
    if len(rows) == 0 or len(others) == 0:
        return rows.new_empty(0)

    return torch.cat([distances.min(1).values for _, distances in blocks(rows, others)])


@checks.takes_arrays
def data_copying(
    train: Tensor, held_out: Tensor, generated: Tensor, cells: int | None = None, seed: int = 0
) -> float:
    """C_T of generated rows, see `DataCopying`."""
    return DataCopying(train, held_out, cells, seed)(generated)
