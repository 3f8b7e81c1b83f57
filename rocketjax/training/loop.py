"""The training loop: feeds batches to a step, fetches metrics late, stops at NaN or when asked."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax

from rocketjax.runtime.signals import Preempted
from rocketjax.text.batch import ListBatch
from rocketjax.training.step import Metrics, TrainState

Step: TypeAlias = Callable[[TrainState, ListBatch], tuple[TrainState, Metrics]]

NAMED = 8  # queries of a bad step that an error names; the log has all


class NonFiniteError(FloatingPointError):
    """Training diverged; the message names the step, the term and the batch's queries."""


class Feed(NamedTuple):
    """The batches of one round of training, from a step on."""

    batches: Iterator[ListBatch]
    queries_of: Callable[[int], Sequence[str]]  # the query ids of a step's batch
    lists: str = ""  # a hash of the lists and texts that the batches are made of


class Hooks(Protocol):
    """What the loop calls while it runs."""

    def on_metrics(self, metrics: dict[str, Any]) -> None:
        """Called once for each step, in order, with its number and its metrics.

        Of a step whose loss, term or gradient is not finite, `bad` (what is not) and `queries`
        stand in place of the metrics. The step itself must leave such an update out.
        """

    def should_stop(self) -> bool:
        """Called after every step; once true, the loop hands over the state and is left."""
        ...

    def wants_state(self, done: int) -> bool:
        """Whether `on_state` is to be called after `done` steps."""
        ...

    def on_state(self, done: int, state: TrainState, stopping: bool) -> None:
        """Called with a wanted state, or the one that the loop is left with.

        All metrics up to there have been passed on and are within what is tolerated.
        """


def fit(
    state: TrainState, step: Step, feed: Feed, steps: range, hooks: Hooks, tolerated: int = 0
) -> TrainState:
    """Runs `step` once for each number of `steps`.

    Args:
        tolerated: steps that may be not finite.

    Raises:
        NonFiniteError: one step more than `tolerated` was not finite.
        Preempted: `hooks.should_stop()` said so; `hooks.on_state` has had the state.
    """
    metrics = _LateMetrics(feed, hooks, tolerated)
    for number in steps:
        state, values = step(state, next(feed.batches))
        metrics.add(number, values)
        stopping = hooks.should_stop()
        if stopping or hooks.wants_state(number + 1):
            metrics.read_all()
            hooks.on_state(number + 1, state, stopping)
        if stopping:
            raise Preempted
    metrics.read_all()
    return state


class _LateMetrics:
    """Metrics stay on the device for a few steps, so that it never waits for the host."""

    def __init__(self, feed: Feed, hooks: Hooks, tolerated: int) -> None:
        self._waiting: deque[tuple[int, Metrics]] = deque()
        # On a CPU none wait: it computes one step after the other in any case, but each holds its
        # scratch memory, often gigabytes, from the moment it is dispatched.
        self._in_flight = 0 if jax.default_backend() == "cpu" else 2
        self._feed, self._hooks, self._tolerated = feed, hooks, tolerated

    def add(self, number: int, metrics: Metrics) -> None:
        """Takes a step's metrics, and reads those that have waited long enough."""
        self._waiting.append((number, metrics))
        while len(self._waiting) > self._in_flight:
            self._read_one()

    def read_all(self) -> None:
        """Reads whatever waits."""
        while self._waiting:
            self._read_one()

    def _read_one(self) -> None:
        values = self._checked(*self._waiting.popleft())
        self._hooks.on_metrics(values)
        if "bad" in values:
            if self._tolerated == 0:
                raise NonFiniteError(_described(values))
            self._tolerated -= 1

    def _checked(self, number: int, metrics: Metrics) -> dict[str, Any]:
        values = {name: float(value) for name, value in metrics.items()}
        wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return {"step": number} | values
        queries = list(self._feed.queries_of(number))
        return {"step": number, "bad": ", ".join(wrong), "queries": queries}


def _described(values: dict[str, Any]) -> str:
    queries = values["queries"]
    others = f" and {len(queries) - NAMED:,} others" if len(queries) > NAMED else ""
    return (
        f"step {values['step']}: {values['bad']}; queries {', '.join(queries[:NAMED])}{others} "
        "(log.jsonl has all); lower the learning rate or raise the warm-up, with bfloat16 try "
        "--compute.dtype float32, or skip such steps: the stage's max_bad_steps"
    )
