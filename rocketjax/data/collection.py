"""What a retrieval collection is: passages, and for each split its queries and judgements."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeAlias, TypeVar

import numpy as np

from rocketjax.data.passages import InMemory, Passage, StoredPassages
from rocketjax.runtime.errors import InputError

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]


Value = TypeVar("Value")


class Lazy(Mapping[str, Value]):
    """A mapping that is made when it is first looked into, which many a caller never does."""

    def __init__(self, make: Callable[[], Mapping[str, Value]]) -> None:
        """`make` is called once; what it raises, whoever looks into the mapping gets."""
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
    """Queries by id, and qrels: query id -> passage id -> graded relevance (> 0 is relevant).

    A query need not be judged (it can be mined for pseudo-positives), nor have answers: the strings
    that an answering passage contains, which answer recall looks for. `negatives` are the hard
    negatives that a query came with, by id; of MS MARCO's layout they are read when they are first
    asked for.
    """

    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    negatives: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def only(self, wanted: Iterable[str]) -> "Split":
        """The part of these queries, in this order."""
        names = list(wanted)
        return Split(
            _part(self.queries, names),
            _part(self.qrels, names),
            _part(self.answers, names),
            Lazy(partial(_part, self.negatives, names)),
        )


def _part(whole: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    return {name: whole[name] for name in names if name in whole}


@dataclass(frozen=True)
class Collection:
    """A corpus and its splits ("train", "dev", ...).

    A passage's position in `passages` is its row in every matrix of embeddings made from it.
    `notes` say what loading left out.
    """

    name: str
    passages: StoredPassages | InMemory
    splits: Mapping[str, Split]
    notes: Sequence[str] = ()

    def split(self, name: str) -> Split:
        """A split by name. Raises InputError where there is none."""
        if name not in self.splits:
            known = ", ".join(self.splits)
            raise InputError(f"{self.name} has no split {name!r}; it has {known}")
        return self.splits[name]

    @property
    def by_id(self) -> Mapping[str, Passage]:
        """Passages by their id."""
        return self.passages.by_id

    @property
    def fingerprint(self) -> str:
        """A hash of every passage's id, title and text, in order: what an index was made from."""
        return self.passages.fingerprint


def sample_queries(split: Split, most: int, seed: int = 1) -> Split:
    """At most `most` judged queries of a split (0: all), drawn by seed.

    A run's seed is not asked: runs, and their own beginning, are judged on the same queries.
    """
    names = sorted(split.qrels)
    if most and most < len(names):
        drawn = np.random.default_rng(seed).choice(len(names), size=most, replace=False)
        names = [names[i] for i in sorted(drawn)]
    return split.only(names)


def hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """What stays of a split, and this share of its queries.

    By each query's own hash: other queries, or an order, do not change which are held out.
    """
    stays = [query for query in split.queries if _place(query) >= share]
    out = [query for query in split.queries if _place(query) < share]
    return split.only(stays), split.only(out)


def _place(query: str) -> float:
    """A number from 0 to 1 that the query's id decides."""
    return int.from_bytes(hashlib.blake2b(query.encode(), digest_size=4).digest()) / 2**32


def relevant(judged: Mapping[str, int]) -> list[str]:
    """The ids of a query's relevant passages, by its grades; sorted."""
    return sorted(pid for pid, grade in judged.items() if grade > 0)
