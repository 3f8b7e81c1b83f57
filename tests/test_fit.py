"""The loop: every metric in order, no batch too many, stops where it must or is asked to."""

import jax.numpy as jnp
import pytest

import rocketjax.training.loop as fit_module
from rocketjax.runtime.signals import Preempted
from rocketjax.training.loop import NonFiniteError, fit


@pytest.fixture(autouse=True, params=["as on a CPU", "as on an accelerator"])
def in_flight(request, monkeypatch):
    if request.param == "as on an accelerator":
        monkeypatch.setattr(fit_module, "_in_flight", lambda: 2)


def adding(losses=None):
    """A step whose state is the list of batches it was given."""

    def step(state, batch):
        loss = batch if losses is None else losses[batch]
        return [*state, batch], {"loss": jnp.float32(loss), "norm": jnp.float32(2 * batch)}

    return step


def queries_of(step):
    """Ten queries a step."""
    return [f"q{step}-{i}" for i in range(10)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_every_step_is_reported_in_order(count):
    said = []
    steps = range(10, 10 + count)
    state = fit([], adding(), iter(range(100)), queries_of, steps, said.append)
    assert state == list(range(count))
    assert said == [
        {"step": number, "loss": float(i), "norm": 2.0 * i} for i, number in enumerate(steps)
    ]
    assert all(type(row["loss"]) is float for row in said)


def test_no_batch_too_many_is_taken():
    batches = iter(range(100))
    fit([], adding(), batches, queries_of, range(5), lambda _: None)
    assert next(batches) == 5


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_what_is_not_finite_stops_training_and_is_named(value, at):
    said, batches = [], iter(range(100))
    losses = [1.0] * 100
    losses[at] = float(value)
    with pytest.raises(NonFiniteError, match=f"step {at + 1}: loss = {value}; queries q") as raised:
        fit([], adding(losses), batches, queries_of, range(1, 7), said.append)
    assert f"q{at + 1}-7 and 2 others" in str(raised.value)
    assert [row["step"] for row in said] == list(range(1, at + 2))
    assert said[-1] == {"step": at + 1, "bad": f"loss = {value}", "queries": queries_of(at + 1)}
    assert next(batches) <= at + 3  # the steps in flight, no more


@pytest.mark.parametrize(("spare", "passes"), [(0, False), (1, False), (2, True), (3, True)])
def test_so_many_bad_steps_are_passed_over(spare, passes):
    said, counted = [], []
    losses = [1.0, float("nan"), 1.0, float("inf"), 1.0]
    arguments = ([], adding(losses), iter(range(9)), queries_of, range(5), said.append)
    if passes:
        fit(*arguments, advance=counted.append, spare=spare)
        assert sum(counted) == 5
    else:
        with pytest.raises(NonFiniteError, match=f"step {(1, 3)[spare]}: loss"):
            fit(*arguments, spare=spare)
    bad = [row["step"] for row in said if "bad" in row]
    assert bad == ([1, 3] if spare else [1])


def test_what_asks_it_to_stop_is_heard_after_the_step_and_the_state_saved():
    events, asked = [], iter([False, False, True])
    with pytest.raises(Preempted):
        fit(
            [],
            adding(),
            iter(range(100)),
            queries_of,
            range(10, 99),
            lambda row: events.append(row["step"]),
            save=lambda done, state: events.append((done, len(state))),
            save_every=50,
            stop=lambda: next(asked),
        )
    assert events == [10, 11, 12, (13, 3)]


def test_a_state_is_saved_once_all_its_metrics_are_known():
    events = []
    fit(
        [],
        adding(),
        iter(range(100)),
        queries_of,
        range(2, 9),
        lambda row: events.append(row["step"]),
        save=lambda done, state: events.append((done, len(state))),
        save_every=3,
    )
    assert events == [2, (3, 1), 3, 4, 5, (6, 4), 6, 7, 8, (9, 7)]


def test_what_is_not_finite_is_never_saved():
    saved = []
    losses = [1.0, 1.0, float("nan"), 1.0]
    with pytest.raises(NonFiniteError):
        fit(
            [],
            adding(losses),
            iter(range(9)),
            queries_of,
            range(9),
            lambda _: None,
            save=saved.append,
            save_every=3,
        )
    assert saved == []


def test_progress_counts_every_step():
    counted = []
    fit([], adding(), iter(range(9)), queries_of, range(7), lambda _: None, advance=counted.append)
    assert sum(counted) == 7
