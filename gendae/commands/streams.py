"""Standard streams as users leave them: closed, unread, or of an encoding without umlauts."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

#: Nobody reads: the other end of a pipe was closed, or the terminal is gone.
GONE = (errno.EPIPE, errno.EIO)


class Forgiving:
    """A text stream that falls silent where nobody reads it any more.

    What is done goes on: a training outlives its terminal. Other errors, such as a full disk, are
    raised once.

    Args:
        stream: what is written to.
        all_errors: whether every error is forgiven: there is no other place to tell of it.
    """

    def __init__(self, stream: TextIO, all_errors: bool = False) -> None:
        self._stream = stream
        self._all_errors = all_errors

    def write(self, text: str) -> int:
        with self._forgiven():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._forgiven():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._silence()
            if not self._all_errors and error.errno not in GONE:
                raise OSError(
                    error.errno, f"the output was not written: {error.strerror}"
                ) from None

    def _silence(self) -> None:
        """Let what is still buffered, and all that follows, go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """Streams that are open, forgive, and write every name, if need be in escapes."""
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    out = contextlib.redirect_stdout(Forgiving(sys.stdout))
    err = contextlib.redirect_stderr(Forgiving(sys.stderr, all_errors=True))
    with out, err:
        yield


def _open_closed() -> None:
    """Open what was closed: the next file would take its number, and be written into."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            os.set_inheritable(taken, True)

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open
