"""What a user can get wrong, said in one line: which argument, what it was, what is accepted."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def one_of(name: str, value: str, accepted: Iterable[str]) -> str:
    """`value` if it is among `accepted`, else a ValueError that lists them."""
    accepted = list(accepted)
    if value not in accepted:
        raise ValueError(f"{name}={value!r} is unknown; accepted: {', '.join(accepted)}")
    return value


def at_least(name: str, value: float, bound: float, strict: bool = False) -> float:
    """`value` if it is a number not below `bound` (above it, if `strict`), else a ValueError."""
    number = isinstance(value, int | float) and -math.inf < value < math.inf
    if not number or value < bound or (strict and value == bound):
        raise ValueError(f"{name}={value!r}: a number {'>' if strict else '>='} {bound} is needed")
    return value


def whole(name: str, value: int, bound: int) -> int:
    """`value` if it is a whole number not below `bound`, else a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < bound:
        raise ValueError(f"{name}={value!r}: a whole number >= {bound} is needed")
    return value


def fractions(**values: float) -> list[float]:
    """The values if they are shares of one whole that leave some of it: in [0, 1], with a sum below 1.

    Example:
        >>> fractions(valid=0.5, test=0.6)
        Traceback (most recent call last):
        ValueError: valid=0.5, test=0.6: shares in [0, 1] with a sum below 1 are needed
    """
    shares = list(values.values())
    if not (
        all(isinstance(v, int | float) and 0.0 <= v <= 1.0 for v in shares) and sum(shares) < 1.0
    ):
        raise ValueError(
            ", ".join(f"{k}={v!r}" for k, v in values.items())
            + ": shares in [0, 1] with a sum below 1 are needed"
        )
    return shares


def per_layer(name: str, value: float | Iterable[float], layers: int) -> list[float]:
    """One number for every layer: a single number is repeated, a list must have `layers` entries."""
    values = [value] * layers if isinstance(value, int | float) else list(value)
    if len(values) != layers:
        raise ValueError(
            f"{name} has {len(values)} entries; give one number, or one for each of "
            f"the {layers} layers"
        )
    for v in values:
        at_least(name, v, 0.0)
    return values


def tensor(value: object) -> Tensor:
    """`value` as a tensor; arrays that torch warns of or refuses, read-only or turned around, are copied.

    Example:
        >>> tensor(np.arange(3)[::-1])
        tensor([2, 1, 0])
    """
    if isinstance(value, np.ndarray) and not (
        value.flags.writeable and min(value.strides, default=0) >= 0
    ):
        value = np.array(value)
    return torch.as_tensor(value)


def width(name: str, x: Tensor, features: int) -> Tensor:
    """`x` if it is a batch of rows with `features` columns."""
    if x.ndim != 2 or x.shape[1] != features:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; the model takes (batch, {features})")
    return x


def rows(name: str, x: Tensor, least: int = 1) -> Tensor:
    """`x` if it has at least so many rows: a mean over none would be NaN."""
    if len(x) < least:
        raise ValueError(
            f"{name} has {len(x)} rows; at least {least} {'is' if least == 1 else 'are'} needed"
        )
    return x


def labels(name: str, y: Tensor, n: int, classes: int | None) -> Tensor:
    """`y` as int64 if it holds one class index, 0 .. classes - 1, for each of n examples.

    Synchronises with the device, unless `classes` is None and the values are not looked at.

    Example:
        >>> labels("y", torch.tensor([0, 10]), 2, 10)
        Traceback (most recent call last):
        ValueError: y holds labels from 0 to 10; the model has 10 classes, 0 .. 9
    """
    if (
        y.ndim != 1
        or len(y) != n
        or y.is_floating_point()
        or y.is_complex()
        or y.dtype == torch.bool
    ):
        raise ValueError(
            f"{name} has shape {tuple(y.shape)} and type {y.dtype}; class indices of an integer "
            f"type and shape ({n},) are needed"
        )
    y = y.long()
    if n and classes is not None and not (0 <= int(y.min()) and int(y.max()) < classes):
        raise ValueError(
            f"{name} holds labels from {int(y.min())} to {int(y.max())}; the model has {classes} "
            f"classes, 0 .. {classes - 1}"
        )
    return y


def finite(name: str, x: Tensor) -> Tensor:
    """`x` if it holds no NaN and no infinity. Synchronises with the device: not for inner loops."""
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{name} holds {bad} NaN or infinite values; finite numbers are needed")
    return x


def pixels(name: str, x: Tensor) -> Tensor:
    """`x` if it is a non-empty batch of finite images with values in [0, 1].

    Example:
        >>> pixels("x", torch.full((1, 4), 255.0))
        Traceback (most recent call last):
        ValueError: x holds values from 255 to 255, as images of 0..255 do; divide by 255 ...
    """
    if x.numel() == 0:
        raise ValueError(f"{name} is empty (shape {tuple(x.shape)}); at least one image is needed")
    finite(name, x)
    low, high = float(x.min()), float(x.max())
    if low >= 0 and 1 < high <= 255:
        raise ValueError(
            f"{name} holds values from {low:g} to {high:g}, as images of 0..255 do; "
            "divide by 255 to get pixels in [0, 1]"
        )
    if low < 0 or high > 1:
        raise ValueError(f"{name} holds values from {low:g} to {high:g}; pixels lie in [0, 1]")
    return x


def image_shape(shape: Iterable[int]) -> tuple[int, int]:
    """`shape` if it is height and width of an image."""
    values = tuple(shape) if isinstance(shape, list | tuple) else ()
    if len(values) != 2 or not all(
        isinstance(v, int) and not isinstance(v, bool) and 0 < v < 2**31 for v in values
    ):
        raise ValueError(
            f"shape={shape!r}: height and width, two whole numbers above 0, are needed"
        )
    return values


def seed(name: str, value: int | None) -> int | None:
    """`value` if it can seed a generator, or is None.

    Example:
        >>> seed("--seed", 2**70)
        Traceback (most recent call last):
        ValueError: --seed=1180591620717411303424: a whole number from -2^63 to 2^64 - 1 is needed
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and -(2**63) <= value < 2**64):
        raise ValueError(f"{name}={value!r}: a whole number from -2^63 to 2^64 - 1 is needed")
    return value


def device(name: str) -> torch.device:
    """The device of this name, if this machine has it."""
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={name!r} cannot be used here: {reason}") from None
    if found.type == "meta":
        raise ValueError(f"device={name!r} holds no numbers; cpu, cuda, cuda:0 or mps is needed")
    return found
