"""How much of a train step's time the devices compute, and do not wait for batches."""

from collections.abc import Iterator

import jax

from rocketjax.bench.fact import Fact, in_turn
from rocketjax.bench.joint import make_joint
from rocketjax.bench.ours import Ours
from rocketjax.data.loader import list_batches

STEPS = 3  # in a run


def measure(ours: Ours, rounds: int) -> Iterator[Fact]:
    """Steps on one batch that is ready, beside steps that the loader feeds."""
    joint = make_joint(ours)
    ready = joint.collate(joint.lists)
    batches = list_batches(joint.lists, joint.collate, len(joint.lists), seed=1)
    state = joint.state

    def run(fed: bool) -> None:
        nonlocal state
        for _ in range(STEPS):
            state, metrics = joint.program(state, next(batches) if fed else ready)
            jax.block_until_ready(metrics)

    computing, feeding = in_turn([lambda: run(False), lambda: run(True)], rounds)
    yield Fact("share of a step in which devices compute", computing / feeding, "", "at least 0.9")
