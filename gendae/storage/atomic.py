"""Files that are written whole or not at all.

A file is written beside its place, flushed to the disk and renamed: whatever happens, its name
stands for the earlier file or for the new one.
"""

import json
import math
import os
import platform
import re
import zlib
from pathlib import Path
from typing import Any


def write_whole(path: str | Path, data: bytes) -> Path:
    """Write a file so that `path` holds, at any time, the earlier content or all of the new one.

    Raises:
        OSError: where the disk is full, the folder cannot be written to, ..; the message names the
            file, which is as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(f"{folder}/a/b.txt", b"whole").read_bytes()
        b'whole'
    """
    path = Path(path)
    try:
        _write_and_rename(path, data)
    except OSError as error:
        reason = (
            f"{path} was not written ({error.strerror}); an earlier file of this name is as it was"
        )
        raise OSError(error.errno, reason) from None

    _flush_folder(path.parent)
    return path


def _write_and_rename(path: Path, data: bytes) -> None:
    partial = path.with_name(_partial_name(path.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)

    try:
        with open(partial, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _host() -> str:
    return re.sub(r"\W", "_", platform.node())[:60]


def _partial_name(name: str) -> str:
    """Name of the file that is written first: it tells which process of which machine writes."""
    return f".gendae-{_host()}-{os.getpid()}-{zlib.crc32(name.encode()):08x}.partial"


def remove_stale(folder: Path) -> None:
    """Remove the partial files of this machine's processes that were killed while they wrote."""
    for partial in folder.glob(f".gendae-{_host()}-*.partial"):
        number = partial.name.rsplit("-", 2)[1]
        if number.isdigit() and not _alive(int(number)):
            partial.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere, asking is ending
        return True

    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass

    return True


def _flush_folder(folder: Path) -> None:
    """Make a renaming outlast a loss of power, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return

    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Plain data as indented JSON; NaN and infinity become null."""
    text = json.dumps(_without_nan(content), indent=2) + "\n"

    return write_whole(path, text.encode())


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - any plain data
    """The same data, with None for numbers that JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None

    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}

    if isinstance(value, list):
        return [_without_nan(item) for item in value]

    return value
