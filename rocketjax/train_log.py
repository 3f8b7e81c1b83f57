"""log.jsonl and its like: something of every training step, one JSON object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rocketjax.distributed import is_main
from rocketjax.errors import InputError, writing
from rocketjax.files import write_text

SMOOTHING = 0.9  # of the running mean: it looks back some 10 steps


class TrainLog:
    """Appends a stage's steps; a stage that goes on at `start` takes back what it wrote beyond.

    `loss` is the running mean of the stage's loss, None before its first step; it hangs on the
    lines alone, so that a stop does not change it.
    Where several processes run, process 0 writes, and it alone follows the loss.
    """

    def __init__(self, path: Path, stage: str, start: int) -> None:
        """Opens the log; lines of this stage from step `start` on are dropped, torn ones too."""
        self.path = path
        self.stage = stage
        self.loss: float | None = None
        if not is_main():
            return
        for row in take_back(path, stage, start):
            if row["stage"] == stage:
                self._follow(row)

    def write(self, values: dict[str, Any]) -> None:
        """Adds one step's line. Raises InputError where it cannot."""
        if not is_main():
            return
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage} | values) + "\n")
        self._follow(values)

    def _follow(self, values: dict[str, Any]) -> None:
        if (loss := values.get("loss")) is not None:  # none of a skipped step
            before = loss if self.loss is None else self.loss
            self.loss = SMOOTHING * before + (1 - SMOOTHING) * loss


def take_back(path: Path, stage: str, start: int) -> list[dict[str, Any]]:
    """Drops a stage's lines from step `start` on, and torn ones; returns those that stay."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    rows = [
        (line, _row(path, number, line))
        for number, line in enumerate(lines, 1)
        if line.endswith(b"\n")
    ]
    kept = [(line, row) for line, row in rows if row["stage"] != stage or row["step"] < start]
    if len(kept) < len(lines):
        write_text(path, b"".join(line for line, _ in kept).decode())
    return [row for _, row in kept]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of such a file, which may be growing; none where there is no file.

    Raises:
        InputError: a line is no step.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _row(path, number, line)


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        known = isinstance(row["stage"], str) and isinstance(row["step"], int)
        loss = row.get("loss")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known, row, loss = False, {}, None
    if not known or not (loss is None or isinstance(loss, int | float)):
        raise InputError(f"{path}:{number}: no step of a training log; delete the line")
    return row
