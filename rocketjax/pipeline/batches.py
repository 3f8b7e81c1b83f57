"""A stage's batches: its lists as tokens, in a seeded order, from any step on."""

import hashlib
from collections.abc import Mapping, Sequence

import jax

from rocketjax.config.schema import StageConfig
from rocketjax.data.lists import TrainingList
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.start import laid_out
from rocketjax.pipeline.context import Run
from rocketjax.training.loader import Collator, list_batches, lists_of_step
from rocketjax.training.trainer import Feed, Feeds


def feeds_of(
    run: Run,
    lists: Sequence[TrainingList],
    stage: StageConfig,
    slots: int,
    retriever: Retriever,
    reranker: Reranker,
) -> Feeds:
    """Feeds of lists that stay the same for a whole stage."""
    collate = collator_of(run, slots, retriever, reranker)
    return lambda step, _: feed_of(run, lists, collate, stage.batch, run.config.seed, 0, step)


def feed_of(
    run: Run,
    lists: Sequence[TrainingList],
    collate: Collator,
    batch: int,
    seed: int,
    first: int,
    step: int,
) -> Feed:
    """Batches from `step` on, of a round that began at `first`."""

    def queries_of(number: int) -> list[str]:
        return [item.query for item in lists_of_step(lists, batch, seed, number - first)]

    batches = list_batches(lists, collate.fitted(lists, batch), batch, seed, start=step - first)
    return Feed(batches, queries_of, _hash(run, lists, collate.queries))


def collator_of(run: Run, slots: int, retriever: Retriever, reranker: Reranker) -> Collator:
    """Lays out lists of up to `slots` passages for both models."""
    retriever.tokenizer.remember()
    reranker.tokenizer.remember(retriever.tokenizer)  # both read the same passages
    return Collator(
        run.queries,
        run.collection.by_id,
        retriever.tokenizer,
        reranker.tokenizer,
        slots,
        laid_out(run.config.compute) and jax.device_count(),
        run.config.compute.chunk,
    )


def _hash(run: Run, lists: Sequence[TrainingList], queries: Mapping[str, str]) -> str:
    """Of all that batches are made of, but the tokenizers."""
    digest = hashlib.blake2b(run.collection.fingerprint.encode(), digest_size=16)
    for item in lists:
        digest.update("\t".join((item.query, item.positive, *item.negatives)).encode())
        digest.update(f"\n{queries[item.query]}\n".encode())
    return digest.hexdigest()
