"""How things are measured: both sides in turn, a rival in a process of its own; and the tables.

A worker process answers questions, a line each, with a line of JSON. A rival is asked for a task,
and answers with the seconds that one run of it took (and may add the processor time of it) and the
setting that it ran with.
"""

import json
import math
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
from scipy import stats

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.threads import cores

LEAST_ROUNDS = 6  # of an interval of 95 %: the median is outside of five with a chance of 6 %
Answer: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[str], Answer]


class Taken(NamedTuple):
    """What one run took, in seconds."""

    wall: float
    processor: float  # of all the process' threads: other jobs do not lengthen it, but for caches


class Result(NamedTuple):
    """How fast both sides do a task; times are medians over rounds."""

    task: str
    unit: str
    ours: float  # units a second
    theirs: float
    ratio: float  # median of the rounds' ratios
    setting: str
    interval: tuple[float, float] | None = None  # 95 % of that median; None: of too few rounds


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
    taken, setting = in_rounds(task, ours, rival, rounds)
    walls = [(one.wall, other.wall) for one, other in taken]
    return result(task, unit, units, walls, setting)


def in_rounds(
    task: str, ours: Callable[[], object], rival: Ask, rounds: int
) -> tuple[list[tuple[Taken, Taken]], str]:
    """What each round took both sides, ours first, and the rival's setting."""
    ours()
    setting = rival(task)["setting"]
    found = []
    for number in range(rounds):
        if number % 2:  # who is first alternates
            own, answered = taken(ours), rival(task)
        else:
            answered, own = rival(task), taken(ours)
        found.append((own, Taken(answered["seconds"], answered.get("processor", math.nan))))
    return found, setting


def result(
    task: str, unit: str, units: int, pairs: Sequence[tuple[float, float]], setting: str
) -> Result:
    """The medians of what rounds took both sides, ours first, in seconds."""
    ratios = [theirs / ours for ours, theirs in pairs]
    ours, theirs = (median(column) for column in zip(*pairs, strict=True))
    interval = None
    if len(ratios) >= LEAST_ROUNDS:
        found = stats.quantile_test(ratios, q=1, p=0.5).confidence_interval(0.95)
        interval = float(found.low), float(found.high)
    return Result(task, unit, units / ours, units / theirs, median(ratios), setting, interval)


def in_turn(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each, run in turn, after one run of each to warm up."""
    for run in runs:
        run()
    times = [[seconds(run) for run in runs] for _ in range(rounds)]
    return [median(column) for column in zip(*times, strict=True)]


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    return taken(run).wall


def taken(run: Callable[[], object]) -> Taken:
    """What one run takes, of this process."""
    started = time.perf_counter(), time.process_time()
    run()
    return Taken(time.perf_counter() - started[0], time.process_time() - started[1])


def read_results(path: Path) -> list[Result]:
    """The results of a run's --json.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["results"]
        return [Result(**{name: row[name] for name in Result._fields}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not what --json writes: {error!r}") from None


def lost(results: Sequence[Result], earlier: Sequence[Result]) -> Iterator[str]:
    """What was slower than earlier, beside the rival: a line each.

    Ratios of two machines differ by some percent, so a tenth is granted.

    Raises:
        InputError: a result has no interval, or nothing was measured earlier that is measured now.
    """
    known = {(row.task, row.unit): row.ratio for row in earlier}
    same = [row for row in results if (row.task, row.unit) in known]
    if earlier and not same:
        raise InputError(f"--against holds {sorted(task for task, _ in known)}, none measured now")
    for row in same:
        if row.interval is None:
            raise InputError(f"--against needs an interval: --rounds {LEAST_ROUNDS} or more")
        before = known[row.task, row.unit]
        if row.interval[1] < 0.9 * before:
            yield f"{row.task}: {row.ratio:.2f} (up to {row.interval[1]:.2f}), {before:.2f} before"


def results_table(results: Sequence[Result]) -> Table:
    """Both sides' speeds and their ratio."""
    table = Table(title=machine())
    for name in ("task", "a second", "rocketjax", "rival", "ratio", "95 %", ""):
        table.add_column(name, justify="left" if name in ("task", "a second", "") else "right")
    for row in results:
        speeds = (f"{row.ours:,.1f}", f"{row.theirs:,.1f}", f"{row.ratio:.2f}")
        between = "{:.2f} to {:.2f}".format(*row.interval) if row.interval else ""
        table.add_row(row.task, row.unit, *speeds, between, row.setting)
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
    where = f"{_cores()} of {_processor()}" if device.platform == "cpu" else device.device_kind
    return f"{where}, jax {jax.__version__}, Python {platform.python_version()}"


def _cores() -> str:
    """The cores that this process may use: `taskset` gives it fewer than there are."""
    return "1 core" if cores() == 1 else f"{cores()} cores"


def _processor() -> str:
    """Its name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "a CPU")


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
                named = ".rivals." not in module or "pip install" in last_line
                remedy = "" if named else "; pip install 'rocketjax[bench]'"
                raise InputError(f"{module} stopped: {last_line}{remedy}")
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
