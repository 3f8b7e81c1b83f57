"""All facts, one after the other."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax

from rocketjax.bench import collectives, compiles, feed, memory, tokens
from rocketjax.bench.fact import Fact
from rocketjax.bench.ours import Ours
from rocketjax.config import (
    ComputeConfig,
    Config,
    DataConfig,
    RerankerConfig,
    RetrieverConfig,
)

CHUNK = 4  # texts; half of what the shortest lists have, so that all run in chunks


def measure(
    ours: Ours, collection: str, split: str, compute: ComputeConfig, rounds: int
) -> Iterator[Fact]:
    """Encoding by length, the step's memory, its feed, what devices send, and a whole run."""
    weights = ours.work.weights
    yield from tokens.measure(ours, rounds)
    yield from feed.measure(ours, rounds)
    few = dataclasses.replace(ours.work, lists=ours.work.lists[: jax.device_count()])
    yield from memory.measure(Ours(few, compute), CHUNK, rounds)
    yield from collectives.measure(Path(weights))
    yield from compiles.measure(
        Config(
            data=DataConfig(collection, eval_split=split),
            retriever=RetrieverConfig(weights),
            reranker=RerankerConfig(weights),
            compute=compute,
        )
    )
