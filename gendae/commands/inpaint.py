"""`gendae inpaint`."""

from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from gendae import checks, plots
from gendae.commands.common import (
    DESCENT,
    Table,
    color_of,
    load_generative,
    shape_of,
    some_given,
    usable,
)
from gendae.commands.data import data_of, one_source
from gendae.commands.sections import adjusted
from gendae.completion import inpainting
from gendae.completion.annealed import AnnealedInpainter
from gendae.completion.inpainting import MASKS, Inpainter, named_mask
from gendae.data.films import FILMS, is_film, kept_frames, write_film
from gendae.data.pictures import read_image
from gendae.data.sources import read_images
from gendae.errors import choice
from gendae.metrics import fidelity
from gendae.models.joint import kind_of
from gendae.models.stack import Stack


def inpaint(
    model: str,
    mask: str = "left",
    data: str | None = None,
    root: str | None = None,
    n: int = 10,
    seed: int = 0,
    out: str = "inpainting.png",
    device: str = "cpu",
    color: str | None = None,
    mode: str | None = None,
    **options: str,
) -> Table:
    """Fill in missing pixels: original, masked and filled images side by side.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model.
        mask: what is given: left, right, top, bottom, random, or an image file of the same size in
            black and white (white is given, black is filled in; other greys are refused).
        data: your images; by default test images.
        root: folder of the model's data set.
        n: how many images.
        seed: the same seed gives the same result.
        out: FILE.png; .gif, .webp or .mp4: a film of inference filling in.
        device: cpu, cuda, cuda:0, mps.
        color: of coloured images, grey: the luma, rgb: all channels; by default as in training.
        mode: descent: a sample of what is missing, by the levels of a DenoisingPrior; by default
            the model's own inpainter.
        options: --inpainter.OPTION, arguments of the inpainter, such as --inpainter.chains 1 or
            --inpainter.inference.temperature 0; --inpainter.help lists them.
    """
    checks.whole("--n", n, 1)
    checks.one_of("suffix of --out", Path(out).suffix, (".png", *FILMS))

    one_source(data, root)

    stack = load_generative(model, device)
    inpainter = adjusted("inpainter", _inpainter(stack, mode), Inpainter, options)
    shape = shape_of(stack)
    observed = observed_pixels(mask, shape, seed)
    if data is None:
        x = data_of(stack, root=root).split("test").x
    else:
        x, _ = read_images(checks.path("--data", data), color_of(stack, color))
    x = checks.width(data or "the data set", x, stack.sizes[0])[:n]

    began = perf_counter()
    if is_film(Path(out)):
        states = inpainting.inpainting_steps(stack, x, observed, inpainter, seed)
    else:
        states = inpainting.inpaint(stack, x, observed, inpainter, seed, progress=True)[None]
    seconds = perf_counter() - began
    usable("the filled images", states)

    written = _written(stack, x, observed, states, Path(out))
    return [
        f"{len(x)} images, {_given(mask, observed, shape)}, the rest is filled in: {written}",
        *_nearness(stack, states[-1], x, observed),
        cost(inpainter, seconds / len(x)),
    ]


def _inpainter(stack: Stack, mode: str | None) -> Inpainter:
    """The inpainter that a mode stands for; the model's own without one."""
    if mode is None:
        return inpainting.inpainter_of(stack)

    checks.one_of("--mode", mode, (DESCENT,))
    return AnnealedInpainter()


def _written(stack: Stack, x: Tensor, observed: Tensor, states: Tensor, out: Path) -> Path:
    """A picture of the filled images, the last of the states, or a film of all of them."""
    shape = shape_of(stack)
    if kind_of(stack) == "whitened":
        largest = x.abs().max()
        x, states = plots.around_grey(x, largest), plots.around_grey(states, largest)

    if not is_film(out):
        return plots.save(plots.inpainting(x, observed, states[-1], shape), out)

    shown = states[kept_frames(len(states))]
    figures = [plots.inpainting(x, observed, filled, shape) for filled in shown]

    coloured = len(shape) == 3
    return write_film([plots.pixels(figure, coloured) for figure in figures], out)


def _given(mask: str, observed: Tensor, shape: tuple[int, ...]) -> str:
    """Which pixels are given, in words."""
    what = f"white pixels of {mask}"
    if mask in MASKS:
        what = f"the {mask} half"

    channels = checks.ImageShape.of(shape).channels
    given = int(observed.sum()) // channels
    return f"{given} of {len(observed) // channels} pixels are given ({what})"


def _nearness(stack: Stack, filled: Tensor, x: Tensor, observed: Tensor) -> Table:
    """How near filled images come to their originals, means; nothing for other kinds."""
    if kind_of(stack) != "image":
        return []

    shape = shape_of(stack)
    missing = fidelity.psnr(filled, x, observed).mean().item()
    whole = fidelity.psnr(filled, x).mean().item()
    similarity = None
    if fidelity.has_windows(shape):
        similarity = fidelity.ssim(filled, x, shape).mean().item()

    of_missing = fidelity.in_words(missing)
    of_whole = fidelity.in_words(whole, similarity)
    return [f"against the originals, missing pixels: {of_missing}; whole images: {of_whole}"]


def cost(inpainter: Inpainter, seconds: float) -> str:
    """What was averaged, and the time that an image took, which is proportional to it.

    Example:
        >>> cost(Inpainter(rounds=20, chains=1), 0.0123)
        '1 chain x 20 rounds x 4 steps of inference: 0.012 s an image'
    """
    parts = [numbered(*part) for part in inpainter.effort]
    mean = "mean of " if inpainter.chains > 1 else ""

    return f"{mean}{' x '.join(parts)}: {seconds:.2g} s an image"


def numbered(number: int, thing: str) -> str:
    """A number of things, in the singular for one.

    Example:
        >>> numbered(2, "step of inference")
        '2 steps of inference'
    """
    if number == 1:
        return f"{number} {thing}"

    first, *rest = thing.split(" ", 1)
    return " ".join([str(number), f"{first}s", *rest])


def observed_pixels(mask: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A named mask, or an image file of the model's size: white is given, black is filled in.

    All channels of a pixel are given, or none: one boolean for each, (features,).

    Raises:
        ValueError: for other names, files and sizes, for pixels that are neither black nor white,
            and for masks that give all pixels or none.
    """
    if mask in MASKS:
        observed = named_mask(mask, shape, seed)
    else:
        observed = _mask_of_file(mask, shape)

    return some_given(mask, observed)


def _mask_of_file(mask: str, shape: tuple[int, ...]) -> Tensor:
    """A mask from an image file in black and white."""
    path = checks.path("--mask", mask)
    if not path.exists():
        raise ValueError(
            f"--mask {mask!r} is unknown: no file of this name, and no mask; {choice(mask, MASKS)}"
        )

    frame = checks.ImageShape.of(shape)
    image = torch.from_numpy(read_image(path, "grey").copy())
    if tuple(image.shape) != frame.size:
        raise ValueError(
            f"--mask {mask}: {tuple(image.shape)} pixels; the model's images have {frame.size}"
        )

    between = image[(image > 0) & (image < 1)]
    if between.numel():
        low = 255 * float(between.min())
        high = 255 * float(between.max())
        raise ValueError(
            f"--mask {mask}: {between.numel()} of {image.numel()} pixels are grey, {low:.4g} to "
            f"{high:.4g} of 255; black (0) is filled in and white (255) is given, and no other "
            "value says which"
        )
    return (image.flatten() == 1).repeat(frame.channels)
