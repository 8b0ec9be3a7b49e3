"""What commands do with sequences: rows of the model's steps from a file, and arrays from rows."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.commands.common import some_given, usable
from gendae.completion.inpainting import MASKS, Inpainter, inpaint, named_mask
from gendae.data.files import write_npz
from gendae.data.series import ChannelScale, Series, read_series
from gendae.models.joint import kind_of
from gendae.models.recurrent import RecurrentPair
from gendae.models.stack import Stack
from gendae.storage.atomic import write_whole


def reads_sequences(stack: Stack) -> bool:
    """Whether x of a model are sequences; images that are read row by row are images."""
    return isinstance(stack.pairs[0], RecurrentPair) and kind_of(stack) == "sequence"


def scale_of(stack: Stack) -> ChannelScale | None:
    """The units of the channels that the model was trained with; None for those of its file."""
    fact = stack.facts.get("scale")
    if fact is None:
        return None

    scale = ChannelScale.recorded(fact)
    channels = stack.pairs[0].cell.width
    if len(scale.mean) != channels:
        raise ValueError(f"facts.scale: {len(scale.mean)} channels; the model reads {channels}")
    return scale


def series_of(stack: Stack, path: str | Path) -> Series:
    """The sequences of a file, as a model of sequences reads them.

    Raises:
        FileNotFoundError, ValueError: see `read_series`; for other channels, longer sequences, and
            lengths where the model knows none.
    """
    series = read_series(path)
    pair: RecurrentPair = stack.pairs[0]

    _, steps, channels = series.x.shape
    if channels != pair.cell.width:
        raise ValueError(
            f"{path}: x has {channels} channels; the model reads {pair.cell.width} of them"
        )
    if steps > pair.steps:
        raise ValueError(f"{path}: x has {steps} steps; the model reads {pair.steps} at most")

    if not pair.masked and (series.lengths is not None or steps < pair.steps):
        raise ValueError(
            f"{path}: the model reads {pair.steps} steps of each sequence, and knows no shorter "
            "ones; one with masked=True does"
        )

    series = series.padded(pair.steps)
    scale = scale_of(stack)
    return series if scale is None else series.scaled(scale)


def arrays_of(stack: Stack, x: Tensor, series: Series | None = None) -> dict[str, np.ndarray]:
    """Rows as steps, (n, T, channels), in the units of the file that the model learned from.

    Args:
        stack: a model of sequences.
        x: (n, width of x).
        series: sequences of these lengths; None where all steps are there.
    """
    pair: RecurrentPair = stack.pairs[0]
    steps = x.float().cpu().unflatten(1, (pair.steps, -1))
    if pair.masked:
        steps = steps[..., 1:]

    scale = scale_of(stack)
    if scale is not None:
        steps = steps * scale.deviation + scale.mean
    if series is None or series.lengths is None:
        return {"x": steps.numpy()}

    steps = torch.where(series.there[..., None], steps, 0.0)
    return {"x": steps.numpy(), "lengths": series.lengths.numpy()}


def write_sequences(stack: Stack, x: Tensor, out: Path) -> Path:
    """Sampled rows as steps: array x of a .npz, a .npy, or a picture."""
    arrays = arrays_of(stack, x)
    if out.suffix == ".npz":
        return write_npz(out, **arrays)

    if out.suffix == ".png":
        from gendae import plots  # only a plot waits for matplotlib

        steps = torch.from_numpy(arrays["x"])
        return plots.save(plots.gallery(steps.flatten(1), "sequence", steps.shape[1:]), out)

    content = io.BytesIO()
    np.save(content, arrays["x"])
    return write_whole(out, content.getvalue())


def complete_sequences(
    stack: Stack,
    path: Path,
    mask: str | None,
    n: int,
    seed: int,
    out: Path,
    inpainter: Inpainter,
) -> list[str]:
    """Fill in what is missing of sequences: the steps that are not observed, or what a mask hides.

    Args:
        stack: a generative model of sequences.
        path: of the sequences, with an array `observed`, (n, T) boolean, unless there is a mask.
        mask: the part of the T x channels numbers that is given: top and bottom are halves of the
            steps, left and right of the channels.
        n: answers for each sequence.
        seed: of the completion.
        out: FILE.npz.
        inpainter: what fills them in.
    """
    series = series_of(stack, path)
    pair: RecurrentPair = stack.pairs[0]
    shape = (pair.steps, pair.cell.width)

    if mask is None and series.observed is None:
        raise ValueError(
            f"{path}: no array observed, (n, steps) boolean, that says which steps are given; "
            "it, or --mask, is needed"
        )

    given = torch.ones(len(series.x), *shape, dtype=torch.bool)
    if series.observed is not None:
        given &= series.observed[..., None]
    if mask is not None:
        named = named_mask(checks.one_of("--mask", mask, MASKS), shape, seed)
        given &= some_given(mask, named).view(shape)

    there = series.there[..., None].expand_as(given)
    missing = int((there & ~given).sum())
    clamped = given | ~there
    if pair.masked:  # which steps are there is given, too
        clamped = torch.cat([torch.ones_like(clamped[..., :1]), clamped], 2)

    x = series.rows(pair.masked).repeat_interleave(n, 0)
    filled = inpaint(stack, x, clamped.flatten(1).repeat_interleave(n, 0), inpainter, seed)
    usable("the answers", filled)

    copies = Series(*(None if a is None else a.repeat_interleave(n, 0) for a in series))
    file = write_npz(out, **arrays_of(stack, filled, copies))
    return [
        f"{len(x):,} completed sequences: {file}",
        f"{int(there.sum()) - missing:,} of {int(there.sum()):,} numbers were given",
    ]
