"""Retrieve, then re-rank: queries in, ranked passage ids with scores out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, tee
from typing import NamedTuple, TypeAlias

import numpy as np

from rocketjax.config.schema import Depths
from rocketjax.data.passages import Passage
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.retrieval.index import Index
from rocketjax.retrieval.model import Corpus, Model
from rocketjax.runtime.progress import Advance, Watch

Ranking: TypeAlias = list[tuple[str, float]]  # (passage id, score), best first
Rankings: TypeAlias = dict[str, Ranking]  # by query id
QUERIES_AT_ONCE = 4_096  # searched at once: bounds the memory of vectors and results
AT_ONCE = 65_536  # pairs tokenised and scored at once: some 8 kB each


class Runs(NamedTuple):
    """The rankings of both models for the same queries."""

    retriever: Rankings
    reranker: Rankings


def retrieve(
    retriever: Retriever, index: Index, queries: Mapping[str, str], top_k: int, watch: Watch
) -> Rankings:
    """The `top_k` best passages of every query (all there are, in a smaller corpus)."""
    with watch("retrieve", len(queries), "queries") as advance:
        return dict(retrieve_in_parts(retriever, index, queries, top_k, advance))


def retrieve_in_parts(
    retriever: Retriever, index: Index, queries: Mapping[str, str], top_k: int, advance: Advance
) -> Iterator[tuple[str, Ranking]]:
    """As `retrieve`, query by query, `QUERIES_AT_ONCE` in memory: a file may hold a million."""
    names = list(queries)
    for start in range(0, len(names), QUERIES_AT_ONCE):
        some = names[start : start + QUERIES_AT_ONCE]
        vectors = retriever.encode_query([queries[q] for q in some], steady=True)
        found = search_vectors(index, some, vectors, top_k)
        advance(len(some))
        yield from found.items()
        del found  # before the next are searched for


def search_vectors(
    index: Index, queries: Sequence[str], vectors: np.ndarray, top_k: int
) -> Rankings:
    """The `top_k` best passages by query id, for queries whose vectors [Q, D] are at hand."""
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
        return list(_score_in_parts(reranker, pairs, queries, passages, advance))


def _score_in_parts(
    reranker: Reranker,
    pairs: Iterable[tuple[str, str]],
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    advance: Advance,
) -> Iterator[float]:
    """As `score_pairs`, one by one; `AT_ONCE` pairs are scored together."""
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
    found: Rankings,
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    depth: int,
    watch: Watch,
) -> Rankings:
    """Orders each query's first `depth` passages by the re-ranker; the rest follow them.

    The rest keep their order, with scores that fall from that of the last re-ranked passage.
    """
    pairs = sum(min(depth, len(ranked)) for ranked in found.values())
    with watch("re-rank", pairs, "pairs") as advance:
        return dict(rerank_in_parts(reranker, found.items(), queries, passages, depth, advance))


def rerank_in_parts(
    reranker: Reranker,
    found: Iterable[tuple[str, Ranking]],
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    depth: int,
    advance: Advance,
) -> Iterator[tuple[str, Ranking]]:
    """As `rerank`, query by query.

    No more of `found` is in memory than `AT_ONCE` pairs come from. Pairs are scored together
    however `found` arrives, so scores do not depend on its parts, to the last bit.
    """
    ahead, found = tee(found)  # the pairs to score next are some queries ahead
    pairs = ((query, pid) for query, ranked in ahead for pid, _ in ranked[:depth])
    scores = _score_in_parts(reranker, pairs, queries, passages, advance)
    for query, ranked in found:
        head = [(pid, next(scores)) for pid, _ in ranked[:depth]]
        head.sort(key=lambda item: -item[1])
        lowest = head[-1][1] if head else 0.0
        tail = [(pid, lowest - 1 - i) for i, (pid, _) in enumerate(ranked[depth:])]
        yield query, head + tail


def without_own(query: str, ranked: Ranking, top_k: int) -> Ranking:
    """A query's first `top_k` passages, without the one that has its own id (BEIR's rule)."""
    return [(pid, score) for pid, score in ranked if pid != query][:top_k]


def retrieve_judged(
    retriever: Retriever, index: Index, queries: Mapping[str, str], depths: Depths, watch: Watch
) -> Rankings:
    """As `retrieve`, for judging: `depths` says how many, and whether the query's own is one."""
    found = retrieve(retriever, index, queries, depths.top_k + depths.skip_own, watch)
    if not depths.skip_own:
        return found
    return {query: without_own(query, ranked, depths.top_k) for query, ranked in found.items()}


def retrieve_and_rerank(
    model: Model, corpus: Corpus, queries: Mapping[str, str], depths: Depths, watch: Watch
) -> Runs:
    """Both models' rankings of the same queries."""
    found = retrieve_judged(model.retriever, corpus.index, queries, depths, watch)
    depth = depths.rerank_depth
    ordered = rerank(model.reranker, found, queries, corpus.passages, depth, watch)
    return Runs(found, ordered)
