"""The width of the data as the first size of a network whose configuration leaves it open.

`sizes: [auto, 200, 20]`, and no sizes at all, take it from the data, which are read for it before
the network is built; the configuration of the run says the number.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from torch import Tensor

from gendae.data.base import Data
from gendae.data.shards import Rows
from gendae.models.architectures import AUTO

#: A part of a configuration: the arguments of a class or function by name.
Part = Namespace | dict[str, Any]


def sized(part: object, option: str) -> Iterator[tuple[str, Part]]:
    """The parts of a configuration that have sizes, with the option that sets these.

    Example:
        >>> model = {"stack": {"class_path": "gendae.deep_autoencoder",
        ...                    "init_args": {"sizes": ["auto", 20]}}}
        >>> [option for option, _ in sized(model, "--model")]
        ['--model.stack.sizes']
    """
    if not isinstance(part, Namespace | dict):
        return

    for name, value in _items(part):
        inner = option if name == "init_args" else f"{option}.{name}"
        if name == "sizes" and isinstance(value, list | tuple):
            yield inner, part
        yield from sized(value, inner)


def _items(part: Part) -> list[tuple[str, Any]]:
    return list((part if isinstance(part, Mapping) else vars(part)).items())


def is_open(model: object) -> bool:
    """Whether a configuration leaves a first size to the data."""
    return any(map(_leaves_first, sized(model, "--model")))


def _leaves_first(found: tuple[str, Part]) -> bool:
    _, part = found
    return next(iter(part["sizes"]), None) == AUTO


def fit_sizes(model: object, data: Data) -> None:
    """Write the width of the data where a configuration leaves it open.

    Raises:
        ValueError: for a modality that the data do not have.
    """
    for option, part in filter(_leaves_first, sized(model, "--model")):
        part["sizes"] = [_width(option, data), *part["sizes"][1:]]


def _width(option: str, data: Data) -> int:
    """Width of x, or of the modality that an option of sizes is below."""
    _, _, below = option.partition(".modalities.")
    if not below:
        return data.rows("train").x.shape[1]

    widths = getattr(data, "modalities", {})
    name = below.partition(".")[0]
    if name not in widths:
        held = ", ".join(widths) or "no modalities"
        raise ValueError(f"{option}: {type(data).__name__} has {held}, of which none is {name!r}")

    return widths[name]


def check_fit(name: str, x: Tensor | Rows, width: int, model: object) -> None:
    """Raise a ValueError that names the option of the sizes unless x has this width.

    Args:
        name: of the data set, for the message.
        x: examples.
        width: of the model's input.
        model: its configuration.
    """
    if x.ndim == 2 and x.shape[1] == width:
        return

    told = f"x of {name} has shape {tuple(x.shape)}; the model takes (batch, {width})"
    for option, part in sized(model, "--model"):
        first, *above = part["sizes"]
        if first == width and ".modalities." not in option:
            rest = ",".join(map(str, above))
            told += f": {option} [{x.shape[1]},{rest}] fits the network to the data, or "
            told += f"[{AUTO},{rest}]"
            break

    raise ValueError(told)
