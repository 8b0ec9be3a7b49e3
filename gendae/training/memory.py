"""Memory that was freed: kept while a training goes on, given back when it is over."""

import contextlib
import ctypes
import gc

#: Numbers of options of glibc's mallopt.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
#: Lengths up to which memory is kept: beyond those of any data set, and of its copies.
KEPT = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**31 - 1}


def keep_freed_memory() -> None:
    """Have the C library, if it is glibc, keep the memory that an update frees for the next one.

    Otherwise memory of the size of a gradient goes back to the system after each update and has to
    be cleared and mapped again: up to a tenth of the time of an update, or of sampling.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, size in KEPT.items():
            mallopt(option, size)


def give_back_freed_memory() -> None:
    """Give the system what is free, if the C library is glibc.

    After a training, a hole of the size of its data is left, in which small things settle: the
    next data set would not fit, and one process that trains many models would grow by a data set
    with each of them.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
