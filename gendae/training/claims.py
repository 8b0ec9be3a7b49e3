"""Claims of runs by processes that share a folder, on one machine or several.

A run is claimed by a file that nobody else can make. It names the machine and the processes, and
is touched while they work. A claim whose processes on this machine are gone is void, and so is one
that nobody has touched for `stale` seconds; whoever finds it takes it over.
"""

import contextlib
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gendae.storage.atomic import alive, origin, write_json

try:
    import fcntl
except ImportError:  # not on Windows, where two takers of a void claim may meet
    fcntl = None  # type: ignore[assignment]

#: How often a claim is touched, in parts of the time after which it is void.
TOUCHES = 6


class Claim:
    """A run that this process works at.

    Args:
        path: of the file that says so.
        stale: seconds after which an untouched claim is void.
    """

    def __init__(self, path: Path, stale: float) -> None:
        self.path = path
        self.token = secrets.token_hex(8)
        self._ended = threading.Event()
        self._child: int | None = None
        self._over = False
        self._of_child = threading.Lock()
        self._touching = threading.Thread(target=self._touch, args=(stale,), daemon=True)

    def content(self, child: int | None = None) -> dict[str, Any]:
        """What the file holds: which machine, which processes, since when."""
        processes = [os.getpid()] if child is None else [os.getpid(), child]
        return {
            "machine": origin(),
            "processes": processes,
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "token": self.token,
        }

    def held(self) -> bool:
        """Whether the claim is still this one: another process takes over what it finds void."""
        return read(self.path).get("token") == self.token

    def name_child(self, process: int) -> None:
        """Say that a child works at the run: as long as it lives, the claim is not void."""
        with self._of_child:
            self._child = process
        if self._over or self._lost():
            self.end_child()
        elif self.held():
            write_json(self.path, self.content(process))

    def forget_child(self) -> None:
        """The child has ended: its number may become another process's."""
        with self._of_child:
            self._child = None

    def end_child(self, for_good: bool = False) -> None:
        """End the child, if there is one, by SIGTERM: it can go on later.

        Args:
            for_good: end one that is named afterwards, too.
        """
        self._over = self._over or for_good
        with self._of_child, contextlib.suppress(ProcessLookupError):
            if self._child is not None:
                os.kill(self._child, signal.SIGTERM)

    def begin(self) -> None:
        """Touch the file from now on."""
        self._touching.start()

    def end(self) -> None:
        """Give the run back."""
        self._ended.set()
        self._touching.join()
        if self.held():
            self.path.unlink(missing_ok=True)

    def _touch(self, stale: float) -> None:
        """Touch the file for as long as it is this claim's; what was lost is worked at no more."""
        while not self._ended.wait(stale / TOUCHES):
            if self._lost():
                return self.end_child()
            with contextlib.suppress(OSError):
                os.utime(self.path)
        return None

    def _lost(self) -> bool:
        """Whether another process has taken over; a file that cannot be read says nothing."""
        token = read(self.path).get("token")
        if token is None:
            return not self.path.exists()
        return token != self.token


def claimed(path: Path, stale: float) -> Claim | None:
    """A claim of the run of this file; None while another process works at it.

    Args:
        path: of the file; its folder is there.
        stale: seconds after which an untouched claim is void.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "row-0.json"
        ...     mine, other = claimed(file, 60.0), claimed(file, 60.0)
        ...     mine.end()
        ...     mine.held(), other
        (False, None)
    """
    claim = Claim(path, stale)
    with _alone(path.parent):
        if path.exists() and not void(path, stale):
            return None

        path.unlink(missing_ok=True)
        if not _made(path, claim.content()):
            return None

    claim.begin()
    return claim


def _made(path: Path, content: dict[str, Any]) -> bool:
    """Make the file, unless another process, which the lock did not stop, has made it."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False

    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(content, stream)
    return True


def void(path: Path, stale: float) -> bool:
    """Whether nobody works at a claimed run any more."""
    try:
        untouched = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True

    return untouched > stale or (owner_gone(path) and not child_left(path))


def owner_gone(path: Path) -> bool:
    """Whether the claim is of a process of this machine that is no more."""
    content = read(path)
    processes = content.get("processes")

    return content.get("machine") == origin() and bool(processes) and not alive(processes[0])


def child_left(path: Path) -> bool:
    """Whether a child of the claim's process still runs; without its parent it ends soon."""
    return any(alive(process) for process in read(path).get("processes", [])[1:])


def read(path: Path) -> dict[str, Any]:
    """What a claim holds; nothing where it is being written, or is none.

    Example:
        >>> read(Path("nowhere.json"))
        {}
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}

    sound = isinstance(content, dict) and _are_numbers(content.get("processes"))
    return content if sound else {}


def _are_numbers(processes: object) -> bool:
    if not isinstance(processes, list):
        return False
    return all(isinstance(process, int) and process > 0 for process in processes)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process of the folder looks at a claim within; a killed one leaves no lock."""
    if fcntl is None:
        yield
        return

    with (folder / ".lock").open("a") as stream:
        with contextlib.suppress(OSError):  # a file system without locks: O_EXCL remains
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
