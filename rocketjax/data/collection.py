"""A retrieval collection: passages, and for each split its queries and their qrels."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeAlias, TypeVar

import numpy as np

from rocketjax.data.passages import InMemory, Passage, StoredPassages
from rocketjax.data.said import said
from rocketjax.runtime.errors import InputError

Value = TypeVar("Value")

# Query id -> passage id -> graded relevance; above 0 is relevant.
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]


def relevant(grades: Mapping[str, int]) -> list[str]:
    """The sorted ids of the relevant passages among a query's graded ones."""
    return sorted(pid for pid, grade in grades.items() if grade > 0)


class Lazy(Mapping[str, Value]):
    """A mapping that is made when it is first used, since many callers never use it."""

    def __init__(self, make: Callable[[], Mapping[str, Value]]) -> None:
        """`make` is called once, by the first use, which also gets the errors it raises."""
        self._make = make

    def __getitem__(self, name: str) -> Value:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    @cached_property
    def _made(self) -> Mapping[str, Value]:
        return self._make()


@dataclass(frozen=True)
class Split:
    """Queries by id with their qrels, and by query id what else is known of them.

    A query may lack qrels; it can then be mined for pseudo-positives. `answers` are strings that
    an answering passage contains, for answer recall. `negatives` are the ids of the hard negatives
    that the collection brings; those of MS MARCO's layout are read when they are first used.
    `shared` are, of queries whose text others have too, the positives of all of them
    (`copies.shared_positives`). `scores` are a teacher's, by passage id, where the rows have some.
    """

    queries: Mapping[str, str]
    qrels: Qrels
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    negatives: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shared: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def positives(self, query: str) -> list[str]:
        """The ids of what answers a query: its own relevant passages, then what it shares."""
        own = relevant(self.qrels.get(query, {}))
        return list(dict.fromkeys((*own, *self.shared.get(query, ()))))

    def only(self, wanted: Iterable[str]) -> "Split":
        """The split restricted to these query ids, in their order."""
        names = list(wanted)
        return Split(
            _restrict(self.queries, names),
            _restrict(self.qrels, names),
            _restrict(self.answers, names),
            Lazy(partial(_restrict, self.negatives, names)),
            _restrict(self.shared, names),
            _restrict(self.scores, names),
        )


def _restrict(values: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    return {name: values[name] for name in names if name in values}


@dataclass(frozen=True)
class Collection:
    """A corpus and its splits ("train", "dev", ...).

    A passage's position in `passages` is its row in every matrix of embeddings of the corpus.
    `notes` say what was left out when the collection was loaded.
    """

    name: str
    passages: StoredPassages | InMemory
    splits: Mapping[str, Split]
    notes: Sequence[str] = ()

    def split(self, name: str) -> Split:
        """A split by name. Raises InputError, with the names there are, if it does not exist."""
        if name not in self.splits:
            known = ", ".join(self.splits)
            raise InputError(f"{self.name} has no split {name!r}; it has {known}")
        return self.splits[name]

    @property
    def by_id(self) -> Mapping[str, Passage]:
        """Passages by id."""
        return self.passages.by_id

    @property
    def fingerprint(self) -> str:
        """A hash of every passage's id, title and text, in order; an index records it."""
        return self.passages.fingerprint


def sample_queries(split: Split, most: int, seed: int = 1) -> Split:
    """At most `most` queries with qrels (0: all), sampled by `seed`.

    The seed is deliberately not that of a training run: different runs, and a run before and after
    training, are to be evaluated on the same queries.
    """
    names = sorted(split.qrels)
    if most and most < len(names):
        drawn = np.random.default_rng(seed).choice(len(names), size=most, replace=False)
        names = [names[i] for i in sorted(drawn)]
    return split.only(names)


def hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """Splits off a share (0 to 1) of the queries; returns the rest and the held-out part.

    Each query is assigned by a hash of its own id, whatever the other queries and their order are.
    """
    kept = [query for query in split.queries if _position(query) >= share]
    held_out = [query for query in split.queries if _position(query) < share]
    return split.only(kept), split.only(held_out)


def without_texts_of(split: Split, other: Split) -> Split:
    """The split without the queries that say what one of `other` says, in any case of letters."""
    asked = {said(text) for text in other.queries.values()}
    return split.only(query for query, text in split.queries.items() if said(text) not in asked)


def _position(query: str) -> float:
    """A hash of the query's id as a number in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(query.encode(), digest_size=4).digest()) / 2**32
