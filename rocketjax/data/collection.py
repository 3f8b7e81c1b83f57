"""What a retrieval collection is: passages, and for each split its queries and judgements."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rocketjax.data.passages import InMemory, Passage, StoredPassages
from rocketjax.errors import InputError


@dataclass(frozen=True)
class Split:
    """Queries by id, and qrels: query id -> passage id -> graded relevance (> 0 is relevant).

    A query need not be judged (it can be mined for pseudo-positives), nor have answers: the strings
    that an answering passage contains, which answer recall looks for. `negatives` are the hard
    negatives that a query came with, by id.
    """

    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    negatives: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def only(self, wanted: Iterable[str]) -> "Split":
        """The part of these queries, in this order."""
        names, parts = list(wanted), (self.queries, self.qrels, self.answers, self.negatives)
        queries, qrels, answers, negatives = (
            {query: part[query] for query in names if query in part} for part in parts
        )
        return Split(queries, qrels, answers, negatives)  # pyright: ignore


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
