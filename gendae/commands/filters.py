"""`gendae filters`."""

from pathlib import Path

import torch
from torch import Tensor

from gendae import checks, plots
from gendae.checks import RGB
from gendae.commands.common import Table, has_several_modalities, shape_of, shapes_of
from gendae.data.files import image_shape
from gendae.layers.conv import Conv
from gendae.layers.layers import first_of
from gendae.layers.wrapped import Layer
from gendae.models.joint import JointStack
from gendae.sampling.samplers import seeded
from gendae.storage import model_file


@torch.no_grad()
def filters(
    model: str,
    n: int = 100,
    level: int = 1,
    seed: int = 0,
    out: str = "filters.png",
    modality: str | None = None,
) -> Table:
    """Incoming weights of random units as images, each on its own scale.

    Source: Lee 2018, Figure 3.4.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        n: how many units.
        level: l of the units' layer; only the weights of h_1 are over images.
        seed: the same seed gives the same result.
        out: FILE.png.
        modality: of a joint model, whose own layers are shown; may be left out where one has any.
    """
    checks.whole("--n", n, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    stack = model_file.load(model)
    if not 1 <= level <= stack.depth:
        raise ValueError(f"--level {level} is not in 1 .. {stack.depth}")

    if has_several_modalities(stack):
        f, shape = _of_modality(model, stack, modality, level)
    elif modality is not None:
        raise ValueError(f"--modality {modality}: {model} has one kind of data; leave it out")
    else:
        f, shape = stack.pairs[level - 1].f, shape_of(stack) if level == 1 else None

    weights, shape = _weights(model, level, f, shape)
    chosen = weights[torch.randperm(len(weights), generator=seeded(seed))[:n]]
    written = plots.save(plots.filters(chosen, shape), out)
    return [f"{len(chosen)} of {len(weights)} units of h_{level}: {written}"]


def _of_modality(
    model: str, stack: JointStack, name: str | None, level: int
) -> tuple[Layer, tuple[int, ...] | None]:
    """A layer of a modality's own, and the shape of what it takes, where that is images.

    Raises:
        ValueError: for a level of the top, and names of modalities without such a layer.
    """
    own = {key: m.pairs for key, m in stack.modalities.items() if len(m.pairs) >= level}
    if not own:
        raise ValueError(
            f"--level {level}: f_{level} of {model} takes the codes of all modalities, which are "
            f"no images; accepted: levels 1 .. {stack.level}"
        )
    if name is None and len(own) == 1:
        (name,) = own
    if name not in own:
        told = f"--modality {name}" if name is not None else f"{model} has several modalities"
        raise ValueError(
            f"{told}: name one with a layer f_{level} of its own, --modality {' or '.join(own)}"
        )

    f = own[name][level - 1].f
    return f, image_shape(f.in_features, shapes_of(stack).get(name)) if level == 1 else None


def _weights(
    model: str, level: int, f: Layer, shape: tuple[int, ...] | None
) -> tuple[Tensor, tuple[int, ...]]:
    """Incoming weights of the units of a level, (n, features), and the shape of their images.

    A convolution has those of each channel; from other than one or three channels, one image for
    each of them.

    Args:
        model: for messages.
        level: l.
        f: f_l.
        shape: of what it takes, where that is images.

    Raises:
        ValueError: for a layer without weights to show.
    """
    f = first_of(f)
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

    return weight, shape or image_shape(weight.shape[1])
