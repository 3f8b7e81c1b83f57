"""Training lists to padded batches: seeded, reshuffled each epoch, addressable by step."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeVar

import grain
import numpy as np

from rocketjax.data.collection import Split
from rocketjax.data.lists import TrainingList
from rocketjax.data.passages import Passage
from rocketjax.data.said import said
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
NOTHING = Split({}, {})
SAMPLE = 4  # batches by which shapes are chosen
ASKED = 4_096  # queries of which is remembered what answers them: some have thousands of positives


class Member(NamedTuple):
    """A passage of a list."""

    passage: Passage
    said: bytes  # what it says (see data/said.py)


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
    judged: Split = NOTHING  # what is known to answer queries, beside the lists' positives

    def fitted(self, lists: Sequence[TrainingList], batch: int) -> "Collator":
        """One whose shapes fit nearly all batches of these lists: by some of them, and a margin.

        By the lists alone, not by what came before, so that a resumed run computes the same bits.
        """
        if not self.devices:
            return self
        stride = max(1, len(lists) // (SAMPLE * batch))
        some = [lists[i * stride % len(lists)] for i in range(SAMPLE * batch)]
        parts = (some[i : i + batch] for i in range(0, len(some), batch))
        texts = (self._texts(part, [self._members(item) for item in part])[0] for part in parts)
        shapes = (self._shape(kind) for kind in zip(*texts, strict=True))
        return dataclasses.replace(self, shapes=Shapes(*shapes))

    def _shape(self, batches: Sequence[Tokens]) -> Shape:
        """For all of these batches of one kind of texts, and a twentieth more tokens."""
        lengths = [_parts(np.asarray(b.length), self.devices, self.chunk) for b in batches]
        width = max(b.ids.shape[1] for b in batches)
        need = max(int(length.sum(axis=1).max()) for length in lengths)
        return Shape(width, rounded(round(1.05 * need), lengths[0].shape[1] * width))

    def __call__(self, lists: Sequence[TrainingList]) -> ListBatch:
        """B lists -> a batch [B, L]."""
        members = [self._members(item) for item in lists]
        texts, valid = self._texts(lists, members)
        spots = Spots()
        if self.devices:
            spots = Spots(*(self._spots(*item) for item in zip(texts, self.shapes, strict=True)))
        query, passage, pair = texts

        def slotted(some: Tokens) -> Tokens:
            return Tokens(*(x.reshape(*valid.shape, *x.shape[1:]) for x in some))

        relevant = self._relevant(lists, members)
        return ListBatch(query, slotted(passage), slotted(pair), valid, relevant, spots)

    def _texts(
        self, lists: Sequence[TrainingList], members: Sequence[Sequence[Member]]
    ) -> tuple[tuple[Tokens, Tokens, Tokens], np.ndarray]:
        """Padded queries [B, S], passages and pairs [B * L, S]; which slots are taken [B, L]."""
        passages = [member.passage for some in members for member in some]
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
        return (query, passage, pair), valid

    def _members(self, item: TrainingList) -> list[Member]:
        """Positive and negatives; one that says what a positive says is no negative."""
        positive, *rest = (
            Member(passage, said(passage.whole))
            for pid in (item.positive, *item.negatives)
            for passage in (_known(self.passages, pid, "passage"),)
        )
        answers = self._answers(item.query) | {positive.said}
        return [positive, *(one for one in rest if one.said not in answers)][: self.slots]

    def _relevant(
        self, lists: Sequence[TrainingList], members: Sequence[Sequence[Member]]
    ) -> np.ndarray:
        """Which slots hold what answers a query: [B, B * L].

        By what texts say, queries' and passages', and by the judgements, whether the batch holds
        a list of them or not.
        """
        asked = [said(self.queries[item.query]) for item in lists]
        answers: dict[bytes, set[bytes]] = defaultdict(set)  # by what is asked
        slots: dict[bytes, list[int]] = defaultdict(list)  # by what is said
        for row, (item, some) in enumerate(zip(lists, members, strict=True)):
            answers[asked[row]] |= {some[0].said, *self._answers(item.query)}
            for slot, member in enumerate(some):
                slots[member.said].append(row * self.slots + slot)
        relevant = np.zeros((len(lists), len(lists) * self.slots), bool)
        for row, question in enumerate(asked):
            for answer in answers[question] & slots.keys():
                relevant[row, slots[answer]] = True
        return relevant

    @cached_property
    def _answers(self) -> Callable[[str], frozenset[bytes]]:
        """What the positives of a query say, those of queries of its text too."""

        @lru_cache(ASKED)
        def answers(query: str) -> frozenset[bytes]:
            positives = map(self.passages.get, self.judged.positives(query))
            return frozenset(said(passage.whole) for passage in positives if passage)

        return answers

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
