"""Eq. 1 gives the window of STDP: its closed form without noise, and its shape with it."""

import pytest
import torch

from gendae.metrics.spikes import (
    Means,
    Membrane,
    binned,
    correlation,
    exponential_fit,
    exponential_window,
    paired_spikes,
    spike_timing_curve,
    weight_change,
)
from tests.commands.test_cli import gendae, one_line

QUIET = Membrane(noise=0.0, refractory=0.0, window=20.0, step=1.0)  # straight lines: any step
GAP, SLOPE = 10.0, 2.0


def generator():
    return torch.Generator().manual_seed(1)


def test_without_noise_the_change_is_the_ratio_of_moments_over_dT():
    """E[dW | dT] = E[a^2] / (E[a] dT) where dT >= gap / slope, and 2/3 of the slope below it."""
    curve = spike_timing_curve(QUIET, 300_000, GAP, SLOPE, 20, generator()).change
    ratio = 2 / 3 * GAP
    near, far = curve.centre.abs() - 0.5, curve.centre.abs() + 0.5

    expected = ratio * 0.5 * (1 / near + 1 / far)  # the mean over a bin, in which p(dT) ~ 1 / dT^2
    expected = torch.where(near >= GAP / SLOPE, expected, torch.tensor(2 / 3 * SLOPE).double())
    assert ((curve.mean - curve.centre.sign() * expected) / curve.error).abs().max() < 4
    assert (curve.error / expected).max() < 0.02


def test_a_single_trial_is_a_straight_line():
    slope = torch.tensor([0.5, -0.5, 2.0, 0.25, -0.01])
    timing, change = paired_spikes(QUIET, torch.full((5,), 4.0), slope)

    assert timing[:4].tolist() == [8.0, -8.0, 2.0, 16.0]
    assert timing[4].isnan()
    assert torch.allclose(change, slope)


def test_a_membrane_above_threshold_at_the_spike_counts_nowhere():
    timing, _ = paired_spikes(QUIET, torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 0.5]))
    assert timing.isnan().tolist() == [True, False]


def test_the_reset_silences_the_neuron():
    """A falling membrane has fired its last spike up to a refractory time before the crossing."""
    membrane = Membrane(noise=0.0, refractory=3.0, window=20.0, step=0.5)
    gap = torch.full((2000,), 4.0)
    timing, _ = paired_spikes(membrane, gap, -gap / 8, generator())

    assert timing.max() <= -8.0
    assert timing.min() > -11.0
    assert abs(timing.mean().item() + 9.5) < 0.1


def test_time_runs_both_ways_without_a_reset():
    membrane = Membrane(noise=2.0, refractory=0.0, window=15.0, step=0.5)
    curve = spike_timing_curve(membrane, 60_000, GAP, SLOPE, 15, generator()).change
    both = curve.mean + curve.mean.flip(0)
    error = (curve.error.square() + curve.error.flip(0).square()).sqrt()
    assert (both / error).abs().max() < 4

    timing, _ = paired_spikes(QUIET, torch.full((50,), 3.0), torch.linspace(-2, 2, 50))
    assert torch.allclose(timing, -timing.flip(0), equal_nan=True)


def test_figure_1_has_the_shape_of_the_exponential_window():
    """On each side by itself; the sign of dT alone correlates too, but less."""
    membrane = Membrane(noise=2.0, window=60.0, step=0.5)
    curve = spike_timing_curve(membrane, 100_000, GAP, SLOPE, 20, generator())
    centre, mean, _ = curve.change
    assert torch.equal(mean.sign(), centre.sign())

    fits = [exponential_fit(curve.change, sign) for sign in (1, -1)]
    for fit in fits:
        assert fit.explained >= 0.9
        assert fit.rise < 3
        assert fit.peak < 5

    fitted = exponential_window(centre, *zip(*(fit[:2] for fit in fits), strict=True))
    assert correlation(mean, fitted) > 0.98
    assert correlation(mean, fitted) > correlation(mean, centre.sign()) + 0.05

    slope, timing, _ = curve.timing_of_slope  # faster rises fire sooner
    fast = timing[slope > 0.5]
    assert (fast.diff() < 0).all()
    assert (timing[slope < -0.5] < 0).all()


def test_an_exponential_is_found_again():
    centre = torch.arange(-9.5, 10.0).double()
    window = exponential_window(centre, (2.0, 1.0), (5.0, 8.0))
    curve = Means(centre, window, torch.full_like(centre, 0.1))

    for sign, amplitude, constant in ((1, 2.0, 5.0), (-1, 1.0, 8.0)):
        fit = exponential_fit(curve, sign)
        assert fit.amplitude == pytest.approx(amplitude, rel=1e-4)
        assert fit.constant == pytest.approx(constant, rel=1e-4)
        assert fit.peak == 0.5
        assert fit.explained == pytest.approx(1.0)
        assert fit.rise < 0


def test_means_in_bins():
    at = torch.tensor([0.2, 0.4, 1.5, 5.0, float("nan")])
    means = binned(at, torch.tensor([1.0, 3.0, 7.0, 9.0, 9.0]), torch.tensor([0.0, 1.0, 2.0, 3.0]))

    assert means.mean[:2].tolist() == [2.0, 7.0]
    assert means.mean[2].isnan()
    assert means.error[0] == pytest.approx(0.5**0.5)


def test_the_change_is_the_sum_over_spikes():
    spikes = torch.randint(3, (20, 4)).double()
    potential = torch.randn(21, 3).double()

    expected = torch.zeros(3, 4).double()
    for t in range(20):
        expected += torch.outer(potential[t + 1] - potential[t], spikes[t])
    assert torch.allclose(weight_change(spikes, potential), expected)


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan")])
def test_spikes_are_counted(value):
    with pytest.raises(ValueError, match=f"spikes={value:g}: 0 or 1 is needed"):
        weight_change(torch.tensor([[0.0], [value]]), torch.zeros(3, 2))


def test_other_refusals():
    with pytest.raises(ValueError, match="2 steps of spikes need 3"):
        weight_change(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="window=1.0: at least as long"):
        Membrane(window=1.0, spike=2.0)
    with pytest.raises(ValueError, match="bins of dT hold no spikes"):
        exponential_fit(spike_timing_curve(QUIET, 10, generator=generator()).change, 1)


def test_the_command_draws_and_says_what_it_found(tmp_path, capsys):
    options = ("--n", 20_000, "--reach", 12, "--out", tmp_path / "a/stdp.png")
    assert gendae("stdp", *options) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == [
        "post-synaptic spike after",
        "post-synaptic spike before",
    ]
    assert lines[-1] == f"written: {tmp_path / 'a/stdp.png'}"
    assert (tmp_path / "a/stdp.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--n", 0, "--n=0: a whole number >= 1"),
        ("--n", 10**9, "to 10000000 is needed"),
        ("--n", 20, "bins of dT hold no spikes"),
        ("--gap", 0.0, "--gap=0.0: a number > 0"),
        ("--slope", "nan", "--slope=nan: a number > 0"),
        ("--noise", -1.0, "--noise=-1.0: a number >= 0"),
        ("--refractory", "inf", "--refractory=inf"),
        ("--reach", 2, "--reach=2: a whole number >= 3"),
        ("--reach", 101, "--reach=101: a whole number from 3 to 100"),
        ("--out", "stdp.pdf", "suffix of --out='.pdf'"),
    ],
)
def test_the_command_refuses_in_one_line(capsys, option, value, words):
    assert gendae("stdp", option, value) == 2
    assert words in one_line(capsys)
