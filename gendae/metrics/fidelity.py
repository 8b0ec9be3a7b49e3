"""How near images come to those that they should be: reconstructed, or filled in.

PSNR counts squared errors pixel by pixel, SSIM compares means, variances and covariances of small
windows. Both are of single images: a mean over images hides which of them failed, so they are
returned one by one. A blurred image may have a higher PSNR than a sharp one that is slightly
shifted: samples are judged by `gendae.metrics.quality`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from gendae import checks
from gendae.metrics.precision import full_precision
from gendae.models.stack import Stack

BATCH = 500  # images at a time: a window's moments are five images of each
#: Least side of an image, whose border SSIM mirrors by half of its window of 11 pixels.
LEAST_SIDE = 6


@checks.takes_arrays
@full_precision()
def psnr(x: Tensor, original: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio, 10 log10(1 / mean squared error), of each image, (n,), in dB.

    It is infinite for an image that equals its original.
    Pixels lie in [0, 1], so that the peak is 1.

    Args:
        x: images, (n, pixels).
        original: what they should be, of the same shape.
        mask: True where a pixel was given, (pixels,) or (n, pixels): the others alone count.

    Raises:
        ValueError: for shapes that differ, originals outside [0, 1], or an image without a missing
            pixel.

    Example:
        >>> x = torch.tensor([[0.5, 0.5], [0.5, 0.4]])
        >>> psnr(x, torch.full((2, 2), 0.5))
        tensor([   inf, 23.0103], dtype=torch.float64)
        >>> psnr(x[1:], torch.full((1, 2), 0.5), mask=torch.tensor([True, False]))
        tensor([20.0000], dtype=torch.float64)
    """
    x, original = _pairs(x, original)
    if mask is None:
        return _decibels(x, original)

    missing = ~checks.mask("mask", mask, *x.shape).expand_as(x)
    share = missing.double().mean(1)
    if not bool(share.all()):
        raise ValueError("mask gives all pixels of an image; one at least must be missing")

    filled = torch.where(missing, x, original)  # what was given has no error

    return _decibels(filled, original) + 10 * share.log10()


def _decibels(x: Tensor, original: Tensor) -> Tensor:
    return peak_signal_noise_ratio(
        x.double(), original.double(), data_range=1.0, reduction="none", dim=1
    )


@checks.takes_arrays
@full_precision()
def ssim(x: Tensor, original: Tensor, shape: Sequence[int]) -> Tensor:
    """Structural similarity of each image, (n,), at most 1.

    The mean over windows of (2 m_x m_y + c_1) (2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1)
    (s_x^2 + s_y^2 + c_2)), whose means m and covariances s are weighted by a Gaussian of 1.5
    pixels; c_1 = 0.01^2, c_2 = 0.03^2. Borders are mirrored; of channels it is the mean.
    Source: Wang et al. 2004, Eq. 13.

    Args:
        x: images, (n, pixels).
        original: what they should be, of the same shape.
        shape: of an image, see `checks.ImageShape`; at least 6 x 6 pixels.

    Raises:
        ValueError: for shapes that differ, originals outside [0, 1], or smaller images.

    Example:
        >>> x = torch.rand(2, 64, generator=torch.Generator().manual_seed(0))
        >>> ssim(x, x, (8, 8)), bool((ssim(x, 1 - x, (8, 8)) < 0).all())
        (tensor([1., 1.], dtype=torch.float64), True)
    """
    x, original = _pairs(x, original)
    image = checks.ImageShape.of(shape)
    if not has_windows(shape):
        least = f"{LEAST_SIDE} x {LEAST_SIDE}"
        raise ValueError(f"shape={image.plain}: images of at least {least} pixels are needed")
    if x.shape[1] != image.features:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; an image of shape={image.plain} has {image.features} "
            "numbers"
        )

    values = []
    for batch in zip(x.double().split(BATCH), original.double().split(BATCH), strict=True):
        images = map(image.images, batch)
        value = structural_similarity_index_measure(*images, data_range=1.0, reduction="none")
        values.append(value.reshape(-1))

    return torch.cat(values)


def has_windows(shape: Sequence[int]) -> bool:
    """Whether images of this shape are large enough for SSIM.

    Example:
        >>> has_windows((28, 28)), has_windows((3, 4, 28))
        (True, False)
    """
    return min(checks.ImageShape.of(shape).size) >= LEAST_SIDE


def _pairs(x: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """Images, which may go beyond [0, 1], and their originals, as rows, checked."""
    original = checks.pixels("original", checks.flat(original))
    x = checks.finite("x", checks.flat(x).to(original))
    if x.shape != original.shape:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, original {tuple(original.shape)}; they must be equal"
        )

    return x, original


@torch.no_grad()
def reconstruction_fidelity(
    stack: Stack, x: Tensor, shape: Sequence[int]
) -> dict[str, list[float] | None]:
    """Mean PSNR and SSIM of images encoded up to each level 1 .. L and decoded back.

    SSIM is None for images below its window.
    """
    levels = range(1, stack.depth + 1)
    decoded = [stack.reconstruct(x, level).cpu() for level in levels]
    x = x.cpu()

    similarities = None
    if has_windows(shape):
        similarities = [ssim(y, x, shape).mean().item() for y in decoded]

    return {"psnr": [psnr(y, x).mean().item() for y in decoded], "ssim": similarities}


def in_words(psnr: float, ssim: float | None = None) -> str:
    """Both measures for a terminal.

    Example:
        >>> in_words(14.25, 0.5), in_words(14.25)
        ('PSNR 14.2 dB, SSIM 0.500', 'PSNR 14.2 dB')
    """
    words = f"PSNR {psnr:.1f} dB"
    return words if ssim is None else f"{words}, SSIM {ssim:.3f}"
