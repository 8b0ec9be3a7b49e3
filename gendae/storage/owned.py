"""What a file held, in memory of its own: plain data of bounded depth, and ordinary tensors.

A pickle of plain data and tensors runs no code, but says of each tensor which part of which memory
it is. One number can stand for a matrix, two tensors can share their memory, a list can hold
itself. An optimizer that writes into such a tensor writes past its end. So nothing is used before
each tensor is strided, contiguous and alone in its memory, and all of them fit the file's size.
"""

from typing import Any

import torch
from torch import Tensor, nn

#: Deepest nesting of lists and dictionaries; models nest about a dozen deep.
DEEPEST = 100
#: How often the bytes of a file may be used: weights that two layers share are stored once.
SHARED = 8
#: Most bits of a whole number in a description: seeds have 64.
BITS = 64


def owned(content: Any, most_bytes: int, most_values: int) -> Any:  # noqa: ANN401 - plain data
    """The content with tensors that are contiguous and share no memory; lists change in place.

    Args:
        content: plain data and tensors, as read.
        most_bytes: of all tensors.
        most_values: numbers, texts, tensors, lists and dictionaries, each as often as it is used.

    Raises:
        ValueError: for tensors that are not strided ones on the CPU or that repeat what they
            store, for data that are nested too deep, and for more than the most.

    Example:
        >>> owned({"a": torch.zeros(1).expand(3)}, 100, 100)
        Traceback (most recent call last):
        ValueError: it holds a tensor of shape (3,), 12 bytes, in a memory of 4 bytes
    """
    return _Owner(most_bytes, most_values).own(content, DEEPEST)


class _Owner:
    """Walks through the content of a file, and counts what it takes."""

    def __init__(self, most_bytes: int, most_values: int) -> None:
        self.bytes_left = most_bytes
        self.values_left = most_values
        self.taken: set[int] = set()

    def own(self, value: Any, depth: int) -> Any:  # noqa: ANN401 - plain data
        """A value with its tensors owned; `depth` is how much deeper it may be nested."""
        self.values_left -= 1
        if self.values_left < 0:
            raise ValueError("it holds more values than its size allows: it repeats itself")
        if depth == 0:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")

        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            for key, item in value.items():
                value[key] = self.own(item, depth - 1)
        elif isinstance(value, list):
            value[:] = [self.own(item, depth - 1) for item in value]
        elif type(value) is tuple:
            return tuple(self.own(item, depth - 1) for item in value)

        return value

    def _tensor(self, value: Tensor) -> Tensor:
        _check_kind(value)

        size = value.numel() * value.element_size()
        storage = value.untyped_storage()
        if size > storage.nbytes():
            raise ValueError(
                f"it holds a tensor of shape {tuple(value.shape)}, {size:,} bytes, in a memory of "
                f"{storage.nbytes():,} bytes"
            )

        self.bytes_left -= size
        if self.bytes_left < 0:
            raise ValueError("it holds larger tensors than its size allows")

        plain = value.detach().resolve_conj().resolve_neg()
        alone = size == storage.nbytes() and storage.data_ptr() not in self.taken
        if plain.is_contiguous() and alone:
            self.taken.add(storage.data_ptr())
            return plain
        return plain.clone(memory_format=torch.contiguous_format)


def _check_kind(value: Tensor) -> None:
    """Raise a ValueError unless a tensor is an ordinary one in the memory of the CPU."""
    kind = None
    if type(value) not in (Tensor, nn.Parameter):
        kind = type(value).__name__
    elif value.is_quantized:
        kind = "quantised"
    elif value.is_nested:
        kind = "nested"
    elif value.layout is not torch.strided:
        kind = str(value.layout).removeprefix("torch.")
    elif value.device.type != "cpu":
        kind = f"{value.device.type} device's"

    if kind is not None:
        raise ValueError(f"it holds a {kind} tensor; strided ones of numbers are read")


def check_plain(name: str, value: Any, depth: int = DEEPEST) -> None:  # noqa: ANN401 - plain data
    """Raise a ValueError unless a part of a description is plain data, and none of it enormous.

    Args:
        name: of the part, for the message.
        value: None, a number, text, or lists and dictionaries of them.
        depth: how deep it may be nested.

    Example:
        >>> check_plain("facts", {"epochs": 10**100})
        Traceback (most recent call last):
        ValueError: facts.epochs is a whole number of more than 64 bits
    """
    if depth == 0:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")

    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(  # noqa: TRY004 - said of a file
                    f"{name} has the key {key!r:.60}; names are needed"
                )
            check_plain(f"{name}.{key:.60}", item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_plain(name, item, depth - 1)
    elif isinstance(value, int) and value.bit_length() > BITS:
        raise ValueError(f"{name} is a whole number of more than {BITS} bits")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"{name} holds a {type(value).__name__}; plain data are needed")
