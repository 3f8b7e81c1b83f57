"""The training loop: feeds batches to a step, fetches metrics late, stops at NaN or when asked."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax

from rocketjax.runtime.progress import Advance, silent
from rocketjax.runtime.signals import Asked, Preempted, never
from rocketjax.text.batch import ListBatch
from rocketjax.training.step import TrainState

Step: TypeAlias = Callable[[TrainState, ListBatch], tuple[TrainState, dict[str, jax.Array]]]


Report: TypeAlias = Callable[[dict[str, Any]], None]


Save: TypeAlias = Callable[[int, TrainState], None]


QueriesOf: TypeAlias = Callable[[int], Sequence[str]]  # the ids of a step's queries


NAMED = 8  # queries of a bad step that an error names; the log has all


class NonFiniteError(FloatingPointError):
    """Training diverged; the message names the step, the term and the batch's queries."""


def fit(
    state: TrainState,
    step: Step,
    batches: Iterator[ListBatch],
    queries_of: QueriesOf,
    steps: range,
    report: Report,
    *,
    save: Save | None = None,
    save_every: int = 1,
    advance: Advance = silent,
    spare: int = 0,
    stop: Asked = never,
    look: Save | None = None,
    look_every: int = 1,
) -> TrainState:
    """Runs `step` once for each number of `steps` and reports each step's metrics, in order.

    After every `save_every` steps of the count, and after the last, `save(steps done, state)` is
    called, once all metrics up to there are known to be fine.

    Of a step whose loss, term or gradient is not finite, `bad` (what is not) and `queries` are
    reported in place of its metrics. `step` is to leave such an update out by itself.

    Args:
        spare: bad steps that are passed over.
        stop: asked after every step; once true, the state is saved and the loop left.
        look: called as `save` is, every `look_every` steps and after it; not where the loop is
            left, which is to be quick.

    Raises:
        NonFiniteError: one bad step more than `spare`.
        Preempted: `stop` said so.
    """
    waiting: deque[tuple[int, dict[str, jax.Array]]] = deque()
    in_flight = _in_flight()

    def read(most: int) -> None:
        nonlocal spare
        while len(waiting) > most:
            number, metrics = waiting.popleft()
            values = _checked(number, metrics, queries_of)
            report(values)
            if "bad" in values:
                if spare == 0:
                    raise NonFiniteError(_described(values))
                spare -= 1
            advance(1)

    for number in steps:
        state, metrics = step(state, next(batches))
        waiting.append((number, metrics))
        read(in_flight)
        leaving = stop()
        if save and (leaving or (number + 1) % save_every == 0 or number + 1 == steps.stop):
            read(0)
            save(number + 1, state)
        if leaving:
            raise Preempted
        if look and (number + 1) % look_every == 0:
            read(0)
            look(number + 1, state)
    read(0)
    return state


def _in_flight() -> int:
    """Steps that wait behind the one whose metrics are read: an accelerator never idles so.

    On a CPU none: it computes one after the other anyhow, but each holds its scratch memory, often
    gigabytes, from the moment it is given.
    """
    return 0 if jax.default_backend() == "cpu" else 2


def _checked(number: int, metrics: dict[str, jax.Array], queries_of: QueriesOf) -> dict[str, Any]:
    values = {name: float(value) for name, value in metrics.items()}
    wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        return {"step": number, "bad": ", ".join(wrong), "queries": list(queries_of(number))}
    return {"step": number} | values


def _described(values: dict[str, Any]) -> str:
    queries = values["queries"]
    others = f" and {len(queries) - NAMED:,} others" if len(queries) > NAMED else ""
    return (
        f"step {values['step']}: {values['bad']}; queries {', '.join(queries[:NAMED])}{others} "
        "(log.jsonl has all); lower the learning rate or raise the warm-up, with bfloat16 try "
        "--compute.dtype float32, or skip such steps: the stage's max_bad_steps"
    )
