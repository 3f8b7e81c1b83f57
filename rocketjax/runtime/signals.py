"""SIGTERM and Ctrl-C: work that is told to stop gets the time to save what it has."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: run again, the same command does the rest, or all
SAVING = b"\nsaving after the current step; Ctrl-C again stops at once\n"
ShouldStop: TypeAlias = Callable[[], bool]


class Preempted(BaseException):
    """A SIGTERM came. Like KeyboardInterrupt no Exception, so that only a command catches it."""


class _Signals:
    """What the handlers have seen. Signals belong to the process, and so does this."""

    received = False
    deferred = False
    by_hand = False


def by_hand() -> bool:
    """Whether the last request to stop was a Ctrl-C."""
    return _Signals.by_hand


def never() -> bool:
    """A `ShouldStop` for loops that run to their end."""
    return False


@contextmanager
def heeded() -> Iterator[None]:
    """In its block, a SIGTERM raises `Preempted` in the main thread; a second one does nothing.

    Ctrl-C still raises KeyboardInterrupt, except for the first one in a `deferred` block, which
    counts as a SIGTERM. Nothing changes outside the main thread, which alone may set handlers, nor
    for a Ctrl-C that this process ignores (as a shell's `command &` does).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Signals.by_hand = False

    def terminate(number: int, frame: FrameType | None) -> None:
        del number, frame
        first, _Signals.received = not _Signals.received, True
        if first and not _Signals.deferred:
            raise Preempted

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        if _Signals.by_hand or not _Signals.deferred:
            raise KeyboardInterrupt
        _Signals.by_hand = True
        os.write(2, SAVING)  # not print, which may be what was interrupted
        signal.raise_signal(signal.SIGTERM)  # so that jax's handler, too, hears it on several hosts

    on_terminate = signal.signal(signal.SIGTERM, terminate)
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, on_terminate)
        signal.signal(signal.SIGINT, on_interrupt)
        _Signals.received = False  # what runs next was not told to stop


@contextmanager
def deferred() -> Iterator[ShouldStop]:
    """In its block, SIGTERM and the first Ctrl-C interrupt nothing: the block asks whether to stop.

    Raises:
        Preempted: at the end of a block that did not ask after the signal came.
    """
    _Signals.deferred = True
    try:
        yield lambda: _Signals.received
    finally:
        _Signals.deferred = False
    if _Signals.received:
        raise Preempted
