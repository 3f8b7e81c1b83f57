"""What both sides of a comparison are given: the same real texts, lists and lengths."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rocketjax.data.collection import Collection, Split


@dataclass(frozen=True)
class Work:
    """Texts of one collection, drawn by a seed."""

    weights: str  # a folder
    passages: list[str]  # title and text
    queries: list[str]
    pairs: list[tuple[str, str]]  # a query with one of its candidates
    lists: list[tuple[str, list[str]]]  # a query, its positive passage and other ones
    query_length: int
    passage_length: int
    pair_length: int

    def write(self, path: Path) -> None:
        """As JSON, for the other process."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> "Work":
        """What `write` wrote."""
        return Work(**json.loads(path.read_text(encoding="utf-8")))


def make_work(
    collection: Collection,
    split: Split,
    weights: str,
    passages: int,
    lists: int,
    length: int,
    lengths: tuple[int, int, int],
) -> Work:
    """Draws `passages` passages, as many pairs, and `lists` lists of `length` passages."""
    rng = np.random.default_rng(0)
    corpus = collection.passages
    count = len(corpus)
    some = [
        corpus[int(row)].whole for row in rng.choice(count, min(passages, count), replace=False)
    ]
    judged = sorted(split.qrels)
    drawn = [judged[int(i)] for i in rng.choice(len(judged), max(len(some), lists))]
    queries = [split.queries[query] for query in drawn]
    rows = []
    for query in drawn[:lists]:
        positive = collection.by_id[next(iter(split.qrels[query]))]
        others = [corpus[int(row)].whole for row in rng.choice(count, length - 1, replace=False)]
        rows.append((split.queries[query], [positive.whole, *others]))
    pairs = list(zip(queries, some, strict=False))
    return Work(weights, some, queries[: len(some)], pairs, rows, *lengths)
