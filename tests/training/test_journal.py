"""What is noted of steps: once each, in order, whoever is told and however often stopped."""

import errno
import json
import struct
import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest
from test_trainer import CONFIG, STAGE, preempt, train, with_
from tiny import list_batch, packed

from rocketjax.config.schema import EvaluateConfig, LogConfig
from rocketjax.runtime.errors import InputError
from rocketjax.training import trainer as training
from rocketjax.training.callbacks import Callback
from rocketjax.training.journal import tokens_read
from rocketjax.training.trackers import TensorBoard, check_wandb


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(folder):
    """(tag, step, value, time) of every point in a folder's event files, in their order."""
    from tensorboardX.proto.event_pb2 import Event

    points = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, an event, its checksum
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            points += [
                (value.tag, event.step, value.simple_value, event.wall_time)
                for value in event.summary.value
            ]
            at += 16 + size
    return points


def test_tensorboard_has_every_step_once_after_stops(tmp_path):
    """Steps that were taken back and trained again, too; the log says the same."""
    folder = tmp_path / "run"
    preempt(folder, 3)
    before = {(tag, step): when for tag, step, _, when in events(folder / "tensorboard" / "joint")}
    preempt(folder, 4)
    train(folder)
    points = events(folder / "tensorboard" / "joint")
    log = rows(folder / "log.jsonl")
    told = {tag: [(step, value) for t, step, value, _ in points if t == tag] for tag, *_ in points}
    assert told.keys() == {
        *("loss", "retriever", "gradient_norm", "speed/step_seconds", "speed/tokens_per_second"),
        *("retriever_gradient_norm", "retriever_clipped"),
    }
    for tag, found in told.items():
        assert [step for step, _ in found] == list(range(6)), tag
        if "/" not in tag:
            wanted = [np.float32(row[tag]) for row in log]
            assert [value for _, value in found] == wanted, tag
    times = {(tag, step): when for tag, step, _, when in points}
    assert len(before) == 4 * 7  # what was told before the first stop keeps its time
    assert all(abs(times[point] - when) < 0.01 for point, when in before.items())
    assert [row["step"] for row in rows(folder / "timing.jsonl")] == list(range(6))


def test_a_full_disk_stops_a_step_with_the_folders_name(tmp_path, monkeypatch):
    """And does not hang: its own writer has a thread that dies of it."""
    board = TensorBoard(tmp_path / "events")

    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboardX.event_file_writer.EventsWriter.flush", full)
    monkeypatch.setattr("rocketjax.training.trackers.FLUSHED", -1)
    with pytest.raises(InputError, match=r"/events: cannot be written: No space .*no-tensorboard"):
        board.write(0, {"loss": 1.0}, 0.0)
    monkeypatch.undo()
    board.close()


def test_tensorboard_can_be_left_out(tmp_path):
    train(tmp_path, config=with_(CONFIG, log=LogConfig(tensorboard=False)))
    assert not (tmp_path / "tensorboard").exists() and len(rows(tmp_path / "timing.jsonl")) == 6


def test_tokens_are_counted_and_the_slots_that_hold_them():
    """What each model reads, of slots of lists that are taken."""
    batch = list_batch(rows=8, slots=5)
    batch = batch._replace(  # an empty slot holds one token
        query=batch.query._replace(length=np.where(batch.valid[:, 0], batch.query.length, 1)),
        passage=batch.passage._replace(length=np.where(batch.valid, batch.passage.length, 1)),
        pair=batch.pair._replace(length=np.where(batch.valid, batch.pair.length, 1)),
    )
    valid = batch.valid
    passages = sum(batch.passage.length[valid].tolist())
    queries = sum(batch.query.length[valid[:, 0]].tolist())
    pairs = sum(batch.pair.length[valid].tolist())
    assert not valid.all() and not valid[1].any()
    rows = packed(batch, devices=2, chunk=3)
    of_retriever = rows.query.ids.size + rows.passage.ids.size
    assert tokens_read(rows, ["retriever"]) == (passages + queries, of_retriever)
    assert tokens_read(rows, ["reranker"]) == (pairs, rows.pair.ids.size)
    both = passages + queries + pairs, of_retriever + rows.pair.ids.size
    assert tokens_read(rows, ["retriever", "reranker"]) == both


@contextmanager
def judged_on_the_way():
    """train() is; the steps at which, and the kernel's mean as the measure."""
    real, asked = training.train_stage, []

    def judge(step, params):
        asked.append(step)
        return {"retriever MRR@10": float(np.mean(np.asarray(params["retriever"]["kernel"])))}

    def judged(*args):
        return real(*args, judge=judge)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_trainer.train_stage", judged)
        yield asked


@pytest.fixture
def judging():
    with judged_on_the_way() as asked:
        yield asked


def test_models_are_judged_at_their_steps_and_train_as_if_they_were_not(tmp_path, judging):
    config = with_(CONFIG, evaluate=EvaluateConfig(every=4))
    looked = train(tmp_path / "looked", config=config)
    assert judging == [0, 4, 6]
    judged = rows(tmp_path / "looked" / "judged.jsonl")
    assert [row["step"] for row in judged] == [0, 4, 6]
    told = events(tmp_path / "looked" / "tensorboard" / "joint")
    at = [step for tag, step, _, _ in told if tag == "held-out/retriever_MRR_at_10"]
    assert at == [0, 4, 6]
    assert judged[0]["retriever MRR@10"] == 1.0  # of 0, 1, 2: nothing is trained yet
    assert judged[2]["retriever MRR@10"] == pytest.approx(float(looked.mean()), rel=1e-6)
    train(tmp_path / "often", config=with_(CONFIG, evaluate=EvaluateConfig(every=1)))
    one, other = ((tmp_path / name / "log.jsonl").read_bytes() for name in ("looked", "often"))
    assert one == other


EVERY_OTHER = with_(CONFIG, evaluate=EvaluateConfig(every=2))


@pytest.fixture(scope="module")
def judgements(tmp_path_factory):
    """Those of a stage that never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with judged_on_the_way():
        train(folder, config=EVERY_OTHER)
    return folder / "judged.jsonl"


@pytest.mark.parametrize("last", [0, 1, 3, 4, 5])
def test_a_stop_loses_no_judgement_and_repeats_none(tmp_path, judgements, judging, last):
    preempt(tmp_path, last, config=EVERY_OTHER)
    train(tmp_path, config=EVERY_OTHER)
    assert (tmp_path / "judged.jsonl").read_bytes() == judgements.read_bytes()
    assert len(rows(judgements)) == 4


@pytest.mark.parametrize("step", [2, 6])
def test_a_judgement_that_a_callback_did_not_take_is_told_again(tmp_path, judging, step):
    """Once its step is saved, and at the last one."""
    fails, told = [step], []

    class Fails(Callback):
        def on_judged(self, stage, step, measures):
            if step in fails:
                fails.remove(step)
                raise OSError("the tracker is away")
            told.append(step)

    with pytest.raises(OSError, match="away"):
        train(tmp_path, config=EVERY_OTHER, callbacks=[Fails()])
    train(tmp_path, config=EVERY_OTHER, callbacks=[Fails()])
    assert told == [0, 2, 4, 6] == [row["step"] for row in rows(tmp_path / "judged.jsonl")]


# ---- Weights & Biases


@pytest.fixture
def stand_in(monkeypatch):
    """A library that notes what it is asked: (id, step, values), and how runs were opened."""
    module = types.ModuleType("wandb")
    module.opened, module.told, module.closed = [], [], 0

    def init(**options):
        module.opened.append(options)

        def log(values, step):
            module.told.append((options["id"], step, values))

        def finish():
            module.closed += 1

        return types.SimpleNamespace(log=log, finish=finish)

    module.init = init
    module.Error = type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_is_told_only_if_asked_and_goes_on_in_its_run(tmp_path, stand_in):
    train(tmp_path / "quiet")
    assert stand_in.opened == []
    config = with_(CONFIG, log=LogConfig(wandb="project"), name="mine")
    preempt(tmp_path / "run", 3, config=config)
    train(tmp_path / "run", config=config)
    first, second = stand_in.opened
    assert first["id"] == second["id"] and first["resume"] == "allow" and stand_in.closed == 2
    assert (first["project"], first["group"], first["name"]) == ("project", "mine", "mine: joint")
    assert first["config"]["joint.steps"] == CONFIG.joint.steps
    told = [(step, values["loss"]) for _, step, values in stand_in.told]
    assert told == [(row["step"], row["loss"]) for row in rows(tmp_path / "run" / "log.jsonl")]
    train(tmp_path / "other", stage=with_(STAGE, steps=1), config=config)
    assert stand_in.opened[2]["id"] != first["id"]


def test_without_its_library_wandb_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_wandb(CONFIG)
    with pytest.raises(InputError, match=r"--log.wandb .*library is missing; .*rocketjax\[wandb\]"):
        check_wandb(with_(CONFIG, log=LogConfig(wandb="project")))


def test_a_wandb_that_refuses_is_one_clear_error(tmp_path, stand_in, monkeypatch):
    def refuse(**options):
        raise stand_in.Error("no key")

    monkeypatch.setattr(stand_in, "init", refuse)
    with pytest.raises(InputError, match=r"--log.wandb: .*no key; .*WANDB_MODE=offline"):
        train(tmp_path / "run", config=with_(CONFIG, log=LogConfig(wandb="project")))


@pytest.mark.filterwarnings("ignore")  # of the library's own making
def test_the_real_library_takes_a_stage_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = with_(CONFIG, log=LogConfig(wandb="project"))
    preempt(tmp_path / "run", 3, config=config)
    train(tmp_path / "run", config=config)
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 2
