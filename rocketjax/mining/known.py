"""What is known to answer a query, and so is none of its negatives, under whatever id it stands."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from rocketjax.data.collection import Split, relevant
from rocketjax.data.copies import find_copies
from rocketjax.data.passages import Passage
from rocketjax.runtime.progress import Watch


class Left(NamedTuple):
    """What is left of the passages that were found for a query."""

    passages: tuple[str, ...]  # in their order
    copies: int  # left out for what they say; its own positives are not counted
    above: tuple[int, ...]  # how many passages are left above each of its own positives


@dataclass(frozen=True)
class Known:
    """The positives of a split's queries, and every copy of them in the corpus."""

    split: Split
    says: Mapping[str, bytes]  # by passage id: what it says, of positives and their copies alone

    def left(self, query: str, found: Sequence[str], depth: int) -> Left:
        """The first `depth` of the passages found that do not answer the query.

        A passage answers it that is, or says the same as, a positive of any query of its text. Nor
        is the query its own negative.
        """
        own = set(self.positives(query))
        ids, answers = self._answers(query)
        left: list[str] = []
        above: list[int] = []
        copies = 0
        for pid in found:
            if len(left) == depth:
                break
            if pid in ids or self.says.get(pid) in answers:
                copies += pid not in own
                above += [len(left)] * (pid in own)
            elif pid == query:
                continue  # where queries are passages of the corpus (ArguAna)
            else:
                left.append(pid)
        return Left(tuple(left), copies, tuple(above))

    def positives(self, query: str) -> tuple[str, ...]:
        """Those that the query itself is judged to have."""
        return tuple(relevant(self.split.qrels.get(query, {})))

    def number(self, query: str) -> int:
        """How many passages answer the query: so many more than are wanted have to be found."""
        return sum(self._count[answer] for answer in self._answers(query)[1])

    @cached_property
    def _count(self) -> Counter[bytes]:
        return Counter(self.says.values())

    def _answers(self, query: str) -> tuple[set[str], set[bytes]]:
        """The ids of the positives, and what they say."""
        ids = set(self.split.positives(query))
        return ids, {self.says[pid] for pid in ids if pid in self.says}


def known_answers(split: Split, passages: Mapping[str, Passage], watch: Watch) -> Known:
    """Looks through the whole corpus, once for all queries."""
    wanted = (pid for query in split.queries for pid in split.positives(query))
    with watch("look for copies", len(passages), "passages") as advance:
        return Known(split, find_copies(passages, wanted, advance))
