"""What a command, and not a library, may ask of the C library about memory."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Have the C library keep what an update frees for the next one, where it is glibc.

    Otherwise memory of the size of a gradient goes back to the system after each update and has to be cleared and mapped
    again: up to a tenth of the time of an update, or of sampling.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
