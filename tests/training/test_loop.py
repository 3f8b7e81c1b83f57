"""The loop: every metric in order, no batch too many, stops where it must or is asked to."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import pytest

from rocketjax.runtime.signals import Preempted
from rocketjax.training.loop import Feed, NonFiniteError, fit


@pytest.fixture(autouse=True, params=["cpu", "gpu"])
def platform(request, monkeypatch):
    """On an accelerator, metrics of some steps are still on the device."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@dataclass
class Recorder:
    """Hooks that write down their calls, in order: steps, and (steps done, size of the state)."""

    every: int = 1_000
    stop: Callable[[], bool] = lambda: False
    rows: list = field(default_factory=list)
    events: list = field(default_factory=list)

    def on_metrics(self, metrics):
        self.rows.append(metrics)
        self.events.append(metrics["step"])

    def should_stop(self):
        return self.stop()

    def wants_state(self, done):
        return done % self.every == 0

    def on_state(self, done, state, stopping):
        self.events.append((done, len(state)) + ("stopping",) * stopping)


def queries_of(step):
    """Ten queries a step."""
    return [f"q{step}-{i}" for i in range(10)]


def run(steps, hooks, losses=None, batches=None, tolerated=0):
    """Runs a step whose state is the list of batches it was given."""

    def step(state, batch):
        loss = batch if losses is None else losses[batch]
        return [*state, batch], {"loss": jnp.float32(loss), "norm": jnp.float32(2 * batch)}

    feed = Feed(iter(range(100)) if batches is None else batches, queries_of)
    return fit([], step, feed, steps, hooks, tolerated)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_every_step_is_reported_in_order(count):
    hooks, steps = Recorder(), range(10, 10 + count)
    assert run(steps, hooks) == list(range(count))
    assert hooks.rows == [
        {"step": number, "loss": float(i), "norm": 2.0 * i} for i, number in enumerate(steps)
    ]
    assert all(type(row["loss"]) is float for row in hooks.rows)


def test_no_batch_too_many_is_taken():
    batches = iter(range(100))
    run(range(5), Recorder(), batches=batches)
    assert next(batches) == 5


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_what_is_not_finite_stops_training_and_is_named(value, at):
    hooks, batches = Recorder(), iter(range(100))
    losses = [1.0] * 100
    losses[at] = float(value)
    with pytest.raises(NonFiniteError, match=f"step {at + 1}: loss = {value}; queries q") as raised:
        run(range(1, 7), hooks, losses, batches)
    assert f"q{at + 1}-7 and 2 others" in str(raised.value)
    assert [row["step"] for row in hooks.rows] == list(range(1, at + 2))
    bad = {"step": at + 1, "bad": f"loss = {value}", "queries": queries_of(at + 1)}
    assert hooks.rows[-1] == bad
    assert next(batches) <= at + 3  # the steps in flight, no more


@pytest.mark.parametrize(("tolerated", "stops_at"), [(0, 1), (1, 3), (2, None), (3, None)])
def test_as_many_bad_steps_are_passed_over_as_are_tolerated(tolerated, stops_at):
    hooks = Recorder()
    losses = [1.0, float("nan"), 1.0, float("inf"), 1.0]
    if stops_at is None:
        run(range(5), hooks, losses, tolerated=tolerated)
        assert len(hooks.rows) == 5
    else:
        with pytest.raises(NonFiniteError, match=f"step {stops_at}: loss"):
            run(range(5), hooks, losses, tolerated=tolerated)
    bad = [row["step"] for row in hooks.rows if "bad" in row]
    assert bad == ([1] if stops_at == 1 else [1, 3])


def test_it_stops_after_the_step_and_hands_over_the_state():
    answers = iter([False, False, True])
    hooks = Recorder(every=50, stop=lambda: next(answers))
    with pytest.raises(Preempted):
        run(range(10, 99), hooks)
    assert hooks.events == [10, 11, 12, (13, 3, "stopping")]


def test_a_state_is_handed_over_once_all_its_metrics_are_known():
    hooks = Recorder(every=3)
    run(range(2, 9), hooks)
    assert hooks.events == [2, (3, 1), 3, 4, 5, (6, 4), 6, 7, 8, (9, 7)]


def test_a_state_that_is_not_finite_is_never_handed_over():
    hooks = Recorder(every=3)
    with pytest.raises(NonFiniteError):
        run(range(9), hooks, [1.0, 1.0, float("nan"), 1.0])
    assert not [event for event in hooks.events if isinstance(event, tuple)]
