"""Training lists to padded batches: seeded, reshuffled each epoch, addressable by step."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import grain
import numpy as np

from rocketjax.data.lists import TrainingList
from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import ListBatch, Text, Tokens, bucket, chunk_count, pad
from rocketjax.text.tokenizer import Tokenizer
from rocketjax.text.unpadded import Spots, lay_end_to_end, rounded

Known = TypeVar("Known")


def list_batches(
    lists: Sequence[TrainingList],
    collate: Callable[[Sequence[TrainingList]], ListBatch],
    batch: int,
    seed: int,
    start: int = 0,
) -> Iterator[ListBatch]:
    """Endless batches of `batch` lists; every list is seen once before any is seen again.

    Step s's batch depends on seed and s alone: `start` resumes where a run was stopped. A
    thread tokenises two batches ahead of the train step.
    """
    batches = _ordered(lists, seed)[start * batch :].batch(batch, batch_fn=list)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(batches.map(collate).to_iter_dataset(options))


def lists_of_step(
    lists: Sequence[TrainingList], batch: int, seed: int, step: int
) -> list[TrainingList]:
    """The lists of which `list_batches` makes the batch of a step."""
    return list(_ordered(lists, seed)[step * batch : (step + 1) * batch])


EPOCHS = 2**31  # as good as endless; with grain's own endlessness, batches of one list overflow


def _ordered(lists: Sequence[TrainingList], seed: int) -> "grain.MapDataset[TrainingList]":
    """Epoch after epoch, each reshuffled."""
    return grain.MapDataset.source(lists).seed(seed).shuffle().repeat(EPOCHS)


class Shape(NamedTuple):
    """What a kind of texts is laid out in where it fits, so that one compiled program serves."""

    width: int = 0  # S, tokens of the longest text
    room: int = 0  # T, tokens of the fullest part (see unpadded.Spots)


class Shapes(NamedTuple):
    """Of the three kinds of texts."""

    query: Shape = Shape()
    passage: Shape = Shape()
    pair: Shape = Shape()


UNKNOWN = Shapes()
SAMPLE = 4  # batches by which shapes are chosen


@dataclass(frozen=True)
class Collator:
    """Looks up a list's texts, tokenises them, and lays the batch out in few shapes."""

    queries: Mapping[str, str]
    passages: Mapping[str, Passage]
    retriever_tokenizer: Tokenizer
    reranker_tokenizer: Tokenizer
    slots: int  # of a list
    devices: int = 0  # share a batch, and lay its tokens end to end; 0: padding stays
    chunk: int = 0  # texts that a device takes at once; 0: all of its own
    shapes: Shapes = UNKNOWN

    def fitted(self, lists: Sequence[TrainingList], batch: int) -> "Collator":
        """One whose shapes fit nearly all batches of these lists: by some of them, and a margin.

        By the lists alone, not by what came before, so that a resumed run computes the same bits.
        """
        if not self.devices:
            return self
        stride = max(1, len(lists) // (SAMPLE * batch))
        some = [lists[i * stride % len(lists)] for i in range(SAMPLE * batch)]
        parts = (self._texts(some[i : i + batch])[0] for i in range(0, len(some), batch))
        shapes = (self._shape(texts) for texts in zip(*parts, strict=True))
        return dataclasses.replace(self, shapes=Shapes(*shapes))

    def _shape(self, batches: Sequence[Tokens]) -> Shape:
        """For all of these batches of one kind of texts, and a twentieth more tokens."""
        lengths = [_parts(np.asarray(b.length), self.devices, self.chunk) for b in batches]
        width = max(b.ids.shape[1] for b in batches)
        need = max(int(length.sum(axis=1).max()) for length in lengths)
        return Shape(width, rounded(round(1.05 * need), lengths[0].shape[1] * width))

    def __call__(self, lists: Sequence[TrainingList]) -> ListBatch:
        """B lists -> a batch [B, L]."""
        texts, valid, ids = self._texts(lists)
        spots = Spots()
        if self.devices:
            spots = Spots(*(self._spots(*item) for item in zip(texts, self.shapes, strict=True)))
        query, passage, pair = texts

        def slotted(some: Tokens) -> Tokens:
            return Tokens(*(x.reshape(*valid.shape, *x.shape[1:]) for x in some))

        query_ids = np.array([_number(item.query) for item in lists], np.int32)
        return ListBatch(query, slotted(passage), slotted(pair), valid, ids, query_ids, spots)

    def _texts(
        self, lists: Sequence[TrainingList]
    ) -> tuple[tuple[Tokens, Tokens, Tokens], np.ndarray, np.ndarray]:
        """Padded queries [B, S], passages and pairs [B * L, S]; which slots are taken [B, L], and
        by which passages [B, L]."""
        members = [self._members(item) for item in lists]
        passages = [passage for some in members for passage in some]
        queries = [_known(self.queries, item.query, "query") for item in lists]
        repeated = [q for q, some in zip(queries, members, strict=True) for _ in some]
        titles, bodies = [p.title for p in passages], [p.text for p in passages]
        valid = np.arange(self.slots) < np.array([len(some) for some in members])[:, None]
        slots = np.full(valid.shape, len(passages))
        slots[valid] = np.arange(len(passages))

        de, ce = self.retriever_tokenizer, self.reranker_tokenizer
        kinds = (
            (de.query(queries), de.config.query_length, de.pad_id, np.arange(len(queries))),
            (de.passage(titles, bodies), de.config.passage_length, de.pad_id, slots.ravel()),
            (ce.pair(repeated, titles, bodies), ce.config.pair_length, ce.pad_id, slots.ravel()),
        )
        query, passage, pair = (
            _pad(some, limit, shape.width, pad_id, order)
            for (some, limit, pad_id, order), shape in zip(kinds, self.shapes, strict=True)
        )
        ids = np.array([*(_number(p.whole) for p in passages), 0], np.int32)[slots]
        return (query, passage, pair), valid, ids

    def _members(self, item: TrainingList) -> list[Passage]:
        """Positive and negatives; one that says what the positive says is no negative."""
        positive = _known(self.passages, item.positive, "passage")
        said = positive.whole
        rest = (_known(self.passages, pid, "passage") for pid in item.negatives)
        return [positive, *(one for one in rest if one.whole != said)][: self.slots]

    def _spots(self, texts: Tokens, shape: Shape) -> np.ndarray:
        """Where the tokens of every device's every chunk are: [devices * chunks, T]."""
        lengths = _parts(np.asarray(texts.length), self.devices, self.chunk)
        fits = lengths.sum(axis=1).max() <= shape.room
        return lay_end_to_end(lengths, texts.ids.shape[1], shape.room if fits else 0)


def _known(texts: Mapping[str, Known], name: str, what: str) -> Known:
    try:
        return texts[name]
    except KeyError as error:  # met here and not before: lists may be many, and from elsewhere
        raise InputError(
            f"a training list has {what} {name!r}, which the collection has not; mine again"
        ) from error


def _parts(length: np.ndarray, devices: int, chunk: int) -> np.ndarray:
    """Lengths of a batch's texts [n] by device and chunk [K, m], cut as steps.in_chunks does."""
    length = length.reshape(devices, -1)
    chunks = chunk_count(length.shape[1], chunk)
    size = chunk if chunks > 1 else length.shape[1]
    rows = np.minimum(np.arange(chunks * size), length.shape[1] - 1)
    return length[:, rows].reshape(-1, size)


def _number(text: str) -> int:
    """31 bits of a text's hash: two passages of a batch of 10,000 share them once in 43."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little") >> 1


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
