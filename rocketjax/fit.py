"""The training loop: feeds batches to a step, fetches metrics late, stops at NaN."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import jax

from rocketjax.batch import ListBatch
from rocketjax.state import TrainState

Step: TypeAlias = Callable[[TrainState, ListBatch], tuple[TrainState, dict[str, jax.Array]]]
Report: TypeAlias = Callable[[dict[str, float]], None]

IN_FLIGHT = 2  # steps given to the devices before the metrics of the first are read


class NonFiniteError(FloatingPointError):
    """Training diverged; the message names the step and the term."""


def fit(
    state: TrainState,
    step: Step,
    batches: Iterator[ListBatch],
    steps: Iterable[int],
    report: Report,
) -> TrainState:
    """Runs `step` once for each number of `steps` and reports each step's metrics, in order.

    Raises:
        NonFiniteError: a step's loss, term or gradient is NaN or infinite.
    """
    waiting: deque[tuple[int, dict[str, jax.Array]]] = deque()
    for number in steps:
        state, metrics = step(state, next(batches))
        waiting.append((number, metrics))
        if len(waiting) > IN_FLIGHT:
            report(_checked(*waiting.popleft()))
    while waiting:
        report(_checked(*waiting.popleft()))
    return state


def _checked(number: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise NonFiniteError(
            f"step {number}: {', '.join(wrong)}; lower the learning rate or raise the warm-up "
            "(and with bfloat16, try --compute.dtype float32)"
        )
    return {"step": number} | values
