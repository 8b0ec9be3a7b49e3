"""`gendae spectrum`."""

from pathlib import Path

import torch

from gendae import checks, plots
from gendae.commands.common import Table, load_generative, usable
from gendae.commands.data import data_of
from gendae.metrics import chains


@torch.no_grad()
def spectrum(
    model: str, root: str | None = None, out: str = "spectrum.png", device: str = "cpu"
) -> Table:
    """Learned noise of each top-level dimension, and how many of them carry signal.

    Source: Bengio 2014, 7.4.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        root: folder of the model's data set.
        out: FILE.png.
        device: cpu, cuda, cuda:0, mps.
    """
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    stack = load_generative(model, device)
    x = data_of(stack, root=root).split("valid").x.to(stack.device)
    noise = chains.noise_of_top(stack, x)
    if noise is None:
        law = stack.pairs[-1].recognition
        raise ValueError(
            f"{model}: the top's noise is {type(law).__name__}; a spectrum needs learned noise, "
            "recognition=LearnedGaussian (KLRule with noise)"
        )

    sigma, mean = noise
    usable("the noise and the means", sigma, mean)
    signal = chains.signal_dimensions(sigma, mean)
    path = plots.save(plots.spectrum(signal.sigma, signal.count), out)

    shares = " ".join(f"{share:.3f}" for share in signal.sigma.tolist())
    total = f"{signal.information.sum():.1f} nats in all"
    return [
        f"noise as a share of each dimension's deviation: {shares}",
        f"signal dimensions: {signal.count} of {len(signal.sigma)}, {total}",
        f"written: {path}",
    ]
