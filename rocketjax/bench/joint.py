"""The joint step as a program that can be looked into, and its batches."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from rocketjax import steps
from rocketjax.augment import TrainingList
from rocketjax.batch import ListBatch
from rocketjax.bench import ours as side
from rocketjax.bench.ours import LOSS, Ours
from rocketjax.config import OptimizerConfig
from rocketjax.losses import joint_weights
from rocketjax.optim import make_optimizer
from rocketjax.parallel import data_parallel, replicate
from rocketjax.state import TrainState, init_state


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
    optimizer = make_optimizer(OptimizerConfig(schedule="constant", warmup=0.0), 1_000)
    params = {"retriever": ours.retriever.params, "reranker": ours.reranker.params}
    terms = steps.joint_terms_of(ours.retriever.module, ours.reranker.module, LOSS, chunk)
    step = partial(
        steps.train_step, terms_of=terms, weights=joint_weights(LOSS), optimizer=optimizer
    )
    compute = dataclasses.replace(ours.compute, chunk=chunk)
    collate, lists = side.collator(work, ours.retriever, ours.reranker, compute)
    state = replicate(init_state(params, optimizer, 1))
    return Joint(data_parallel(step, backend="shard_map"), state, collate, lists)
