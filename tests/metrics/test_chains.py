import math

import pytest
import torch

from gendae import plots
from gendae.data.toys import Toys2D
from gendae.metrics.chains import (
    autocorrelation,
    autocorrelation_time,
    chain_report,
    class_switches,
    effective_sample_size,
    nearest_neighbour_sigma,
    report_lines,
    signal_dimensions,
)


def ar1(phi, steps=2000, n=50, features=3):
    """Chains h' = phi h + sqrt(1 - phi^2) N(0, 1), started from their stationary law N(0, 1)."""
    noise = torch.randn(steps, n, features, dtype=torch.float64)
    h = [noise[0]]
    for eps in noise[1:]:
        h.append(phi * h[-1] + math.sqrt(1 - phi**2) * eps)
    return torch.stack(h)


def test_autocorrelation_is_the_sum_over_pairs():
    values = torch.randn(12, 5, 3, dtype=torch.float64)
    centred = values - values.mean((0, 1))

    direct = []
    for t in range(12):
        pairs = [(centred[s] * centred[s + t]).sum() for s in range(12 - t)]
        direct.append(sum(pairs) / (12 - t))

    assert torch.allclose(autocorrelation(values), torch.stack(direct) / direct[0], atol=1e-12)


@pytest.mark.parametrize("phi", [0.9, 0.5, 0.0, -0.5])
def test_ar1_chains_have_their_known_autocorrelation_and_sample_size(phi):
    values = ar1(phi)
    rho = autocorrelation(values)

    assert torch.allclose(rho[:10], torch.tensor([phi**t for t in range(10)]).double(), atol=0.02)
    assert rho[0] == 1.0

    tau = (1 + phi) / (1 - phi)
    assert autocorrelation_time(values) == pytest.approx(tau, rel=0.1)
    assert effective_sample_size(values) == pytest.approx(2000 * 50 / tau, rel=0.1)


def test_units_and_constant_features_do_not_matter():
    values = ar1(0.7, steps=300)
    dead = torch.cat([values, torch.full_like(values, 7.0)], -1)
    assert torch.allclose(autocorrelation(dead), autocorrelation(values), atol=1e-12)
    assert torch.allclose(autocorrelation(5 - 3 * values), autocorrelation(values), atol=1e-12)
    assert torch.allclose(autocorrelation(values[..., :1]), autocorrelation(values[..., 0]))
    assert torch.allclose(autocorrelation(values[:, :1, :1]), autocorrelation(values[:, 0, 0]))


def test_chains_stuck_in_their_modes_are_worth_one_draw_each():
    modes = torch.where(torch.arange(40) % 2 == 0, 5.0, -5.0)[None, :, None]
    stuck = modes + 0.1 * torch.randn(500, 40, 1)
    assert autocorrelation(stuck)[:400].min() > 0.9
    assert effective_sample_size(stuck) < 2 * 40
    assert effective_sample_size(stuck - modes) == pytest.approx(500 * 40, rel=0.1)


def two_of_four_chains():
    """Labels of four chains: one switches once, one at each of 100 steps."""
    labels = torch.zeros(101, 4, dtype=torch.long)
    labels[50:, 0] = 1
    labels[::2, 1] = 3
    return labels


def coins():
    return torch.randint(2, (2001, 50))


@pytest.mark.parametrize(
    ("make", "options", "switches"),
    [
        (two_of_four_chains, {}, pytest.approx((1 + 100) / 4)),
        (two_of_four_chains, {"per": 10}, pytest.approx((1 + 100) / 40)),
        (coins, {}, pytest.approx(50, abs=1)),
    ],
)
def test_class_switches_are_counted(make, options, switches):
    assert class_switches(make(), **options) == switches


def test_the_report_names_every_number():
    values = ar1(0.5, steps=101, n=4)
    labels = torch.zeros(101, 4, dtype=torch.long)
    labels[30:, 2] = 1
    labels[60:, 3] = 5
    report = chain_report(values, labels)

    assert report["chains"] == 4 and report["steps"] == 100
    assert report["effective sample size"] == effective_sample_size(values)
    assert report["switches / 100 steps"] == pytest.approx(0.5)
    assert report["classes per chain"] == pytest.approx(1.5) and report["classes in all"] == 3
    assert len(report_lines(report)) == len(report) == 8
    assert "classes in all" not in chain_report(values)


def test_sigma_is_the_quantile_of_nearest_neighbour_distances_per_dimension():
    codes = torch.randn(200, 6)
    distance = torch.cdist(codes.double(), codes.double()).fill_diagonal_(math.inf).min(1).values
    for quantile in (0.0, 0.25, 0.5, 1.0):
        expected = distance.quantile(quantile).item() / math.sqrt(6)
        assert nearest_neighbour_sigma(codes, quantile) == pytest.approx(expected, rel=1e-5)
    assert nearest_neighbour_sigma(3 * codes) == pytest.approx(3 * nearest_neighbour_sigma(codes))


def test_only_the_queries_are_drawn_not_their_neighbours():
    codes = torch.rand(5000, 2)
    few = nearest_neighbour_sigma(codes, queries=500, generator=torch.Generator().manual_seed(0))
    again = nearest_neighbour_sigma(codes, queries=500, generator=torch.Generator().manual_seed(0))
    assert few == again == pytest.approx(nearest_neighbour_sigma(codes, queries=5000), rel=0.1)


def test_signal_dimensions_of_a_linear_gaussian_model_are_its_rank():
    """Of x = W h + 0.1 noise with h ~ N(0, I): the best sigma_j^2 is 1 / (1 + w_j^2 / 0.01)."""
    w = torch.tensor([3.0, 2.0, 1.0, 0.5, 0, 0, 0, 0, 0, 0])
    sigma = (1 / (1 + w**2 / 0.01)).sqrt()
    order = torch.randperm(10)
    spectrum = signal_dimensions(sigma[order])

    assert spectrum.count == 4
    assert torch.allclose(spectrum.sigma, sigma.double(), atol=1e-6)

    means = torch.randn(100_000, 10) * (1 - sigma**2).sqrt()  # what its encoder gives on data
    measured = signal_dimensions(sigma[order], means[:, order])

    assert measured.count == 4
    assert torch.allclose(measured.information, spectrum.information, atol=0.01)

    kl = 0.5 * (means.double().square().mean(0) + sigma**2 - 1 - (sigma**2).log())  # Eq. 22
    assert torch.allclose(measured.information, kl.sort(descending=True).values, atol=0.01)


def test_information_does_not_depend_on_units():
    sigma = torch.rand(5) + 0.1
    means = torch.randn(200, 5)
    scale = torch.tensor([1, 10, 0.1, 3, 7.0])
    a = signal_dimensions(sigma, means)
    b = signal_dimensions(sigma * scale, means * scale)
    assert a.count == b.count and torch.allclose(a.information, b.information, atol=1e-6)


@pytest.mark.parametrize(
    ("sigma", "count"),
    [(torch.full((6,), 0.2), 6), (torch.ones(6), 0), (torch.full((6,), 1.3), 0)],
)
def test_all_signal_and_all_noise_have_an_answer(sigma, count):
    assert signal_dimensions(sigma).count == count


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: autocorrelation(torch.zeros(1, 3, 2)), "two states"),
        (lambda: autocorrelation(torch.full((5, 2), float("nan"))), "NaN"),
        (lambda: effective_sample_size(torch.ones(5, 2)), "never vary"),
        (lambda: class_switches(torch.zeros(1, 3)), "two states"),
        (lambda: nearest_neighbour_sigma(torch.zeros(1, 3)), "two rows"),
        (lambda: nearest_neighbour_sigma(torch.zeros(4, 3), quantile=1.5), "quantile=1.5"),
        (lambda: signal_dimensions(torch.tensor([0.5, 0.0])), "positive"),
        (lambda: signal_dimensions(torch.ones(3), torch.ones(5, 2)), "means has shape"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_figures(tmp_path):
    data = Toys2D("gaussians", n=500, noise=0.3)
    x = data.split("train").x
    calls = []

    def reconstruct(h):
        calls.append(h.shape)
        return h + 0.01 * data.score(h)

    field = plots.vector_field(reconstruct, x, samples=x[:50], log_density=data.log_prob)
    assert calls and all(shape[1] == 2 for shape in calls)
    assert len(field.axes) == 1

    spectrum = signal_dimensions(torch.tensor([0.1, 0.2, 0.98, 1.0]))
    curves = {"a": autocorrelation(ar1(0.9, 100)), "b": autocorrelation(ar1(0.1, 100))}
    figures = {
        "field": field,
        "spectrum": plots.spectrum(spectrum.sigma, spectrum.count),
        "bare": plots.spectrum(torch.rand(20)),
        "chain": plots.autocorrelation(curves),
    }
    for name, figure in figures.items():
        assert plots.save(figure, tmp_path / f"{name}.png").stat().st_size > 5000

    (line,) = [line for line in figures["spectrum"].axes[0].lines if line.get_linestyle() == "--"]
    assert list(line.get_xdata()) == [2.5, 2.5]  # between the second and the third
    assert len(figures["chain"].axes[0].get_legend().get_texts()) == 2
