"""Frames as a film: .gif and .webp by Pillow, .mp4 by imageio where that is installed."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gendae import checks
from gendae.storage.atomic import write_whole

#: Suffixes of films.
FILMS = (".gif", ".webp", ".mp4")
#: Most frames of a film: of more, as many are taken, evenly, the first and the last among them.
MOST = 200
#: Milliseconds that the last frame stands still in a .gif and a .webp.
HOLD = 1500


def kept_frames(count: int) -> list[int]:
    """Which of a number of states a film shows.

    Example:
        >>> kept_frames(3), len(kept_frames(1001)), kept_frames(1001)[-1]
        ([0, 1, 2], 200, 1000)
    """
    return np.linspace(0, count - 1, min(count, MOST)).round().astype(int).tolist()


def is_film(path: Path) -> bool:
    """Whether a file of this name is to be a film."""
    return path.suffix in FILMS


def milliseconds(count: int) -> int:
    """How long a frame is shown: some five seconds in all, but no frame too short or too long."""
    return min(500, max(50, 5000 // count))


def write_film(frames: Sequence[np.ndarray], path: str | Path) -> Path:
    """Write frames as a film, of the kind that the suffix says, making its folder.

    Greys of a .gif and a .webp are exact; a .gif has 256 colours in a frame at most. One frame
    after the other that is the same is stored once in them, and shown for longer.

    Args:
        frames: grey, (height, width), or in colour, (height, width, 3), in uint8, all of one
            size; at least two.
        path: FILE.gif, .webp or .mp4.

    Raises:
        ValueError: for another suffix, a single frame, and a .mp4 where imageio is missing.
    """
    path = Path(path)
    checks.one_of("suffix of --out", path.suffix, FILMS)
    if len(frames) < 2:
        raise ValueError(f"{path}: a film needs two frames or more; there is {len(frames)}")

    content = _mp4(frames, path) if path.suffix == ".mp4" else _by_pillow(frames, path.suffix)
    return write_whole(path, content)


def _by_pillow(frames: Sequence[np.ndarray], suffix: str) -> bytes:
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in frames)
    durations = [milliseconds(len(frames))] * len(others) + [HOLD]
    film = io.BytesIO()
    first.save(
        film,
        format=suffix[1:].upper(),
        save_all=True,
        append_images=others,
        duration=durations,
        loop=0,
        **({"lossless": True} if suffix == ".webp" else {}),
    )

    return film.getvalue()


def _mp4(frames: Sequence[np.ndarray], path: Path) -> bytes:
    what = f"{path}: a .mp4, unlike .gif and .webp,"
    mimwrite = checks.library("imageio.v2", "film", what).mimwrite
    checks.library("imageio_ffmpeg", "film", what)  # what imageio writes films with

    height, width = frames[0].shape[:2]
    even = ((0, height % 2), (0, width % 2), (0, 0))  # the codec halves both sides
    colours = [np.pad(_rgb(frame), even, "edge") for frame in frames]
    rate = 1000 / milliseconds(len(frames))

    return mimwrite("<bytes>", colours, format="mp4", fps=rate, macro_block_size=2, quality=9)


def _rgb(frame: np.ndarray) -> np.ndarray:
    """A frame with three channels, (height, width, 3)."""
    return frame if frame.ndim == 3 else frame[..., None].repeat(3, 2)
