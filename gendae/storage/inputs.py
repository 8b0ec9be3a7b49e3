"""Files that are read: regular files only, which the command that reads them never replaces.

A reader asks `regular_file` before it opens anything: a pipe would be waited for, and a device has
no end. Within `kept_inputs`, as every command is, what was asked for is remembered, and
`write_whole` refuses to write over it, by whatever link or spelling the output is named.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

#: Most bytes that a byte of a compressed file may stand for, beyond the first ones. Images of few
#: strokes in double precision pack to a hundredth; nothing but a trap packs to a thousandth. A
#: header that promises more is not believed: what it asks for is never allocated.
DEFLATED = 250
FIRST = 64 * 2**20

#: Files by device and number, which all names of a file share.
Files = dict[tuple[int, int], Path]


class Kept:
    """The files that a command has read, and those that it has written itself."""

    def __init__(self) -> None:
        self.read: Files = {}
        self.written: Files = {}


#: What the running command has read; None outside of a command, where a program may replace what
#: it has read. Not a context variable: checkpoints may be written in another thread.
_kept: Kept | None = None


@contextlib.contextmanager
def kept_inputs() -> Iterator[None]:
    """What is read within is not written over within.

    Example:
        >>> import tempfile
        >>> from gendae.storage.atomic import write_whole
        >>> with tempfile.TemporaryDirectory() as folder, kept_inputs():
        ...     file = Path(folder) / "x.npy"
        ...     _ = file.write_bytes(b"data")
        ...     _ = regular_file(file)
        ...     write_whole(f"{folder}/../{Path(folder).name}/x.npy", b"results")
        Traceback (most recent call last):
        ValueError: ...x.npy is a file that this command reads, as ...x.npy; name another
    """
    global _kept
    outer = _kept
    _kept = outer or Kept()  # a command within a command has the inputs of both
    try:
        yield
    finally:
        _kept = outer


def regular_file(path: str | Path) -> Path:
    """The path, if it names a regular file; within `kept_inputs` it is then an input.

    Raises:
        FileNotFoundError: if nothing has this name.
        ValueError: for folders, pipes, devices and everything else that has no bytes of its own,
            and for folders that may not be searched.
    """
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        what = "there is no such file"
        if path.is_symlink():
            what = "a link to a file that does not exist"
        raise FileNotFoundError(f"{path}: {what}") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(f"{path}: a loop of links") from None
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None

    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{path}: a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a regular file")

    keep(path)
    return path


def unpacked(size: int) -> int:
    """How many bytes may become of so many packed ones."""
    return FIRST + DEFLATED * size


def keep(path: Path) -> None:
    """Within `kept_inputs`, remember a file as an input, unless it was written there."""
    if _kept is None:
        return

    key = _key(path)
    if key is not None and key not in _kept.written:
        _kept.read[key] = path


def refuse_input(path: Path, name: str | None = None) -> None:
    """Raise a ValueError, with the name that a user gave, if what is to be written is an input."""
    if _kept is None:
        return

    read = _kept.read.get(_key(path))
    if read is None or not os.path.exists(read) or not os.path.samefile(read, path):
        return

    spelled = f", as {read}" if str(read) != str(path) else ""
    raise ValueError(f"{name or path} is a file that this command reads{spelled}; name another")


def written(path: Path) -> None:
    """Within `kept_inputs`, remember a file as an output: it may be read and written again."""
    key = _key(path)
    if _kept is not None and key is not None:
        _kept.written[key] = path


def _key(path: Path) -> tuple[int, int] | None:
    """Device and number of a file; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return None

    return status.st_dev, status.st_ino
