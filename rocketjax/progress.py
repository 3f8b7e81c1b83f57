"""How long work tells how far it is; the commands show it, tests and libraries need not."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]  # one line for people
Advance: TypeAlias = Callable[[int], None]  # so many more are done

# `with watch("encode", 5_900, "passages") as advance:` and then `advance(64)`, again and again.
Watch: TypeAlias = Callable[[str, int, str], AbstractContextManager[Advance]]


def silent(_: int) -> None:
    """Shows nothing."""


def unsaid(_: str) -> None:
    """Says nothing."""


@contextmanager
def unwatched(name: str, total: int, unit: str) -> Iterator[Advance]:
    """A `Watch` that shows nothing."""
    del name, total, unit
    yield silent
