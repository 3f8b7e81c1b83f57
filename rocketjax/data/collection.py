"""What a retrieval collection is: passages, and for each split its queries and judgements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Passage(NamedTuple):
    """One unit of retrieval. `title` may be empty."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Split:
    """Queries by id, and qrels: query id -> passage id -> graded relevance (> 0 is relevant)."""

    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Collection:
    """A corpus and its splits ("train", "dev", ...).

    `passages` is any sequence, so that a corpus need not live in Python objects; a passage's
    position in it is its row in every matrix of embeddings made from it.
    """

    name: str
    passages: Sequence[Passage]
    splits: Mapping[str, Split]
