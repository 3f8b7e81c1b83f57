"""The joint step as a program that can be looked into, and its batches."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rocketjax.augment import TrainingList
from rocketjax.batch import ListBatch
from rocketjax.bench import ours as side
from rocketjax.bench.ours import Ours
from rocketjax.parallel import data_parallel
from rocketjax.state import TrainState


class Joint(NamedTuple):
    """`program(state, batch)` gives the next state and the step's metrics; it has `lower`."""

    program: Any
    state: TrainState
    collate: Callable[[Sequence[TrainingList]], ListBatch]
    lists: list[TrainingList]


def make_joint(ours: Ours, length: int = 0, chunk: int = 0) -> Joint:
    """A joint step on all of the work's lists.

    Args:
        length: passages in a list, the list's own ones again and again; 0: as many as it has.
        chunk: see steps.in_chunks.
    """
    work = ours.work
    if length:
        lists = [(query, (texts * length)[:length]) for query, texts in work.lists]
        work = dataclasses.replace(work, lists=lists)
    step, state = ours.joint_step(chunk)
    compute = dataclasses.replace(ours.compute, chunk=chunk)
    collate, lists = side.collator(work, ours.retriever, ours.reranker, compute)
    return Joint(data_parallel(step, backend="shard_map"), state, collate, lists)
