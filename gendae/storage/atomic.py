"""Files, and folders of them, that are written whole or not at all.

A file is written beside its place, flushed to the disk and renamed: whatever happens, its name
stands for the earlier file or for the new one. A folder is filled beside its place.
"""

import contextlib
import errno
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gendae.storage import inputs

#: Seconds after which a partial file belongs to no living process, whoever wrote it.
ABANDONED = 24 * 60 * 60


def write_whole(path: str | Path, data: bytes) -> Path:
    """Write a file so that `path` holds, at any time, the earlier content or all of the new one.

    A link stays: the file that it leads to is written. So does what is no regular file: bytes go
    into a device or a pipe, after a reader has opened it. What standard output goes into already,
    such as /dev/stdout, gets them in the order of the output; an open file, such as /dev/fd/3,
    where it stands. An earlier file's permissions stay: what only its owner may read, remains so,
    and what is protected from writing is not written. Its hard links keep the earlier content.

    Raises:
        ValueError: if it is a file that the running command reads, see `inputs`.
        OSError: where the disk is full, the folder cannot be written to, ..; the message names the
            file, which is as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(f"{folder}/a/b.txt", b"whole").read_bytes()
        b'whole'
    """
    path = Path(path)
    inputs.refuse_input(path)
    try:
        if not _write_into(path, data):
            _write_beside(Path(os.path.realpath(path)), data)
    except OSError as error:
        reason = (
            f"{path} was not written ({error.strerror}); an earlier file of this name is as it was"
        )
        raise OSError(error.errno, reason) from None

    return path


def _write_into(path: Path, data: bytes) -> bool:
    """Write into what must not be replaced, and say whether this was done.

    That is an open file of this process, and all that is no regular file.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False

    target = _open_output(status)
    if target is None:
        target = _descriptor(path)
    if target is None and stat.S_ISREG(status.st_mode):
        return False

    with open(path if target is None else os.dup(target), "wb") as stream:
        stream.write(data)
    return True


def _open_output(status: os.stat_result) -> int | None:
    """The descriptor of this process, standard output or error, that writes into a file."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no file
            descriptor = stream.fileno()
            if os.path.samestat(os.fstat(descriptor), status):
                stream.flush()
                return descriptor

    return None


def _descriptor(path: Path) -> int | None:
    """The open file of this process that a name such as /dev/fd/3, or a link to it, stands for."""
    own = (f"/proc/{os.getpid()}/fd", "/dev/fd")
    name = os.fspath(path)
    while True:
        folder = os.path.realpath(os.path.dirname(name))
        if folder in own:
            return int(os.path.basename(name))
        if not os.path.islink(name):
            return None

        name = os.path.join(folder, os.readlink(name))


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when all is in it; where that fails, there is none.

    Raises:
        FileExistsError: if there is something of this name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with contextlib.suppress(ZeroDivisionError), new_folder(f"{place}/a/b") as folder:
        ...         _ = (folder / "half").write_text(str(1 / 0))
        ...     sorted(Path(place).iterdir())
        []
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(errno.EEXIST, f"{path} exists already")

    with _parents_of(path):
        partial = path.with_name(_partial_name())
        partial.mkdir()
        try:
            yield partial
            os.rename(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    _flush_folder(path.parent)


@contextlib.contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Make the folders that a file needs, without what killed processes left in the last one.

    Where what is done within fails, they go again.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # they are not empty: somebody else writes there
            for folder in made:
                folder.rmdir()
        raise


def _write_beside(path: Path, data: bytes) -> None:
    """Write a file, with the folders that it needs."""
    with _parents_of(path):
        _write_and_rename(path, data)

    inputs.written(path)
    _flush_folder(path.parent)


def _write_and_rename(path: Path, data: bytes) -> None:
    partial = path.with_name(_partial_name())
    try:
        with open(partial, "xb") as stream:
            _keep_permissions(path, partial)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _keep_permissions(earlier: Path, new: Path) -> None:
    """Give a new file the permissions of an earlier one, if there is one and it is writable."""
    try:
        mode = stat.S_IMODE(os.stat(earlier).st_mode)
    except FileNotFoundError:
        return

    if not os.access(earlier, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    os.chmod(new, mode)


def origin() -> str:
    """This machine, and what its processes are numbered in: containers may share the name."""
    numbering = ""
    with contextlib.suppress(OSError):
        numbering = os.readlink("/proc/self/ns/pid")

    return re.sub(r"\W", "_", f"{platform.node()[:60]}{numbering}", flags=re.ASCII)


def _partial_name() -> str:
    """A new name of a file that is written first: it tells which process of which machine writes.

    It does not hold the file's own name, which may be as long as names can be.
    """
    return f".gendae-{origin()}-{os.getpid()}-{secrets.token_hex(8)}.partial"


def remove_stale(folder: Path) -> None:
    """Remove the partial files and folders of processes that were killed while they wrote.

    They are those of this machine's processes that are gone, and all that are a day old.
    """
    own = re.compile(rf"\.gendae-{origin()}-([0-9]+)-\w+\.partial")
    for partial in folder.glob(".gendae-*.partial"):
        with contextlib.suppress(OSError):
            written = own.fullmatch(partial.name)
            killed = written is not None and not alive(int(written[1]))
            if killed or time.time() - partial.stat().st_mtime > ABANDONED:
                _remove(partial)


def _remove(partial: Path) -> None:
    """Remove a file, or a folder with what is in it."""
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial)
    else:
        partial.unlink()


def alive(process: int) -> bool:
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


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> Path:
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
