"""The training loop: feeds batches to a step, fetches metrics late, stops at NaN."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

import jax

from rocketjax.batch import ListBatch
from rocketjax.progress import Advance, silent
from rocketjax.state import TrainState

Step: TypeAlias = Callable[[TrainState, ListBatch], tuple[TrainState, dict[str, jax.Array]]]
Report: TypeAlias = Callable[[dict[str, float]], None]
Save: TypeAlias = Callable[[int, TrainState], None]

IN_FLIGHT = 2  # steps given to the devices before the metrics of the first are read


class NonFiniteError(FloatingPointError):
    """Training diverged; the message names the step and the term."""


def fit(
    state: TrainState,
    step: Step,
    batches: Iterator[ListBatch],
    steps: range,
    report: Report,
    save: Save | None = None,
    save_every: int = 1,
    advance: Advance = silent,
) -> TrainState:
    """Runs `step` once for each number of `steps` and reports each step's metrics, in order.

    After every `save_every` steps of the count, and after the last, `save(steps done, state)` is
    called, once all metrics up to there are known to be finite.

    Raises:
        NonFiniteError: a step's loss, term or gradient is NaN or infinite.
    """
    waiting: deque[tuple[int, dict[str, jax.Array]]] = deque()

    def read(most: int) -> None:
        while len(waiting) > most:
            report(_checked(*waiting.popleft()))
            advance(1)

    for number in steps:
        state, metrics = step(state, next(batches))
        waiting.append((number, metrics))
        read(IN_FLIGHT)
        if save and ((number + 1) % save_every == 0 or number + 1 == steps.stop):
            read(0)
            save(number + 1, state)
    read(0)
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
