"""Training lists to padded batches: seeded, shuffled anew each epoch, addressable by step."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np

from rocketjax.augment import TrainingList
from rocketjax.batch import ListBatch, Tokens
from rocketjax.data.collection import Passage
from rocketjax.data.tokenize import Text, Tokenizer, bucket, pad


def list_batches(
    lists: Sequence[TrainingList],
    collate: Callable[[Sequence[TrainingList]], ListBatch],
    batch: int,
    seed: int,
    start: int = 0,
) -> Iterator[ListBatch]:
    """Endless batches of `batch` lists; every list is seen once before any is seen again.

    Step s's batch hangs on seed and s alone: `start` goes on where a run was stopped. A
    thread tokenises two batches ahead of the train step.
    """
    ordered = grain.MapDataset.source(lists).seed(seed).shuffle().repeat()
    batches = ordered[start * batch :].batch(batch, batch_fn=list)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(batches.map(collate).to_iter_dataset(options))


def lists_of_step(
    lists: Sequence[TrainingList], batch: int, seed: int, step: int
) -> list[TrainingList]:
    """The lists of which `list_batches` makes the batch of a step."""
    ordered = grain.MapDataset.source(lists).seed(seed).shuffle().repeat()
    return list(ordered[step * batch : (step + 1) * batch])


class Collator:
    """Looks up a list's texts, tokenises them and pads the batch to few lengths."""

    def __init__(
        self,
        queries: Mapping[str, str],
        passages: Mapping[str, Passage],
        retriever_tokenizer: Tokenizer,
        reranker_tokenizer: Tokenizer,
        slots: int,
    ) -> None:
        self.queries = queries
        self.passages = passages
        self.retriever_tokenizer = retriever_tokenizer
        self.reranker_tokenizer = reranker_tokenizer
        self.slots = slots

    def __call__(self, lists: Sequence[TrainingList]) -> ListBatch:
        """B lists -> a batch [B, L]."""
        members = [[item.positive, *item.negatives][: self.slots] for item in lists]
        passages = [self.passages[pid] for ids in members for pid in ids]
        queries = [self.queries[item.query] for item in lists]
        repeated = [q for q, ids in zip(queries, members, strict=True) for _ in ids]
        titles, bodies = [p.title for p in passages], [p.text for p in passages]
        valid = np.arange(self.slots) < np.array([len(ids) for ids in members])[:, None]
        # An empty slot repeats the first text of the batch: it is masked, but never degenerate.
        slots = np.zeros(valid.shape, np.int64)
        slots[valid] = np.arange(len(passages))

        de, ce = self.retriever_tokenizer, self.reranker_tokenizer
        query = _pad(de.query(queries), de.config.query_length, de.pad_id)
        passage = _pad(de.passage(titles, bodies), de.config.passage_length, de.pad_id)
        pair = _pad(ce.pair(repeated, titles, bodies), ce.config.pair_length, ce.pad_id)
        return ListBatch(
            query,
            Tokens(*(x[slots] for x in passage)),
            Tokens(*(x[slots] for x in pair)),
            valid,
            np.array([_number(p.id) for p in passages], np.int32)[slots],
        )


def _number(pid: str) -> int:
    """31 bits of a passage id's hash: two passages of a batch of 10,000 share them once in 43."""
    return int.from_bytes(hashlib.blake2b(pid.encode(), digest_size=4).digest(), "little") >> 1


def _pad(texts: Sequence[Text], limit: int, pad_id: int) -> Tokens:
    longest = max(len(text.ids) for text in texts)
    return pad(texts, len(texts), bucket(longest, limit), pad_id)
