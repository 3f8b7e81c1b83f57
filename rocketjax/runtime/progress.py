"""How long work tells how far it is; the commands show it, tests and libraries need not."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]  # one line for people


Advance: TypeAlias = Callable[[int], None]  # so many more are done


# `with watch("encode", 5_900, "passages") as advance:` and then `advance(64)`, again and again.
Watch: TypeAlias = Callable[[str, int, str], AbstractContextManager[Advance]]


APART = 30.0  # seconds from one line to the next, at least


def silent(_: int) -> None:
    """Shows nothing."""


def unsaid(_: str) -> None:
    """Says nothing."""


@contextmanager
def unwatched(name: str, total: int, unit: str) -> Iterator[Advance]:
    """A `Watch` that shows nothing."""
    del name, total, unit
    yield silent


@contextmanager
def in_lines(say: Say, name: str, total: int, unit: str) -> Iterator[Advance]:
    """Says how far its block is, now and then while work is done, and once at its end."""
    lines = _Lines(say, name, total, unit)
    try:
        yield lines.advance
    finally:
        lines.end()


def pace(rate: float | None) -> str:
    """Units a second, as 1,234/s or 0.0123/s; nothing of None."""
    if rate is None:
        return ""
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"


class _Lines:
    """Work and its clock."""

    def __init__(self, say: Say, name: str, total: int, unit: str) -> None:
        self._say, self._name, self._total, self._unit = say, name, total, unit
        self._done = 0
        self._start = self._said = monotonic()
        # When, and how many were done. Nothing is counted from the start: programs are compiled
        # then, and training that goes on has most of its steps behind it.
        self._first: tuple[float, int] | None = None
        self._first_line: tuple[float, int] | None = None

    def advance(self, count: int) -> None:
        now = monotonic()
        self._done += count
        if count and not self._first:
            self._first = now, self._done
        if now - self._said < APART or self._done >= self._total:
            return
        rate = self._since(self._first_line, now)
        self._said, self._first_line = now, self._first_line or (now, self._done)
        left = f"{_clock((self._total - self._done) / rate)} left" if rate else ""
        self._tell(pace(rate), left)

    def end(self) -> None:
        now = monotonic()
        self._tell(
            pace(self._since(self._first_line or self._first, now)),
            f"took {_clock(now - self._start)}",
        )

    def _since(self, mark: tuple[float, int] | None, now: float) -> float | None:
        """Units a second from then on; None: too early to tell."""
        if mark is None or now <= mark[0] or self._done == mark[1]:
            return None
        return (self._done - mark[1]) / (now - mark[0])

    def _tell(self, *more: str) -> None:
        so_far = f"{self._name}: {self._done:,} of {self._total:,} {self._unit}"
        self._say(", ".join([so_far, *filter(None, more)]))


def _clock(seconds: float) -> str:
    """As 1:36:00."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
