"""The log holds every step once, in order, however often a run was stopped."""

import json
from pathlib import Path

import pytest

from rocketjax.runtime.errors import InputError
from rocketjax.training.journal import TrainLog


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_stage_that_goes_on_takes_back_what_it_wrote_beyond(tmp_path):
    path = tmp_path / "log.jsonl"
    warm = TrainLog(path, "warm", 0)
    for step in range(3):
        warm.write({"step": step, "loss": 1.0})
    joint = TrainLog(path, "joint", 0)
    for step in range(5):
        joint.write({"step": step, "loss": 2.0})
    with path.open("a") as file:
        file.write('{"stage": "joint", "st')  # killed while writing
    joint = TrainLog(path, "joint", 2)
    joint.write({"step": 2, "loss": 3.0})
    assert [(row["stage"], row["step"]) for row in rows(path)] == [
        *(("warm", step) for step in range(3)),
        *(("joint", step) for step in range(3)),
    ]
    assert rows(path)[-1]["loss"] == 3.0


def test_the_running_loss_is_the_same_after_a_stop(tmp_path):
    """A skipped step has no loss, and another stage's losses are its own."""
    path = tmp_path / "log.jsonl"
    TrainLog(path, "warm", 0).write({"step": 0, "loss": 100.0})
    log = TrainLog(path, "joint", 0)
    assert log.loss is None
    losses = [3.0, 2.7, 2.1, 1.9]
    for step, loss in enumerate(losses):
        log.write({"step": step, "loss": loss})
    log.write({"step": 4, "bad": "loss = nan", "queries": ["q"]})
    assert 1.9 < log.loss < 3.0
    again = TrainLog(path, "joint", 2)
    for step in (2, 3):
        again.write({"step": step, "loss": losses[step]})
    assert again.loss == log.loss  # to the last bit


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"7", b'{"stage": "joint"}', b'{"stage": 1, "step": 2}', b"\xff", b"[" * 100_000],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path, line):
    path = tmp_path / "log.jsonl"
    TrainLog(path, "joint", 0).write({"step": 0, "loss": 1.0})
    whole = path.read_bytes() + line + b"\n"
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"log\.jsonl:2: no step of a training log"):
        TrainLog(path, "joint", 1)
    assert path.read_bytes() == whole


def test_a_full_disk_is_bad_input():
    with pytest.raises(InputError, match=r"^/dev/full: cannot be written: No space left"):
        TrainLog(Path("/dev/full"), "joint", 0).write({"step": 0, "loss": 1.0})
