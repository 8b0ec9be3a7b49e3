"""What a user can get wrong, said in one line: which argument, what it was, what is accepted.

Tensors come in by one door, `takes_arrays`: whatever public function or method they are given to,
NumPy arrays are converted, real numbers brought to the model's type and device, and what no
arithmetic here is made for (complex, sparse, quantised, meta) is refused by the argument's name.
"""

import inspect
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from importlib import import_module
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, ParamSpec, TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn

from gendae.errors import choice, shortened

T = TypeVar("T")
P = ParamSpec("P")

#: Arguments that keep their type: masks and class labels. Whole numbers in others become real.
KEPT = ("mask", "masks", "observed", "y", "labels", "conditions")

#: NumPy's arrays and single numbers.
OF_NUMPY = (np.ndarray, np.generic)

#: Largest pixel that fits into 7 bits: images of 0..255 are likely to have a larger one, those of
#: 0..16 and percentages have not.
SEVEN_BITS = 127
#: How far rounding and interpolation take a pixel beyond [0, 1].
OVERSHOOT = 0.25

#: Counts beyond this are slips of the keyboard.
MOST = 10**9
#: Of what is done one after the other: more would run for days.
REPEATS = 10**6
#: Seeds from which others are derived.
MOST_SEED = 2**63 - 1


def library(name: str, extra: str, what: str) -> ModuleType:
    """A library that gendae can do without, imported.

    Args:
        name: of the module.
        extra: the optional dependencies that it is one of.
        what: needs it, for the message.

    Raises:
        ValueError: if it is not installed.

    Example:
        >>> library("no_such_library", "sweep", "gendae tune")
        Traceback (most recent call last):
        ValueError: gendae tune needs no_such_library; pip install "gendae[sweep]"
    """
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(
            f'{what} needs {name.partition(".")[0]}; pip install "gendae[{extra}]"'
        ) from None


def one_of(name: str, value: str | None, accepted: Iterable[str]) -> str:
    """`value` if it is among `accepted`, else a ValueError with all of them and the nearest."""
    accepted = list(accepted)
    if value is None or value not in accepted:
        raise ValueError(f"{name}={value!r} is unknown; {choice(str(value), accepted)}")

    return value


def at_least(name: str, value: float, bound: float, strict: bool = False) -> float:
    """`value` if it is a number not below `bound` (above it, if `strict`), else a ValueError."""
    number = isinstance(value, int | float) and -math.inf < value < math.inf
    if not number or value < bound or (strict and value == bound):
        sign = ">" if strict else ">="
        raise ValueError(f"{name}={value!r}: a number {sign} {bound} is needed")

    return value


def real(name: str, value: float) -> float:
    """`value` if it is a finite number, else a ValueError."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: a finite number is needed")

    return value


def whole(name: str, value: int, bound: int, most: int = MOST) -> int:
    """`value` as an int if it is a whole number from `bound` to `most`, else a ValueError.

    Example:
        >>> whole("rounds", 10**12, 0, REPEATS)
        Traceback (most recent call last):
        ValueError: rounds=1000000000000: a whole number from 0 to 1000000 is needed
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < bound:
        raise ValueError(f"{name}={value!r}: a whole number >= {bound} is needed")

    if value > most:
        shown = shortened(repr(value), 40)
        raise ValueError(f"{name}={shown}: a whole number from {bound} to {most} is needed")

    return int(value)


def odd(name: str, value: int) -> int:
    """An odd number of pixels, by which a convolution keeps the size, else a ValueError."""
    side = whole(name, value, 1)
    if side % 2 == 0:
        raise ValueError(f"{name}={value}: an odd number is needed, which keeps the size")

    return side


def covers(name: str, value: int, sides: Iterable[int]) -> int:
    """The side of squares that cover an image of these sides, else a ValueError."""
    side = whole(name, value, 1)
    height, width = sides
    if height % side or width % side:
        raise ValueError(
            f"{name}={value}: squares of {value} x {value} pixels do not cover an image of "
            f"{height} x {width}"
        )

    return side


def several(name: str, values: Iterable[T]) -> list[T]:
    """`values` as a list, if there can be several, else a ValueError.

    Example:
        >>> several("channels", (16, 32))
        [16, 32]
        >>> several("channels", 16)
        Traceback (most recent call last):
        ValueError: channels=16: a list is needed
    """
    if isinstance(values, str | Mapping) or not hasattr(values, "__iter__"):
        raise ValueError(f"{name}={_told(values)}: a list is needed")

    return list(values)


def named(name: str, values: Mapping[str, T]) -> dict[str, T]:
    """`values` as a dictionary, if they have names, else a ValueError."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}={_told(values)}: a dict is needed")  # noqa: TRY004

    return dict(values)


def wholes(name: str, values: Iterable[int], bound: int, most: int = MOST) -> list[int]:
    """A list of whole numbers from `bound` to `most`, else a ValueError."""
    return [whole(name, value, bound, most) for value in several(name, values)]


def fits(name: str, value: int, numbers: int) -> int:
    """`value` if a result of so many numbers, in single precision, can be held in memory.

    Example:
        >>> fits("n", 10**9, 10**9 * 2**30)
        Traceback (most recent call last):
        ValueError: n=1000000000: the result takes 4,000,000,000 GiB, this machine has ...
    """
    needed = 4 * numbers
    memory = _memory()
    if memory is not None and needed > memory:
        raise ValueError(
            f"{name}={value!r}: the result takes {needed / 2**30:,.0f} GiB, this machine has "
            f"{memory / 2**30:,.0f}"
        )

    return value


def _memory() -> int | None:
    """Bytes of this machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def share(name: str, value: float) -> float:
    """`value` if it is a number in [0, 1], else a ValueError."""
    if not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={value!r}: a number in [0, 1] is needed")

    return value


def kind(name: str, value: T, cls: type[T]) -> T:
    """`value` if it is a `cls`, else a ValueError.

    Example:
        >>> kind("rates", [1e-3], dict), kind("rates", dict, dict)
        Traceback (most recent call last):
        ValueError: rates=[0.001]: a dict is needed
    """
    if not isinstance(value, cls):
        article = "an" if cls.__name__[0] in "AEIOU" else "a"
        told = _told(value)
        raise ValueError(f"{name}={told}: {article} {cls.__name__} is needed")  # noqa: TRY004

    return value


def _told(value: object) -> str:
    """A value in one line; of an object, which may have a long `repr`, its class."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, int | float | str | list | tuple | dict):
        return shortened(" ".join(repr(value).split()), 60)

    return type(value).__name__


def fractions(**values: float) -> list[float]:
    """The values if they are shares of one whole that leave some of it.

    Each lies in [0, 1], and their sum is below 1.

    Example:
        >>> fractions(valid=0.5, test=0.6)
        Traceback (most recent call last):
        ValueError: valid=0.5, test=0.6: shares in [0, 1] with a sum below 1 are needed
    """
    shares = list(values.values())
    inside = all(isinstance(v, int | float) and 0.0 <= v <= 1.0 for v in shares)
    if not (inside and sum(shares) < 1.0):
        told = ", ".join(f"{k}={v!r}" for k, v in values.items())
        raise ValueError(f"{told}: shares in [0, 1] with a sum below 1 are needed")

    return shares


def per_layer(name: str, value: float | Iterable[float], layers: int) -> list[float]:
    """One number for every layer.

    A single number is repeated; a list must have `layers` entries.
    """
    if isinstance(value, int | float):
        values = [value] * layers
    else:
        values = several(name, value)

    if len(values) != layers:
        raise ValueError(
            f"{name} has {len(values)} entries; give one number, or one for each of "
            f"the {layers} layers"
        )
    for v in values:
        at_least(name, v, 0.0)

    return values


def tensor(value: object, name: str = "value") -> Tensor:
    """`value` as a tensor.

    Arrays that torch warns of or refuses (read-only, reversed, of another byte order, of more
    than double precision) are copied.

    Raises:
        ValueError: for what holds no numbers, or hides some of them behind a mask.

    Example:
        >>> tensor(np.arange(3)[::-1])
        tensor([2, 1, 0])
    """
    if np.ma.is_masked(value):
        raise ValueError(f"{name} is a masked array; fill it, and give the mask by itself")

    if isinstance(value, np.ndarray) and not _welcome(value):
        dtype = np.float64 if value.dtype == np.longdouble else value.dtype.newbyteorder("=")
        value = np.array(value, dtype)

    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        dtype = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"{name} is of type {dtype}; numbers are needed") from None


def _welcome(array: np.ndarray) -> bool:
    ours = array.dtype.isnative and array.dtype != np.longdouble
    return ours and array.flags.writeable and min(array.strides, default=0) >= 0


def numbers(name: str, x: Tensor, like: Tensor | None = None, kept: bool = False) -> Tensor:
    """`x` on the device of `like`, as real numbers; in its precision, if it is a parameter.

    Args:
        name: of the argument.
        x: any tensor.
        like: a tensor of the model that computes with x; without one x stays where it is.
        kept: whether its type stays what it is: that of labels and masks.

    Raises:
        ValueError: for tensors that are complex, sparse, quantised, or without numbers (meta).

    Example:
        >>> numbers("x", torch.tensor([0, 1]), nn.Parameter(torch.zeros(1, dtype=torch.double)))
        tensor([0., 1.], dtype=torch.float64)
        >>> numbers("x", torch.empty(2, device="meta"))
        Traceback (most recent call last):
        ValueError: x is on the device meta, which holds no numbers; cpu, cuda or mps is needed
    """
    as_model = like is not None and x.dtype == like.dtype and x.device == like.device
    if as_model and x.layout is torch.strided:
        return x  # most often

    if x.is_meta:
        raise ValueError(
            f"{name} is on the device meta, which holds no numbers; cpu, cuda or mps is needed"
        )
    if x.is_complex() or x.is_quantized or x.layout is not torch.strided:
        raise ValueError(
            f"{name} is a {x.dtype} tensor of layout {x.layout}; real numbers, dense, are needed"
        )

    device = x.device
    dtype = torch.get_default_dtype()
    if like is not None:
        device = like.device
        dtype = like.dtype

    binding = isinstance(like, nn.Parameter) or not x.is_floating_point()
    if kept or not binding:
        dtype = x.dtype

    return x.to(device, dtype)


def batch(value: Any) -> tuple:  # noqa: ANN401 - whatever a loader gives
    """A loader's batch, (x,), (x, y) or (x, observed), with arrays as tensors.

    Raises:
        ValueError: for a dictionary, a bare tensor and anything else.

    Example:
        >>> batch({"image": torch.zeros(1, 4)})
        Traceback (most recent call last):
        ValueError: batch is a dict of image; a tuple (x,) or (x, y) is needed: give the ...
    """
    if isinstance(value, tuple | list) and len(value) > 0 and all(map(_is_part, value)):
        if all(part is None or isinstance(part, Tensor) for part in value):
            return tuple(value) if isinstance(value, list) else value

        return tuple(None if part is None else tensor(part, "batch") for part in value)

    told = f"batch is a {type(value).__name__}"
    if isinstance(value, Mapping):
        told += f" of {', '.join(map(str, value))}"
    raise ValueError(
        f"{told}; a tuple (x,) or (x, y) is needed: give the Trainer gendae.Images(dataset), or "
        "the loader a torch.utils.data.TensorDataset(x) or a collate_fn that makes tuples"
    )


def _is_part(part: object) -> bool:
    return part is None or isinstance(part, Tensor | np.ndarray)


def plain(module: T) -> T:
    """The module itself, where torch.compile wrapped it: they share all weights."""
    inner = vars(module).get("_modules", {}) if isinstance(module, nn.Module) else {}
    return inner.get("_orig_mod", module)


def untied(name: str, module: nn.Module) -> None:
    """Raise a ValueError where two of a module's parameters share their numbers.

    Example:
        >>> layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> layers[1].weight = layers[0].weight
        >>> untied("layers", layers)
        Traceback (most recent call last):
        ValueError: layers: 0.weight and 1.weight share their numbers, ...
    """
    owners: dict[int, str] = {}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        place = parameter.untyped_storage().data_ptr()
        owner = owners.setdefault(place, key)
        if owner != key and place != 0:  # 0: without memory, such as on the device meta
            raise ValueError(
                f"{name}: {owner} and {key} share their numbers, which each layer learns and "
                "keeps for itself: use TiedPair, or a copy, nn.Parameter(weight.detach().clone())"
            )


def takes_arrays(function: Callable[P, T]) -> Callable[P, T]:
    """A function that takes NumPy arrays where it takes tensors: what comes in is as it needs it.

    Tensors, also those in tuples, lists and dictionaries, are brought to the device and precision
    of the first module among the arguments, see `numbers`; NumPy's single numbers become Python's;
    a compiled module is replaced by the one it was made of. Calls from within such a call hold
    what came in before: of theirs, only arrays are still converted.

    Raises:
        ValueError: when called, naming the argument.

    Example:
        >>> @takes_arrays
        ... def total(x: Tensor) -> Tensor:
        ...     return x.sum()
        >>> total(np.ones(3, dtype=np.float32))
        tensor(3.)
        >>> total([1.0])
        Traceback (most recent call last):
        ValueError: x is a list; a tensor or a NumPy array is needed
    """
    parameters = inspect.signature(function).parameters
    names = tuple(parameters)
    needed = {name for name, p in parameters.items() if _is_tensor(p.annotation)}
    optional = {name for name in needed if parameters[name].annotation is not Tensor}

    @wraps(function)
    def receiving(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():  # a traced loop holds tensors that came in before
            return function(*args, **kwargs)

        # a training step makes up to eighty such calls, of 10 us each if all of them were received
        if _door.within and not _any_of_numpy(args) and not _any_of_numpy(kwargs.values()):
            return function(*args, **kwargs)

        like = _like(*args, *kwargs.values())

        def received(name: str, value: Any) -> Any:  # noqa: ANN401 - any argument
            if name not in needed or (value is None and name in optional):
                return _received(name, value, like)
            if not hasattr(value, "__array__"):
                kind = type(value).__name__
                raise ValueError(f"{name} is a {kind}; a tensor or a NumPy array is needed")

            return numbers(name, tensor(value, name), like, name in KEPT)

        given: Any = [received(*pair) for pair in zip(names, args, strict=False)]
        named: Any = {name: received(name, value) for name, value in kwargs.items()}
        too_many: Any = args[len(given) :]
        with _door:
            return function(*given, *too_many, **named)

    return receiving


def _any_of_numpy(values: Iterable[object]) -> bool:
    for value in values:  # a loop, for any(..) takes a microsecond
        if isinstance(value, OF_NUMPY):
            return True

    return False


class _Door(threading.local):
    """How many calls a thread is within whose arguments came in by `takes_arrays`."""

    within = 0

    def __enter__(self) -> None:
        self.within += 1

    def __exit__(self, *_: object) -> None:
        self.within -= 1


_door = _Door()


def _is_tensor(annotation: object) -> bool:
    """Whether an argument is a tensor, or one that may be left out."""
    return annotation in (Tensor, Tensor | None)


def _like(*values: object) -> Tensor | None:
    """A tensor of the first module among the arguments: a parameter, or else a buffer."""
    for value in values:
        if not isinstance(value, nn.Module) or "_parameters" not in vars(value):
            continue  # no module, or one whose constructor is called

        like: Tensor | None = next(value.parameters(), None)
        if like is None:
            like = next((b for b in value.buffers() if b.is_floating_point()), None)
        if like is not None and (like.is_meta or like.is_complex()):
            name = type(value).__name__
            raise ValueError(
                f"the {name} holds {like.dtype} numbers on the device {like.device}; real ones on "
                "cpu, cuda or mps are needed"
            )
        return like

    return None


def _received(name: str, value: Any, like: Tensor | None) -> Any:  # noqa: ANN401
    """An argument that may be anything, or hold anything, with what it holds received."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray) and name != "batch":
        return numbers(name, tensor(value, name), like, name in KEPT)
    if isinstance(value, nn.Module):
        return plain(value)

    if name == "batch":
        value = batch(value)
    if isinstance(value, Mapping):
        kept = name in KEPT
        return {key: _held(f"{name}[{key!r}]", part, like, kept) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return _received_items(name, value, like)

    return value


def _received_items(name: str, value: tuple | list, like: Tensor | None) -> tuple | list:
    """A tuple or list with its tensors received; the same one, where nothing changes."""
    items = []
    for i, part in enumerate(value):
        kept = name == "batch" and i > 0
        items.append(_held(f"{name}[{i}]", part, like, kept))

    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    if hasattr(value, "_replace"):  # a named tuple
        return type(value)(*items)

    return type(value)(items)


def _held(name: str, value: Any, like: Tensor | None, kept: bool = False) -> Any:  # noqa: ANN401
    """A tensor inside a container: one of whole numbers holds labels, or is a mask."""
    if not isinstance(value, Tensor | np.ndarray):
        return value

    value = tensor(value, name)
    return numbers(name, value, like, kept or not value.is_floating_point())


class TakesArrays:
    """A class some of whose methods take NumPy arrays, in all of its variants: `takes_arrays`.

    Attributes:
        ARRAYS: names of these methods.
    """

    ARRAYS: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401
        super().__init_subclass__(**options)
        for name in cls.ARRAYS:
            if name in vars(cls):
                setattr(cls, name, takes_arrays(vars(cls)[name]))


def flat(x: Tensor) -> Tensor:
    """Images (batch, channels, height, width) as rows; any other tensor as it is."""
    return x.flatten(1) if x.ndim == 4 else x


def width(name: str, x: Tensor, features: int) -> Tensor:
    """`x` as a batch of rows with `features` columns; NCHW images are flattened."""
    x = flat(x)
    if x.ndim != 2 or x.shape[1] != features:
        cure = ""
        if x.ndim > 2 and x[:1].numel() == features:
            cure = ": flatten it, x.reshape(len(x), -1)"
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; the model takes (batch, {features}){cure}"
        )

    return x


def mask(name: str, value: Tensor, rows: int, width: int, channels: int = 1) -> Tensor:
    """A mask as booleans, (width,) of all rows or (rows, width), True where one is observed.

    Zeros and ones are accepted in their place, and the height and width of images in that of
    `width`; not one element for each row, (rows, 1), which might be a mask of all rows where there
    are as many as pixels. Of images with several channels it is one of every channel, or of the
    pixels, which is that of all their channels. Synchronises with the device, unless it is
    boolean.

    Example:
        >>> mask("mask", torch.tensor([[1, 0], [1, 0]]), 9, 4)
        tensor([ True, False,  True, False])
        >>> mask("mask", torch.tensor([0.5, 1.0, 1.0, 1.0]), 9, 4)
        Traceback (most recent call last):
        ValueError: mask holds other values than 0 and 1; True or 1 where observed, False or 0 ...
        >>> mask("mask", torch.tensor([[1, 0]]), 9, 6, channels=3)
        tensor([ True, False,  True, False,  True, False])
    """
    if value.dtype != torch.bool:
        ones = value == 1
        if not bool((ones | (value == 0)).all()):
            raise ValueError(
                f"{name} holds other values than 0 and 1; True or 1 where observed, False or 0 "
                "elsewhere, is needed"
            )
        value = ones

    pixels = width // channels
    sizes = (pixels, width)
    one_each = rows > 1 and value.shape == (rows, 1) and width > 1
    own_rows = value.ndim > 0 and len(value) == rows
    one_channel = value.ndim == 4 and value.shape[1] == 1
    if own_rows and not one_channel and value.numel() == width and rows == channels > 1:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}: it may be one of {channels} channels, or of "
            f"{rows} images; give it as (1, {channels}, ..) or ({rows}, 1, height, width)"
        )
    if value.numel() in sizes and not one_each and not (own_rows and one_channel):
        return _of_all_channels(value.reshape(1, -1), width)[0]
    if own_rows and value.numel() // rows in sizes:
        return _of_all_channels(value.reshape(rows, -1), width)

    raise ValueError(
        f"{name} has shape {tuple(value.shape)}, which does not fit x, ({rows}, {width}): "
        f"({width},) or ({rows}, {width}) is needed, or height and width in the place of "
        f"{pixels}"
    )


def _of_all_channels(mask: Tensor, width: int) -> Tensor:
    """Masks of pixels, (n, pixels), as those of all channels; others as they are."""
    return mask.repeat(1, width // mask.shape[1])


def rows(name: str, x: Tensor, least: int = 1) -> Tensor:
    """`x`, NCHW images flattened, if it has so many rows: a mean over none would be NaN."""
    x = flat(x)
    if len(x) < least:
        verb = "is" if least == 1 else "are"
        raise ValueError(f"{name} has {len(x)} rows; at least {least} {verb} needed")

    return x


def labels(
    name: str,
    y: Tensor,
    n: int,
    classes: int | None,
    missing: bool = False,
    steps: int | None = None,
) -> Tensor:
    """`y` as int64 if it holds one class index, 0 .. classes - 1, for each of n examples.

    With `missing`, -1 is accepted too, of an example without a label. With `steps` there is one
    for each step of each example, and -1 for a step without a label. Synchronises with the device,
    unless `classes` is None and the values are not looked at.

    Example:
        >>> labels("y", torch.tensor([0, 10]), 2, 10)
        Traceback (most recent call last):
        ValueError: y holds labels from 0 to 10; the model has 10 classes, 0 .. 9
    """
    shape = (n,) if steps is None else (n, steps)
    if y.shape != shape or not _integral(y):
        raise ValueError(
            f"{name} has shape {tuple(y.shape)} and type {y.dtype}; class indices of an integer "
            f"type and shape {shape} are needed"
        )

    y = y.long()
    if n == 0 or classes is None:
        return y

    low = int(y.min())
    high = int(y.max())
    missing = missing or steps is not None
    if low < (-1 if missing else 0) or high >= classes:
        part = "an example" if steps is None else "a step"
        none = f", and -1 is {part} without a label" if missing else ""
        raise ValueError(
            f"{name} holds labels from {low} to {high}; the model has {classes} "
            f"classes, 0 .. {classes - 1}{none}"
        )
    return y


def values(name: str, y: Tensor, shape: tuple[int, ...], look: bool = True) -> Tensor:
    """`y` if it holds real numbers in this shape; where there is one of each, its axis may lack.

    Args:
        name: of the argument, for the message.
        y: the numbers.
        shape: (n, outputs), or (n, steps, outputs).
        look: whether they must be finite, which synchronises with the device.

    Example:
        >>> values("y", torch.tensor([0.5, 1.0]), (2, 1)).shape
        torch.Size([2, 1])
    """
    if shape[-1] == 1 and y.ndim == len(shape) - 1:
        y = y[..., None]
    if y.shape != shape or not y.is_floating_point():
        raise ValueError(
            f"{name} has shape {tuple(y.shape)} and type {y.dtype}; real numbers in the shape "
            f"{shape} are needed"
        )

    return finite(name, y) if look else y


def _integral(y: Tensor) -> bool:
    return not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)


def finite(name: str, x: Tensor) -> Tensor:
    """`x` if it holds no NaN and no infinity.

    Synchronises with the device: not for inner loops.
    """
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

    low = float(x.min())
    high = float(x.max())
    if low < 0 or high > 1:
        # a difference of one unit in the last place is shown too
        held = f"{name} holds values from {low:.8g} to {high:.8g}"
        raise ValueError(f"{held}{_advice_on_scale(low, high)}")

    return x


def _advice_on_scale(low: float, high: float) -> str:
    """How pixels come into [0, 1], as far as their range shows why they are outside."""
    if low >= 0 and SEVEN_BITS < high <= 255:
        return ", as images of 0..255 do; divide by 255 to get pixels in [0, 1]"
    if low >= 0 and high > 2:
        return "; pixels lie in [0, 1]: divide by the largest value that a pixel can have"
    if low > -OVERSHOOT and high < 1 + OVERSHOOT:
        return "; pixels lie in [0, 1]: clip what rounding or interpolation took beyond"

    return "; pixels lie in [0, 1]"


def path(name: str, value: str | Path) -> Path:
    """The path of a file or folder that a user names; ~ is the home folder, if there is one.

    Example:
        >>> path("path", "")
        Traceback (most recent call last):
        ValueError: path='': the name of a file or folder is needed
    """
    if not str(value).strip():  # Path("") would be the current folder
        raise ValueError(f"{name}={value!r}: the name of a file or folder is needed")
    if not _nameable(str(value)):
        raise ValueError(f"{name}={str(value)!r}: no file can have this name")

    try:
        return Path(value).expanduser()
    except RuntimeError:  # no such user; or a user without a home, as containers have
        raise ValueError(f"{name}={str(value)!r}: there is no such home folder") from None


def _nameable(name: str) -> bool:
    """Whether the system can be asked for a file of this name."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def text_path(name: str, value: str | Path) -> Path:
    """The same, of a name that can stand in a configuration: UTF-8 text.

    Example:
        >>> text_path("root", "r\\udcff")
        Traceback (most recent call last):
        ValueError: root='r\\udcff': a name in UTF-8 is needed, for it stands in config.yaml
    """
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name}={str(value)!r}: a name in UTF-8 is needed, for it stands in config.yaml"
        ) from None

    return path(name, value)


#: Channels of a coloured image: red, green, blue.
RGB = 3


class ImageShape(NamedTuple):
    """What the shape of an image says: (height, width) if it is grey, (3, height, width) if not.

    Images are rows of x, one channel after the other, and each line by line: the pixel (i, j) of
    channel c is element (c height + i) width + j of its row.

    Example:
        >>> shape = ImageShape.of([3, 4, 5])
        >>> shape.features, shape.images(torch.rand(2, 60)).shape, ImageShape.of((4, 5)).channels
        (60, torch.Size([2, 3, 4, 5]), 1)
    """

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: Iterable[int]) -> "ImageShape":
        """What a shape says.

        Raises:
            ValueError: for other numbers than these.
        """
        if isinstance(shape, cls):
            return shape

        values: tuple[int, ...] = ()
        if isinstance(shape, list | tuple):
            values = tuple(shape)
        if len(values) == 2:
            values = (1, *values)
        elif values[:1] != (RGB,):
            values = ()

        if len(values) != 3 or not all(map(_side, values)):
            raise ValueError(
                f"shape={shape!r}: height and width, or {RGB} and these in colour, whole numbers "
                "above 0, are needed"
            )

        channels, height, width = values
        return cls(channels, height, width)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def features(self) -> int:
        """How many numbers an image is."""
        return self.channels * self.height * self.width

    @property
    def plain(self) -> tuple[int, ...]:
        """The shape as data and files say it."""
        return self.size if self.channels == 1 else tuple(self)

    def images(self, x: Tensor) -> Tensor:
        """Rows, (n, features), as (n, channels, height, width)."""
        return x.reshape(-1, *self)

    def __str__(self) -> str:
        return " x ".join(map(str, self.plain))


def grey_shape(shape: Iterable[int], what: str) -> tuple[int, int]:
    """Height and width, where only grey is taken; `what` takes it.

    Example:
        >>> grey_shape((3, 4, 5), "a quadtree")
        Traceback (most recent call last):
        ValueError: shape=(3, 4, 5): a quadtree takes grey images, (height, width)
    """
    told = ImageShape.of(shape)
    if told.channels > 1:
        raise ValueError(f"shape={told.plain}: {what} takes grey images, (height, width)")

    return told.size


def _side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


@overload
def seed(name: str, value: int) -> int: ...


@overload
def seed(name: str, value: int | None) -> int | None: ...


def seed(name: str, value: int | None) -> int | None:
    """`value` if it can seed a generator, or is None.

    Example:
        >>> seed("--seed", 2**70)
        Traceback (most recent call last):
        ValueError: --seed=1180591620717411303424: a whole number from -2^63 to 2^64 - 1 is needed
    """
    if value is None:
        return None

    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not (whole and -(2**63) <= value < 2**64):
        raise ValueError(f"{name}={value!r}: a whole number from -2^63 to 2^64 - 1 is needed")

    return int(value)


def folded(seed: int) -> int:
    """A seed in the range of NumPy's and scikit-learn's, 0 .. 2^32 - 1.

    Example:
        >>> folded(3), folded(-1)
        (3, 4294967295)
    """
    return seed % 2**32


def device(name: str | torch.device) -> torch.device:
    """The device of this name, if this machine has it."""
    if not isinstance(name, str | torch.device):
        told = _told(name)
        raise ValueError(f"device={told}: cpu, cuda, cuda:0 or mps is needed")  # noqa: TRY004

    try:
        named = torch.device(name)
        torch.empty(0, device=named)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={name!r} cannot be used here: {reason}") from None

    if named.type == "meta":
        raise ValueError(f"device={name!r} holds no numbers; cpu, cuda, cuda:0 or mps is needed")
    if named.type == "cpu" and named.index:  # torch takes any number for the one that there is
        raise ValueError(f"device={name!r}: there is one cpu device, cpu")
    return named
