"""Judges a pair of models: what the retriever finds, and how the re-ranker orders it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rocketjax.config import EvaluateConfig
from rocketjax.data.collection import Collection, Passage, Split
from rocketjax.inference import Model, Reranker, Retriever
from rocketjax.retrieval import exact

Scored: TypeAlias = dict[
    str, list[tuple[str, float]]
]  # query id -> (passage id, score), best first
Watch: TypeAlias = Callable[[Sequence[Any], str], Iterable[Any]]  # shows progress under a name


@dataclass(frozen=True)
class Judged:
    """The runs of both models on the same queries."""

    retriever: Scored
    reranker: Scored


def encode_corpus(retriever: Retriever, passages: Sequence[Passage], watch: Watch) -> np.ndarray:
    """All passages -> vectors [N, D], row i for passages[i]."""
    return retriever.encode_passage(
        [p.text for p in passages],
        [p.title for p in passages],
        lambda batches: watch(batches, "encode corpus"),
    )


def retrieve(
    retriever: Retriever,
    passages: Sequence[Passage],
    vectors: np.ndarray,
    queries: Mapping[str, str],
    top_k: int,
) -> Scored:
    """The `top_k` best passages of every query."""
    rows, scores = exact.search(
        retriever.encode_query(list(queries.values())), vectors, min(top_k, len(passages))
    )
    return {
        query: [(passages[row].id, float(score)) for row, score in zip(*found, strict=True)]
        for query, *found in zip(queries, rows, scores, strict=True)
    }


def rerank(
    reranker: Reranker,
    found: Scored,
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    depth: int,
    watch: Watch,
) -> Scored:
    """Orders each query's first `depth` passages by the re-ranker; the rest stays behind them.

    Pairs are scored across queries in sorted batches. What is left behind keeps its order, with
    scores that go on downwards from the last re-ranked one's.
    """
    pairs = [(query, pid) for query, ranked in found.items() for pid, _ in ranked[:depth]]
    texts = [passages[pid] for _, pid in pairs]
    scores = iter(
        reranker.score(
            [queries[query] for query, _ in pairs],
            [p.text for p in texts],
            [p.title for p in texts],
            lambda batches: watch(batches, "re-rank"),
        )
    )
    reranked: Scored = {}
    for query, ranked in found.items():
        head = [(pid, float(next(scores))) for pid, _ in ranked[:depth]]
        head.sort(key=lambda item: -item[1])
        lowest = head[-1][1] if head else 0.0
        tail = [(pid, lowest - 1 - i) for i, (pid, _) in enumerate(ranked[depth:])]
        reranked[query] = head + tail
    return reranked


def judge(
    model: Model,
    collection: Collection,
    split: Split,
    config: EvaluateConfig,
    vectors: np.ndarray,
    watch: Watch,
) -> Judged:
    """Runs both models on a split's queries; `vectors` are the corpus' by this retriever."""
    found = retrieve(model.retriever, collection.passages, vectors, split.queries, config.top_k)
    by_id = {p.id: p for p in collection.passages}
    return Judged(
        found, rerank(model.reranker, found, split.queries, by_id, config.rerank_depth, watch)
    )
