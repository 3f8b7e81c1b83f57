"""log.jsonl and its like: something of every training step, one JSON object a line."""

import json
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rocketjax.config.schema import Config
from rocketjax.runtime.errors import InputError, writing
from rocketjax.runtime.files import remove, write_text
from rocketjax.runtime.processes import from_main, is_main
from rocketjax.text.batch import ListBatch
from rocketjax.training.trackers import TensorBoard, Tracker, Wandb

SMOOTHING = 0.9  # of the running mean: it looks back some 10 steps


class TrainLog:
    """Appends a stage's steps; a stage that resumes at `start` takes back what it wrote beyond.

    `loss` is the running mean of the stage's loss, None before its first step; it depends on
    the lines alone, so a stop does not change it.
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


FILES = ("log.jsonl", "judged.jsonl", "timing.jsonl")


class Journal:
    """Notes a stage's steps from `start` on; what stands there of later ones is taken back.

    `time` is when a step's metrics were there, `seconds` what went by since those of the step
    before: saving is counted, and so is compiling, but not mining and judging. `tokens` are those
    that the trained models read, of `slots` that they computed. Where several processes run,
    process 0 notes.
    """

    def __init__(
        self, config: Config, folder: Path, stage: str, start: int, models: Collection[str]
    ) -> None:
        """`models`: those that are trained, retriever or reranker or both."""
        self.log = TrainLog(folder / "log.jsonl", stage, start)
        self._models = models
        self._timing = TrainLog(folder / "timing.jsonl", stage, start)
        self._judged = TrainLog(folder / "judged.jsonl", stage, start + 1 if start else 0)
        self._read: deque[Read] = deque()  # of steps whose metrics are not there yet
        self._since = time.monotonic()
        self._looked = {r["step"] for r in read_rows(self._judged.path) if r["stage"] == stage}
        self._trackers: list[Tracker] = []
        logged_in = is_main() and config.log.wandb
        wandb = [Wandb(config, folder, stage, start)] if logged_in else []
        if is_main() and config.log.tensorboard:
            self._trackers.append(TensorBoard(folder / "tensorboard" / stage))
            self._retell(stage)
        self._trackers += wandb

    def rewind_clock(self) -> None:
        """What was done until now is no part of the next step."""
        self._since = time.monotonic()

    def counted(self, batches: Iterator[ListBatch]) -> Iterator[ListBatch]:
        """The same batches, whose tokens are counted; each is to become a step."""
        for batch in batches:
            self._read.append(tokens_read(batch, self._models))
            yield batch

    def step(self, values: dict[str, Any]) -> None:
        """Notes a step: its number, and its metrics or what was bad about it."""
        now, read = time.monotonic(), self._read.popleft()
        timing = {
            "step": values["step"],
            "time": round(time.time(), 3),
            "seconds": max(round(now - self._since, 4), 1e-4),  # a clock's tick, to divide by
            "tokens": read.tokens,
            "slots": read.slots,
        }
        self._since = now
        self.log.write(values)
        self._timing.write(timing)
        self._tell(values["step"], _metrics(values) | _speed(timing), timing["time"])

    def is_judged(self, step: int) -> bool:
        """Whether the models were judged after `step` updates."""
        return from_main(lambda: step in self._looked)

    def judged(self, step: int, values: Mapping[str, float]) -> None:
        """Notes how good the models are after `step` updates, by measure."""
        self._tell(step, _held_out(values), time.time())
        self._judged.write({"step": step} | dict(values))  # once all know: it is not told again
        self._looked.add(step)

    def close(self) -> None:
        """The trackers have all steps."""
        for tracker in self._trackers:
            tracker.close()

    def _tell(self, step: int, values: Mapping[str, float], when: float) -> None:
        for tracker in self._trackers:
            tracker.write(step, values, when)

    def _retell(self, stage: str) -> None:
        """Tells the steps that stay, with the times at which they were made."""
        log, timing, judged = (
            {row["step"]: row for row in read_rows(path) if row["stage"] == stage}
            for path in (self.log.path, self._timing.path, self._judged.path)
        )
        when = time.time()
        for step in sorted({*log, *judged}):
            clock = timing.get(step)
            when = clock["time"] if clock else when
            values = _metrics(log.get(step, {})) | (_speed(clock) if clock else {})
            self._tell(step, values | _held_out(judged.get(step, {})), when)


def forget(folder: Path, stage: str) -> None:
    """Takes back all that was noted of a stage."""
    for name in FILES:
        take_back(folder / name, stage, 0)
    remove(folder / "tensorboard" / stage)


class Read(NamedTuple):
    """What the trained models read of a batch."""

    tokens: int
    slots: int  # of their rows, empty ones too, which cost as much


def tokens_read(batch: ListBatch, models: Collection[str]) -> Read:
    """Tokens of a batch's lists that these models read, and the slots that they compute.

    A query counts once for the retriever, and in each pair for the re-ranker. What fills up an
    empty slot of a list does not count as a token.
    """
    valid = np.asarray(batch.valid)
    read = {
        "retriever": [(batch.query, valid[:, :1]), (batch.passage, valid)],
        "reranker": [(batch.pair, valid)],
    }
    kinds = [kind for model in models for kind in read[model]]
    tokens = sum(int(np.sum(np.asarray(rows.text) >= 0) - np.sum(~taken)) for rows, taken in kinds)
    return Read(tokens, sum(rows.text.size for rows, _ in kinds))


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, float)}


def _held_out(values: Mapping[str, Any]) -> dict[str, float]:
    """By names that TensorBoard takes as they are."""
    tags = {name: name.replace(" ", "_").replace("@", "_at_") for name in values}
    return {f"held-out/{tags[name]}": value for name, value in _metrics(values).items()}


def _speed(timing: Mapping[str, Any]) -> dict[str, float]:
    seconds = timing["seconds"]
    return {"speed/step_seconds": seconds, "speed/tokens_per_second": timing["tokens"] / seconds}
