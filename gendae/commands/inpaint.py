"""`gendae inpaint`."""

from pathlib import Path

import torch
from torch import Tensor

from gendae import checks, plots
from gendae.commands.common import Table, data_of, load_generative, shape_of
from gendae.completion.inpainting import MASKS, inpaint, named_mask
from gendae.data.files import read_image, read_images


def observed_pixels(mask: str, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """A named mask, or an image file of the model's size: white is given, black is filled in."""
    if mask in MASKS:
        return named_mask(mask, shape, seed)

    path = Path(mask)
    if not path.is_file():
        raise ValueError(
            f"--mask {mask!r} is unknown: neither a file nor one of {', '.join(MASKS)}"
        )

    image = torch.from_numpy(read_image(path).copy())
    if tuple(image.shape) != tuple(shape):
        raise ValueError(
            f"--mask {mask}: {tuple(image.shape)} pixels; the model's images have {shape}"
        )
    return image.flatten() >= 0.5


def inpainting(
    model: str,
    mask: str = "left",
    data: str | None = None,
    root: str | None = None,
    n: int = 10,
    seed: int = 0,
    out: str = "inpainting.png",
    device: str = "cpu",
) -> Table:
    """Fill in the pixels that a mask hides, into a picture: original, masked, filled."""
    checks.whole("--n", n, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    stack = load_generative(model, device)
    shape = shape_of(stack)
    observed = observed_pixels(mask, shape, seed)
    if data:
        x, _ = read_images(data)
    else:
        x = data_of(stack, root=root).split("test").x
    x = checks.width(data or "the data set", x, stack.sizes[0])[:n]

    filled = inpaint(stack, x, observed, seed=seed)
    written = plots.save(plots.inpainting(x, observed, filled, shape), out)

    what = f"white pixels of {mask} are given"
    if mask in MASKS:
        what = f"the {mask} half is given"
    return [f"{len(x)} images, {what}, the rest filled in: {written}"]
