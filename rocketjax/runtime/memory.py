"""How much memory there is, and when freed memory goes back to the system: in commands, not before
a stage ends.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes malloc keep what is freed for later use; does nothing without glibc.

    A train step on a CPU allocates and frees gigabytes of scratch memory. By default each step gets
    them from the system again, page by page, with a million page faults: 8.7 s a step instead of
    7.6 s (two cores of an EPYC, MiniLM, 8 lists of 8).
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return
    mallopt(_M_MMAP_MAX, 0)  # large blocks come from the heap, too, where they can be reused
    mallopt(_M_TRIM_THRESHOLD, -1)  # never shrink the heap
    # A thread's own arena is too small for such blocks, which were mapped afresh at each step with
    # six arenas, and never with two to four. With one, threads that run batches at once wait for
    # each other (2 to 5 % of encoding), and blocks lie scattered among what compilation left: 12.2
    # GB instead of 7.3 at the peak of that step.
    mallopt(_M_ARENA_MAX, 2)


def machine_memory() -> int:
    """Bytes that this process may use: the machine's, or its container's if those are fewer."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such file, or "max"
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8")))
    return total


def release_freed_memory() -> None:
    """Gives what is free now back to the system; does nothing without glibc.

    The memory of one stage's programs is of no use to those of the next: a process held 16 GB after
    two runs, and 8 GB in the second training stage of the first. How much this saves has not been
    measured.
    """
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


def _glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
