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
