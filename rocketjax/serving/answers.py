"""What a pair of models answers: rankings of both, and how long each stage took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from rocketjax.data.passages import Passage
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.retrieval.model import Corpus, check_known
from rocketjax.retrieval.ranking import look_up, rerank
from rocketjax.runtime.progress import unwatched


class Ranks(NamedTuple):
    """A passage in the rankings of both models; ranks begin at 1."""

    passage: Passage
    retriever_score: float
    retriever_rank: int
    reranker_score: float
    reranker_rank: int


class Pairs(NamedTuple):
    """A query and the passages to score with it."""

    query: str
    passages: list[str]
    titles: list[str]


@dataclass
class Stages:
    """Milliseconds that each stage of a batch took."""

    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Of its block."""
        start = time.perf_counter()
        yield
        self.ms[name] = 1e3 * (time.perf_counter() - start)


@dataclass(frozen=True)
class Answers:
    """Answers lists of requests at once, in batches of few shapes."""

    retriever: Retriever
    reranker: Reranker
    corpus: Corpus
    depth: int  # passages the retriever finds and the re-ranker orders

    def warm_up(self) -> None:
        """Compiles all that requests will run, and reads the index."""
        self.retriever.compile_queries()
        self.reranker.compile_pairs()
        self.search([["warm"]])

    def search(self, requests: list[list[str]]) -> list[tuple[list[list[Ranks]], dict[str, float]]]:
        """Of each request's queries: the passages found, as re-ranked, and the stages' times.

        Raises:
            InputError: a query is empty, or the index names passages that the collection has not.
        """
        # Ids of queries, as ranking knows them: (request, place).
        queries = {
            f"{number} {place}": query
            for number, some in enumerate(requests)
            for place, query in enumerate(some)
        }
        stages = Stages()
        with stages.time("encode"):
            vectors = self.retriever.encode_query(list(queries.values()), steady=True)
        with stages.time("search"):
            found = look_up(self.corpus.index, list(queries), vectors, self.depth)
            check_known(self.corpus, (pid for ranked in found.values() for pid, _ in ranked))
        with stages.time("rerank"):
            passages = self.corpus.passages
            ordered = rerank(self.reranker, found, queries, passages, self.depth, unwatched)
        both = iter([self._both(found[name], ordered[name]) for name in queries])
        return [([next(both) for _ in some], stages.ms) for some in requests]

    def score(self, requests: list[Pairs]) -> list[tuple[list[float], dict[str, float]]]:
        """The re-ranker's scores of each request's passages, and the stages' times.

        Raises:
            InputError: a text is empty.
        """
        stages = Stages()
        with stages.time("rerank"):
            scores = iter(
                self.reranker.score(
                    [pairs.query for pairs in requests for _ in pairs.passages],
                    [text for pairs in requests for text in pairs.passages],
                    [title for pairs in requests for title in pairs.titles],
                    steady=True,
                ).tolist()
            )
        return [([next(scores) for _ in pairs.passages], stages.ms) for pairs in requests]

    def _both(
        self, found: list[tuple[str, float]], ordered: list[tuple[str, float]]
    ) -> list[Ranks]:
        before = {pid: (score, rank) for rank, (pid, score) in enumerate(found, 1)}
        return [
            Ranks(self.corpus.passages[pid], *before[pid], score, rank)
            for rank, (pid, score) in enumerate(ordered, 1)
        ]
