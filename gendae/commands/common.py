"""What commands share: the model, and what its file says of it and of its data set.

A command is a function in the file of its name. It returns the lines to print.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendae import checks, registry
from gendae.completion.completer import Completer
from gendae.data import identity
from gendae.data.files import image_shape
from gendae.data.pictures import choice_of_color
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.storage import model_file
from gendae.storage.sealed import CHECKPOINTS

Table = list[str]
#: The mode of completion that draws codes by the levels of a denoising prior.
DESCENT = "descent"


def dataset_of(stack: Stack) -> str | None:
    """Name of the data set that the model was trained on, if its file says so.

    That of its class, unless the class reads files of several data sets.
    """
    spec = stack.facts.get("dataset") or {}
    if spec.get("type") in ("Augmented", "Binarised"):
        spec = spec.get("source") or {}

    name = spec.get("type")
    if name in identity.KNOWN.values():
        return identity.recorded(stack.facts).name
    return name


def shapes_of(stack: Stack) -> dict[str, tuple[int, ...]]:
    """Shapes of those modalities of a joint model that are images, see `checks.ImageShape`."""
    return {name: tuple(shape) for name, shape in stack.facts.get("shapes", {}).items()}


def shape_of(stack: Stack) -> tuple[int, ...]:
    """The shape of the model's images, see `checks.ImageShape`."""
    shape = next(iter(shapes_of(stack).values()), stack.facts.get("shape"))
    return image_shape(stack.sizes[0], shape)


def color_of(stack: Stack, color: str | None = None, modality: str | None = None) -> str | None:
    """What becomes of the colour of a user's images: as told, or as in the model's training.

    Args:
        stack: the model.
        color: what the user tells, if anything.
        modality: whose images they are, of a joint model.

    Raises:
        ValueError: for what the model cannot take.
    """
    told = choice_of_color(color)
    takes = _takes(stack, modality)
    if told is not None and takes not in (None, told):
        kind = "coloured" if takes == "rgb" else "grey"
        raise ValueError(f"--color {told}: the model takes {kind} images; accepted: {takes}")
    if told is not None or takes == "rgb":
        return told or takes

    dataset = stack.facts.get("dataset") or {}
    while isinstance(dataset.get("source"), dict):
        dataset = dataset["source"]

    learned = choice_of_color(dataset.get("color"))
    return None if takes == "grey" != learned else learned


def _takes(stack: Stack, modality: str | None) -> str | None:
    """Which images a model takes, "grey" or "rgb"; None where its file does not say."""
    shapes = shapes_of(stack)
    if modality is not None:
        known = [shapes[modality]] if modality in shapes else []
    else:
        known = [stack.facts.get("shape"), *shapes.values()]

    channels = [len(shape) == len(checks.ImageShape._fields) for shape in known if shape]
    if not channels:
        return None

    return "rgb" if any(channels) else "grey"


def completer_of(stack: Stack) -> Completer | None:
    """What the model is meant to be completed with, if its file says so."""
    return stack.settings.completer


def settings_of(stack: Stack) -> dict[str, Any]:
    """What the model is meant to be used with, as plain data."""
    return registry.describe(stack.settings.chosen())


def some_given(mask: str, observed: Tensor) -> Tensor:
    """Which pixels are given, if some are and some are not; `mask` names it in the message."""
    given = int(observed.sum())
    if given in (0, len(observed)):
        raise ValueError(
            f"--mask {mask} gives {given} of {len(observed)} pixels; some must be given, and some "
            "missing"
        )
    return observed


def load_generative(model: str, device: str = "cpu") -> Stack:
    """A trained model that images can be drawn from; see `only_generative`."""
    return only_generative(model_file.load(model, device), model)


def only_generative(stack: Stack, model: str) -> Stack:
    """The stack, if images can be drawn from it.

    Args:
        stack: a trained model.
        model: where it was loaded from, for the message.

    Raises:
        ValueError: for a classifier, whose layers were trained for labels, and a model of several
            modalities.
    """
    if has_several_modalities(stack):
        raise ValueError(
            f"{model} has several modalities ({stack.described()}); use `gendae sample`, "
            "`gendae complete` and `gendae predict`"
        )
    if isinstance(stack, Classifier):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{model} is a classifier trained for labels, not a model of images; "
            "use `gendae predict` for labels of images and `gendae test` for its test error"
        )
    return stack


def has_several_modalities(stack: Stack) -> bool:
    """Whether the model gives more than one kind of data."""
    return isinstance(stack, JointStack) and len(stack.names) > 1


def usable(what: str, *values: Tensor) -> None:
    """Raise a ValueError where results hold NaN or infinite values: they are not written.

    Args:
        what: the results, for the message.
        values: all of them.
    """
    bad = sum(int((~torch.isfinite(value)).sum()) for value in values)
    if bad:
        raise ValueError(
            f"{what} hold {bad:,} NaN or infinite values, and nothing is written: the model's "
            "weights, or the options of the chain, lead out of the range of numbers"
        )


def checkpoint_of(run: str | Path, which: str = "best") -> Path:
    """The best or last checkpoint of a run folder, or the checkpoint file itself."""
    run = checks.path("RUN", run)
    if run.is_file():
        return run

    checks.one_of("--which", which, CHECKPOINTS)
    path = run / "checkpoints" / f"{which}.ckpt"
    if path.is_file():
        return path

    others = sorted(path.stem for path in run.glob("checkpoints/*.ckpt"))
    known = [f"--which {name}" for name in others if name in CHECKPOINTS]
    advice = f"; there is {' and '.join(known)}" if known else ""
    raise FileNotFoundError(f"no checkpoint of a run at {run}: looked for {path}{advice}")


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())

    return lines


def markdown(rows: list[list[str]]) -> str:
    r"""Rows as a table in Markdown; the first is the header.

    Example:
        >>> markdown([["law"], ["KL(Q || P)"]])
        '| law |\n| --- |\n| KL(Q \\|\\| P) |\n'
    """
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines = [escaped[0], ["---"] * len(rows[0]), *escaped[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
