"""One image file as numbers: what it says beside its pixels is applied, or it is refused.

| what the file says | what is done |
|---|---|
| orientation (EXIF) | applied: the image stands as viewers show it |
| colour, palette | refused, unless `color="rgb"`, three channels, or `color="grey"`, their luma |
| three equal channels | grey, or three channels if `color="rgb"`, as grey is then |
| 1, 2, 4, 8 bits; 16 bits of grey | black is 0, white is 1 |
| alpha, transparent entries of a palette | passed over where every pixel is opaque, or refused |
| a transparent grey, or colour without palette | refused |
| more than 64 million pixels, and 250 for each byte of the file | refused |
| parts of the picture that no bytes stand for | refused |
| several frames or pages | refused |
| 12 and 32 bits, signed numbers, 16 bits of colour or of grey with alpha | refused |
| CMYK, Lab and other spaces; channels that have no meaning | refused |
| colour profile, gamma, background | not applied |

Luma is 0.299 R + 0.587 G + 0.114 B (Rec. 601). A file is one of `FORMATS` by its content, whatever
its name.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from gendae import checks
from gendae.errors import reason
from gendae.storage.inputs import regular_file, unpacked

if TYPE_CHECKING:
    from PIL.Image import Image

#: Not all that Pillow reads: some formats start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
#: Modes without colour.
GREY = ("1", "L", "LA")
GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I;16R")
#: Tags of a TIFF, and the values by which its numbers are unsigned and grow with the light.
SAMPLE_FORMAT = 339
UNSIGNED = 1
PHOTOMETRIC = 262
WHITE_IS_ZERO = 0
PLANAR = 284
PLANE_BY_PLANE = 2

#: What may become of colour.
COLORS = ("grey", "rgb")
#: What is said of colour where nothing was chosen.
COLOURED = (
    'coloured pixels; color="grey" takes their luma, color="rgb" all three channels (fit: '
    "--data.color grey or rgb; with a model of grey images, inpaint, complete, predict and "
    "evaluate: --color grey)"
)
#: Luma as Pillow computes it from bytes, in parts of 2^16, and of real numbers.
LUMA = np.array([19595, 38470, 7471], np.uint32)
LUMA_REAL = np.array([0.299, 0.587, 0.114])


class Coloured(ValueError):
    """Colour in a picture, and no choice of what becomes of it."""


def choice_of_color(color: str | None) -> str | None:
    """`color` if it says what becomes of colour, or is None: then it is refused.

    Example:
        >>> choice_of_color("keep")
        Traceback (most recent call last):
        ValueError: color='keep' is unknown; accepted: grey, rgb
    """
    if color is None:
        return None

    return checks.one_of("color", color, COLORS)


def read_image(path: Path, color: str | None = None) -> np.ndarray:
    """An image file as numbers in [0, 1], (height, width) in float32; in colour with 3 behind.

    Args:
        path: the file.
        color: "grey" takes the luma of coloured pixels, "rgb" three channels, of grey ones too;
            None refuses them.

    Raises:
        ValueError: for damaged files, other formats, and images whose pixels are not determined by
            the file: the table above.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "red.png"
        ...     Image.new("RGB", (2, 1), "red").save(file)
        ...     (255 * read_image(file, "grey")).round().tolist()
        [[76.0, 76.0]]
    """
    regular_file(path)
    with _named(str(path)), open(path, "rb") as stream:
        return _decoded(stream, path.stat().st_size, color)


def decode_image(name: str, content: bytes, color: str | None = None) -> np.ndarray:
    """The same of the bytes of an image file; `name` is what errors call it."""
    with _named(name):
        return _decoded(io.BytesIO(content), len(content), color)


def held_image(name: str, image: "Image", color: str | None = None) -> np.ndarray:
    """The same of an image that Pillow holds in memory."""
    from PIL import ImageOps

    with _named(name):
        coding = _coding(image)
        _refuse_unclear(image, coding)

        return _numbers(ImageOps.exif_transpose(image), coding, color)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What goes wrong within is a ValueError that names the image."""
    import PIL

    try:
        yield
    except Coloured as error:
        raise ValueError(f"{name} holds {error}") from None
    except PIL.UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ValueError(
            f"{name} cannot be read as an image: its content is none of {known}, or damaged"
        ) from None
    except Exception as error:  # noqa: BLE001 - PIL raises a dozen kinds for damaged files
        raise ValueError(f"{name} cannot be read as an image: {reason(error)}") from None


def _decoded(stream: IO[bytes], size: int, color: str | None) -> np.ndarray:
    """The numbers of a file of so many bytes."""
    import PIL.Image
    from PIL import ImageOps

    # given the name, Pillow maps a TIFF into memory, and turns it before it is read
    with PIL.Image.open(stream, formats=FORMATS) as image:
        coding = _coding(image)
        _refuse_bomb(image, size)
        _refuse_unclear(image, coding)
        if not _covered(image):
            raise ValueError("a part of the picture is not in the file; save it as a whole")
        upright = ImageOps.exif_transpose(image)

    return _numbers(upright, coding, color)


def _numbers(image: "Image", coding: str, color: str | None) -> np.ndarray:
    """The numbers of an image that stands as viewers show it."""
    _refuse_colourless(image)
    _refuse_transparent(image)
    if coding in GREY_16:  # convert("L") would cut 16 bits off at 255
        grey = np.asarray(image, np.float32) / 65535.0
        return rgb(grey) if color == "rgb" else grey

    if color == "rgb":
        return np.asarray(image.convert("RGB"), np.float32) / 255.0
    if color is None and image.mode not in GREY:
        equal_channels(np.asarray(image.convert("RGB")))

    return np.asarray(image.convert("L"), np.float32) / 255.0


def rgb(grey: np.ndarray) -> np.ndarray:
    """Grey pixels, (..), in three equal channels, (.., 3).

    Example:
        >>> rgb(np.array([5, 9])).tolist()
        [[5, 5, 5], [9, 9, 9]]
    """
    return np.repeat(grey[..., None], checks.RGB, -1)


def equal_channels(pixels: np.ndarray) -> np.ndarray:
    """The one channel of which (.., 3) are copies; `Coloured` is raised if they differ."""
    first = pixels[..., 0]
    if not all(np.array_equal(first, pixels[..., other]) for other in (1, 2)):
        raise Coloured(COLOURED)

    return first


def luma(pixels: np.ndarray) -> np.ndarray:
    """The luma of (.., 3) channels; of bytes, bytes as Pillow rounds them.

    Example:
        >>> luma(np.array([[255, 0, 0], [9, 9, 9]], np.uint8)).tolist()
        [76, 9]
        >>> float(luma(np.array([0.0, 1.0, 0.0])))
        0.587
    """
    if pixels.dtype != np.uint8:
        return pixels @ LUMA_REAL

    parts = pixels.astype(np.uint32) @ LUMA
    return ((parts + 2**15) >> 16).astype(np.uint8)


def _coding(image: "Image") -> str:
    """How pixels lie in the file, Pillow's "raw mode": unlike the mode, it tells 12 bits from 16.

    To be asked before the pixels are loaded.
    """
    if not getattr(image, "tile", None):  # held in memory
        return image.mode

    arguments = image.tile[0][3]
    first = arguments[0] if isinstance(arguments, tuple) else arguments
    return first if isinstance(first, str) else image.mode


def _refuse_unclear(image: "Image", coding: str) -> None:
    """Raise a ValueError for an image whose numbers have no one meaning as grey."""
    if getattr(image, "is_animated", False):
        raise ValueError("it holds several frames or pages; save the one that is meant")

    tags = getattr(image, "tag_v2", {})
    reversed_16 = coding in GREY_16 and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    signed = set(tags.get(SAMPLE_FORMAT, [UNSIGNED])) != {UNSIGNED}
    known = coding in GREY_16 or (image.mode in MODES and not signed)
    if not known or reversed_16:
        raise ValueError(
            f"pixels of mode {image.mode} ({coding}) have no known range of grey; save them as "
            "grey of 8 or 16 bits, or as RGB of 8"
        )

    if ";16" in coding and coding.startswith(("RGB", "LA")):
        raise ValueError(
            f"it has 16 bits for each of several channels ({coding}); save it as grey of 16 bits, "
            "or as RGB of 8"
        )
    if "X" in coding and image.format == "TIFF":
        raise ValueError(
            f"it has a channel without a meaning ({coding}); save it as grey or RGB alone"
        )


def _refuse_bomb(image: "Image", size: int) -> None:
    """Raise a ValueError for a picture that takes far more memory than its file of this size."""
    width, height = image.size
    if width * height > unpacked(size):
        raise ValueError(
            f"its {width} x {height} pixels are more than a file of {size:,} bytes may hold"
        )


def _covered(image: "Image") -> bool:
    """Whether the parts that a file is made of fill the picture: Pillow leaves the rest black.

    A TIFF stored plane by plane has parts for each channel, unless a library unpacks it.
    """
    width, height = image.size
    area = sum((right - left) * (low - high) for _, (left, high, right, low), *_ in image.tile)

    planes = 1
    plane_by_plane = image.format == "TIFF" and image.tag_v2.get(PLANAR) == PLANE_BY_PLANE
    if plane_by_plane and image.tile and image.tile[0][0] == "raw":
        planes = len(image.getbands())

    return area >= width * height * planes


def _refuse_colourless(image: "Image") -> None:
    """Raise a ValueError for a number in the picture that its palette has no colour for."""
    if image.mode != "P":
        return

    colours = len(image.getpalette()) // 3
    _, highest = image.getextrema()
    if highest >= colours:
        raise ValueError(f"it uses colour {highest} of a palette of {colours}")


def _refuse_transparent(image: "Image") -> None:
    """Raise a ValueError unless all pixels are opaque: what shows through is not in the file."""
    has_key = "transparency" in image.info
    if not has_key and not image.mode.endswith("A"):
        return

    if has_key and image.mode not in ("P", "PA"):
        key = image.info["transparency"]
        raise ValueError(f"it declares the colour {key} transparent; save it without transparency")

    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    transparent = int((alpha < 255).sum())
    if transparent:
        raise ValueError(
            f"{transparent} of its {alpha.size} pixels are transparent, and what lies behind them "
            "is not known; put it on a background and save it without alpha"
        )
