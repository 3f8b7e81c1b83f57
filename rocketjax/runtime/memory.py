"""When freed memory goes back to the system: for commands not before a stage's end."""

import ctypes
import sys
from collections.abc import Callable

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Tells glibc's malloc to give nothing back to the system; elsewhere, nothing happens.

    A train step on a CPU takes and frees gigabytes of scratch memory. By default each step gets it
    from the system anew, page by page, a million page faults: 8.7 s a step instead of 7.6 s (two
    cores of an EPYC, MiniLM, 8 lists of 8).
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return
    mallopt(_M_MMAP_MAX, 0)  # no block of its own, however large
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_ARENA_MAX, 1)  # threads' own arenas are too small for such blocks


def release_freed_memory() -> None:
    """Gives back to the system what is free now; elsewhere than in glibc, nothing happens.

    What one stage's programs took is of no use to the next one's: a process held 16 GB after two
    runs, and 8 GB in the first one's second training stage. How much this saves is not measured.
    """
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


def _glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
