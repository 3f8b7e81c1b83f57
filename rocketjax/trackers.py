"""Who else is told of every step: TensorBoard and Weights & Biases. log.jsonl is what they copy."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rocketjax.config import Config, training_fields
from rocketjax.errors import InputError
from rocketjax.files import read_json, remove, write_text

FLUSHED = 10  # seconds after which TensorBoard sees a step


class Tracker(Protocol):
    """Is told of a stage's steps, in their order."""

    def write(self, step: int, values: Mapping[str, float], time: float) -> None:
        """Some values at a step; `time`: when that was, in seconds since 1970."""
        ...

    def close(self) -> None:
        """All steps are told."""
        ...


class TensorBoard:
    """The event files of one stage, made anew: who opens them tells all steps that there are.

    Event files can only grow. Were they kept over a stop, steps that are taken back and trained
    again would stand in them twice.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter  # its import takes a second

        remove(folder)
        self._writer = SummaryWriter(str(folder), flush_secs=FLUSHED)

    def write(self, step: int, values: Mapping[str, float], time: float) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, time)

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class Wandb:
    """One run of Weights & Biases for each stage, in a group of the run's name.

    It goes on where the stage does. Steps that are trained again have the same values, and W&B
    drops them by their number. wandb.json holds the runs' ids; a stage that starts anew takes a
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
            write_text(path, json.dumps(ids, indent=2) + "\n")
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

    def write(self, step: int, values: Mapping[str, float], time: float) -> None:
        """See `Tracker`."""
        self._run.log(dict(values) | {"time": time}, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def check_wandb(config: Config) -> None:
    """Raises InputError where W&B is asked for and cannot be had: before anything is trained."""
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
