"""What a command, but not a library, may ask of the C library about memory."""

import contextlib
import ctypes

# of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Have the C library, if it is glibc, keep the memory that an update frees for the next one.

    Otherwise memory of the size of a gradient goes back to the system after each update and has to
    be cleared and mapped again: up to a tenth of the time of an update, or of sampling.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt

        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
