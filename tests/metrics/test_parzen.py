import math

import pytest
import torch
from sklearn.cluster import KMeans

from gendae.inference import GradientInference
from gendae.metrics import parzen, traces
from gendae.metrics.parzen import GRIDS, ParzenLogLikelihood, choose_sigma, kmeans_centroids
from gendae.priors.parzen import parzen_log_prob
from tests.conftest import small_stack


def test_metric_streams_and_equals_the_function():
    samples = torch.rand(40, 6)
    x = torch.rand(23, 6)
    metric = ParzenLogLikelihood(samples, sigma=0.3)

    for batch in x.split(5):
        metric.update(batch)

    log_p = parzen_log_prob(x, samples, 0.3)
    assert metric.compute().item() == pytest.approx(log_p.mean().item(), abs=1e-10)

    expected = log_p.std(correction=0).item() / math.sqrt(23)
    assert metric.standard_error.item() == pytest.approx(expected, abs=1e-6)


def test_metric_is_a_good_torchmetrics_citizen():
    import pickle

    metric = ParzenLogLikelihood(torch.rand(40, 6), sigma=0.3)
    assert metric.state_dict() == {}

    metric.update(torch.rand(3, 6))
    copy = pickle.loads(pickle.dumps(metric.clone()))

    assert torch.equal(copy.compute(), metric.compute())

    metric.reset()
    assert metric.count == 0

    both = ParzenLogLikelihood(torch.rand(40, 6), sigma=0.3)(torch.rand(3, 6))
    assert both.dtype == torch.float64


def test_sigma_is_the_best_of_the_grid_on_validation_data():
    samples = torch.randn(300, 3)
    x = torch.randn(200, 3)
    scores = {s: parzen_log_prob(x, samples, s).mean().item() for s in GRIDS["fine"]}

    assert choose_sigma(x, samples) == max(scores, key=scores.get)
    assert choose_sigma(x, samples, [0.2, 0.9]) in (0.2, 0.9)

    metric = ParzenLogLikelihood(samples, validation=x, grid="goodfellow")
    assert metric.sigma in GRIDS["goodfellow"]


def test_grids_are_the_published_points():
    assert [round(s, 4) for s in GRIDS["goodfellow"]] == [
        0.1,
        0.1292,
        0.1668,
        0.2154,
        0.2783,
        0.3594,
        0.4642,
        0.5995,
        0.7743,
        1.0,
    ]

    assert len(GRIDS["fine"]) == 29
    assert (GRIDS["fine"][0], round(GRIDS["fine"][-1], 6)) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ParzenLogLikelihood(torch.rand(2, 3)), "validation"),
        (lambda: ParzenLogLikelihood(torch.rand(2, 3), sigma=-1.0), "sigma=-1.0"),
        (lambda: parzen.sigma_grid("coarse"), "goodfellow, fine"),
        (lambda: parzen.sigma_grid([]), "grid is empty"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_report_sets_the_baselines_beside_the_model(digits):
    train, valid, test = (digits.split(n).x for n in ("train", "valid", "test"))
    report = parzen.parzen_report({"model": torch.rand(500, 64)}, train, valid, test)

    assert list(report) == ["model", "training images", "k-means centroids", "mean image"]
    assert [row["n"] for row in report.values()] == [500, 500, 500, 1]
    assert report["k-means centroids"]["ll"] > report["training images"]["ll"]
    assert report["training images"]["ll"] > report["mean image"]["ll"] > report["model"]["ll"]

    row = report["training images"]
    assert row["ll_at_0.2"] == pytest.approx(parzen_log_prob(test, train[:500], 0.2).mean().item())

    capped = parzen.parzen_report({"model": torch.rand(5000, 64)}, train, valid, test)
    assert capped["training images"]["n"] == len(train)


def test_choose_prior_takes_the_best_on_validation_data(digits):
    stack = small_stack([64, 30, 10])
    train = digits.split("train").x
    valid = digits.split("valid").x
    scores = parzen.choose_prior(stack, train, valid, n=200, scales=(1.0, 4.0))

    assert set(scores) == {"diagonal x 1", "diagonal x 4", "full x 1", "full x 4"}

    chosen = f"{stack.prior.covariance} x {stack.prior.variance_scale:g}"
    assert scores[chosen] == max(scores.values())


def test_log_joint_rises_under_gradient_inference_and_counts_steps():
    trace = traces.log_joint_trace(
        small_stack(), torch.rand(9, 8), GradientInference(delta=0.05), steps=12, batch_size=4
    )
    assert trace.shape == (13, 9)
    assert (trace.mean(1).diff() > 0).all()


def test_reconstruction_errors_per_layer():
    stack = small_stack()
    x = torch.rand(10, 8)
    errors = traces.reconstruction_errors(stack, x.split(3))

    for level in (1, 2, 3):
        expected = (stack.reconstruct(x, level) - x).square().sum(1).mean().item()
        assert errors[level - 1] == pytest.approx(expected, rel=1e-5)


def test_calibration_on_real_mnist(mnist):
    """The reference protocol on real images: sigma 0.1668, LL 241.19; fine grid: LL 243.07."""
    samples = mnist.split("train").x[:10_000]
    score = parzen.parzen_score(samples, mnist.split("test").x, mnist.split("valid").x)

    assert score["sigma_goodfellow"] == pytest.approx(0.1668, abs=5e-5)
    assert score["ll_goodfellow"] == pytest.approx(241.19, abs=0.02)
    assert score["ll"] == pytest.approx(243.07, abs=0.1)
    assert score["ll_at_0.2"] == pytest.approx(230.79, abs=0.02)
    assert score["se"] == pytest.approx(1.88, abs=0.02)


def test_centroids_are_those_of_two_steps_of_scikit_learn(digits):
    x = digits.split("train").x
    theirs = KMeans(100, init="random", n_init=1, max_iter=2, random_state=3).fit(x.numpy())
    centroids = kmeans_centroids(x, 100, seed=3)
    assert torch.allclose(centroids, torch.from_numpy(theirs.cluster_centers_), atol=1e-5)

    same = kmeans_centroids(torch.full((20, 3), 0.5), 5)  # four of five cells are empty
    assert torch.equal(same, torch.full((5, 3), 0.5))
