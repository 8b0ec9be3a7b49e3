"""Images side by side in one picture, grey or in colour, and that picture as a PNG.

No figure is drawn: the import of matplotlib takes longer than most samples.
"""

import io
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.storage.atomic import write_whole

#: White in a PNG of 8 bits.
WHITE = 255
#: Pixels that a picture of small images is enlarged to: its least width, and its greatest height.
WIDE = 600
HIGH = 1200


def enlargement(height: int, width: int) -> int:
    """Pixels of a file along each side of one of a picture, so that small images can be seen.

    Example:
        >>> [enlargement(side, side) for side in (28, 91, 291, 2901)]
        [22, 7, 3, 1]
    """
    wanted = math.ceil(WIDE / width)
    most = max(1, HIGH // height)

    return min(wanted, most)


def enlarged(canvas: Tensor) -> np.ndarray:
    """A picture, (height, width) or (height, width, 3) in [0, 1], as pixels of a file, uint8."""
    scale = enlargement(*canvas.shape[:2])
    levels = (canvas * WHITE).round().clamp(0, WHITE).to(torch.uint8)

    return levels.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy()


@checks.takes_arrays
def tile(x: Tensor, shape: tuple[int, ...], columns: int | None = None, gap: int = 1) -> Tensor:
    """Images, (n, features), side by side in one picture, with grey gaps.

    Without a number of columns the picture is as square as possible.

    Args:
        x: in [0, 1].
        shape: of an image, see `checks.ImageShape`.
        columns: images side by side.
        gap: pixels between two of them.

    Returns:
        (height, width), in colour (height, width, 3), as files and matplotlib have them.

    Example:
        >>> tile(torch.rand(4, 12), (3, 2, 2)).shape
        torch.Size([7, 7, 3])
    """
    if not columns:
        columns = max(1, math.ceil(math.sqrt(len(x))))

    frame = checks.ImageShape.of(shape)
    channels, height, width = frame
    rows = math.ceil(len(x) / columns)
    sides = (rows * (height + gap) + gap, columns * (width + gap) + gap)
    canvas = torch.full((channels, *sides), 0.5)

    for i, image in enumerate(frame.images(x.detach().float().cpu().clamp(0, 1))):
        row, column = divmod(i, columns)
        top = gap + row * (height + gap)
        left = gap + column * (width + gap)
        canvas[:, top : top + height, left : left + width] = image

    return canvas[0] if channels == 1 else canvas.permute(1, 2, 0)


@checks.takes_arrays
def write_png(canvas: Tensor, path: str | Path) -> Path:
    """Write a picture in [0, 1] as PNG (whatever the suffix), making its folder.

    Args:
        canvas: 0 is black, 1 is white, (height, width), or (height, width, 3) in colour; a small
            one is enlarged.
        path: the file.
    """
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(enlarged(canvas)).save(png, format="PNG")

    return write_whole(path, png.getvalue())
