"""`gendae stdp`."""

from pathlib import Path

from gendae import checks, plots
from gendae.commands.common import Table
from gendae.metrics.spikes import (
    Exponential,
    Membrane,
    correlation,
    exponential_fit,
    exponential_window,
    spike_timing_curve,
)
from gendae.sampling.samplers import seeded

#: Trials that fit into an hour.
MOST = 10**7


def stdp(
    out: str = "stdp.png",
    n: int = 200_000,
    gap: float = 10.0,
    slope: float = 2.0,
    noise: float = 2.0,
    refractory: float = 2.0,
    reach: int = 20,
    seed: int = 0,
) -> Table:
    """Spike-timing-dependent plasticity as it follows from Eq. 1 of 2015 (Figure 1).

    A membrane V(t) = V_0 + Vdot t + noise is simulated around a pre-synaptic spike; dW is its rate
    of change, dT the time of its nearest spike. The curve is drawn beside the exponential window
    of Bi and Poo.

    Args:
        out: FILE.png.
        n: how many pre-synaptic spikes.
        gap: V_0 lies up to so many mV below the threshold.
        slope: |Vdot| is at most this, in mV/ms.
        noise: of the membrane, in mV.
        refractory: ms of silence after a spike.
        reach: |dT| shown, in ms, up to 100.
        seed: the same seed gives the same result.
    """
    checks.whole("--n", n, 1, MOST)
    checks.whole("--reach", reach, 3, 100)
    for name, value in {"--gap": gap, "--slope": slope}.items():
        checks.at_least(name, value, 0.0, strict=True)
    for name, value in {"--noise": noise, "--refractory": refractory}.items():
        checks.at_least(name, value, 0.0)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    membrane = Membrane(noise=noise, refractory=refractory, window=3.0 * reach)
    curve = spike_timing_curve(membrane, n, gap, slope, reach, seeded(seed))
    fits = [exponential_fit(curve.change, sign) for sign in (1, -1)]

    centre, mean, _ = curve.change
    after, before = fits
    amplitudes = (after.amplitude, before.amplitude)
    constants = (after.constant, before.constant)
    fitted = exponential_window(centre, amplitudes, constants)
    written = plots.save(plots.spike_timing(curve, fitted, exponential_window(centre)), out)

    return [
        *(_fit(side, fit) for side, fit in zip(("after", "before"), fits, strict=True)),
        "correlation over both sides:",
        f"  {correlation(mean, fitted):.3f} with these exponentials",
        f"  {correlation(mean, exponential_window(centre)):.3f} with Bi and Poo's",
        f"  {correlation(mean, centre.sign()):.3f} with the sign of dT alone",
        f"written: {written}",
    ]


def _fit(side: str, fit: Exponential) -> str:
    """What an exponential says of one side of the curve."""
    return (
        f"post-synaptic spike {side}: |dW| = {fit.amplitude:.3f} "
        f"exp(-|dT| / {fit.constant:.1f} ms)"
        f" explains {fit.explained:.1%} of it, beyond the peak at {fit.peak:g} ms"
    )
