"""Runs both sides in turn, round by round, so that a busy machine disturbs both alike."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rocketjax.bench.ours import seconds
from rocketjax.bench.process import Ask, asked
from rocketjax.bench.work import Work


class Result(NamedTuple):
    """A task's figures; times are medians over rounds."""

    task: str
    unit: str
    ours: float  # units a second
    theirs: float
    ratio: float  # median of the rounds' ratios
    setting: str


@contextmanager
def rival_process(work: Work) -> Iterator[Ask]:
    """The other process, ready to be asked."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.json"
        work.write(path)
        with asked("rocketjax.bench.rivals", path) as ask:
            yield ask


def compare(
    task: str, unit: str, units: int, ours: Callable[[], object], rival: Ask, rounds: int
) -> Result:
    """`rounds` times ours and theirs in turn, each after one run to warm up.

    The rival is asked for the task, and answers with the seconds that it took and its setting.
    """
    ours()
    setting = rival(task)["setting"]
    pairs = []
    for number in range(rounds):  # who is first changes from round to round
        mine = seconds(ours) if number % 2 else None
        theirs = rival(task)["seconds"]
        pairs.append((seconds(ours) if mine is None else mine, theirs))
    mine, theirs = (median(column) for column in zip(*pairs, strict=True))
    ratio = median(theirs / mine for mine, theirs in pairs)
    return Result(task, unit, units / mine, units / theirs, ratio, setting)
