"""Nearest neighbours between sets of features: precision, recall and copying of samples.

Distances are taken in float64, a block of rows at a time: memory does not grow with the sets. The
test of copying itself is that of `gendae.priors.copying`, by which a window's noise is chosen.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gendae import checks
from gendae.priors.copying import DataCopying, blocks, checked


def neighbour_radii(x: Tensor, k: int, of: Tensor | None = None) -> Tensor:
    """Distance of each row to its k-th nearest other row, (n,); of some rows, by their indices."""
    x = x - x.double().mean(0)  # distances of centred rows round less
    if of is None:
        of = torch.arange(len(x))

    radii = []
    for block, distances in blocks(x[of], x):
        columns = of[block]
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


@checks.takes_arrays
def authenticity(train: Tensor, generated: Tensor) -> float:
    """Share of generated rows that are no near copies of a training row: AuthPct / 100.

    A row x with its nearest training row t counts where t has another training row nearer to it
    than x:  |x - t| > min_{t' != t} |t' - t|.

    Copies have 0. Fresh draws have no share of their own: where the density hardly varies between
    neighbours it is (1 - q) / (2 - q), with q the share that two balls have in common whose
    centres are a radius apart, from 1/3 in one dimension to 1/2 in many; where it does, more. So a
    share is set beside that of held-out rows.
    Source: Alaa, van Breugel, Saveliev, van der Schaar 2022, section 2 (authenticity); Stein et
    al. 2023 (AuthPct, as a share of 100).

    Args:
        train, generated: features, (n, d) and (m, d).

    Raises:
        ValueError: for fewer than two training rows, no generated ones, widths that differ, NaN.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [5.0]])
        >>> authenticity(x, x), authenticity(x, torch.tensor([[0.2], [2.5], [7.0]]))
        (0.0, 0.3333333333333333)
    """
    train = checked("train", train, train.shape[-1], 2)
    generated = checked("generated", generated, train.shape[-1], 1)
    centre = train.double().mean(0)

    distances = []
    indices = []
    for _, block in blocks(generated - centre, train - centre):
        nearest = block.min(1)
        distances.append(nearest.values)
        indices.append(nearest.indices)

    rows, places = torch.cat(indices).unique(return_inverse=True)
    radii = neighbour_radii(train, 1, rows)

    return (torch.cat(distances) > radii[places]).double().mean().item()


@checks.takes_arrays
def data_copying(
    train: Tensor, held_out: Tensor, generated: Tensor, cells: int | None = None, seed: int = 0
) -> float:
    """C_T of generated rows, see `DataCopying`."""
    return DataCopying(train, held_out, cells, seed)(generated)
