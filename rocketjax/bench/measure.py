"""How things are measured: both sides in turn, a rival in a process of its own; and the tables.

A worker process answers questions, a line each, with a line of JSON. A rival is asked for a task,
and answers with the seconds that one run of it took and the setting that it ran with.
"""

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


class Result(NamedTuple):
    """How fast both sides do a task; times are medians over rounds."""

    task: str
    unit: str
    ours: float  # units a second
    theirs: float
    ratio: float  # median of the rounds' ratios
    setting: str


class Fact(NamedTuple):
    """One figure of rocketjax alone."""

    name: str
    value: float
    unit: str
    target: str  # in words; empty: none


def compare(
    task: str, unit: str, units: int, ours: Callable[[], object], rival: Ask, rounds: int
) -> Result:
    """Times both sides in turn, `rounds` times, each after one run to warm up.

    Args:
        units: how many of `unit` (passages, queries) a run of either side takes.
        rival: is asked for the task.
    """
    ours()
    setting = rival(task)["setting"]
    pairs = []
    for number in range(rounds):
        if number % 2:  # who is first alternates
            ours_taken, theirs_taken = seconds(ours), rival(task)["seconds"]
        else:
            theirs_taken, ours_taken = rival(task)["seconds"], seconds(ours)
        pairs.append((ours_taken, theirs_taken))
    ratio = median(theirs_taken / ours_taken for ours_taken, theirs_taken in pairs)
    ours_taken, theirs_taken = (median(column) for column in zip(*pairs, strict=True))
    return Result(task, unit, units / ours_taken, units / theirs_taken, ratio, setting)


def in_turn(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each, run in turn, after one run of each to warm up."""
    for run in runs:
        run()
    times = [[seconds(run) for run in runs] for _ in range(rounds)]
    return [median(column) for column in zip(*times, strict=True)]


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


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


@contextmanager
def worker_process(
    module: str, work: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Ask]:
    """Starts `python -m module work`, which calls `answer`; yields the function that asks it.

    Raises:
        InputError: the process stopped; the message has its last line.
    """
    with (
        # A pipe would fill up, since nobody reads it meanwhile.
        tempfile.TemporaryFile("w+") as printed,
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
                last_line = printed.read().strip().rpartition("\n")[2]
                raise InputError(f"the rival stopped: {last_line}; pip install 'rocketjax[bench]'")
            return json.loads(line)

        try:
            yield ask
        finally:
            process.kill()


def answer(respond: Callable[[str], Answer]) -> None:
    """The worker's side: answers until its input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not get among the answers
    for line in sys.stdin:
        answers.write(json.dumps(respond(line.strip())) + "\n")
        answers.flush()
