"""Retrieve, then re-rank: what both models make of queries, as ranked passage ids."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from rocketjax.config import Depths
from rocketjax.data.passages import Passage
from rocketjax.inference import Model, Reranker, Retriever
from rocketjax.progress import Watch
from rocketjax.retrieval.index import Index

Scored: TypeAlias = dict[
    str, list[tuple[str, float]]
]  # query id -> (passage id, score), best first
QUERIES_AT_ONCE = 4_096  # searched at once: bounds the memory of vectors and results
AT_ONCE = 65_536  # pairs tokenised and scored at once: some 8 kB each


class Judged(NamedTuple):
    """The runs of both models on the same queries."""

    retriever: Scored
    reranker: Scored


def retrieve(
    retriever: Retriever, index: Index, queries: Mapping[str, str], top_k: int, watch: Watch
) -> Scored:
    """The `top_k` best passages of every query (all there are, in a smaller corpus)."""
    names = list(queries)
    found: Scored = {}
    with watch("retrieve", len(names), "queries") as advance:
        for start in range(0, len(names), QUERIES_AT_ONCE):
            some = names[start : start + QUERIES_AT_ONCE]
            vectors = retriever.encode_query([queries[q] for q in some], steady=True)
            found |= look_up(index, some, vectors, top_k)
            advance(len(some))
    return found


def look_up(index: Index, queries: Sequence[str], vectors: np.ndarray, top_k: int) -> Scored:
    """The same of query ids whose vectors [Q, D] are at hand."""
    ids, scores = index.search(vectors, min(top_k, len(index.vectors)))
    return {
        query: [(pid, score) for pid, score in zip(*ranked, strict=True) if pid]
        for query, *ranked in zip(queries, ids.tolist(), scores.tolist(), strict=True)
    }


def score_pairs(
    reranker: Reranker,
    pairs: Sequence[tuple[str, str]],
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    watch: Watch,
) -> list[float]:
    """The re-ranker's score of each (query id, passage id), in sorted batches across queries."""
    scores: list[float] = []
    with watch("re-rank", len(pairs), "pairs") as advance:
        for start in range(0, len(pairs), AT_ONCE):
            some = pairs[start : start + AT_ONCE]
            texts = [passages[pid] for _, pid in some]
            found = reranker.score(
                [queries[query] for query, _ in some],
                [p.text for p in texts],
                [p.title for p in texts],
                advance,
                steady=True,
            )
            scores += found.tolist()
    return scores


def rerank(
    reranker: Reranker,
    found: Scored,
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    depth: int,
    watch: Watch,
) -> Scored:
    """Orders each query's first `depth` passages by the re-ranker; the rest stays behind them.

    What is left behind keeps its order, with scores that go on downwards from the last re-ranked
    one's.
    """
    pairs = [(query, pid) for query, ranked in found.items() for pid, _ in ranked[:depth]]
    scores = iter(score_pairs(reranker, pairs, queries, passages, watch))
    reranked: Scored = {}
    for query, ranked in found.items():
        head = [(pid, next(scores)) for pid, _ in ranked[:depth]]
        head.sort(key=lambda item: -item[1])
        lowest = head[-1][1] if head else 0.0
        tail = [(pid, lowest - 1 - i) for i, (pid, _) in enumerate(ranked[depth:])]
        reranked[query] = head + tail
    return reranked


def rank_both(
    model: Model,
    index: Index,
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    depths: Depths,
    watch: Watch,
) -> Judged:
    """Both models on the same queries."""
    found = retrieve(model.retriever, index, queries, depths.top_k, watch)
    depth = depths.rerank_depth
    return Judged(found, rerank(model.reranker, found, queries, passages, depth, watch))
