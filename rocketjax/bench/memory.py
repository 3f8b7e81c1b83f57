"""Memory and time of the joint step by the length of its lists, at one chunk."""

from collections.abc import Iterator, Sequence

import jax

from rocketjax.bench.fact import Fact, in_turn
from rocketjax.bench.joint import make_joint
from rocketjax.bench.ours import Ours

LENGTHS = (8, 32, 128)


def measure(
    ours: Ours, chunk: int, rounds: int, lengths: Sequence[int] = LENGTHS
) -> Iterator[Fact]:
    """Peak of temporary memory as compiled, and time per passage, each beside the shortest's.

    Every list repeats the same passages, so that a row costs the same in all of them.
    """
    shortest: tuple[float, float] | None = None
    for length in lengths:
        memory, taken = _cost(ours, length, chunk, rounds)
        rows = length * len(ours.work.lists)
        yield Fact(f"memory, lists of {length}", memory / 1e6, f"MB, chunk {chunk}", "")
        yield Fact(f"time, lists of {length}", 1e3 * taken / rows, "ms a passage", "")
        if shortest is None:
            shortest = memory, taken / rows
            continue
        name = f"lists of {length} beside {lengths[0]}"
        yield Fact(f"memory, {name}", memory / shortest[0], "times", "at most 1.05")
        yield Fact(f"time, {name}", taken / rows / shortest[1], "times", "at most 1.1")


def _cost(ours: Ours, length: int, chunk: int, rounds: int) -> tuple[float, float]:
    """Bytes, seconds."""
    joint = make_joint(ours, length, chunk)
    batch = joint.collate(joint.lists)
    program = joint.program.lower(joint.state, batch).compile()
    state = joint.state

    def run() -> None:
        nonlocal state
        state, metrics = program(state, batch)
        jax.block_until_ready(metrics)

    (taken,) = in_turn([run], rounds)
    return program.memory_analysis().temp_size_in_bytes, taken
