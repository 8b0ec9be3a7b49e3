"""Sample quality against closed forms, definitions written out, and sets of known answers."""

import math

import pytest
import torch
from scipy.stats import mannwhitneyu

from gendae.metrics import quality
from gendae.metrics.features import FeatureClassifier
from gendae.metrics.neighbours import (
    authenticity,
    data_copying,
    neighbour_radii,
    precision_recall_density_coverage,
)
from gendae.metrics.quality import (
    PixelFeatures,
    Quality,
    frechet_distance,
    kernel_distance,
    sample_quality,
)
from gendae.priors.copying import DataCopying, rank_z


def test_frechet_distance_of_gaussians_in_closed_form():
    """Diagonal covariances: |difference of means|^2 + sum (s_r - s_f)^2, with sample moments."""
    real = torch.randn(500, 4).double() * 2
    fake = torch.randn(300, 4).double() + 1

    def white(x):  # exact identity covariance
        centred = x - x.mean(0)
        return centred @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T

    s = torch.tensor([1.0, 2.0, 3.0, 0.5])
    t = torch.tensor([2.0, 1.0, 3.0, 1.5])
    distance = frechet_distance(white(real) * s, white(fake) * t + torch.tensor([1.0, 0, 0, 2.0]))
    assert distance == pytest.approx(5.0 + 1 + 1 + 0 + 1, rel=1e-6)
    assert frechet_distance(real, real) == pytest.approx(0.0, abs=1e-6)


def test_kernel_distance_is_the_unbiased_estimate(monkeypatch):
    x = torch.randn(30, 3).double()
    y = torch.randn(30, 3).double() + 0.5

    def kernel(a, b):
        return (a @ b.T / 3 + 1) ** 3

    off = ~torch.eye(30, dtype=torch.bool)
    within = kernel(x, x)[off].mean() + kernel(y, y)[off].mean()
    expected = within - 2 * kernel(x, y).mean()
    accelerators = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", accelerators.append)
    assert kernel_distance(x, y) == pytest.approx(expected.item(), rel=1e-6)
    assert accelerators == []

    same = [kernel_distance(torch.randn(200, 3), torch.randn(200, 3)) for _ in range(20)]
    assert min(same) < 0 < max(same)


def plain_manifold(real, fake, k):
    """The definitions, one row at a time."""

    def radius(x, i):
        others = [(x[i] - x[j]).norm().item() for j in range(len(x)) if j != i]
        return sorted(others)[k - 1]

    r = [radius(real, i) for i in range(len(real))]
    f = [radius(fake, j) for j in range(len(fake))]
    in_real = [[(a - b).norm().item() <= r[i] for i, b in enumerate(real)] for a in fake]
    in_fake = [[(a - b).norm().item() <= f[j] for j, b in enumerate(fake)] for a in real]

    return (
        sum(any(row) for row in in_real) / len(fake),
        sum(any(row) for row in in_fake) / len(real),
        sum(sum(row) for row in in_real) / (k * len(fake)),
        sum(any(row[i] for row in in_real) for i in range(len(real))) / len(real),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_coverage_by_definition(k, monkeypatch):
    real = torch.randn(25, 3).double()
    fake = 0.7 * torch.randn(31, 3).double() + 0.6
    expected = plain_manifold(real, fake, k)
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(expected)

    monkeypatch.setattr("gendae.priors.copying.BLOCK_ENTRIES", 100)  # many blocks
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "m", "width", "shift", "k"),
    [(40, 40, 3, 0.0, 5), (30, 50, 8, 0.5, 3), (60, 20, 2, 1.0, 1), (25, 25, 64, 0.2, 10)],
)
def test_manifold_measures_are_those_of_the_authors(n, m, width, shift, k):
    from prdc import compute_prdc

    generator = torch.Generator().manual_seed(n)
    real = torch.randn(n, width, generator=generator, dtype=torch.float64)
    fake = shift + torch.randn(m, width, generator=generator, dtype=torch.float64)

    theirs = compute_prdc(real.numpy(), fake.numpy(), k)
    assert precision_recall_density_coverage(real, fake, k)._asdict() == pytest.approx(theirs)


def test_a_collapsed_and_a_spread_out_model():
    real = torch.randn(400, 2)
    collapsed = precision_recall_density_coverage(real, 0.05 * torch.randn(400, 2))
    spread = precision_recall_density_coverage(real, 20.0 * torch.randn(400, 2))

    assert collapsed.precision > 0.95
    assert collapsed.coverage < 0.3
    assert spread.precision < 0.3
    assert spread.recall > 0.9


def test_radii_do_not_count_the_row_itself():
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]]).double()
    assert neighbour_radii(x, 1).tolist() == [1.0, 1.0, 2.0, 4.0]
    assert neighbour_radii(torch.zeros(3, 2).double(), 2).tolist() == [0.0, 0.0, 0.0]


def test_rank_z_equals_scipy_with_ties():
    a = torch.randint(0, 9, (40,)).double()
    b = torch.randint(2, 11, (55,)).double()
    u = mannwhitneyu(a.numpy(), b.numpy()).statistic
    expected = (u - 40 * 55 / 2) / math.sqrt(40 * 55 * 96 / 12)

    assert rank_z(a, b).item() == pytest.approx(expected)
    assert rank_z(b, a).item() == pytest.approx(-expected)


def mixture(n, seed, sigma=0.3, modes=4):
    """Rows near a few corners."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, modes, (n,), generator=generator)
    centres = torch.tensor([[0.0, 0], [4, 0], [0, 4], [4, 4]])

    return centres[corner] + sigma * torch.randn(n, 2, generator=generator)


def spread_of(test):
    """Standard deviation of the statistic for fresh rows: root of the sum of squared shares."""
    counts = torch.tensor([float(len(d)) for d in test.held_out])
    return (counts.square().sum().sqrt() / counts.sum()).item()


@pytest.mark.parametrize("cells", [1, 4])
def test_copying_is_negative_for_copies_zero_for_fresh_rows_positive_for_blur(cells):
    train = mixture(800, 0)
    held_out = mixture(400, 1)
    test = DataCopying(train, held_out, cells)
    spread = spread_of(test)

    assert abs(test(mixture(400, 2))) < 3.5 * spread
    assert test(train[:400] + 1e-4) < -10 * spread
    assert test(mixture(400, 3, sigma=1.0)) > 8 * spread


def test_null_law_of_the_statistic():
    """Fresh rows: mean 0 and standard deviation sqrt(sum P^2), over many draws."""
    train = mixture(400, 0)

    values = []
    spreads = []
    for seed in range(1, 121):
        test = DataCopying(train, mixture(200, seed), cells=4)
        values.append(test(mixture(200, 1000 + seed)))
        spreads.append(spread_of(test))

    values = torch.tensor(values)
    expected = sum(spreads) / len(spreads)
    assert values.std().item() == pytest.approx(expected, rel=0.25)
    assert abs(values.mean().item()) < 4 * expected / math.sqrt(len(values))


def test_copying_in_one_cell_is_seen_by_cells_not_by_the_global_test():
    """The authors' case: copies at one mode and blur at another cancel globally."""
    train = mixture(1200, 0)
    held_out = mixture(600, 1)
    copied = train[(train < 2).all(1)][:150] + 1e-4
    blurred = mixture(450, 2, sigma=0.45)
    generated = torch.cat([copied, blurred[~(blurred < 2).all(1)]])

    z, share = DataCopying(train, held_out, 4).per_cell(generated)
    assert (z < -8).sum() == 1
    assert (z > 2).sum() == 3
    assert share.sum().item() == pytest.approx(1.0)
    assert abs(data_copying(train, held_out, generated, cells=1)) < -z.min().item()


def test_global_statistic_is_rank_z_of_nearest_distances():
    train = mixture(90, 0)
    held_out = mixture(50, 1)
    generated = mixture(40, 2, sigma=0.5)

    def nearest(x):
        return torch.cdist(x.double(), train.double()).min(1).values

    expected = rank_z(nearest(generated), nearest(held_out)).item()
    assert data_copying(train, held_out, generated, cells=1) == pytest.approx(expected, abs=1e-6)


def test_halves_of_the_held_out_rows_equal_a_test_of_their_own():
    train = mixture(800, 0)
    held_out = mixture(300, 1)
    halves = DataCopying(train, held_out, 4)(held_out[1::2], held_out[::2])

    assert halves == data_copying(train, held_out[::2], held_out[1::2], 4)
    assert abs(halves) < 3


def test_cells_with_few_generated_rows_do_not_count():
    train = mixture(400, 0)
    held_out = mixture(200, 1)
    test = DataCopying(train, held_out, 4)
    one_mode = mixture(100, 2, modes=1)

    z, share = test.per_cell(torch.cat([one_mode, mixture(8, 3)]))
    assert (len(z), len(share)) == (1, 1)
    assert math.isnan(test(mixture(8, 3)))


#: Share that two balls have in common whose centres are a radius apart, by the dimension.
OVERLAPS = {1: 1 / 2, 2: 2 / 3 - math.sqrt(3) / (2 * math.pi), 3: 5 / 16}


@pytest.mark.parametrize("dimension", OVERLAPS)
def test_authenticity_of_copies_of_fresh_draws_and_by_definition(dimension):
    """Of uniform draws, P(a third point in one ball and not in the other | which radius)."""
    train = torch.rand(8000, dimension, dtype=torch.float64)
    fresh = 0.1 + 0.8 * torch.rand(4000, dimension, dtype=torch.float64)
    q = OVERLAPS[dimension]
    error = math.sqrt(0.25 / 4000)
    assert authenticity(train, fresh) == pytest.approx((1 - q) / (2 - q), abs=4 * error)

    assert authenticity(train, train) == 0.0
    near = train[:200] + 1e-9 * torch.randn_like(train[:200])
    assert authenticity(train, near) == 0.0
    assert authenticity(train, fresh + 9.0) == 1.0

    few = train[:30]
    between = torch.cdist(few, few).fill_diagonal_(math.inf).amin(1)
    nearest = torch.cdist(fresh, few).min(1)
    expected = (nearest.values > between[nearest.indices]).double().mean().item()
    assert authenticity(few, fresh) == expected


def images(n, seed):
    return torch.rand(n, 64, generator=torch.Generator().manual_seed(seed))


def test_sample_quality_has_all_measures_and_leaves_the_generator_alone():
    network = FeatureClassifier([8, 8], [4, 4], 8).freeze()
    train = images(200, 0)
    test = images(60, 1)
    samples = images(50, 2)

    state = torch.get_rng_state()
    row = sample_quality(samples, train, test, network)
    assert torch.equal(torch.get_rng_state(), state)
    assert row == sample_quality(samples, train, test, network)

    assert set(row) == {
        "n",
        "fid",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
        "copying",
        "copying_pixels",
        "authentic",
        "classes",
        "confidence",
    }
    assert row["classes"] == (network(samples).argmax(1).bincount(minlength=10) / 50).tolist()
    confidence = network(samples).softmax(1).max(1).values.mean().item()
    assert row["confidence"] == pytest.approx(confidence)

    features = [network.features(x) for x in (train, test, samples)]
    assert row["fid"] == pytest.approx(frechet_distance(features[1], features[2]), rel=1e-4)
    assert row["copying"] == pytest.approx(data_copying(*features), abs=1e-4)
    assert row["copying_pixels"] == pytest.approx(data_copying(train, test, samples), abs=1e-6)
    assert row["authentic"] == authenticity(features[0], features[2])


def test_pixels_stand_in_where_there_is_no_classifier():
    row = sample_quality(images(50, 2), images(200, 0), images(60, 1), PixelFeatures())
    assert (row["classes"], row["confidence"]) == (None, None)
    assert row["copying"] == row["copying_pixels"]


def test_report_sets_real_rows_beside_the_model(digits):
    train, valid, test = (digits.split(n).x for n in ("train", "valid", "test"))
    models = {"model": torch.rand(300, 64)}
    report = quality.quality_report(models, train, valid, test, PixelFeatures())
    assert list(report) == ["model", "training images", "held-out images", "k-means centroids"]

    noise, held_out, copies = (report[n] for n in ("model", "held-out images", "training images"))
    assert copies["copying"] < -10
    assert abs(held_out["copying"]) < 3
    assert noise["copying"] > 10
    assert noise["precision"] == 0.0 == noise["coverage"]
    assert held_out["coverage"] > 0.9
    assert noise["fid"] > 10 * held_out["fid"]
    assert held_out["kid"] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: precision_recall_density_coverage(x, x, 0), "k=0"),
        (lambda x: precision_recall_density_coverage(x, x[:5], 5), "fake has 5 rows; at least 6"),
        (lambda x: frechet_distance(x, x[:1]), "fake has 1 rows"),
        (lambda x: frechet_distance(x, x[:, :2]), "fake has shape"),
        (lambda x: kernel_distance(x, x * math.nan), "fake holds"),
        (lambda x: DataCopying(x, x, cells=0), "cells=0"),
        (lambda x: DataCopying(x, x, cells=21), "train has 20 rows; at least 21"),
        (lambda x: DataCopying(x, x[:, :2]), "held_out has shape"),
        (lambda x: Quality(x, x, PixelFeatures())(x[:3]), "fake has 3 rows"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.randn(20, 3))


def test_mnist_copies_are_seen(mnist):
    """2,000 training images are copies, 2,000 validation images are not, in pixel space."""
    train, valid, test = (mnist.split(n).x for n in ("train", "valid", "test"))
    copying = DataCopying(train[:10_000], test[:2000], seed=0)
    spread = spread_of(copying)

    assert copying(train[:2000]) < -30 * spread
    assert abs(copying(valid[:2000])) < 8 * spread
