"""Trained models at work: texts in, vectors and scores out, through a few compiled programs."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from rocketjax.batch import Tokens
from rocketjax.batching import BATCHING, Batching, in_batches, of_every_shape
from rocketjax.data.passages import Passage
from rocketjax.data.tokenize import Text, Tokenizer, as_texts
from rocketjax.errors import InputError
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Params, unstacked
from rocketjax.parallel import on_each_device, replicate
from rocketjax.progress import Advance, silent
from rocketjax.retrieval.index import Index


@dataclass(frozen=True, eq=False)
class Retriever:
    """Encodes queries and passages to vectors whose dot product is the score."""

    module: BiEncoder
    params: Params = field(repr=False)
    tokenizer: Tokenizer
    batching: Batching = BATCHING

    def encode_query(
        self, queries: Sequence[str], advance: Advance = silent, steady: bool = False
    ) -> np.ndarray:
        """Queries -> float32 vectors [N, D]. Raises InputError if one is empty or no text."""
        texts = self.tokenizer.query(queries)
        limit = self.tokenizer.config.query_length
        return self._run("encode_query", texts, limit, advance, steady)

    def encode_passage(
        self,
        passages: Sequence[str],
        titles: Sequence[str] | None = None,
        advance: Advance = silent,
        steady: bool = False,
    ) -> np.ndarray:
        """Passages -> float32 vectors [N, D]. Raises InputError if one is empty or no text.

        `steady`: see `encode_passage_tokens`.
        """
        texts = self.tokenizer.passage(titles, passages)
        return self.encode_passage_tokens(texts, advance, steady)

    def encode_passage_tokens(
        self, texts: Sequence[Text], advance: Advance = silent, steady: bool = True
    ) -> np.ndarray:
        """Tokenised passages -> float32 vectors [N, D].

        `steady`: each device always takes batches of one shape, so that vectors do not depend on
        the number of devices, to the last bit.
        """
        limit = self.tokenizer.config.passage_length
        return self._run("encode_passage", texts, limit, advance, steady)

    def compile_queries(self) -> None:
        """Compiles all that `encode_query` may run with `steady`: no query then waits for it."""
        limit = self.tokenizer.config.query_length
        for texts in of_every_shape(limit, self.batching):
            self._run("encode_query", texts, limit, silent, steady=True)

    @cached_property
    def _placed(self) -> Params:
        return _place(self.params)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that vectors are computed from: two models of one hash are one model."""
        return _fingerprint(self.module, self.params, self.tokenizer)

    def _run(
        self, method: str, texts: Sequence[Text], limit: int, advance: Advance, steady: bool
    ) -> np.ndarray:
        program = partial(_apply, self.module, method)
        width = (self.module.config.hidden_size,)
        pad_id = self.tokenizer.pad_id
        return in_batches(
            program, self._placed, texts, width, limit, pad_id, self.batching, advance, steady
        )


@dataclass(frozen=True, eq=False)
class Reranker:
    """Scores pairs of a query and a passage."""

    module: CrossEncoder
    params: Params = field(repr=False)
    tokenizer: Tokenizer
    batching: Batching = BATCHING

    def score(
        self,
        queries: Sequence[str],
        passages: Sequence[str],
        titles: Sequence[str] | None = None,
        advance: Advance = silent,
        steady: bool = False,
    ) -> np.ndarray:
        """Pair i is queries[i] with passages[i] -> raw scores [N] float32, higher is better.

        `steady`: see `Retriever.encode_passage_tokens`.

        Raises:
            InputError: unequally many of both, or a text that is empty or none.
        """
        texts = self.tokenizer.pair(queries, titles, passages)
        return self._run(texts, advance, steady)

    def rank(
        self, query: str, passages: Sequence[str], titles: Sequence[str] | None = None
    ) -> "list[Ranked]":
        """The passages by their score, best first (ties in the order given)."""
        passages = as_texts(passages, "passages")
        scores = self.score([query] * len(passages), passages, titles)
        order = np.argsort(-scores, kind="stable")
        return [Ranked(int(i), float(scores[i])) for i in order]

    def compile_pairs(self) -> None:
        """Compiles all that `score` may run with `steady`: no pair then waits for it."""
        for texts in of_every_shape(self.tokenizer.config.pair_length, self.batching):
            self._run(texts, silent, steady=True)

    @cached_property
    def _placed(self) -> Params:
        return _place(self.params)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that scores are computed from: two models of one hash are one model."""
        return _fingerprint(self.module, self.params, self.tokenizer)

    def _run(self, texts: Sequence[Text], advance: Advance, steady: bool) -> np.ndarray:
        limit, pad_id = self.tokenizer.config.pair_length, self.tokenizer.pad_id
        program = partial(_apply, self.module, "__call__")
        return in_batches(
            program, self._placed, texts, (), limit, pad_id, self.batching, advance, steady
        )


class Ranked(NamedTuple):
    """A passage's place in the list it came in, and the re-ranker's score."""

    index: int
    score: float


class Hit(NamedTuple):
    """A passage that was found for a query."""

    passage: Passage
    retriever_score: float
    reranker_score: float | None  # None: below the depth that was re-ranked


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
            raise InputError("this pair of models has no index to search; load a run's folder")
        return self.open_corpus()

    def search(self, query: str, top_k: int = 10, depth: int = 50) -> list[Hit]:
        """The `top_k` best passages: the retriever finds `depth`, the re-ranker orders them.

        With depth 0 the retriever's order stands; what lies beyond `depth` follows in its order.

        Raises:
            InputError: an empty query, top_k below 1, depth below 0, or what `corpus` raises.
        """
        return find(self.retriever, self.reranker, self.corpus, query, top_k, depth)

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


def find(
    retriever: Retriever,
    reranker: Reranker | None,
    corpus: Corpus,
    query: str,
    top_k: int,
    depth: int,
) -> list[Hit]:
    """What `Model.search` does; without a re-ranker the retriever's order stands."""
    if top_k < 1 or depth < 0:
        raise InputError(f"top_k is {top_k} and depth {depth}; give at least 1 and 0")
    wanted = min(max(top_k, depth), len(corpus.index.vectors))
    ids, scores = corpus.index.search(retriever.encode_query([query]), wanted)
    pairs = [(pid, float(score)) for pid, score in zip(ids[0], scores[0], strict=True) if pid]
    check_known(corpus, (pid for pid, _ in pairs))
    found = [(corpus.passages[pid], score) for pid, score in pairs]
    head, tail = (found[:depth], found[depth:]) if reranker else ([], found)
    hits = [Hit(passage, score, None) for passage, score in tail]
    if head and reranker:
        texts, titles = [p.text for p, _ in head], [p.title for p, _ in head]
        ranked = reranker.rank(query, texts, titles)
        hits = [Hit(*head[item.index], item.score) for item in ranked] + hits
    return hits[:top_k]


def check_known(corpus: Corpus, found: Iterable[str]) -> None:
    """Raises InputError where an index names passages that the collection has not."""
    if strange := next((pid for pid in found if pid not in corpus.passages), None):
        folder = corpus.index.vectors.folder
        raise InputError(f"{folder}: passage {strange} is not in the collection; encode again")


def _place(params: Params) -> Params:
    """Parameters on every device, as they are used fastest there."""
    return replicate(unstacked(params) if jax.default_backend() == "cpu" else params)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(
    module: nn.Module,
    method: str,
    mesh: Mesh,
    params: Params,
    tokens: Tokens,
    spots: jax.Array | None,
) -> jax.Array:
    """One program for each module, method and shape, whoever calls; each device has its part."""

    def part(params: Params, tokens: Tokens, spots: jax.Array | None) -> jax.Array:
        own = None if spots is None else spots[0]
        return module.apply({"params": params}, tokens, None, own, method=method)  # pyright: ignore

    return on_each_device(part, mesh)(params, tokens, spots)


def _fingerprint(module: nn.Module, params: Params, tokenizer: Tokenizer) -> str:
    """Of the parameters' values and names, of the module (not how it computes), of the texts."""
    digest = hashlib.blake2b(digest_size=16)
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).data)
    digest.update(repr(module.clone(compute=None)).encode())  # pyright: ignore
    digest.update(tokenizer.description.encode())
    return digest.hexdigest()
