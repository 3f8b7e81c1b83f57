"""Retrieve, then re-rank: what both models make of queries, as ranked passage ids."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, tee
from typing import NamedTuple, TypeAlias

import numpy as np

from rocketjax.config.schema import Depths
from rocketjax.data.passages import Passage
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.retrieval.index import Index
from rocketjax.retrieval.model import Model
from rocketjax.runtime.progress import Advance, Watch

Ranking: TypeAlias = list[tuple[str, float]]  # (passage id, score), best first


Scored: TypeAlias = dict[str, Ranking]  # by query id


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
    with watch("retrieve", len(queries), "queries") as advance:
        return dict(retrieve_each(retriever, index, queries, top_k, advance))


def retrieve_each(
    retriever: Retriever, index: Index, queries: Mapping[str, str], top_k: int, advance: Advance
) -> Iterator[tuple[str, Ranking]]:
    """The same query by query, `QUERIES_AT_ONCE` of them in memory: a file may hold a million."""
    names = list(queries)
    for start in range(0, len(names), QUERIES_AT_ONCE):
        some = names[start : start + QUERIES_AT_ONCE]
        vectors = retriever.encode_query([queries[q] for q in some], steady=True)
        found = look_up(index, some, vectors, top_k)
        advance(len(some))
        yield from found.items()
        del found  # before the next are searched for


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
    with watch("re-rank", len(pairs), "pairs") as advance:
        return list(_score_each(reranker, pairs, queries, passages, advance))


def _score_each(
    reranker: Reranker,
    pairs: Iterable[tuple[str, str]],
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    advance: Advance,
) -> Iterator[float]:
    """The same one by one, `AT_ONCE` of them asked for at once."""
    waiting = iter(pairs)
    while some := list(islice(waiting, AT_ONCE)):
        texts = [passages[pid] for _, pid in some]
        scores = reranker.score(
            [queries[query] for query, _ in some],
            [p.text for p in texts],
            [p.title for p in texts],
            advance,
            steady=True,
        )
        yield from scores.tolist()


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
    pairs = sum(min(depth, len(ranked)) for ranked in found.values())
    with watch("re-rank", pairs, "pairs") as advance:
        return dict(rerank_each(reranker, found.items(), queries, passages, depth, advance))


def rerank_each(
    reranker: Reranker,
    found: Iterable[tuple[str, Ranking]],
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    depth: int,
    advance: Advance,
) -> Iterator[tuple[str, Ranking]]:
    """The same query by query.

    Of `found`, no more is in memory than `AT_ONCE` pairs are from: they are scored together
    wherever it comes in parts, so that scores do not hang on the parts, to the last bit.
    """
    ahead, found = tee(found)  # the pairs to score next are some queries ahead
    pairs = ((query, pid) for query, ranked in ahead for pid, _ in ranked[:depth])
    scores = _score_each(reranker, pairs, queries, passages, advance)
    for query, ranked in found:
        head = [(pid, next(scores)) for pid, _ in ranked[:depth]]
        head.sort(key=lambda item: -item[1])
        lowest = head[-1][1] if head else 0.0
        tail = [(pid, lowest - 1 - i) for i, (pid, _) in enumerate(ranked[depth:])]
        yield query, head + tail


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
