"""The re-ranker: pairs of query and passage in, scores out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from rocketjax.inference.batching import (
    BATCHING,
    Batching,
    apply,
    fingerprint,
    in_batches,
    of_every_shape,
    placed,
)
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Params
from rocketjax.runtime.progress import Advance, silent
from rocketjax.text.batch import Text
from rocketjax.text.tokenizer import Tokenizer, as_texts


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
        return placed(self.params)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that scores are computed from: two models of one hash are one model."""
        return fingerprint(self.module, self.params, self.tokenizer)

    def _run(self, texts: Sequence[Text], advance: Advance, steady: bool) -> np.ndarray:
        limit, pad_id = self.tokenizer.config.pair_length, self.tokenizer.pad_id
        program = partial(apply, self.module, "__call__")
        return in_batches(
            program, self._placed, texts, (), limit, pad_id, self.batching, advance, steady
        )


class Ranked(NamedTuple):
    """A passage's place in the list it came in, and the re-ranker's score."""

    index: int
    score: float
