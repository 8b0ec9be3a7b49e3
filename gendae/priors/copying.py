"""Are samples copies? The three-sample test, and the noise at which a window's draws are none.

Distances are taken in float64, a block of rows at a time: memory does not grow with the sets.
"""

import math
import warnings
from collections.abc import Callable, Iterator

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of equal rows there may be fewer than cells
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


#: Multiples of a window's noise among which the one of fresh codes is looked for: 1/16 to 8.
NOISES = (2.0**-4, 2.0**3)
HALVINGS = 9


def fresh_noise(statistic: Callable[[float], float]) -> float:
    """The multiple of a noise at which samples are as near to the training set as fresh data.

    The statistic C_T grows with the noise: from copies to samples off the data. It is halved on a
    logarithmic scale; where its sign is the same throughout, the end nearest 0 is approached.

    Args:
        statistic: C_T of samples with that multiple of their noise, from the same random numbers
            each time. NaN says nothing of any noise: the multiple is then 1.

    Example:
        >>> round(fresh_noise(lambda scale: scale - 0.8), 2)
        0.8
    """
    low, high = NOISES
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        found = statistic(middle)
        if math.isnan(found):  # no cell has draws enough to tell
            return 1.0

        if found < 0.0:
            low = middle
        else:
            high = middle

    return math.sqrt(low * high)
