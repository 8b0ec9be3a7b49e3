"""The files that a command line names: outputs are no inputs, and inputs have an end."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gendae.storage import inputs

#: Options that name a file, or a folder, which a command writes. All others are read.
OUTPUTS = ("out", "json", "hub")
#: Options that name files of which a command writes parts anew.
REWRITTEN = ("fill",)


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values of options, those that name outputs with the home folder in the place of ~.

    Raises:
        ValueError: for an empty name, a home that there is not, and an output that is an input.
    """
    from gendae import checks

    outputs = {name: values[name] for name in OUTPUTS if values.get(name) is not None}
    keep_named(values[name] for name in values.keys() - outputs.keys() - set(REWRITTEN))

    paths = {name: checks.path(f"--{name}", text) for name, text in outputs.items()}
    for name, path in paths.items():
        inputs.refuse_input(path, f"--{name} {outputs[name]}")

    return values | {name: str(path) for name, path in paths.items()}


def keep_named(values: Any) -> None:  # noqa: ANN401 - words, numbers and lists of them
    """Remember the files that values name, FILE or NAME=FILE, as inputs of the command.

    Raises:
        ValueError: for pipes, devices and sockets, which some readers would wait for.
    """
    for text in _words(values):
        for name in (text, text.partition("=")[2]):
            path = Path(os.path.expanduser(name))
            if _has_bytes(path):
                inputs.keep(inputs.regular_file(path))


def _has_bytes(path: Path) -> bool:
    """Whether a path names a file, of any kind, and no folder."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):  # nothing has this name, or nothing can have it
        return False


def _words(values: Any) -> Iterator[str]:  # noqa: ANN401
    """All texts among values."""
    if isinstance(values, str):
        yield values
    elif not isinstance(values, int | float | type(None)):
        for value in values:
            yield from _words(value)
