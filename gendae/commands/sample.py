"""`gendae sample`."""

import io
from pathlib import Path

from torch import Tensor

from gendae import checks, plots
from gendae.commands import complete
from gendae.commands.common import Table, _has_several_modalities, only_generative, shape_of
from gendae.data.files import write_npz
from gendae.models.joint import kind_of
from gendae.sampling.samplers import generate
from gendae.storage import model_file
from gendae.storage.atomic import write_whole


def write_samples(x: Tensor, out: Path, kind: str, shape: tuple[int, int]) -> Path:
    """Samples as a PNG grid, .npz (array `samples`) or .npy, by suffix."""
    import numpy as np

    checks.one_of("suffix of --out", out.suffix, (".png", ".npz", ".npy"))
    if out.suffix == ".png":
        return plots.save(plots.gallery(x, kind, shape), out)

    if kind == "image":
        x = x.clamp(0.0, 1.0)
    array = x.float().numpy()
    if out.suffix == ".npz":
        return write_npz(out, samples=array)

    content = io.BytesIO()
    np.save(content, array)
    return write_whole(out, content.getvalue())


def sample(
    model: str,
    n: int = 100,
    sampler: str | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "cpu",
    given: list[str] | None = None,
    rounds: int | None = None,
) -> Table:
    """Draw samples from a trained model into a file.

    Samples of a joint model may be drawn given some of its modalities.
    """
    if given is not None:
        return _sample_given(model, given, n, sampler, seed, out, device, rounds)

    if rounds is not None:
        raise ValueError(
            f"--rounds {rounds} is of a clamped chain, which --given NAME=VALUE asks for"
        )
    path = Path("samples.png" if out is None else out)
    checks.one_of("suffix of --out", path.suffix, (".png", ".npz", ".npy"))

    stack = model_file.load(model, device)
    if _has_several_modalities(stack):
        return complete.unconditional(stack, n, sampler, seed, path)

    x = generate(only_generative(stack, model), n, sampler, seed)
    return [f"{n} samples: {write_samples(x, path, kind_of(stack), shape_of(stack))}"]


def _sample_given(
    model: str,
    given: list[str],
    n: int,
    sampler: str | None,
    seed: int,
    out: str | None,
    device: str,
    rounds: int | None,
) -> Table:
    if sampler is not None:
        raise ValueError(
            f"--sampler {sampler} and --given exclude each other: a clamped chain is what is run"
        )

    if out is None:
        out = "samples.npz"
    if rounds is None:
        rounds = complete.ROUNDS
    return complete.sample(model, given, n, seed, out, device, rounds)
