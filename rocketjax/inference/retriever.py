"""The retriever: queries and passages in, vectors out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rocketjax.inference.model import Method, TextModel
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.runtime.progress import Advance, silent
from rocketjax.text.batch import Text


@dataclass(frozen=True, eq=False)
class Retriever(TextModel):
    """Encodes queries and passages as vectors whose dot product is the score."""

    module: BiEncoder

    def encode_query(
        self, queries: Sequence[str], advance: Advance = silent, steady: bool = False
    ) -> np.ndarray:
        """Queries -> float32 vectors [N, D].

        Args:
            queries: N texts, each cut to the tokenizer's `query_length`.
            advance: called with the number of queries just finished.
            steady: see `encode_passage_tokens`.

        Raises:
            InputError: a query is empty or not a text; its index is named.
        """
        return self._run(self._query, self.tokenizer.query(queries), advance, steady)

    def encode_passage(
        self,
        passages: Sequence[str],
        titles: Sequence[str] | None = None,
        advance: Advance = silent,
        steady: bool = False,
    ) -> np.ndarray:
        """Passages -> float32 vectors [N, D].

        Args:
            passages: N texts, each cut to the tokenizer's `passage_length`, title included.
            titles: N titles, "" for none; None: no passage has one.
            advance: called with the number of passages just finished.
            steady: see `encode_passage_tokens`.

        Raises:
            InputError: a passage is empty and has no title, something is not a text (its index is
                named), or there are not as many titles as passages.
        """
        texts = self.tokenizer.passage(titles, passages)
        return self.encode_passage_tokens(texts, advance, steady)

    def encode_passage_tokens(
        self, texts: Sequence[Text], advance: Advance = silent, steady: bool = True
    ) -> np.ndarray:
        """Tokenised passages -> float32 vectors [N, D].

        Args:
            texts: N passages from this model's tokenizer.
            advance: called with the number of passages just finished.
            steady: use batches of one size for each width of rows, so that these texts' vectors do
                not depend on the number of devices, to the last bit.
        """
        return self._run(self._passage, texts, advance, steady)

    def compile_queries(self) -> None:
        """Compiles all that `encode_query` may run with `steady`, so that no query waits for it."""
        self._compile(self._query)

    @property
    def _query(self) -> Method:
        width = self.module.config.hidden_size
        return Method("encode_query", self.tokenizer.config.query_length, (width,))

    @property
    def _passage(self) -> Method:
        width = self.module.config.hidden_size
        return Method("encode_passage", self.tokenizer.config.passage_length, (width,))
