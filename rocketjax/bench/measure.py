"""Another process that is asked, a line at a time, and answers with a line of JSON."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeAlias

import jax
from rich.table import Table

from rocketjax.runtime.errors import InputError

Answer: TypeAlias = dict[str, Any]


Ask: TypeAlias = Callable[[str], Answer]


@contextmanager
def asked(module: str, work: Path, environment: Mapping[str, str] | None = None) -> Iterator[Ask]:
    """Starts `python -m module work`, which calls `answer`; gives the function that asks it.

    Raises:
        InputError: it stopped; its last words are in the message.
    """
    with (
        tempfile.TemporaryFile("w+") as printed,  # nobody reads it meanwhile: a pipe would fill up
        subprocess.Popen(
            [sys.executable, "-m", module, str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
            env=environment,
        ) as process,
    ):
        assert process.stdin and process.stdout

        def ask(question: str) -> Answer:
            process.stdin.write(f"{question}\n")  # pyright: ignore
            process.stdin.flush()  # pyright: ignore
            line = process.stdout.readline()  # pyright: ignore
            if not line:
                process.wait()
                printed.seek(0)
                said = printed.read().strip().rpartition("\n")[2]
                raise InputError(f"the rival stopped: {said}; pip install 'rocketjax[bench]'")
            return json.loads(line)

        try:
            yield ask
        finally:
            process.kill()


def answer(to: Callable[[str], Answer]) -> None:
    """The other side: answers until its input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not stand among the answers
    for line in sys.stdin:
        answers.write(json.dumps(to(line.strip())) + "\n")
        answers.flush()


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


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class Result(NamedTuple):
    """A task's figures; times are medians over rounds."""

    task: str
    unit: str
    ours: float  # units a second
    theirs: float
    ratio: float  # median of the rounds' ratios
    setting: str


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


def results_table(results: Sequence[Result]) -> Table:
    """Both sides' speeds and their ratio."""
    table = Table(title=machine())
    for name in ("task", "a second", "rocketjax", "rival", "ratio", ""):
        table.add_column(name, justify="left" if name in ("task", "a second", "") else "right")
    for result in results:
        speeds = (f"{result.ours:,.1f}", f"{result.theirs:,.1f}", f"{result.ratio:.2f}")
        table.add_row(result.task, result.unit, *speeds, result.setting)
    return table


def facts_table(facts: Sequence[Fact]) -> Table:
    """What was measured, and what it should be."""
    table = Table(title=machine())
    table.add_column("fact")
    table.add_column("", justify="right")
    for name in ("unit", "should be"):
        table.add_column(name)
    for fact in facts:
        table.add_row(fact.name, f"{fact.value:,.3f}", fact.unit, fact.target)
    return table


def machine() -> str:
    """Devices and versions, as a title."""
    device = jax.devices()[0]
    where = f"{os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind
    return f"{where}, jax {jax.__version__}, Python {platform.python_version()}"
