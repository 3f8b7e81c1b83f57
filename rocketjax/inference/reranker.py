"""The re-ranker: pairs of a query and a passage in, scores out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rocketjax.inference.model import Method, TextModel
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.runtime.errors import InputError, shown
from rocketjax.runtime.progress import Advance, silent
from rocketjax.text.texts import as_texts


class Ranked(NamedTuple):
    """One passage of a ranking."""

    index: int  # in the list that was ranked
    score: float  # the re-ranker's


@dataclass(frozen=True, eq=False)
class Reranker(TextModel):
    """Scores pairs of a query and a passage."""

    module: CrossEncoder

    def score(
        self,
        queries: Sequence[str],
        passages: Sequence[str],
        titles: Sequence[str] | None = None,
        advance: Advance = silent,
        steady: bool = False,
    ) -> np.ndarray:
        """Scores queries[i] with passages[i]: raw scores [N] float32, higher is better.

        Args:
            queries: N texts.
            passages: N texts; a pair is cut to the tokenizer's `pair_length` at its passage's end.
            titles: N titles, "" for none; None: no passage has one.
            advance: called with the number of pairs just finished.
            steady: see `Retriever.encode_passage_tokens`.

        Raises:
            InputError: not as many queries or titles as passages, or something is empty or not a
                text, or a score is not finite; its index is named.
        """
        texts = self.tokenizer.pair(queries, titles, passages)
        scores = self._run(self._pair, texts, advance, steady)
        _check_finite(scores, queries, passages)
        return scores

    def score_in_blocks(
        self, queries: Sequence[str], passages: Sequence[str], titles: Sequence[str] | None = None
    ) -> Iterator[np.ndarray]:
        """As `score` with `steady`, one block of consecutive pairs after the other.

        A block is as many pairs as the devices take at once. All pairs are tokenised at once, but
        a block is scored only when it is asked for: whoever has enough stops asking.

        Raises:
            InputError: as `score` does.
        """
        texts = self.tokenizer.pair(queries, titles, passages)

        def blocks() -> Iterator[np.ndarray]:
            start = 0
            for scores in self._run_in_blocks(self._pair, texts):
                _check_finite(scores, queries, passages, start)
                start += len(scores)
                yield scores

        return blocks()

    def rank(
        self, query: str, passages: Sequence[str], titles: Sequence[str] | None = None
    ) -> list[Ranked]:
        """The passages by score, best first; equal scores stay in the order given.

        Raises:
            InputError: as `score` does.
        """
        passages = as_texts(passages, "passages")
        scores = self.score([query] * len(passages), passages, titles)
        order = np.argsort(-scores, kind="stable")
        return [Ranked(int(i), float(scores[i])) for i in order]

    def compile_pairs(self) -> None:
        """Compiles all that `score` may run with `steady`, so that no pair waits for it."""
        self._compile(self._pair)

    @property
    def _pair(self) -> Method:
        return Method("__call__", self.tokenizer.config.pair_length)


def _check_finite(
    scores: np.ndarray, queries: Sequence[str], passages: Sequence[str], start: int = 0
) -> None:
    """Refuses a score that is not finite; the first is of pair `start`."""
    if len(wrong := np.flatnonzero(~np.isfinite(scores))):  # NaN sorts anywhere
        i = start + int(wrong[0])
        query, passage = as_texts(queries, "queries")[i], as_texts(passages, "passages")[i]
        raise InputError(
            f"the re-ranker's score of pair {i} is {scores[wrong[0]]} ({shown(query)} and "
            f"{shown(passage)}): its weights or its --compute.dtype are at fault"
        )
