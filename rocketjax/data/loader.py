"""Training lists to padded batches: seeded, shuffled anew each epoch, addressable by step."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import grain
import numpy as np

from rocketjax.augment import TrainingList
from rocketjax.batch import ListBatch, Spots, Tokens, chunk_count
from rocketjax.data.collection import Passage
from rocketjax.data.tokenize import Text, Tokenizer, bucket, lay_end_to_end, pad, rounded


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


class Shape(NamedTuple):
    """What a kind of texts is laid out in where it fits, so that one compiled program serves."""

    width: int = 0  # S, tokens of the longest text
    room: int = 0  # T, tokens of the fullest part (see batch.Spots)


class Texts(NamedTuple):
    """The three kinds of texts of some lists, padded: [n, S] each."""

    query: Tokens  # one a list
    passage: Tokens  # one a list's slot
    pair: Tokens


class Collator:
    """Looks up a list's texts, tokenises them, and lays the batch out in few shapes."""

    def __init__(
        self,
        queries: Mapping[str, str],
        passages: Mapping[str, Passage],
        retriever_tokenizer: Tokenizer,
        reranker_tokenizer: Tokenizer,
        slots: int,
        devices: int = 0,
        chunk: int = 0,
        shapes: tuple[Shape, Shape, Shape] = (Shape(), Shape(), Shape()),
    ) -> None:
        """Sets what every batch has in common.

        Args:
            slots: of a list.
            devices: how many share a batch, each cutting its texts into chunks of `chunk`: every
                one's tokens are laid end to end. 0: padding stays.
            shapes: of queries, passages and pairs; see `fitted`.
        """
        self.queries = queries
        self.passages = passages
        self.retriever_tokenizer = retriever_tokenizer
        self.reranker_tokenizer = reranker_tokenizer
        self.slots = slots
        self.devices = devices
        self.chunk = chunk
        self.shapes = shapes

    def fitted(self, lists: Sequence[TrainingList], batch: int) -> "Collator":
        """One whose shapes fit nearly all batches of these lists: by four of them, and a margin.

        By the lists alone, not by what came before, so that a resumed run computes the same bits.
        """
        if not self.devices:
            return self
        stride = max(1, len(lists) // (4 * batch))
        some = [lists[i * stride % len(lists)] for i in range(4 * batch)]
        shapes = [Shape()] * 3
        for start in range(0, len(some), batch):
            for kind, texts in enumerate(self._texts(some[start : start + batch])[0]):
                lengths = _parts(texts.length, self.devices, self.chunk)
                need = 1.05 * lengths.sum(axis=1).max()
                most = max(lengths.shape[1], shapes[kind].room)
                room = rounded(round(need), lengths.shape[1] * texts.ids.shape[1])
                shapes[kind] = Shape(max(texts.ids.shape[1], shapes[kind].width), max(room, most))
        return Collator(
            self.queries,
            self.passages,
            self.retriever_tokenizer,
            self.reranker_tokenizer,
            self.slots,
            self.devices,
            self.chunk,
            (shapes[0], shapes[1], shapes[2]),
        )

    def __call__(self, lists: Sequence[TrainingList]) -> ListBatch:
        """B lists -> a batch [B, L]."""
        texts, valid, ids = self._texts(lists)
        spots = Spots()
        if self.devices:
            spots = Spots(*(self._spots(*item) for item in zip(texts, self.shapes, strict=True)))
        query, passage, pair = texts
        slotted = (
            Tokens(*(x.reshape(*valid.shape, *x.shape[1:]) for x in some))
            for some in (passage, pair)
        )
        return ListBatch(query, *slotted, valid, ids, spots)

    def _texts(self, lists: Sequence[TrainingList]) -> tuple[Texts, np.ndarray, np.ndarray]:
        """Padded texts, and which slots are taken [B, L], by which passages [B, L]."""
        members = [[item.positive, *item.negatives][: self.slots] for item in lists]
        passages = [self.passages[pid] for ids in members for pid in ids]
        queries = [self.queries[item.query] for item in lists]
        repeated = [q for q, ids in zip(queries, members, strict=True) for _ in ids]
        titles, bodies = [p.title for p in passages], [p.text for p in passages]
        valid = np.arange(self.slots) < np.array([len(ids) for ids in members])[:, None]
        slots = np.full(valid.shape, len(passages))
        slots[valid] = np.arange(len(passages))

        de, ce = self.retriever_tokenizer, self.reranker_tokenizer
        kinds = (
            (de.query(queries), de.config.query_length, de.pad_id, np.arange(len(queries))),
            (de.passage(titles, bodies), de.config.passage_length, de.pad_id, slots.ravel()),
            (ce.pair(repeated, titles, bodies), ce.config.pair_length, ce.pad_id, slots.ravel()),
        )
        texts = Texts(
            *(
                _pad(some, limit, shape.width, pad_id, order)
                for (some, limit, pad_id, order), shape in zip(kinds, self.shapes, strict=True)
            )
        )
        ids = np.array([*(_number(p.id) for p in passages), 0], np.int32)[slots]
        return texts, valid, ids

    def _spots(self, texts: Tokens, shape: Shape) -> np.ndarray:
        """Where the tokens of every device's every chunk are: [devices * chunks, T]."""
        lengths = _parts(texts.length, self.devices, self.chunk)
        fits = lengths.sum(axis=1).max() <= shape.room
        return lay_end_to_end(lengths, texts.ids.shape[1], shape.room if fits else 0)


def _parts(length: np.ndarray, devices: int, chunk: int) -> np.ndarray:
    """Lengths of a batch's texts [n] by device and chunk [K, n / K], cut as steps.in_chunks does."""
    length = length.reshape(devices, -1)
    chunks = chunk_count(length.shape[1], chunk)
    size = chunk if chunks > 1 else length.shape[1]
    rows = np.minimum(np.arange(chunks * size), length.shape[1] - 1)
    return length[:, rows].reshape(-1, size)


def _number(pid: str) -> int:
    """31 bits of a passage id's hash: two passages of a batch of 10,000 share them once in 43."""
    return int.from_bytes(hashlib.blake2b(pid.encode(), digest_size=4).digest(), "little") >> 1


def _pad(texts: Sequence[Text], limit: int, width: int, pad_id: int, order: np.ndarray) -> Tokens:
    """Texts by `order`, padded to `width` where they fit.

    One more than there are stands for an empty slot: it is masked, but never degenerate, and so
    holds one token.
    """
    longest = max(len(text.ids) for text in texts)
    one = Text(texts[0].ids[:1], texts[0].types[:1])
    width = width if longest <= width else bucket(longest, limit)
    padded = pad([*texts, one], len(texts) + 1, width, pad_id)
    return Tokens(*(x[order] for x in padded))
