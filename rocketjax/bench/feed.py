"""How much of a train step's time the devices compute, and do not wait for batches."""

from collections.abc import Iterator
from statistics import median

import jax

from rocketjax.bench.fact import Fact
from rocketjax.bench.joint import make_joint
from rocketjax.bench.ours import Ours, seconds
from rocketjax.data.loader import list_batches

AHEAD = 3  # steps before the clock starts: the loader has made some batches while others ran
STEPS = 5  # in a run


def measure(ours: Ours, rounds: int) -> Iterator[Fact]:
    """Steps on one batch that is ready, beside steps that the loader feeds, in turn."""
    joint = make_joint(ours)
    ready = joint.collate(joint.lists)
    batches = list_batches(joint.lists, joint.collate, len(joint.lists), seed=1)
    state = joint.state

    def run(steps: int, fed: bool) -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = joint.program(state, next(batches) if fed else ready)
            jax.block_until_ready(metrics)

    def timed(fed: bool) -> float:
        run(AHEAD, fed)
        return seconds(lambda: run(STEPS, fed))

    computing, feeding = zip(*[(timed(False), timed(True)) for _ in range(rounds)], strict=True)
    share = median(computing) / median(feeding)
    yield Fact("share of a step in which devices compute", share, "", "at least 0.9")
