"""The loop: every metric in order, no batch too many, a stop at the first that is not finite."""

import jax.numpy as jnp
import pytest

from rocketjax.fit import NonFiniteError, fit


def adding(losses=None):
    """A step whose state is the list of batches it was given."""

    def step(state, batch):
        loss = batch if losses is None else losses[batch]
        return [*state, batch], {"loss": jnp.float32(loss), "norm": jnp.float32(2 * batch)}

    return step


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_every_step_is_reported_in_order(count):
    said = []
    steps = range(10, 10 + count)
    state = fit([], adding(), iter(range(100)), steps, said.append)
    assert state == list(range(count))
    assert said == [
        {"step": number, "loss": float(i), "norm": 2.0 * i} for i, number in enumerate(steps)
    ]
    assert all(type(row["loss"]) is float for row in said)


def test_no_batch_too_many_is_taken():
    batches = iter(range(100))
    fit([], adding(), batches, range(5), lambda _: None)
    assert next(batches) == 5


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_what_is_not_finite_stops_training_and_is_named(value, at):
    said, batches = [], iter(range(100))
    losses = [1.0] * 100
    losses[at] = float(value)
    with pytest.raises(NonFiniteError, match=f"step {at + 1}: loss = {value}; lower the"):
        fit([], adding(losses), batches, range(1, 7), said.append)
    assert [row["step"] for row in said] == list(range(1, at + 1))
    assert next(batches) <= at + 3  # the steps in flight, no more


def test_a_state_is_saved_once_all_its_metrics_are_known():
    events = []
    fit(
        [],
        adding(),
        iter(range(100)),
        range(2, 9),
        lambda row: events.append(row["step"]),
        lambda done, state: events.append((done, len(state))),
        save_every=3,
    )
    assert events == [2, (3, 1), 3, 4, 5, (6, 4), 6, 7, 8, (9, 7)]


def test_what_is_not_finite_is_never_saved():
    saved = []
    losses = [1.0, 1.0, float("nan"), 1.0]
    with pytest.raises(NonFiniteError):
        fit([], adding(losses), iter(range(9)), range(9), lambda _: None, saved.append, 3)
    assert saved == []


def test_progress_counts_every_step():
    counted = []
    fit([], adding(), iter(range(9)), range(7), lambda _: None, advance=counted.append)
    assert sum(counted) == 7
