"""SIGTERM: what is to be taken down is told so, and has some seconds to save its work."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on

Asked: TypeAlias = Callable[[], bool]


class Preempted(BaseException):
    """A SIGTERM came. Like KeyboardInterrupt no Exception: nothing but a command catches it."""


def never() -> bool:
    """Of loops that nobody asks to stop."""
    return False


class _Signals:
    """What the handler knows; signals are the process', and so is this."""

    asked = False
    deferred = False


@contextmanager
def heeded() -> Iterator[None]:
    """While it lasts, a SIGTERM raises `Preempted` in the main thread; a second one does nothing.

    Outside the main thread, which alone may set handlers, SIGTERM keeps its meaning.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        first, _Signals.asked = not _Signals.asked, True
        if first and not _Signals.deferred:
            raise Preempted

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _Signals.asked = False  # what comes next was not asked to end


@contextmanager
def deferred() -> Iterator[Asked]:
    """While it lasts, a SIGTERM interrupts nothing: the block asks, and leaves in good order.

    Raises:
        Preempted: at the end of a block that did not ask after the signal came.
    """
    _Signals.deferred = True
    try:
        yield lambda: _Signals.asked
    finally:
        _Signals.deferred = False
    if _Signals.asked:
        raise Preempted
