"""`gendae filters`."""

from pathlib import Path

import torch
from torch import Tensor

from gendae import checks, plots
from gendae.checks import RGB
from gendae.commands.common import Table, shape_of
from gendae.data.files import image_shape
from gendae.layers.conv import Conv
from gendae.layers.layers import first_of
from gendae.models.stack import Stack
from gendae.sampling.samplers import seeded
from gendae.storage import model_file


@torch.no_grad()
def filters(
    model: str, n: int = 100, level: int = 1, seed: int = 0, out: str = "filters.png"
) -> Table:
    """Incoming weights of random units as images, each on its own scale.

    Source: Lee 2018, Figure 3.4.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        n: how many units.
        level: l of the units' layer; only the weights of h_1 are over images.
        seed: the same seed gives the same result.
        out: FILE.png.
    """
    checks.whole("--n", n, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    stack = model_file.load(model)
    if not 1 <= level <= stack.depth:
        raise ValueError(f"--level {level} is not in 1 .. {stack.depth}")

    weights, shape = _weights(model, stack, level)
    chosen = weights[torch.randperm(len(weights), generator=seeded(seed))[:n]]
    written = plots.save(plots.filters(chosen, shape), out)
    return [f"{len(chosen)} of {len(weights)} units of h_{level}: {written}"]


def _weights(model: str, stack: Stack, level: int) -> tuple[Tensor, tuple[int, ...]]:
    """Incoming weights of the units of a level, (n, features), and the shape of their images.

    A convolution has those of each channel; from other than one or three channels, one image for
    each of them.

    Raises:
        ValueError: for a layer without weights to show.
    """
    f = first_of(stack.pairs[level - 1].f)
    if isinstance(f, Conv):
        weight = f.weight
        kernel = weight.shape[1:] if weight.shape[1] == RGB else weight.shape[2:]
        return weight.reshape(-1, kernel.numel()), tuple(kernel)

    weight = getattr(f, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(
            f"{model}: f_{level} is {type(f).__name__}, which has no weights to show; filters "
            "need an affine layer or a convolution"
        )

    return weight, shape_of(stack) if level == 1 else image_shape(weight.shape[1])
