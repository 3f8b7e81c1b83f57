"""Runs both sides in turn, round by round, so that a busy machine disturbs both alike."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rocketjax.bench.ours import seconds
from rocketjax.bench.work import Work
from rocketjax.errors import InputError

Rival = Callable[[str], tuple[float, int]]  # a task's name -> seconds, batch size


class Result(NamedTuple):
    """A task's figures; times are medians over rounds."""

    task: str
    unit: str
    ours: float  # units a second
    theirs: float
    ratio: float  # median of the rounds' ratios
    setting: str


@contextmanager
def rival_process(work: Work) -> Iterator[Rival]:
    """The other process, ready to be asked."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.json"
        work.write(path)
        command = [sys.executable, "-m", "rocketjax.bench.rivals", str(path)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin and process.stdout and process.stderr

        def ask(task: str) -> tuple[float, int]:
            process.stdin.write(f"{task}\n")  # pyright: ignore
            process.stdin.flush()  # pyright: ignore
            line = process.stdout.readline()  # pyright: ignore
            if not line:
                said = process.stderr.read().strip().rpartition("\n")[2]  # pyright: ignore
                raise InputError(f"the rival stopped: {said}; pip install 'rocketjax[bench]'")
            answer = json.loads(line)
            return answer["seconds"], answer["batch"]

        try:
            yield ask
        finally:
            process.kill()
            process.communicate()  # closes its pipes


def compare(
    task: str, unit: str, units: int, ours: Callable[[], None], rival: Rival, rounds: int
) -> Result:
    """`rounds` times ours and theirs in turn, each after one run to warm up."""
    ours()
    _, batch = rival(task)
    pairs = []
    for number in range(rounds):  # who is first changes from round to round
        mine = seconds(ours) if number % 2 else None
        theirs, _ = rival(task)
        pairs.append((seconds(ours) if mine is None else mine, theirs))
    mine, theirs = (median(column) for column in zip(*pairs, strict=True))
    ratio = median(theirs / mine for mine, theirs in pairs)
    setting = f"its batch size {batch}" if batch else ""
    return Result(task, unit, units / mine, units / theirs, ratio, setting)
