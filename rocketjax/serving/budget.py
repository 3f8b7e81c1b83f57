"""Re-ranking for as long as a budget lasts: the retriever's first passages first."""

import time
from collections.abc import Callable, Mapping

from rocketjax.data.passages import Passage
from rocketjax.inference.reranker import Reranker
from rocketjax.retrieval.ranking import Rankings


def rerank_within(
    reranker: Reranker,
    found: Rankings,
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    budget_ms: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Rankings:
    """Orders each query's first passages by the re-ranker, as many as it can score in time.

    All queries' first passages are scored before any second one, in blocks of what the devices
    take at once. A block takes about as long whatever is in it, so the next one is begun only if
    the slowest one so far would still end in time. The first block is always scored.

    Args:
        reranker: its `score_in_blocks` is used.
        found: each query's passages in the retriever's order.
        queries: their texts.
        passages: of the collection.
        budget_ms: milliseconds for all queries together, tokenising included.
        clock: the time in seconds.

    Returns:
        For every query the passages that were scored, perhaps none: always the first of `found`.
    """
    begun = clock()
    deepest = max(map(len, found.values()), default=0)
    pairs = [
        (query, ranked[rank][0])
        for rank in range(deepest)
        for query, ranked in found.items()
        if rank < len(ranked)
    ]
    texts = [passages[pid] for _, pid in pairs]
    blocks = reranker.score_in_blocks(
        [queries[query] for query, _ in pairs], [p.text for p in texts], [p.title for p in texts]
    )
    scores: list[float] = []
    before, slowest = clock(), 0.0
    for block in blocks:
        scores += block.tolist()
        now = clock()
        before, slowest = now, max(slowest, now - before)
        if now + slowest > begun + 1e-3 * budget_ms:
            break
    reranked: Rankings = {query: [] for query in found}
    for (query, pid), score in zip(pairs, scores, strict=False):
        reranked[query].append((pid, score))
    for ranked in reranked.values():
        ranked.sort(key=lambda item: -item[1])
    return reranked
