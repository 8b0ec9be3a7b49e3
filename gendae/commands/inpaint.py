"""`gendae inpaint`."""

from pathlib import Path

import torch
from torch import Tensor

from gendae import checks, plots
from gendae.commands.common import Table, data_of, load_generative, shape_of, usable
from gendae.commands.sections import adjusted
from gendae.completion import inpainting
from gendae.completion.inpainting import MASKS, Inpainter, named_mask
from gendae.data.files import read_image, read_images
from gendae.errors import choice


def inpaint(
    model: str,
    mask: str = "left",
    data: str | None = None,
    root: str | None = None,
    n: int = 10,
    seed: int = 0,
    out: str = "inpainting.png",
    device: str = "cpu",
    **options: str,
) -> Table:
    """Fill in missing pixels: original, masked and filled images side by side.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        mask: what is given: left, right, top, bottom, random, or an image file of the same size
            (white is given, black is filled in).
        data: your images; by default test images.
        root: folder of the model's data set.
        n: how many images.
        seed: the same seed gives the same result.
        out: FILE.png.
        device: cpu, cuda, cuda:0, mps.
        options: --inpainter.OPTION, arguments of the inpainter, such as --inpainter.chains 1 or
            --inpainter.inference.temperature 0; --inpainter.help lists them.
    """
    checks.whole("--n", n, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png",))

    stack = load_generative(model, device)
    own = inpainting.inpainter_of(stack)
    inpainter = adjusted("inpainter", own, Inpainter, options)
    shape = shape_of(stack)
    observed = observed_pixels(mask, shape, seed)
    if data is None:
        x = data_of(stack, root=root).split("test").x
    else:
        x, _ = read_images(checks.path("--data", data))
    x = checks.width(data or "the data set", x, stack.sizes[0])[:n]

    filled = inpainting.inpaint(stack, x, observed, inpainter, seed)
    usable("the filled images", filled)
    written = plots.save(plots.inpainting(x, observed, filled, shape), out)

    what = f"white pixels of {mask} are given"
    if mask in MASKS:
        what = f"the {mask} half is given"
    return [f"{len(x)} images, {what}, the rest filled in: {written}"]


def observed_pixels(mask: str, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """A named mask, or an image file of the model's size: white is given, black is filled in."""
    if mask in MASKS:
        return named_mask(mask, shape, seed)

    path = Path(mask)
    if not path.is_file():
        raise ValueError(
            f"--mask {mask!r} is unknown: no file of this name, and no mask; {choice(mask, MASKS)}"
        )

    image = torch.from_numpy(read_image(path).copy())
    if tuple(image.shape) != tuple(shape):
        raise ValueError(
            f"--mask {mask}: {tuple(image.shape)} pixels; the model's images have {shape}"
        )
    return image.flatten() >= 0.5
