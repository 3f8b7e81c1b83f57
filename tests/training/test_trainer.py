"""A stage goes on where it was, with what it was trained with, and past steps that are bad."""

import dataclasses
import itertools
import json
import os
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import list_batch, packed

from rocketjax.config.schema import CheckpointConfig, Config, OptimizerConfig, StageConfig
from rocketjax.data.lists import TrainingList
from rocketjax.runtime import processes
from rocketjax.runtime import signals as preemption
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched
from rocketjax.training.loader import list_batches, lists_of_step
from rocketjax.training.loop import Feed, NonFiniteError
from rocketjax.training.losses import Term
from rocketjax.training.step import Objective
from rocketjax.training.trainer import train_stage

STAGE = StageConfig(6, 8, OptimizerConfig(retriever_lr=0.1, schedule="constant", warmup=0.0))
CONFIG = Config(checkpoint=CheckpointConfig(every=2))


def terms_of(params, batch, keys):
    """A row draws the parameters towards its number; -1 has no loss, -2 no gradient."""
    number = batch.query.first.reshape(-1, 1).astype(jnp.float32)
    x = params["retriever"]["kernel"]
    steep = jnp.sqrt(jnp.where(number == -2, x - jax.lax.stop_gradient(x), 1.0))
    squares = (x - number) ** 2 + steep
    squares = jnp.where(number == -1, jnp.nan, squares)
    return {"retriever": Term(jnp.sum(squares), jnp.float32(number.size))}


def batches(bad, start, left_out):
    """Step s draws towards s; a bad step has one bad row, of the second device alone."""
    base = packed(list_batch(rows=8, slots=1), devices=2)
    for step in itertools.count(start):
        if step != left_out:
            numbers = np.full(8, step, np.int32)
            numbers[7] = bad.get(step, step)
            yield base._replace(query=base.query._replace(first=numbers.reshape(2, 4)))


def train(
    folder,
    bad=None,
    stage=STAGE,
    config=CONFIG,
    lists="a",
    said=None,
    last=None,
    left_out=None,
    callbacks=(),
):
    """The trained parameters; `last`: a step before whose batch a SIGTERM comes."""

    class Feeds:
        length = 0

        def from_step(self, step, params):
            def numbered():
                for number, batch in enumerate(batches(bad or {}, step, left_out), step):
                    if number == last:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield batch

            return Feed(numbered(), lambda number: [f"q{number}", "other"], lists)

    params = {"retriever": {"kernel": jnp.arange(3.0)}}
    say = (lambda _: None) if said is None else said.append
    run = SimpleNamespace(
        config=config,
        folder=folder,
        say=say,
        watch=unwatched,
        callbacks=callbacks,
        commit=lambda: None,
    )
    objective = Objective(terms_of, {"retriever": 1.0})
    trained = train_stage(run, "joint", stage, params, objective, Feeds())
    return np.asarray(trained["retriever"]["kernel"])


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def preempt(folder, last, **options):
    with pytest.raises(preemption.Preempted), preemption.heeded():
        train(folder, last=last, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the stage gives that never stopped, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return train(folder), folder


def with_(section, **changes):
    return dataclasses.replace(section, **changes)


def test_the_lists_of_a_step_are_those_of_its_batch():
    lists = [TrainingList(f"q{i}", "p", ()) for i in range(11)]
    found = list_batches(lists, list, 4, seed=3, start=2)  # over the end of two passes
    assert [next(found) for _ in range(5)] == [lists_of_step(lists, 4, 3, s) for s in range(2, 7)]


@pytest.mark.parametrize("value", [-1, -2], ids=["loss", "gradient"])
def test_a_bad_step_is_left_out_counted_and_logged_with_its_queries(tmp_path, value):
    said = []
    skipped = train(tmp_path / "a", {2: value}, with_(STAGE, max_bad_steps=1), said=said)
    row = log(tmp_path / "a")[2]
    assert row.keys() == {"stage", "step", "bad", "queries"} and row["queries"] == ["q2", "other"]
    norms = "gradient_norm = inf, retriever_gradient_norm = inf"
    assert row["bad"] == ("loss = nan, retriever = nan" if value == -1 else norms)
    assert any("joint: step 2 is not applied: " in line for line in said)
    # As if there had never been such a batch.
    without = train(tmp_path / "b", stage=with_(STAGE, steps=5), left_out=2)
    np.testing.assert_array_equal(skipped, without)
    losses = [[row.get("loss") for row in log(tmp_path / name)] for name in ("a", "b")]
    assert losses[0][:2] + losses[0][3:] == losses[1]


def test_one_bad_step_too_many_stops_and_more_may_be_allowed_then(tmp_path):
    """The same bits as if they had been allowed from the start."""
    bad = {1: -1, 3: -1, 4: -2}
    expected = train(tmp_path / "whole", bad, with_(STAGE, max_bad_steps=3))
    with pytest.raises(NonFiniteError, match=r"step 3: loss = nan, .*; queries q3, other"):
        train(tmp_path / "run", bad, with_(STAGE, max_bad_steps=1))
    assert [path.name for path in (tmp_path / "run/checkpoints/joint").iterdir()] == ["2"]
    with pytest.raises(NonFiniteError, match="step 4: gradient_norm"):  # the first one still counts
        train(tmp_path / "run", bad, with_(STAGE, max_bad_steps=2))
    got = train(tmp_path / "run", bad, with_(STAGE, max_bad_steps=3))
    np.testing.assert_array_equal(got, expected)
    assert log(tmp_path / "run") == log(tmp_path / "whole")


def test_all_leave_a_step_once_it_is_saved(tmp_path, monkeypatch):
    """Of several processes, who leaves ends process 0, which saves."""
    there = []

    def barrier():
        there.append([path.parent.name for path in tmp_path.rglob("sums.json")])

    monkeypatch.setattr(processes, "barrier", barrier)
    preempt(tmp_path, 2)
    assert len(there) == 1 and "3" in there[0]


def test_other_options_or_lists_are_refused(tmp_path):
    preempt(tmp_path, 2)
    seeded = with_(CONFIG, seed=7, lists=with_(CONFIG.lists, length=3))
    with pytest.raises(InputError, match=r"\(seed: 1 -> 7; lists.length: 8 -> 3\).*--from joint"):
        train(tmp_path, config=seeded)
    with pytest.raises(InputError, match="step 3 of joint was trained with other lists or texts"):
        train(tmp_path, lists="b")
    often = with_(CONFIG, checkpoint=CheckpointConfig(every=1, keep=5))
    train(tmp_path, config=often)  # which changes nothing of what is trained


def test_options_of_later_stages_may_change_while_it_is_stopped(tmp_path):
    preempt(tmp_path, 2)
    later = with_(CONFIG, evaluate=with_(CONFIG.evaluate, top_k=100, relevant=2))
    said = []
    train(tmp_path, config=later, said=said)
    assert "joint: resumes at step 3" in said


def test_a_preempted_stage_goes_on_with_the_same_bits(tmp_path, whole):
    for last in (0, 2, 4):
        preempt(tmp_path / "run", last)
        saved = tmp_path / "run/checkpoints/joint"
        assert max(int(path.name) for path in saved.iterdir()) == last + 1
    np.testing.assert_array_equal(train(tmp_path / "run"), whole[0])
    assert log(tmp_path / "run") == log(whole[1])


def test_a_stage_may_end_with_its_best(tmp_path, whole):
    """Each step's batch is farther off than the one before: the first checkpoint is the best."""
    first = train(tmp_path / "first", stage=with_(STAGE, steps=2))
    best = with_(CONFIG, checkpoint=CheckpointConfig(every=2, keep=1, take="best"))
    said = []
    got = train(tmp_path / "best", config=best, said=said)
    np.testing.assert_array_equal(got, first)
    assert "joint: ends with its best checkpoint, that of step 2" in said
    preempt(tmp_path / "stopped", 0, config=best)  # step 1's is better, but no stop may matter
    np.testing.assert_array_equal(train(tmp_path / "stopped", config=best), first)
    assert (whole[0] != first).all()


def test_a_stage_without_a_good_checkpoint_starts_anew_and_says_so(tmp_path, whole):
    preempt(tmp_path / "run", 2)
    for path in (tmp_path / "run/checkpoints/joint").glob("*/sums.json"):
        path.write_text("{}")
    said = []
    np.testing.assert_array_equal(train(tmp_path / "run", said=said), whole[0])
    assert sum("damaged" in line for line in said) == 2 and "joint: starts at step 0" in said
    assert log(tmp_path / "run") == log(whole[1])


def test_fewer_devices_go_on_with_the_same_batches(tmp_path, whole, monkeypatch):
    preempt(tmp_path / "run", 2)
    few = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: few)
    monkeypatch.setattr(jax, "local_devices", lambda *_: few)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    said = []
    got = train(tmp_path / "run", said=said)
    assert any("2 devices until now, 1 from here" in line for line in said)
    np.testing.assert_allclose(got, whole[0], rtol=1e-6)
    for row, want in zip(log(tmp_path / "run"), log(whole[1]), strict=True):
        assert row.pop("stage") == want.pop("stage")
        assert row == pytest.approx(want, rel=1e-5)
