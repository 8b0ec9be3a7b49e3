"""Images side by side in one grey picture, and that picture as a PNG.

No figure is drawn: the import of matplotlib takes longer than most samples.
"""

import io
import math
from pathlib import Path

import torch
from torch import Tensor

from gendae import checks
from gendae.storage.atomic import write_whole

#: White in a PNG of 8 bits.
WHITE = 255


@checks.takes_arrays
def tile(x: Tensor, shape: tuple[int, int], columns: int | None = None, gap: int = 1) -> Tensor:
    """Images (n, pixels) side by side in one picture, (height, width), with grey gaps.

    Without a number of columns the picture is as square as possible.
    """
    if not columns:
        columns = max(1, math.ceil(math.sqrt(len(x))))

    height, width = shape
    rows = math.ceil(len(x) / columns)
    canvas = torch.full((rows * (height + gap) + gap, columns * (width + gap) + gap), 0.5)

    for i, image in enumerate(x.detach().float().cpu().clamp(0, 1)):
        row, column = divmod(i, columns)
        top = gap + row * (height + gap)
        left = gap + column * (width + gap)
        canvas[top : top + height, left : left + width] = image.view(height, width)

    return canvas


@checks.takes_arrays
def write_grey(canvas: Tensor, path: str | Path, scale: int = 3) -> Path:
    """Write a picture, (height, width) in [0, 1], as PNG (whatever the suffix), making its folder.

    Args:
        canvas: 0 is black, 1 is white.
        path: the file.
        scale: pixels of the file along each side of one of the picture.
    """
    from PIL import Image

    levels = (canvas * WHITE).round().clamp(0, WHITE).to(torch.uint8)
    large = levels.repeat_interleave(scale, 0).repeat_interleave(scale, 1)

    png = io.BytesIO()
    Image.fromarray(large.numpy()).save(png, format="PNG")
    return write_whole(path, png.getvalue())
