"""The retriever: queries and passages in, vectors out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

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
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.encoder import Params
from rocketjax.runtime.progress import Advance, silent
from rocketjax.text.batch import Text
from rocketjax.text.tokenizer import Tokenizer


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
        return placed(self.params)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that vectors are computed from: two models of one hash are one model."""
        return fingerprint(self.module, self.params, self.tokenizer)

    def _run(
        self, method: str, texts: Sequence[Text], limit: int, advance: Advance, steady: bool
    ) -> np.ndarray:
        program = partial(apply, self.module, method)
        width = (self.module.config.hidden_size,)
        pad_id = self.tokenizer.pad_id
        return in_batches(
            program, self._placed, texts, width, limit, pad_id, self.batching, advance, steady
        )
