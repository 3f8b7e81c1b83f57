"""SIGTERM and Ctrl-C: what is to end is told so, and has some seconds to save its work."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on


SAVING = b"\nsaving after the step at hand; Ctrl-C again stops at once\n"


Asked: TypeAlias = Callable[[], bool]


class Preempted(BaseException):
    """A SIGTERM came. Like KeyboardInterrupt no Exception: nothing but a command catches it."""


def by_hand() -> bool:
    """Whether what was asked to end last was asked by Ctrl-C."""
    return _Signals.by_hand


def never() -> bool:
    """Of loops that nobody asks to stop."""
    return False


class _Signals:
    """What the handler knows; signals are the process', and so is this."""

    asked = False
    deferred = False
    by_hand = False


@contextmanager
def heeded() -> Iterator[None]:
    """While it lasts, a SIGTERM raises `Preempted` in the main thread; a second one does nothing.

    Ctrl-C stays a KeyboardInterrupt, but for the first in a `deferred` block: that is a SIGTERM.
    Outside the main thread, which alone may set handlers, signals keep their meaning, as does a
    Ctrl-C that is not for this process (a shell's `command &`).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Signals.by_hand = False

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        first, _Signals.asked = not _Signals.asked, True
        if first and not _Signals.deferred:
            raise Preempted

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        if _Signals.by_hand or not _Signals.deferred:
            raise KeyboardInterrupt
        _Signals.by_hand = True
        os.write(2, SAVING)  # print may be what was interrupted
        signal.raise_signal(signal.SIGTERM)  # which jax's own handler hears, where hosts are joined

    before = signal.signal(signal.SIGTERM, handle)
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupted)
        _Signals.asked = False  # what comes next was not asked to end


@contextmanager
def deferred() -> Iterator[Asked]:
    """While it lasts, a SIGTERM or Ctrl-C interrupts nothing: the block asks, and leaves in order.

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
