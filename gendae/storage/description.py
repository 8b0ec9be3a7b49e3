"""What a file says of its model, compared with what it holds before anything is built.

A description of a hundred bytes can declare layers that no memory holds. Building happens under a
budget, which the tensors of the file set: a tensor beyond it is refused before it is made.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gendae
from gendae import checks
from gendae.completion.completer import Completer
from gendae.completion.inpainting import Inpainter
from gendae.models.settings import Settings
from gendae.models.settling import Settling
from gendae.models.stack import Stack
from gendae.registry import REGISTRY, Plain, build
from gendae.sampling.samplers import Sampler
from gendae.storage.owned import check_plain

#: Bytes that a constructor may take for each number of the file: a few double-precision copies.
BYTES = 64
#: How many tensors it may make for each tensor of the file.
TENSORS = 16
#: Bytes and tensors that it may take for a file without any.
SPARE = 64 * 2**20, 1000

#: Units that it may declare in all, for each number of the file and beyond them: a modality
#: without layers has units and no weights.
UNITS = 4, 2**20
#: Arguments that count units.
WIDTHS = ("width", "widths", "in_features", "out_features", "features")

#: Classes of the settings that are objects.
SETTINGS = {
    "sampler": Sampler,
    "inpainter": Inpainter,
    "completer": Completer,
    "settling": Settling,
}
#: Types of the facts that the package itself reads.
FACTS: dict[str, type | tuple[type, ...]] = {
    "rule": str,
    "command": str,
    "kind": str,
    "pretrained": str,
    "seed": int,
    "epochs": int,
    "updates": int,
    "seconds": (int, float),
    "metrics": dict,
    "prior_scores": dict,
    "scale": dict,
    "vocabulary": list,
    "classes": list,
}


class Budget(TorchDispatchMode):
    """Within it, making tensors beyond a number of bytes raises a ValueError; none is made.

    Args:
        tensors: those of the file, which set the budget.

    Example:
        >>> import torch
        >>> with Budget([torch.zeros(3)]):
        ...     torch.zeros(2**30)
        Traceback (most recent call last):
        ValueError: it declares more than the 3 numbers in 1 tensors that it holds
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        sizes = [tensor.numel() for tensor in tensors]
        self.bytes_left = SPARE[0] + BYTES * sum(sizes)
        self.tensors_left = SPARE[1] + TENSORS * len(sizes)
        self.numbers = sum(sizes)
        self.held = f"{sum(sizes):,} numbers in {len(sizes):,} tensors"

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; otherwise torch imports its compiler, for a second."""
        return False

    def check_widths(self, description: Plain) -> None:
        """Raise a ValueError where all units of a description together are beyond the budget."""
        per_number, spare = UNITS
        if _units(description) > spare + per_number * self.numbers:
            raise self._exceeded()

    def _exceeded(self) -> ValueError:
        return ValueError(f"it declares more than the {self.held} that it holds")

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operation of torch
        types: Any,  # noqa: ANN401
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Carry out an operation of torch; one that makes a tensor is first tried without data."""
        kwargs = kwargs or {}
        names = [argument.name for argument in func._schema.arguments]
        if "device" in names:
            self._spend(_outline(func, names, args, kwargs))

        return func(*args, **kwargs)

    def _spend(self, outline: Tensor) -> None:
        self.bytes_left -= outline.numel() * outline.element_size()
        self.tensors_left -= 1
        if self.bytes_left < 0 or self.tensors_left < 0:
            raise self._exceeded()


def _outline(
    func: Any,  # noqa: ANN401 - an operation of torch
    names: list[str],
    args: tuple,
    kwargs: dict[str, Any],
) -> Tensor:
    """The tensor that an operation of torch would make, without data."""
    if names[0] == "size":  # torch's own outline of noise imports sympy, for half a second
        return torch.empty(args[0], dtype=kwargs.get("dtype"), device="meta")

    outline = {**kwargs, "device": "meta"}
    if "generator" in names:
        outline["generator"] = None
    return func(*args, **outline)


def _units(part: Plain) -> int:
    """The sum of all widths in a part of a description."""
    if isinstance(part, list | tuple):
        return sum(map(_units, part))
    if not isinstance(part, dict):
        return 0

    total = 0
    for name, value in part.items():
        widths = value if isinstance(value, list | tuple) else [value]
        if name in WIDTHS:
            total += sum(max(width, 0) for width in widths if isinstance(width, int))
        total += _units(value)
    return total


def described(
    content: dict[str, Any], tensors: Iterable[Tensor]
) -> tuple[Stack, Settings, dict[str, Any]]:
    """The stack, settings and facts of a description, within the budget of its tensors.

    Raises:
        ValueError: for what is none of them; constructors raise other errors, too.
    """
    budget = Budget(tensors)
    for name in ("stack", "settings", "facts"):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"its {name} are no description")  # noqa: TRY004 - said of a file
        check_plain(name, content[name])

    budget.check_widths(content["stack"])
    with budget:
        stack = checks.kind("stack", build(content["stack"]), Stack)
        settings = Settings.described(content["settings"])

    for name, kind in SETTINGS.items():
        value = getattr(settings, name)
        if value is not None:
            checks.kind(f"settings.{name}", value, kind)
    if settings.settling is not None:
        settings.settling.check(stack)

    check_facts(content["facts"])
    return stack, settings, content["facts"]


def check_facts(facts: dict[str, Plain]) -> None:
    """Raise a ValueError for a fact of another type than those that training writes.

    Example:
        >>> check_facts({"epochs": "many"})
        Traceback (most recent call last):
        ValueError: facts.epochs='many': int is needed
    """
    for name, kind in FACTS.items():
        if name in facts and (not isinstance(facts[name], kind) or facts[name] is True):
            needed = getattr(kind, "__name__", "a number")
            raise ValueError(f"facts.{name}={facts[name]!r}: {needed} is needed")

    if facts.get("dataset") is not None:
        _check_data_set("facts.dataset", facts["dataset"])
    if facts.get("shape") is not None:
        checks.ImageShape.of(facts["shape"])
    if "scale" in facts:
        _check_scale(facts["scale"])

    shapes = facts.get("shapes", {})
    if not isinstance(shapes, dict):
        raise ValueError(  # noqa: TRY004 - said of a file
            f"facts.shapes={shapes!r}: a shape for each modality is needed"
        )
    for shape in shapes.values():
        checks.ImageShape.of(shape)


def _check_scale(scale: Plain) -> None:
    """Raise a ValueError unless each channel of sequences has a mean and a standard deviation."""
    columns = [scale.get(name) for name in ("mean", "deviation")]
    if not all(isinstance(column, list) and column for column in columns):
        raise ValueError(f"facts.scale={scale!r:.60}: lists mean and deviation are needed")

    mean, deviation = columns
    if len(mean) != len(deviation):
        raise ValueError(f"facts.scale: {len(mean)} means, {len(deviation)} deviations; as many")
    for number in mean:
        checks.real("facts.scale.mean", number)
    for number in deviation:
        checks.at_least("facts.scale.deviation", number, 0.0, strict=True)


def _check_data_set(name: str, data: Plain) -> None:
    """Raise a ValueError unless a data set is described; its class may be unknown here."""
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise ValueError(  # noqa: TRY004 - said of a file
            f"{name}={data!r}: a described data set is needed"
        )

    kind = data["type"]
    known = kind in REGISTRY or kind in gendae.__all__
    if known and not _is_data_set(kind):
        raise ValueError(f"{name} is of type {kind!r}, which is no data set")

    if isinstance(data.get("source"), dict):
        _check_data_set(f"{name}.source", data["source"])


def _is_data_set(kind: str) -> bool:
    """Whether a known class is a data set.

    One that was not imported yet is told by its module, and Lightning's class by its name: who
    reads a model need not wait until Lightning is imported.
    """
    if kind not in REGISTRY:
        return gendae.HOME[kind].startswith("gendae.data.")

    return any(base.__name__ == "LightningDataModule" for base in REGISTRY[kind].__mro__)
