"""What is measured of rocketjax alone, beside what it should be."""

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from rocketjax.bench.ours import seconds


class Fact(NamedTuple):
    """One line of the second table."""

    name: str
    value: float
    unit: str
    target: str  # in words; empty: none


def in_turn(runs: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each, run in turn, after one run of each to warm up."""
    for run in runs:
        run()
    taken = [[seconds(run) for run in runs] for _ in range(rounds)]
    return [median(column) for column in zip(*taken, strict=True)]
