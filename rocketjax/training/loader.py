"""Training lists to batches of packed rows: seeded, reshuffled each epoch, addressable by step."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import NamedTuple, TypeVar

import grain
import numpy as np

from rocketjax.data.collection import Split
from rocketjax.data.lists import TrainingList
from rocketjax.data.passages import Passage
from rocketjax.data.said import said
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import ListBatch, Rows, TeacherScores, Text
from rocketjax.text.chunks import SAMPLE, Shape, dealt, in_chunks, shape_for, wider
from rocketjax.text.rows import NARROW, rounded
from rocketjax.text.tokenizer import Tokenizer

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


class Shapes(NamedTuple):
    """Of the three kinds of texts; where they are enough, one compiled program serves all steps."""

    query: Shape = Shape()
    passage: Shape = Shape()
    pair: Shape = Shape()


UNKNOWN = Shapes()
NOTHING = Split({}, {})
ASKED = 4_096  # queries of which is remembered what answers them: some have thousands of positives


class Member(NamedTuple):
    """A passage of a list."""

    passage: Passage
    said: bytes  # what it says (see data/said.py)
    score: float | None = None  # a stored teacher's


class Found(NamedTuple):
    """B lists, and what they name."""

    lists: Sequence[TrainingList]
    members: Sequence[Sequence[Member | None]]
    texts: tuple[list[Text], list[Text], list[Text]]  # queries [B], passages and pairs [B * L]
    valid: np.ndarray  # [B, L], which slots are taken

    def ordered(self, order: Sequence[int]) -> "Found":
        """The same lists in another order."""
        length = self.valid.shape[1]
        slots = [row * length + slot for row in order for slot in range(length)]
        query, passage, pair = self.texts
        return Found(
            [self.lists[row] for row in order],
            [self.members[row] for row in order],
            ([query[row] for row in order], [passage[i] for i in slots], [pair[i] for i in slots]),
            self.valid[order],
        )


@dataclass(frozen=True)
class Collator:
    """Looks up a list's texts, tokenises them, and packs them into rows of few shapes."""

    queries: Mapping[str, str]
    passages: Mapping[str, Passage]
    retriever_tokenizer: Tokenizer
    reranker_tokenizer: Tokenizer
    slots: int  # of a list
    devices: int = 1  # share a batch
    chunk: int = 0  # texts that a device takes at once, on average; 0: all of its own
    widths: Sequence[int] = NARROW  # that rows may have
    shapes: Shapes = UNKNOWN
    judged: Split = NOTHING  # what is known to answer queries, beside the lists' positives
    unlabelled: bool = False  # lists may lack a label, so batches say which have one
    stored: bool = False  # whether batches hold a teacher's scores
    deals: bool = False  # whether lists may change places, so that all devices have as much to do

    def fitted(self, lists: Sequence[TrainingList], batch: int) -> "Collator":
        """One whose shapes fit nearly all batches of these lists: by some of them, and a margin.

        By the lists alone, not by what came before, so that a resumed run computes the same bits.
        """
        stride = max(1, len(lists) // (SAMPLE * batch))
        some = [lists[i * stride % len(lists)] for i in range(SAMPLE * batch)]
        parts = (some[i : i + batch] for i in range(0, len(some), batch))
        texts = (self._found(part)[0].texts for part in parts)
        query, passage, pair = zip(*texts, strict=True)
        dealt_to = self.devices if self.deals else 1  # queries come along as they happen to
        shapes = self._shape(query), self._shape(passage, dealt_to), self._shape(pair, dealt_to)
        return dataclasses.replace(self, shapes=Shapes(*shapes))

    def _shape(self, batches: Sequence[Sequence[Text]], dealt_to: int = 1) -> Shape:
        """For all of these batches of one kind of texts."""
        steps = [lengths for texts in batches for lengths in _lengths(self._by_device(texts))]
        return shape_for(steps, self.chunk, self.widths, dealt_to)

    def _by_device(self, texts: Sequence[Text]) -> list[Sequence[Text]]:
        own = len(texts) // self.devices
        return [texts[end - own : end] for end in range(own, len(texts) + 1, own)]

    def __call__(self, lists: Sequence[TrainingList]) -> ListBatch:
        """B lists -> a batch [B, L]."""
        (lists, members, texts, valid), place = self._found(lists)
        de, ce = self.retriever_tokenizer.pad_id, self.reranker_tokenizer.pad_id
        query, passage, pair = map(self._rows, texts, self.shapes, (de, de, ce))
        labelled = np.array([bool(item.positive) for item in lists]) if self.unlabelled else None
        stored = _stored(members, self.slots) if self.stored else None
        relevant = self._relevant(lists, members)
        return ListBatch(query, passage, pair, valid, relevant, labelled, stored, place)

    def _found(self, lists: Sequence[TrainingList]) -> tuple[Found, np.ndarray | None]:
        """What B lists name; dealt to the devices where they may be, with the places they had."""
        members = [self._members(item) for item in lists]
        found = self._texts(lists, members)
        if not self.deals or self.devices == 1:
            return found, None
        tokens = np.array([len(text.ids) for text in found.texts[2]])
        order = dealt(tokens.reshape(found.valid.shape).sum(axis=1).tolist(), self.devices)
        return found.ordered(order), np.array(order, np.int32)

    def _texts(
        self, lists: Sequence[TrainingList], members: Sequence[Sequence[Member | None]]
    ) -> Found:
        """Their texts as tokens."""
        passages = [member.passage for some in members for member in some if member]
        queries = [_known(self.queries, item.query, "query") for item in lists]
        repeated = [q for q, some in zip(queries, members, strict=True) for one in some if one]
        titles, bodies = [p.title for p in passages], [p.text for p in passages]
        valid = np.zeros((len(lists), self.slots), bool)
        for row, some in enumerate(members):
            valid[row, : len(some)] = [member is not None for member in some]
        taken = valid.ravel().tolist()
        de, ce = self.retriever_tokenizer, self.reranker_tokenizer
        passage = _slotted(de.passage(titles, bodies), taken)
        pair = _slotted(ce.pair(repeated, titles, bodies), taken)
        return Found(lists, members, (list(de.query(queries)), passage, pair), valid)

    def _members(self, item: TrainingList) -> list[Member | None]:
        """Positive and negatives; None in place of one that says what a positive says.

        Its slot stays empty: who gave the list finds the others' scores where they put them.
        """
        first, *rest = (
            Member(passage, said(passage.whole), score)
            for pid, score in zip_longest(item.passages[: self.slots], item.scores[: self.slots])
            for passage in (_known(self.passages, pid, "passage"),)
        )
        answers = self._answers(item.query) | {first.said}
        return [first, *(None if one.said in answers else one for one in rest)]

    def _relevant(
        self, lists: Sequence[TrainingList], members: Sequence[Sequence[Member | None]]
    ) -> np.ndarray:
        """Which slots hold what answers a query: [B, B * L].

        By what texts say, queries' and passages', and by the judgements, whether the batch holds
        a list of them or not.
        """
        asked = [said(self.queries[item.query]) for item in lists]
        answers: dict[bytes, set[bytes]] = defaultdict(set)  # by what is asked
        slots: dict[bytes, list[int]] = defaultdict(list)  # by what is said
        for row, (item, some) in enumerate(zip(lists, members, strict=True)):
            positive = {some[0].said} if item.positive and some[0] else set()
            answers[asked[row]] |= {*positive, *self._answers(item.query)}
            for slot, member in enumerate(some):
                if member:
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

    def _rows(self, texts: Sequence[Text], shape: Shape, pad_id: int) -> Rows:
        """Packs one kind of texts: [devices * chunks, ...]."""
        own = self._by_device(texts)
        lengths = _lengths(own)
        if not shape.width:  # of this batch alone, and so of few different shapes
            shape = shape_for(lengths, self.chunk, self.widths)
            shape = shape._replace(chunks=rounded(shape.chunks), rows=rounded(shape.rows))
        longest = max(map(max, lengths))
        if longest > shape.width:
            shape = wider(shape, longest, self.widths)
        return in_chunks(own, shape, pad_id)


def _lengths(devices: Sequence[Sequence[Text]]) -> list[list[int]]:
    return [[len(text.ids) for text in texts] for texts in devices]


def _stored(members: Sequence[Sequence[Member | None]], slots: int) -> TeacherScores:
    """The teacher's scores that B lists keep, [B, L]."""
    scores = np.zeros((len(members), slots), np.float32)
    there = np.zeros(scores.shape, bool)
    for row, some in enumerate(members):
        for slot, member in enumerate(some):
            if member and member.score is not None:
                scores[row, slot], there[row, slot] = member.score, True
    return TeacherScores(scores, there)


def _slotted(texts: Sequence[Text], taken: Sequence[bool]) -> list[Text]:
    """A text for each slot. Empty ones hold one token: they are masked, but never degenerate."""
    some, one = iter(texts), Text(texts[0].ids[:1], texts[0].types[:1])
    return [next(some) if here else one for here in taken]


def _known(texts: Mapping[str, Known], name: str, what: str) -> Known:
    try:
        return texts[name]
    except KeyError as error:  # met here and not before: lists may be many, and from elsewhere
        raise InputError(
            f"a training list has {what} {name!r}, which the collection has not; mine again"
        ) from error
