"""What a retrieval collection is: passages, and for each split its queries and judgements."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from rocketjax.errors import InputError


class Passage(NamedTuple):
    """One unit of retrieval. `title` may be empty."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Split:
    """Queries by id, and qrels: query id -> passage id -> graded relevance (> 0 is relevant).

    A query need not be judged (it can be mined for pseudo-positives), nor have answers: the strings
    that an answering passage contains, which answer recall looks for.
    """

    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Collection:
    """A corpus and its splits ("train", "dev", ...).

    `passages` is any sequence, so that a corpus need not live in Python objects; a passage's
    position in it is its row in every matrix of embeddings made from it.
    """

    name: str
    passages: Sequence[Passage]
    splits: Mapping[str, Split]

    def split(self, name: str) -> Split:
        """A split by name. Raises InputError where there is none."""
        if name not in self.splits:
            known = ", ".join(self.splits)
            raise InputError(f"{self.name} has no split {name!r}; it has {known}")
        return self.splits[name]

    @cached_property
    def by_id(self) -> Mapping[str, Passage]:
        """Passages by their id."""
        return {passage.id: passage for passage in self.passages}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every passage's id, title and text, in order: what an index was made from."""
        digest = hashlib.blake2b(digest_size=16)
        for passage in self.passages:
            for text in passage:
                data = text.encode()
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
        return digest.hexdigest()
