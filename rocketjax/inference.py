"""Trained models at work: texts in, vectors and scores out, through a few compiled programs."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np

from rocketjax.batch import Tokens
from rocketjax.data.collection import Passage
from rocketjax.data.tokenize import Text, Tokenizer, bucket, pad
from rocketjax.errors import InputError
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Params
from rocketjax.parallel import replicate, shard_rows
from rocketjax.progress import Advance, silent
from rocketjax.retrieval.index import Index

BATCH = 64  # texts a device takes at once, unless told otherwise


@dataclass(frozen=True)
class Retriever:
    """Encodes queries and passages to vectors whose dot product is the score."""

    module: BiEncoder
    params: Params
    tokenizer: Tokenizer
    batch: int = BATCH

    def encode_query(
        self, queries: Sequence[str], advance: Advance = silent, steady: bool = False
    ) -> np.ndarray:
        """Queries -> float32 vectors [N, D]. Raises InputError if one is empty."""
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
        """Passages -> float32 vectors [N, D]. Raises InputError if one is empty.

        `steady`: see `encode_passage_tokens`.
        """
        texts = self.tokenizer.passage(titles or [""] * len(passages), passages)
        return self.encode_passage_tokens(texts, advance, steady)

    def encode_passage_tokens(
        self, texts: Sequence[Text], advance: Advance = silent, steady: bool = True
    ) -> np.ndarray:
        """Tokenised passages -> float32 vectors [N, D].

        `steady`: each device always takes `batch` texts, so that a vector depends neither on the
        number of devices nor on the company its text is in, to the last bit.
        """
        limit = self.tokenizer.config.passage_length
        return self._run("encode_passage", texts, limit, advance, steady)

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
        return _in_batches(
            program, self.params, texts, width, limit, pad_id, self.batch, advance, steady
        )


@dataclass(frozen=True)
class Reranker:
    """Scores pairs of a query and a passage."""

    module: CrossEncoder
    params: Params
    tokenizer: Tokenizer
    batch: int = BATCH

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
            InputError: unequally many of both, or an empty text.
        """
        if len(queries) != len(passages):
            raise InputError(
                f"score pairs queries[i] with passages[i], but got {len(queries)} queries and "
                f"{len(passages)} passages"
            )
        texts = self.tokenizer.pair(queries, titles or [""] * len(passages), passages)
        limit, pad_id = self.tokenizer.config.pair_length, self.tokenizer.pad_id
        program = partial(_apply, self.module, "__call__")
        return _in_batches(
            program, self.params, texts, (), limit, pad_id, self.batch, advance, steady
        )

    def rank(
        self, query: str, passages: Sequence[str], titles: Sequence[str] | None = None
    ) -> "list[Ranked]":
        """The passages by their score, best first (ties in the order given)."""
        scores = self.score([query] * len(passages), passages, titles)
        order = np.argsort(-scores, kind="stable")
        return [Ranked(int(i), float(scores[i])) for i in order]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that scores are computed from: two models of one hash are one model."""
        return _fingerprint(self.module, self.params, self.tokenizer)


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


@dataclass(frozen=True)
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
        """The passages by the re-ranker's score, best first (ties in the order given)."""
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
    wanted = min(max(top_k, depth), len(corpus.index.vectors))
    ids, scores = corpus.index.search(retriever.encode_query([query]), wanted)
    pairs = [(pid, float(score)) for pid, score in zip(ids[0], scores[0], strict=True) if pid]
    if strange := [pid for pid, _ in pairs if pid not in corpus.passages]:
        folder = corpus.index.vectors.folder
        raise InputError(f"{folder}: passage {strange[0]} is not in the collection; encode again")
    found = [(corpus.passages[pid], score) for pid, score in pairs]
    head, tail = (found[:depth], found[depth:]) if reranker else ([], found)
    hits = [Hit(passage, score, None) for passage, score in tail]
    if head and reranker:
        texts, titles = [p.text for p, _ in head], [p.title for p, _ in head]
        ranked = reranker.rank(query, texts, titles)
        hits = [Hit(*head[item.index], item.score) for item in ranked] + hits
    return hits[:top_k]


class _Program(Protocol):
    def __call__(self, params: Params, tokens: Tokens) -> jax.Array: ...


@partial(jax.jit, static_argnums=(0, 1))
def _apply(module: nn.Module, method: str, params: Params, tokens: Tokens) -> jax.Array:
    """One program for each module, method and padded shape, whoever calls."""
    return module.apply({"params": params}, tokens, method=method)  # pyright: ignore


def _in_batches(
    program: _Program,
    params: Params,
    texts: Sequence[Text],
    width: tuple[int, ...],
    limit: int,
    pad_id: int,
    batch: int,
    advance: Advance,
    steady: bool,
) -> np.ndarray:
    """Runs texts through a program, sorted by length so that little is padded.

    The order of the result is that of `texts`. Batches come in four sizes (steady: in one) and
    texts in a few padded lengths, so that the number of compilations is bounded whatever comes.
    """
    results = np.empty((len(texts), *width), np.float32)
    devices = len(jax.local_devices())
    parts = (batch,) if steady else (1, batch // 16, batch // 4, batch)
    sizes = sorted({max(1, part) * devices for part in parts})
    params = replicate(params)  # nothing to do where they lie on the devices already
    waiting: list[tuple[np.ndarray, jax.Array]] = []
    for rows, size, length in _by_length(texts, limit, sizes):
        tokens = pad([texts[row] for row in rows], size, length, pad_id)
        waiting.append((rows, program(params, shard_rows(tokens))))
        if len(waiting) > 2:  # fetch late: the devices never wait for the host
            _fetch(results, waiting.pop(0), advance)
    for item in waiting:
        _fetch(results, item, advance)
    return results


def _by_length(
    texts: Sequence[Text], limit: int, sizes: Sequence[int]
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Rows of `texts` that share a padded length, the size of their batch, and that length."""
    lengths = np.array([bucket(len(text.ids), limit) for text in texts])
    for length in np.unique(lengths)[::-1]:  # longest first: what does not fit, fails at once
        rows = np.flatnonzero(lengths == length)
        while len(rows):
            size = _fitting(len(rows), sizes)
            yield rows[:size], size, int(length)
            rows = rows[size:]


def _fitting(rows: int, sizes: Sequence[int]) -> int:
    """The batch to take next from so many rows: a full one, or one that is two thirds full."""
    above = next((size for size in sizes if size >= rows), sizes[-1])
    if 3 * rows >= 2 * above:
        return above
    return max((size for size in sizes if size <= rows), default=above)


def _fetch(results: np.ndarray, item: tuple[np.ndarray, jax.Array], advance: Advance) -> None:
    rows, values = item
    results[rows] = np.asarray(values)[: len(rows)]
    advance(len(rows))


def _fingerprint(module: nn.Module, params: Params, tokenizer: Tokenizer) -> str:
    """Of the parameters' values and names, of the module (not how it computes), of the texts."""
    digest = hashlib.blake2b(digest_size=16)
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).data)
    digest.update(repr(module.clone(compute=None)).encode())  # pyright: ignore
    digest.update(tokenizer.description.encode())
    return digest.hexdigest()
