"""Metric trackers: TensorBoard and Weights & Biases. Both copy log.jsonl."""

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rocketjax.config.changes import training_fields
from rocketjax.config.schema import Config
from rocketjax.runtime.errors import InputError, writing
from rocketjax.runtime.files import read_json, remove, write_json

FLUSHED = 10  # seconds after which TensorBoard sees a step
WITHOUT = "make room, or leave it out (--log.no-tensorboard)"


class Tracker(Protocol):
    """Receives a stage's steps, in order."""

    def write(self, step: int, values: Mapping[str, float], when: float) -> None:
        """Some values at a step; `when` that was, in seconds since 1970."""
        ...

    def close(self) -> None:
        """Called after the last step."""
        ...


class TensorBoard:
    """The event files of one stage, written afresh: the journal repeats the steps so far.

    Event files can only grow. Were they kept over a stop, steps that are taken back and trained
    again would stand in them twice.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError where event files cannot be written; so do the others."""
        # Not its SummaryWriter: that writes in a thread, whose death of a full disk nobody hears
        # of, and whose queue then stops the training for good.
        from tensorboardX.event_file_writer import EventsWriter  # its import takes a second

        remove(folder)
        self._folder, self._flushed = folder, time.monotonic()
        with writing(self._folder, WITHOUT):
            folder.mkdir(parents=True)
            self._events = EventsWriter(str(folder / "events"))

    def write(self, step: int, values: Mapping[str, float], when: float) -> None:
        """See `Tracker`."""
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore
        from tensorboardX.summary import scalar

        with writing(self._folder, WITHOUT):
            for name, value in values.items():
                event = Event(wall_time=when, step=step, summary=scalar(name, value))
                self._events.write_event(event)
            if time.monotonic() - self._flushed > FLUSHED:
                self._events.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """See `Tracker`."""
        with writing(self._folder, WITHOUT):
            self._events.close()


class Wandb:
    """One run of Weights & Biases for each stage, in a group of the run's name.

    It resumes where the stage does. Steps that are trained again have the same values, and W&B
    drops them by their number. wandb.json holds the runs' ids; a stage that starts over takes a
    new one.
    """

    def __init__(self, config: Config, folder: Path, stage: str, start: int) -> None:
        """Raises InputError where the library is missing, or nobody is logged in."""
        wandb = _library()
        path = folder / "wandb.json"
        ids = read_json(path) if path.is_file() else {}
        if not isinstance(ids, dict):
            raise InputError(f"{path}: damaged: not ids by stage; delete it, a new run begins")
        if start == 0 or not isinstance(ids.get(stage), str):
            ids[stage] = uuid.uuid4().hex
            write_json(path, ids)
        try:
            self._run = wandb.init(
                project=config.log.wandb,
                group=config.name,
                name=f"{config.name}: {stage}",
                id=ids[stage],
                resume="allow",
                config=training_fields(config),
                dir=str(folder),
            )
        except wandb.Error as error:
            raise InputError(
                f"--log.wandb: Weights & Biases cannot be used: {error}; see to it (wandb login), "
                "set WANDB_MODE=offline to send later, or leave it out"
            ) from error

    def write(self, step: int, values: Mapping[str, float], when: float) -> None:
        """See `Tracker`."""
        self._run.log(dict(values) | {"time": when}, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def check_wandb(config: Config) -> None:
    """Raises InputError if W&B is wanted and not available, before anything is trained."""
    if config.log.wandb:
        _library()


def _library() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "--log.wandb sends steps to Weights & Biases, whose library is missing; "
            "pip install 'rocketjax[wandb]', or leave it out"
        ) from error
    return wandb
