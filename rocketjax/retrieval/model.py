"""A jointly trained pair at work: search a corpus, re-rank what was found."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from rocketjax.data.passages import Passage
from rocketjax.inference.reranker import Ranked, Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.models.encoder import Params
from rocketjax.retrieval.index import Index
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.tables import html_table


class Hit(NamedTuple):
    """A passage that was found for a query."""

    passage: Passage
    retriever_score: float
    retriever_rank: int  # among all that it found; 1 is its best
    reranker_score: float | None  # None: below the depth that was re-ranked


class Hits(list[Hit]):
    """Passages, best first; a notebook shows them as a table, with the retriever's own ranks."""

    def _repr_html_(self) -> str:
        rows = [
            (
                rank,
                hit.retriever_rank,
                _shown(hit.reranker_score),
                _shown(hit.retriever_score),
                hit.passage.title or hit.passage.id,
                hit.passage.text[:300],
            )
            for rank, hit in enumerate(self, 1)
        ]
        heads = ("rank", "retriever's", "re-ranker's score", "retriever's score", "passage", "")
        return html_table(heads, rows)


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


class Corpus(NamedTuple):
    """What is searched: an index, and the passages its ids stand for."""

    index: Index
    passages: Mapping[str, Passage]


@dataclass(frozen=True, eq=False)
class Model:
    """A jointly trained pair; what `rocketjax.load` gives."""

    retriever: Retriever
    reranker: Reranker
    open_corpus: Callable[[], Corpus] | None = None

    @cached_property
    def corpus(self) -> Corpus:
        """The run's index and collection, opened at the first search.

        Raises:
            InputError: there is none, or the collection is no longer what was indexed.
        """
        if self.open_corpus is None:
            raise InputError(
                "this pair of models has no index to search; load a run with its index/, or "
                "give rocketjax.load index="
            )
        return self.open_corpus()

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: the fields, without the opened corpus."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}

    def with_params(self, params: Params) -> "Model":
        """The same pair with other parameters: {"retriever": .., "reranker": ..}.

        It has no index to search: the passages' vectors are of the old parameters.
        """
        return dataclasses.replace(
            self,
            retriever=dataclasses.replace(self.retriever, params=params["retriever"]),
            reranker=dataclasses.replace(self.reranker, params=params["reranker"]),
            open_corpus=None,
        )

    def search(self, query: str, top_k: int = 10, depth: int = 50) -> Hits:
        """The `top_k` best passages: the retriever finds `depth`, the re-ranker orders them.

        With depth 0 the retriever's order stands; what lies beyond `depth` follows in its order.

        Raises:
            InputError: an empty query, top_k below 1, depth below 0, or what `corpus` raises.
        """
        return search(self.retriever, self.reranker, self.corpus, query, top_k, depth)

    def encode_query(self, queries: Sequence[str]) -> np.ndarray:
        """Queries -> vectors [N, D]."""
        return self.retriever.encode_query(queries)

    def encode_passage(
        self, passages: Sequence[str], titles: Sequence[str] | None = None
    ) -> np.ndarray:
        """Passages -> vectors [N, D]."""
        return self.retriever.encode_passage(passages, titles)

    def score(
        self,
        queries: Sequence[str],
        passages: Sequence[str],
        titles: Sequence[str] | None = None,
    ) -> np.ndarray:
        """The re-ranker's score of each pair (queries[i], passages[i]) -> [N]."""
        return self.reranker.score(queries, passages, titles)

    def rerank(
        self,
        query: str,
        passages: Sequence[str],
        titles: Sequence[str] | None = None,
        top_k: int | None = None,
    ) -> list[Ranked]:
        """The passages by the re-ranker's score, best first (ties in the order given).

        Raises InputError for top_k below 1 (None: all), and what `score` raises.
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k is {top_k}; give at least 1, or None for all")
        return self.reranker.rank(query, passages, titles)[:top_k]


def search(
    retriever: Retriever,
    reranker: Reranker | None,
    corpus: Corpus,
    query: str,
    top_k: int,
    depth: int,
) -> Hits:
    """As `Model.search`; without a re-ranker the retriever's order stands."""
    if top_k < 1 or depth < 0:
        raise InputError(f"top_k is {top_k} and depth {depth}; give at least 1 and 0")
    wanted = min(max(top_k, depth), len(corpus.index.vectors))
    ids, scores = corpus.index.search(retriever.encode_query([query]), wanted)
    pairs = [(pid, float(score)) for pid, score in zip(ids[0], scores[0], strict=True) if pid]
    check_known(corpus, (pid for pid, _ in pairs))
    found = [Hit(corpus.passages[pid], score, i, None) for i, (pid, score) in enumerate(pairs, 1)]
    head, tail = (found[:depth], found[depth:]) if reranker else ([], found)
    if head and reranker:
        texts, titles = [hit.passage.text for hit in head], [hit.passage.title for hit in head]
        ranked = reranker.rank(query, texts, titles)
        head = [head[item.index]._replace(reranker_score=item.score) for item in ranked]
    return Hits([*head, *tail][:top_k])


def check_known(corpus: Corpus, found: Iterable[str]) -> None:
    """Raises InputError where an index names passages that the collection has not."""
    if strange := next((pid for pid in found if pid not in corpus.passages), None):
        folder = corpus.index.vectors.folder
        raise InputError(f"{folder}: passage {strange} is not in the collection; encode again")
