"""Spike timing: how the rate of change of a membrane turns into the window of STDP.

A synapse changes by the activity that it gets times the rate of change behind it,

    dW_ij ~ S_i dV_j/dt.                                                                   (Eq. 1)

A membrane that rises while the pre-synaptic neuron fires reaches its threshold soon after, the
sooner the faster it rises. One that falls has fired before. So the weight change, seen against the
time from pre- to post-synaptic spike, has the shape of spike-timing-dependent plasticity.
Voltages are in mV, measured from the threshold; times are in ms, measured from the pre-synaptic
spike.
Source: Bengio et al. 2015, section 2.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like, uniform_like


@checks.takes_arrays
def weight_change(spikes: Tensor, potential: Tensor) -> Tensor:
    """Eq. 1 summed over time: dW = sum_t (V(t + 1) - V(t)) S(t)', (post-synaptic, pre-synaptic).

    Args:
        spikes: S(0) .. S(T - 1), 0 or 1, or the whole number of spikes in a step, (T, inputs).
        potential: V(0) .. V(T), (T + 1, outputs).

    Raises:
        ValueError: for spikes that are no whole numbers >= 0, and for other numbers of steps.

    Example:
        >>> spikes = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> weight_change(spikes, torch.tensor([[0.0], [2.0], [5.0]]))
        tensor([[5., 3.]])
    """
    counts = (spikes >= 0) & (spikes == spikes.round())
    if not counts.all():
        worst = spikes[~counts][0].item()
        raise ValueError(
            f"spikes={worst:g}: 0 or 1 is needed, or a whole number of spikes in each step"
        )
    if len(potential) != len(spikes) + 1:
        raise ValueError(
            f"potential has {len(potential)} times; {len(spikes)} steps of spikes need "
            f"{len(spikes) + 1}"
        )

    return potential.diff(dim=0).T @ spikes


@checks.takes_arrays
def exponential_window(
    timing: Tensor,
    amplitudes: tuple[float, float] = (0.777, 0.273),
    constants: tuple[float, float] = (16.8, 33.7),
) -> Tensor:
    """The window of STDP: A+ exp(-dT / tau+) where dT > 0, -A- exp(dT / tau-) where dT < 0.

    By default as it was fitted to cultured hippocampal neurons (Bi and Poo 1998, Figure 7), as a
    share of the weight. The time constants are those that models of these data use: Pfister and
    Gerstner 2006, and rounded to 17 and 34 ms NEURON's stdp.mod, which names Bi and Poo 1998 and
    2001. The amplitudes, given here as those of Bi and Poo 2001, could not be looked up; they
    scale the two sides of the curve, and no result but its picture and the correlation over both
    sides depends on them.

    Args:
        timing: dT, post- minus pre-synaptic spike, ms.
        amplitudes: A+ and A-.
        constants: tau+ and tau-, ms.

    Example:
        >>> exponential_window(torch.tensor([-33.7, 0.0, 16.8]), (1.0, 1.0))
        tensor([-0.3679,  0.0000,  0.3679])
    """
    after, before = amplitudes
    tau_after, tau_before = constants
    size = torch.where(
        timing > 0,
        after * torch.exp(-timing.abs() / tau_after),
        before * torch.exp(-timing.abs() / tau_before),
    )

    return timing.sign() * size


@dataclass(frozen=True)
class Membrane:
    """V(t) = Vdot t - gap + noise, in mV from the threshold, around a pre-synaptic spike at t = 0.

    The neuron fires as soon as V is at or above 0 and its last spike lies `refractory` ms back. A
    spike resets it: for that time it is silent. What the others of its inputs do to it goes on
    meanwhile, and is what the weight follows: the reset is no part of dV/dt.

    Args:
        noise: standard deviation of the Ornstein-Uhlenbeck noise, mV; 0 for none.
        correlation: its correlation time, ms.
        refractory: ms after a spike; 0 fires as long as V is above threshold.
        spike: duration of the pre-synaptic spike, over which dV/dt is averaged, ms.
        window: ms that are simulated before the pre-synaptic spike, and as many after it.
        step: of the simulation, ms.

    Raises:
        ValueError: for numbers out of range.
    """

    noise: float = 1.0
    correlation: float = 10.0
    refractory: float = 2.0
    spike: float = 2.0
    window: float = 60.0
    step: float = 0.25

    def __post_init__(self) -> None:
        checks.at_least("noise", self.noise, 0.0)
        checks.at_least("refractory", self.refractory, 0.0)
        for name in ("correlation", "spike", "window", "step"):
            checks.at_least(name, getattr(self, name), 0.0, strict=True)
        if max(self.spike, self.step) > self.window:
            raise ValueError(
                f"window={self.window}: at least as long as the spike ({self.spike}) and the step "
                f"({self.step}) is needed"
            )
        checks.whole("window / step", round(self.window / self.step), 1, checks.REPEATS)


class Pairing(NamedTuple):
    """What trials gave: NaN where no post-synaptic spike is in the window.

    timing: dT, from the pre-synaptic spike to the nearest post-synaptic one, ms, (trials,).
    change: dW, the mean of dV/dt during the pre-synaptic spike, mV/ms, (trials,).
    """

    timing: Tensor
    change: Tensor


@checks.takes_arrays
@torch.no_grad()
def paired_spikes(
    membrane: Membrane, gap: Tensor, slope: Tensor, generator: Generator | None = None
) -> Pairing:
    """Simulate trials: the timing of the nearest post-synaptic spike, and the weight change.

    Trials in which V is above threshold at 0 count as those without a spike, as the paper assumes
    that it is below.

    Args:
        membrane: its constants.
        gap: how far V_0 lies below the threshold, mV, (trials,).
        slope: Vdot, mV/ms, (trials,).
        generator: source of the noise.

    Example:
        >>> quiet = Membrane(noise=0.0, refractory=0.0)
        >>> paired_spikes(quiet, torch.tensor([6.0, 6.0]), torch.tensor([0.5, -2.0]))
        Pairing(timing=tensor([12., -3.]), change=tensor([ 0.5000, -2.0000]))
    """
    half = round(membrane.window / membrane.step)
    reach = max(1, round(0.5 * membrane.spike / membrane.step))
    kept = math.exp(-membrane.step / membrane.correlation)
    fresh = membrane.noise * math.sqrt(1.0 - kept**2)

    noise = membrane.noise * normal_like(gap, generator)
    v = noise - gap - slope * (half * membrane.step)
    ready = membrane.refractory * uniform_like(gap, generator) - half * membrane.step
    before = torch.full_like(gap, -math.inf)
    after = torch.full_like(gap, math.inf)
    seen = {-half: v}

    for k in range(1 - half, half + 1):
        noise = kept * noise + fresh * normal_like(gap, generator)
        new = noise - gap + slope * (k * membrane.step)
        first, last = _spikes_within(membrane, v, new, ready, k)

        fired = first < math.inf
        ready = torch.where(fired, last + membrane.refractory, ready)
        if k <= 0:
            before = torch.where(fired, last, before)
        else:
            after = torch.minimum(after, first)

        v = new
        if k in (-reach, 0, reach):
            seen[k] = v

    timing = torch.where(after <= -before, after, before)
    counts = timing.isfinite() & (seen[0] < 0)
    change = (seen[reach] - seen[-reach]) / (2 * reach * membrane.step)

    return Pairing(timing.masked_fill(~counts, math.nan), change)


def _spikes_within(
    membrane: Membrane, v: Tensor, new: Tensor, ready: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """First and last spike of a step in which V goes straight from v to new; inf if none."""
    end = k * membrane.step
    crossing = end - membrane.step * new / (new - v)

    enter = torch.where(v >= 0, end - membrane.step, crossing)
    leave = torch.where(new >= 0, torch.full_like(v, end), crossing)
    first = torch.maximum(enter, ready)
    silent = ((v < 0) & (new < 0)) | (first > leave)

    last = leave
    if membrane.refractory > 0:
        more = ((leave - first) / membrane.refractory).floor()
        last = first + more * membrane.refractory

    return first.masked_fill(silent, math.inf), last.masked_fill(silent, math.inf)


class Means(NamedTuple):
    """Means of values in bins, each (bins,): centres, means and standard errors; NaN for none."""

    centre: Tensor
    mean: Tensor
    error: Tensor


@checks.takes_arrays
def binned(at: Tensor, values: Tensor, edges: Tensor) -> Means:
    """Means of the values whose place lies in each bin [edge, next edge); NaN counts nowhere.

    Example:
        >>> at, edges = torch.tensor([0.1, 0.3, 1.5]), torch.tensor([0.0, 1.0, 2.0])
        >>> binned(at, torch.tensor([2.0, 4.0, 7.0]), edges).mean
        tensor([3., 7.], dtype=torch.float64)
    """
    there = (at >= edges[0]) & (at < edges[-1]) & values.isfinite()
    bins = torch.bucketize(at[there], edges, right=True) - 1
    y = values[there].double()

    count = torch.bincount(bins, minlength=len(edges) - 1)
    mean = torch.bincount(bins, y, minlength=len(edges) - 1) / count
    squares = torch.bincount(bins, (y - mean[bins]).square(), minlength=len(edges) - 1)
    error = squares.sqrt() / count

    return Means(0.5 * (edges[1:] + edges[:-1]).double(), mean, error)


class TimingCurve(NamedTuple):
    """What Figure 1 is made of.

    change: E[dW | dT], against dT.
    timing_of_slope, change_of_slope: E[dT | Vdot] and E[dW | Vdot], against Vdot.
    """

    change: Means
    timing_of_slope: Means
    change_of_slope: Means


def spike_timing_curve(
    membrane: Membrane = Membrane(),
    trials: int = 100_000,
    gap: float = 10.0,
    slope: float = 2.0,
    reach: float = 20.0,
    generator: Generator | None = None,
) -> TimingCurve:
    """The window of STDP that Eq. 1 gives, with V_0 and Vdot drawn uniformly.

    Without noise and refractory time, E[dW | dT] = E[a^2] / (E[a] dT) for |dT| >= gap / slope,
    with a the distance of V_0 from the threshold: 2 gap / (3 dT).
    Source: Bengio et al. 2015, Figure 1.

    Args:
        membrane: its constants.
        trials: pre-synaptic spikes.
        gap: V_0 lies up to this far below the threshold, mV.
        slope: |Vdot| is at most this, mV/ms.
        reach: |dT| is at most this, in bins of one millisecond; slopes are in 40 bins.
        generator: source of all draws.

    Raises:
        ValueError: for numbers out of range.
    """
    checks.whole("trials", trials, 1)
    checks.at_least("gap", gap, 0.0, strict=True)
    checks.at_least("slope", slope, 0.0, strict=True)
    checks.whole("reach", round(reach), 1, round(membrane.window))

    like = torch.empty(trials)
    gaps = gap * uniform_like(like, generator)
    slopes = slope * (2.0 * uniform_like(like, generator) - 1.0)
    timing, change = paired_spikes(membrane, gaps, slopes, generator)

    of_timing = torch.arange(-round(reach), round(reach) + 1.0)
    of_slope = torch.linspace(-slope, slope, 41)
    paired = change.masked_fill(timing.isnan(), math.nan)

    return TimingCurve(
        binned(timing, change, of_timing),
        binned(slopes, timing, of_slope),
        binned(slopes, paired, of_slope),
    )


class Exponential(NamedTuple):
    """amplitude exp(-|dT| / constant), fitted to one side of a curve from its peak outwards.

    peak: |dT| of the largest change, ms.
    explained: share of the variance beyond the peak that the exponential explains.
    rise: by how many standard errors |dW| rises at most from one bin to the next beyond the peak.
    """

    amplitude: float
    constant: float
    peak: float
    explained: float
    rise: float


def exponential_fit(curve: Means, sign: int) -> Exponential:
    """One exponential fitted to the side of a curve where dT has a sign, +1 or -1.

    Raises:
        ValueError: where bins have no trials, or nothing decays.
    """
    side = sign * curve.centre > 0
    time, order = curve.centre[side].abs().sort()
    size = sign * curve.mean[side][order]
    error = curve.error[side][order]
    if not size.isfinite().all():
        raise ValueError(
            f"{int(size.isnan().sum())} of {len(size)} bins of dT hold no spikes; more trials are "
            "needed, or a shorter reach"
        )

    start = int(size.argmax())
    time, size, error = time[start:], size[start:], error[start:]
    if len(time) < 3 or size[0] <= 0:
        raise ValueError(f"|dW| is largest at |dT| = {time[0]:g} ms, beyond which it has to decay")

    amplitude, constant, missed = _least_squares(time, size)
    explained = 1.0 - missed / (size - size.mean()).square().sum()
    rise = size.diff() / (error[1:].square() + error[:-1].square()).sqrt()

    numbers = (amplitude, constant, time[0], explained, rise.max())
    return Exponential(*(float(number) for number in numbers))


def _least_squares(time: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitude, constant and sum of squares of the exponential nearest to (time, size).

    The best amplitude of each constant is known. So constants alone are searched: around the best
    of a grid, the next grid lies between its neighbours.
    """
    low = math.log10(time[0].item()) - 1.0
    high = math.log10(time[-1].item()) + 4.0

    for _ in range(8):
        constants = torch.logspace(low, high, 101, dtype=torch.float64)
        curves = torch.exp((time[0] - time) / constants[:, None])
        amplitudes = (curves @ size) / curves.square().sum(1)
        missed = (size - amplitudes[:, None] * curves).square().sum(1)

        best = int(missed.argmin())
        width = (high - low) / 100.0
        middle = low + best * width
        low, high = middle - width, middle + width

    constant = constants[best]
    return amplitudes[best] * torch.exp(time[0] / constant), constant, missed[best]


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two curves."""
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()
