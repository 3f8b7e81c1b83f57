"""Answers of both models to requests: rankings and scores, and how long each stage took."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import jax

from rocketjax.config.schema import ComputeConfig
from rocketjax.data.passages import Passage
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.retrieval.model import Corpus, check_known
from rocketjax.retrieval.ranking import rerank, search_vectors
from rocketjax.runtime.progress import unwatched
from rocketjax.serving.budget import rerank_within


def for_requests(compute: ComputeConfig) -> ComputeConfig:
    """How to compute where requests come one by one: by default in small batches."""
    on_cpu = jax.default_backend() == "cpu"
    return dataclasses.replace(compute, batch=compute.batch or (4 if on_cpu else 32))


class RankedPassage(NamedTuple):
    """A passage with its scores and ranks by both models; ranks start at 1.

    Those of the re-ranker are None where its budget was used up before it reached the passage.
    """

    passage: Passage
    retriever_score: float
    retriever_rank: int
    reranker_score: float | None
    reranker_rank: int | None

    @property
    def rank(self) -> int:
        """In the final order: one that was not re-ranked keeps its place by the retriever."""
        return self.retriever_rank if self.reranker_rank is None else self.reranker_rank

    @property
    def move(self) -> int | None:
        """By how many ranks the re-ranker moved it up."""
        return None if self.reranker_rank is None else self.retriever_rank - self.reranker_rank


class ScoreItem(NamedTuple):
    """A query and the passages to score for it, with a title, perhaps empty, for each."""

    query: str
    passages: list[str]
    titles: list[str]


@dataclass
class StageTimes:
    """The milliseconds that each stage of a batch of requests took."""

    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Times its block as the stage `name`."""
        start = time.perf_counter()
        yield
        self.ms[name] = 1e3 * (time.perf_counter() - start)


@dataclass(frozen=True)
class Answers:
    """Both models and a corpus, to answer batches of requests with.

    Each method returns the answers in the order of the requests, each with the milliseconds that
    every stage took for the whole batch.
    """

    retriever: Retriever
    reranker: Reranker
    corpus: Corpus
    depth: int  # passages per query that the retriever finds and the re-ranker orders
    budget_ms: float | None = None  # for re-ranking a batch; None: as long as it takes

    def warm_up(self) -> None:
        """Compiles every program that requests can need, and loads the index."""
        self.retriever.compile_queries()
        self.reranker.compile_pairs()
        self.search([["warm"]])

    def search(
        self, requests: list[list[str]], budget_ms: float | None = None
    ) -> list[tuple[list[list[RankedPassage]], dict[str, float]]]:
        """Finds `depth` passages for each query of each request, in the re-ranker's order.

        Args:
            requests: the queries of each.
            budget_ms: milliseconds for re-ranking all of them; see `rerank_within`. Passages that
                it did not suffice for follow in the retriever's order. None: as `self` has it.

        Raises:
            InputError: a query is empty, or the index has passages that the collection lacks.
        """
        budget_ms = self.budget_ms if budget_ms is None else budget_ms
        # Rankings are by query id; here these are the request's number and the query's.
        queries = {
            f"{i} {j}": query
            for i, request in enumerate(requests)
            for j, query in enumerate(request)
        }
        stages = StageTimes()
        with stages.time("encode"):
            vectors = self.retriever.encode_query(list(queries.values()), steady=True)
        with stages.time("search"):
            retrieved = search_vectors(self.corpus.index, list(queries), vectors, self.depth)
            check_known(self.corpus, (pid for ranking in retrieved.values() for pid, _ in ranking))
        with stages.time("rerank"):
            passages = self.corpus.passages
            if budget_ms is None:
                depth = self.depth
                reranked = rerank(self.reranker, retrieved, queries, passages, depth, unwatched)
            else:
                reranked = rerank_within(self.reranker, retrieved, queries, passages, budget_ms)
        results = iter([self._join(retrieved[name], reranked[name]) for name in queries])
        return [([next(results) for _ in request], stages.ms) for request in requests]

    def score(self, requests: list[ScoreItem]) -> list[tuple[list[float], dict[str, float]]]:
        """Scores the passages of each request with the re-ranker.

        Raises:
            InputError: a text is empty.
        """
        stages = StageTimes()
        with stages.time("rerank"):
            scores = iter(
                self.reranker.score(
                    [item.query for item in requests for _ in item.passages],
                    [text for item in requests for text in item.passages],
                    [title for item in requests for title in item.titles],
                    steady=True,
                ).tolist()
            )
        return [([next(scores) for _ in item.passages], stages.ms) for item in requests]

    def _join(
        self, retrieved: list[tuple[str, float]], reranked: list[tuple[str, float]]
    ) -> list[RankedPassage]:
        """Joins both rankings of a query: the re-ranker's, then what it did not reach."""
        by_reranker = {pid: (score, rank) for rank, (pid, score) in enumerate(reranked, 1)}
        joined = [
            RankedPassage(
                self.corpus.passages[pid], score, rank, *by_reranker.get(pid, (None, None))
            )
            for rank, (pid, score) in enumerate(retrieved, 1)
        ]
        return sorted(joined, key=lambda ranked: ranked.rank)


class SearchWithin(NamedTuple):
    """A search with a budget for re-ranking: work for the batcher, equal for equal budgets."""

    answers: Answers
    budget_ms: float | None

    def __call__(
        self, requests: list[list[str]]
    ) -> list[tuple[list[list[RankedPassage]], dict[str, float]]]:
        """See `Answers.search`."""
        return self.answers.search(requests, self.budget_ms)
