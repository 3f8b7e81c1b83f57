"""The retriever: queries and passages in, vectors out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rocketjax.inference.model import Method, TextModel
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.runtime.errors import InputError
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

    def truncated(self, width: int) -> "Retriever":
        """The same retriever with vectors of their first `width` numbers; 0: of all.

        They are scaled to length 1 after the cut if the retriever scales them. Good at a width it
        was trained for (`loss.matryoshka`).

        Raises:
            InputError: the encoder's vectors have fewer numbers.
        """
        whole = self.module.config.hidden_size
        if not 0 <= width <= whole:
            raise InputError(
                f"truncate is {width}, but this retriever's vectors have {whole} numbers; give "
                f"1 to {whole}, or 0 for all"
            )
        module = self.module.clone(truncate=width % whole)
        return dataclasses.replace(self, module=module)

    def compile_queries(self) -> None:
        """Compiles all that `encode_query` may run with `steady`, so that no query waits for it."""
        self._compile(self._query)

    @property
    def _query(self) -> Method:
        shape = (self.module.width,)
        return Method("encode_query", self.tokenizer.config.query_length, shape)

    @property
    def _passage(self) -> Method:
        shape = (self.module.width,)
        return Method("encode_passage", self.tokenizer.config.passage_length, shape)
