"""How well a chain mixes, how much corruption codes bear, and how many dimensions carry signal.

A chain is a tensor of states, (steps + 1, n, features): n chains side by side, all of the same
law. Their mean is taken over all chains together. Chains stuck in different modes therefore count
as stuck.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.metrics.precision import full_precision
from gendae.models.stack import Stack


def _chains(values: Tensor) -> Tensor:
    """Values as (steps + 1, n, features) in float64, centred over steps and chains."""
    if not 1 <= values.ndim <= 3 or len(values) < 2 or values.numel() == 0:
        raise ValueError(
            f"values has shape {tuple(values.shape)}; chains are (steps + 1, n, features), "
            "with two states or more"
        )

    states = checks.finite("values", values).detach().cpu().double()
    if states.ndim < 3:
        states = states.reshape(len(states), -1, 1)

    return states - states.mean((0, 1))


@checks.takes_arrays
def autocorrelation(values: Tensor) -> Tensor:
    """Autocorrelation of chains at lags 0 .. steps, averaged over chains and features.

    rho_t = mean <h_s - m, h_{s+t} - m> / mean |h_s - m|^2, where m is the mean of all states.
    Features count by their variance, constant ones not at all. The sums are taken by fast Fourier
    transform, in float64.

    Args:
        values: states, (steps + 1, n, features), (steps + 1, n) or (steps + 1,).

    Returns:
        (steps + 1,), 1 at lag 0; NaN if nothing ever varies. The last lags rest on few pairs of
        states.

    Raises:
        ValueError: for fewer than two states, or NaN and infinite values.

    Example:
        >>> autocorrelation(torch.tensor([1., -1., 1., -1.])).round(decimals=4)
        tensor([ 1., -1.,  1., -1.], dtype=torch.float64)
    """
    centred = _chains(values)
    length = len(centred)

    total = torch.zeros(length, dtype=torch.float64)
    for feature in centred.unbind(-1):  # one at a time: the spectrum needs twice the padded length
        spectrum = torch.fft.rfft(feature, n=2 * length, dim=0)
        power = spectrum.abs().square().sum(1)
        total += torch.fft.irfft(power, n=2 * length)[:length]

    pairs = torch.arange(length, 0, -1)
    covariance = total / pairs

    return covariance / covariance[0]


@checks.takes_arrays
def autocorrelation_time(values: Tensor) -> float:
    """tau = 1 + 2 sum_t rho_t, in steps: one independent draw comes every tau states.

    The sum ends before the first pair rho_2k + rho_2k+1 that is not positive. From there on, noise
    dominates.
    Source: Geyer 1992, initial positive sequence.

    Raises:
        ValueError: as `autocorrelation`, and if the states never vary.
    """
    return _time(autocorrelation(values))


def _time(rho: Tensor) -> float:
    """tau from the autocorrelation at all lags."""
    if bool(torch.isnan(rho[0])):
        raise ValueError("values never vary; an autocorrelation needs states that differ")

    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(1)
    positive = torch.cumprod((pairs > 0).double(), 0)
    tau = 2.0 * (pairs * positive).sum() - 1.0

    return max(tau.item(), 1.0 / len(rho))  # below 1 where states alternate


@checks.takes_arrays
def effective_sample_size(values: Tensor) -> float:
    """Number of independent draws that all states are worth: n (steps + 1) / tau.

    Args:
        values: states, (steps + 1, n, features), (steps + 1, n) or (steps + 1,).

    Raises:
        ValueError: see `autocorrelation_time`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> 900 < effective_sample_size(torch.randn(100, 10, 3)) < 1100
        True
    """
    return _states(values) / autocorrelation_time(values)


def _states(values: Tensor) -> int:
    """Number of states of all chains."""
    return values.shape[:2].numel()


@checks.takes_arrays
def class_switches(labels: Tensor, per: int = 100) -> float:
    """How often a chain changes its class: switches in `per` steps, the mean over chains.

    Args:
        labels: class of every state, (steps + 1, n) or (steps + 1,), integers.
        per: number of steps.

    Raises:
        ValueError: for fewer than two states.

    Example:
        >>> class_switches(torch.tensor([0, 0, 1, 1, 2]))
        50.0
    """
    labels = checks.tensor(labels)
    if labels.ndim not in (1, 2) or len(labels) < 2 or labels.numel() == 0:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; (steps + 1, n) with two states or more "
            "is needed"
        )

    switches = labels[1:] != labels[:-1]

    return per * switches.double().mean().item()


@checks.takes_arrays
def chain_report(values: Tensor, labels: Tensor | None = None) -> dict[str, float]:
    """Figures of the mixing of chains, by name.

    Args:
        values: states, (steps + 1, n, features).
        labels: class of every state, (steps + 1, n).

    Returns:
        Chains, steps, autocorrelation at lag 1, autocorrelation time in steps, and effective
        sample size of all states. With labels also switches in 100 steps, the mean number of
        classes that one chain visits, and the number of classes that all chains visit together.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> print("\\n".join(report_lines(chain_report(torch.randn(101, 20, 2).cumsum(0)))))
        chains                  20
        steps                   100
        lag-1 autocorrelation   0.99...
        autocorrelation time    98.7...
        effective sample size   20.4...
    """
    rho = autocorrelation(values)
    tau = _time(rho)

    report = {
        "chains": _states(values) // len(values),
        "steps": len(values) - 1,
        "lag-1 autocorrelation": rho[1].item(),
        "autocorrelation time": tau,
        "effective sample size": _states(values) / tau,
    }

    if labels is not None:
        columns = checks.tensor(labels).reshape(len(values), -1).T
        visited = sum(len(column.unique()) for column in columns)
        report["switches / 100 steps"] = class_switches(labels)
        report["classes per chain"] = visited / len(columns)
        report["classes in all"] = len(columns.unique())

    return report


def report_lines(report: dict[str, float]) -> list[str]:
    """A report as lines to print."""
    return [f"{name:<24}{value:.4g}" for name, value in report.items()]


@checks.takes_arrays
@full_precision()
def nearest_neighbour_sigma(
    codes: Tensor, quantile: float = 0.5, queries: int = 2000, generator: Generator | None = None
) -> float:
    """Level of Gaussian corruption that fills the empty ball around each example.

    sigma = quantile of |h - nearest other h| / sqrt(features), since N(0, sigma^2 I) moves a code
    by about sigma sqrt(features). More noise would contract an example to its neighbours. With
    less noise the space between examples is never seen.
    Source: Bengio 2014, 2.2.5: "given by the nearest-neighbor distance between examples in the
    corresponding representation".

    Args:
        codes: representation of the training set, (n, features).
        quantile: in [0, 1]; 0.5 is the median, a smaller one spares dense regions.
        queries: number of codes whose neighbours are looked up; they are drawn if there are more.
        generator: source of that draw.

    Returns:
        sigma, in units of the codes, as `GaussianNoise` takes it.

    Raises:
        ValueError: for fewer than two codes, NaN or infinite ones, or a quantile outside [0, 1].

    Example:
        >>> nearest_neighbour_sigma(torch.tensor([[0., 0.], [3., 4.], [6., 8.]])) * 2**0.5
        5.0
    """
    from sklearn.neighbors import NearestNeighbors

    if codes.ndim != 2 or len(codes) < 2:
        raise ValueError(f"codes has shape {tuple(codes.shape)}; at least two rows are needed")
    if not 0.0 <= quantile <= 1.0:
        raise ValueError(f"quantile={quantile}: a number from 0 to 1 is needed")
    checks.whole("queries", queries, 1)

    points = checks.finite("codes", codes).detach().cpu()
    chosen = torch.randperm(len(points), generator=generator)[:queries].sort().values
    index = NearestNeighbors(n_neighbors=2).fit(points.numpy())
    distances, _ = index.kneighbors(points[chosen].numpy())
    to_nearest = distances[:, 1]  # column 0 is the code itself

    return float(np.quantile(to_nearest, quantile) / np.sqrt(codes.shape[1]))


class Spectrum(NamedTuple):
    """Number of signal dimensions; noise and information of all, the most informative first."""

    count: int
    sigma: Tensor
    information: Tensor


@torch.no_grad()
def noise_of_top(stack: Stack, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Learned noise of each dimension of h_L, root mean square over x, (features,), and mu(x).

    None for a stack whose Q(h_L | h_{L-1}) has no learned noise.
    """
    top = stack.pairs[-1]
    below = stack.encode(x)[-2]
    mean = top.f(below)
    variance = top.recognition.variance(mean, below)
    if not top.recognition.learnable or variance is None:
        return None

    return variance.mean(0).sqrt(), mean


@checks.takes_arrays
def signal_dimensions(
    sigma: Tensor, means: Tensor | None = None, threshold: float = 0.1
) -> Spectrum:
    """How many dimensions of h_L carry signal, read off the learned levels of noise.

    Dimension j, with mean mu_j(x) and noise sigma_j, tells I_j nats about x, where
    I_j = log(1 + Var(mu_j) / sigma_j^2) / 2 is the capacity of a Gaussian channel. The dimension
    is signal if I_j > threshold. If the codes have come to match a unit Gaussian prior,
    Var(mu_j) = 1 - sigma_j^2. Then I_j = -log sigma_j, which is also the mean KL_j of Eq. 22. This
    formula is used without `means`.

    Learned spectra tend to fall apart into sigma_j near 1 (noise, I near 0) and well below. The
    largest gap of sorted log sigma_j would find the same cut there. But it finds one in a smooth
    spectrum too, and has no answer for "all signal" or "all noise". A threshold in nats has one,
    and does not depend on units.
    Source: Bengio 2014, 7.4: "read the 'dimensionality' of x discovered by the model by looking at
    the 'spectrum' of values of sigma_j".

    Args:
        sigma: learned standard deviation of the noise, (features,).
        means: mu(x) on data, (n, features), needed where the variance of the codes is not that of
            a unit Gaussian prior.
        threshold: nats; at 0.1 noise is more than 90 % of a noise dimension's deviation.

    Returns:
        The count; noise as a share of each dimension's whole deviation (sigma_j itself under the
        unit prior), in ascending order, (features,); I_j in nats in that order.

    Raises:
        ValueError: for a sigma that is not positive, or means of no rows or another width.

    Example:
        >>> signal_dimensions(torch.tensor([0.98, 0.1, 1.0, 0.2])).count
        2
    """
    sigma = checks.finite("sigma", checks.tensor(sigma)).detach().cpu().double().flatten()
    if len(sigma) == 0 or not bool((sigma > 0).all()):
        raise ValueError(
            f"sigma holds {len(sigma)} values, the least {min(sigma.tolist(), default=0.0):g}; "
            "standard deviations are positive"
        )

    if means is None:
        information = -sigma.log()
    else:
        means = checks.rows("means", checks.width("means", means, len(sigma)))
        means = checks.finite("means", means).detach().cpu().double()
        signal_to_noise = means.var(0, correction=0) / sigma.square()
        information = 0.5 * torch.log1p(signal_to_noise)

    information = information.sort(descending=True).values
    count = int((information > threshold).sum())

    return Spectrum(count, (-information).exp(), information)
