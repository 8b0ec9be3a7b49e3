"""Pickles that hold plain data, read without running what they say.

A pickle is a program: its opcodes push values, look names up in any module, and call what they
found. Here it may push numbers, text, bytes, lists, tuples and dictionaries, and look up only the
names by which NumPy stores an array. Behind these stand classes of this file, which keep what they
are given: no code of NumPy's, or of anybody's, is called with what a file says.

Python 2 wrote text as bytes, and so it is given here.
"""

import io
import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gendae.errors import reason
from gendae.storage.inputs import regular_file

#: Opcodes that push plain data, and those by which NumPy's arrays are put together.
PLAIN = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
    *(pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES, pickle.SHORT_BINBYTES),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD),
)


class _Stored:
    """What a pickle says of an object: arguments, and a state. A class takes no state."""

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401
        self.state = state


class _Dtype(_Stored):
    """A type of numbers; the first of its arguments names it."""


class _Array(_Stored):
    """An array: version, shape, type, whether by columns, and bytes."""

    def bytes_of(self) -> np.ndarray:
        """The array, if it holds unsigned bytes, row by row."""
        _, shape, dtype, by_columns, content = self.state
        if not isinstance(dtype, _Dtype) or dtype.arguments[0] not in (b"u1", "u1") or by_columns:
            raise ValueError("an array of unsigned bytes, row by row, is needed")
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"an array has the shape {shape}")
        if not isinstance(content, bytes) or math.prod(shape) != len(content):
            raise ValueError(f"an array of shape {shape} holds another number of bytes")

        return np.frombuffer(content, np.uint8).reshape(shape)


class _Bytes(_Stored):
    """Bytes that Python 3 wrote as text for Python 2."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise ValueError(f"bytes are in the encoding {encoding!r}; latin1 is needed")

        return text.encode("latin1")


class _Unpickler(pickle._Unpickler):  # the one in Python: its table of opcodes can be cut down
    dispatch: ClassVar = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in PLAIN}

    names: ClassVar = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("_codecs", "encode"): _Bytes,
    }

    def load_setitem(self) -> None:
        """Put an item into a dictionary."""
        value = self.stack.pop()
        self._put(self.stack.pop(), value)

    def load_setitems(self) -> None:
        """Put items into a dictionary."""
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._put(key, value)

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def _put(self, key: Any, value: Any) -> None:  # noqa: ANN401
        if not isinstance(key, str | bytes):  # tuples of tuples take for ever to hash
            kind = type(key).__name__
            raise ValueError(f"a key is a {kind}; text is needed")  # noqa: TRY004 - of a file

        self.stack[-1][key] = value

    def find_class(self, module: str, name: str) -> type:
        """One of the stand-ins."""
        if (module, name) not in self.names:
            raise ValueError(f"it names {module}.{name}, and only plain data are read")

        return self.names[module, name]


def read_pickle(path: str | Path) -> dict[str, Any]:
    """The dictionary in a pickle of plain data, with NumPy's arrays of unsigned bytes among it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for damaged files, and those that hold anything else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a"
        ...     _ = file.write_bytes(pickle.dumps({"x": np.eye(2, dtype=np.uint8), "y": [3]}, 2))
        ...     read_pickle(file)["x"].tolist()
        [[1, 0], [0, 1]]
    """
    path = regular_file(path)
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        return {_text(key): _whole(value) for key, value in content.items()}
    except KeyError as error:
        raise ValueError(
            f"{path} is no pickle of plain data: it holds the opcode {error}"
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises a dozen kinds
        raise ValueError(
            f"{path} is damaged, or no pickle of plain data: {reason(error)}"
        ) from None


def _text(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key


def _whole(value: Any) -> Any:  # noqa: ANN401
    """An array in the place of what stands for it; plain data as they are."""
    return value.bytes_of() if isinstance(value, _Array) else value
