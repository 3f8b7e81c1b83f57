"""Trained models at work: texts in, vectors and scores out, through a few compiled programs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import flax.linen as nn
import jax
import numpy as np

from rocketjax.batch import Tokens
from rocketjax.data.tokenize import Text, Tokenizer, bucket, pad
from rocketjax.errors import InputError
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Params
from rocketjax.parallel import replicate, shard_rows

BATCH = 64  # texts a device takes at once

# Wraps the iteration over batches, to show how far it is.
Progress: TypeAlias = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Retriever:
    """Encodes queries and passages to vectors whose dot product is the score."""

    module: BiEncoder
    params: Params
    tokenizer: Tokenizer

    def encode_query(self, queries: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """Queries -> float32 vectors [N, D]. Raises InputError if one is empty."""
        texts = self.tokenizer.query(queries)
        limit = self.tokenizer.config.query_length
        return self._run("encode_query", texts, limit, progress)

    def encode_passage(
        self,
        passages: Sequence[str],
        titles: Sequence[str] | None = None,
        progress: Progress = iter,
    ) -> np.ndarray:
        """Passages -> float32 vectors [N, D]. Raises InputError if one is empty."""
        texts = self.tokenizer.passage(titles or [""] * len(passages), passages)
        limit = self.tokenizer.config.passage_length
        return self._run("encode_passage", texts, limit, progress)

    def _run(
        self, method: str, texts: Sequence[Text], limit: int, progress: Progress
    ) -> np.ndarray:
        program = partial(_apply, self.module, method)
        width = self.module.config.hidden_size
        return _in_batches(
            program, self.params, texts, (width,), limit, self.tokenizer.pad_id, progress
        )


@dataclass(frozen=True)
class Reranker:
    """Scores pairs of a query and a passage."""

    module: CrossEncoder
    params: Params
    tokenizer: Tokenizer

    def score(
        self,
        queries: Sequence[str],
        passages: Sequence[str],
        titles: Sequence[str] | None = None,
        progress: Progress = iter,
    ) -> np.ndarray:
        """Pair i is queries[i] with passages[i] -> raw scores [N] float32, higher is better.

        Raises:
            InputError: unequally many of both, or an empty text.
        """
        if len(queries) != len(passages):
            raise InputError(
                f"score pairs queries[i] with passages[i], but got {len(queries)} queries and "
                f"{len(passages)} passages"
            )
        texts = self.tokenizer.pair(queries, titles or [""] * len(passages), passages)
        limit = self.tokenizer.config.pair_length
        program = partial(_apply, self.module, "__call__")
        return _in_batches(program, self.params, texts, (), limit, self.tokenizer.pad_id, progress)


class Ranked(NamedTuple):
    """A passage's place in the list it came in, and the re-ranker's score."""

    index: int
    score: float


@dataclass(frozen=True)
class Model:
    """A jointly trained pair; what `rocketjax.load` gives."""

    retriever: Retriever
    reranker: Reranker

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
        scores = self.reranker.score([query] * len(passages), passages, titles)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(i), float(scores[i])) for i in order]


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
    progress: Progress,
) -> np.ndarray:
    """Runs texts through a program, sorted by length so that little is padded.

    The order of the result is that of `texts`. Batches come in three sizes and texts in a few
    padded lengths, so that the number of compilations is bounded whatever comes.
    """
    results = np.empty((len(texts), *width), np.float32)
    devices = len(jax.local_devices())
    sizes = [devices, 8 * devices, BATCH * devices]
    params = replicate(params)  # nothing to do where they lie on the devices already
    waiting: list[tuple[np.ndarray, jax.Array]] = []
    for rows in progress(_by_length(texts, limit, sizes[-1])):
        size = next(size for size in sizes if size >= len(rows))
        length = bucket(max(len(texts[row].ids) for row in rows), limit)
        tokens = pad([texts[row] for row in rows], size, length, pad_id)
        waiting.append((rows, program(params, shard_rows(tokens))))
        if len(waiting) > 2:  # fetch late: the devices never wait for the host
            _fetch(results, waiting.pop(0))
    for item in waiting:
        _fetch(results, item)
    return results


def _by_length(texts: Sequence[Text], limit: int, size: int) -> list[np.ndarray]:
    """Rows of `texts` in batches of at most `size`, all of a batch in one bucket of lengths."""
    lengths = np.array([bucket(len(text.ids), limit) for text in texts])
    batches = []
    for length in np.unique(lengths)[::-1]:  # longest first: what does not fit, fails at once
        rows = np.flatnonzero(lengths == length)
        batches += [rows[i : i + size] for i in range(0, len(rows), size)]
    return batches


def _fetch(results: np.ndarray, item: tuple[np.ndarray, jax.Array]) -> None:
    rows, values = item
    results[rows] = np.asarray(values)[: len(rows)]
