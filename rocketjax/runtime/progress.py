"""How long-running work reports its progress; commands show it, tests and libraries need not."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]  # one line for people
Advance: TypeAlias = Callable[[int], None]  # how many more units are done
# `with watch("encode", 5_900, "passages") as advance:`, and in there `advance(64)` per batch.
Watch: TypeAlias = Callable[[str, int, str], AbstractContextManager[Advance]]
INTERVAL = 30.0  # seconds between two lines, at least


def silent(_: int) -> None:
    """An `Advance` that shows nothing."""


def unsaid(_: str) -> None:
    """A `Say` that prints nothing."""


def logged(line: str) -> None:
    """A `Say` for Python: a warning of the logger "rocketjax", which is printed unless set up."""
    logging.getLogger("rocketjax").warning(line)


@contextmanager
def unwatched(name: str, total: int, unit: str) -> Iterator[Advance]:
    """A `Watch` that shows nothing."""
    del name, total, unit
    yield silent


@contextmanager
def in_lines(
    say: Say, name: str, total: int, unit: str, interval: float = INTERVAL
) -> Iterator[Advance]:
    """Says how far its block is while work gets done, and once at its end.

    `interval`: seconds between two lines, at least.
    """
    lines = _Lines(say, name, total, unit, interval)
    try:
        yield lines.advance
    finally:
        lines.end()


def pace(rate: float | None) -> str:
    """Units per second, as 1,234/s or 0.0123/s; empty for None."""
    if rate is None:
        return ""
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"


def also(watch: Watch, then: Callable[[], None]) -> Watch:
    """A `Watch` that also calls `then` whenever work gets done."""

    @contextmanager
    def watching(name: str, total: int, unit: str) -> Iterator[Advance]:
        with watch(name, total, unit) as advance:

            def advanced(count: int) -> None:
                advance(count)
                then()

            yield advanced

    return watching


class _Lines:
    """The work of one block and its clock."""

    def __init__(self, say: Say, name: str, total: int, unit: str, interval: float) -> None:
        self._say, self._name, self._total, self._unit = say, name, total, unit
        self._interval, self._done = interval, 0
        self._start = self._said = monotonic()
        # From where to measure the rate: the time, and the units done by then. Not from the start,
        # when programs are compiled, and training that resumes has most of its steps behind it.
        self._first: tuple[float, int] | None = None
        self._first_line: tuple[float, int] | None = None

    def advance(self, count: int) -> None:
        now = monotonic()
        self._done += count
        if count and not self._first:
            self._first = now, self._done
        if now - self._said < self._interval or self._done >= self._total:
            return
        rate = self._since(self._first_line, now)
        self._said, self._first_line = now, self._first_line or (now, self._done)
        left = f"{_clock((self._total - self._done) / rate)} left" if rate else ""
        self._print(pace(rate), left)

    def end(self) -> None:
        now = monotonic()
        self._print(
            pace(self._since(self._first_line or self._first, now)),
            f"took {_clock(now - self._start)}",
        )

    def _since(self, mark: tuple[float, int] | None, now: float) -> float | None:
        """Units per second since a mark; None if it is too early to tell."""
        if mark is None or now <= mark[0] or self._done == mark[1]:
            return None
        return (self._done - mark[1]) / (now - mark[0])

    def _print(self, *details: str) -> None:
        so_far = f"{self._name}: {self._done:,} of {self._total:,} {self._unit}"
        self._say(", ".join([so_far, *filter(None, details)]))


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:36:00."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
