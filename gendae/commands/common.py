"""What commands share: the model, its data set, and what its file says of both.

A command is a function in the file of its name. It returns the lines to print.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendae import checks, registry
from gendae.completion.completer import Completer
from gendae.data import identity
from gendae.data.base import Data, portable
from gendae.data.files import image_shape
from gendae.data.images import Images
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.storage import model_file

Table = list[str]


def data_of(stack: Stack, file: str | None = None, root: str | None = None) -> Data:
    """The user's file as a data set, or the data set that the model was trained on.

    Raises:
        FileNotFoundError: if the model's data set is not on this machine; says to name --data.
        ValueError: if the model's file names no data set, or its arrays are not those found here.
    """
    one_source(file, root)
    if file is None:
        data = _training_data(stack, root)
    else:
        data = Images(checks.path("--data", file), shape=stack.facts.get("shape"))

    checks.width(file or "the data set", data.split("test").x, stack.sizes[0])
    return data


def one_source(file: str | None, root: str | None) -> None:
    """Raise a ValueError where both images and the folder of a data set are named."""
    if file is not None and root is not None:
        raise ValueError(
            f"--root {root} is the folder of the model's own data set, in the place of which "
            f"--data {file} is read; give one"
        )


def _training_data(stack: Stack, root: str | None) -> Data:
    """The data set that the model was trained on, read."""
    spec = stack.facts.get("dataset")
    if spec is None:
        raise ValueError("the model does not say what it was trained on; name images with --data")

    try:
        data = checks.kind("dataset", registry.build(located(portable(spec), root)), Data)
    except ValueError as error:
        raise ValueError(
            f"the model's data set cannot be built: {error}; name images with --data"
        ) from None

    try:
        data.split("test")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or name your own images with --data") from None

    other = identity.difference(data.identity, stack.facts)
    if other is not None:
        raise ValueError(f"{other}; name their folder with --root, or other images with --data")
    return data


def located(spec: dict, root: str | None) -> dict:
    """A described data set that looks for MNIST in a folder, if one is named.

    Raises:
        ValueError: if a folder is named for a data set that has none.
    """
    if root is None:
        return spec
    if spec["type"] == "MNIST":
        return {**spec, "root": root}
    if isinstance(spec.get("source"), dict):
        return {**spec, "source": located(spec["source"], root)}

    raise ValueError(
        f"--root {root}: the model was trained on {spec['type']}, which has no folder"
    )


def dataset_of(stack: Stack) -> str | None:
    """Name of the data set that the model was trained on, if its file says so.

    That of its class, unless the class reads files of several data sets.
    """
    name = (stack.facts.get("dataset") or {}).get("type")
    if name in identity.KNOWN.values():
        return identity.recorded(stack.facts).name
    return name


def shapes_of(stack: Stack) -> dict[str, tuple[int, int]]:
    """Height and width of those modalities of a joint model that are images."""
    return {name: tuple(shape) for name, shape in stack.facts.get("shapes", {}).items()}


def shape_of(stack: Stack) -> tuple[int, int]:
    """Height and width of the model's images."""
    shape = next(iter(shapes_of(stack).values()), stack.facts.get("shape"))
    return image_shape(stack.sizes[0], shape)


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

    checks.one_of("--which", which, ("best", "last"))
    path = run / "checkpoints" / f"{which}.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint of a run at {run}: looked for {path}")
    return path
