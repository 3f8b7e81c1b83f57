"""Answer recall as DPR defines it: does a retrieved passage contain an answer string?

Karpukhin et al. 2020 (and RocketQA on Natural Questions) judge no passages: one counts as right if
one of the question's answers occurs in its text as a run of whole tokens, ignoring case.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import regex

# A token is a run of letters, numbers and marks, or any other visible character by itself.
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


def tokenize(text: str) -> tuple[str, ...]:
    """The text's tokens, canonically decomposed (NFD) and in lower case."""
    return tuple(token.lower() for token in _TOKEN.findall(unicodedata.normalize("NFD", text)))


def has_answer(answers: Sequence[str], text: str) -> bool:
    """Whether an answer's tokens stand in the text's tokens, in order and without a gap.

    An answer without any token (empty, or white space) is in no text; DPR's own code finds it in
    every text.
    """
    return _contains(_joined(tokenize(text)), _sought(answers))


def answer_recall(
    answers: Mapping[str, Sequence[str]],
    run: Mapping[str, Sequence[str]],
    text_of: Callable[[str], str],
    cutoffs: Sequence[int],
) -> dict[str, dict[str, float]]:
    """Whether one of a query's first k passages contains an answer, for each k of `cutoffs`.

    Args:
        answers: query id -> its answers; these queries count, one that is missing in the run or
            has no answers has 0.
        run: query id -> passage ids, best first.
        text_of: passage id -> its text; a title is not searched.

    Returns:
        "answer@k" -> query id -> 1.0 or 0.0; the mean is DPR's top-k accuracy.
    """

    @lru_cache(maxsize=100_000)  # passages recur between queries
    def joined(pid: str) -> str:
        return _joined(tokenize(text_of(pid)))

    deepest = max(cutoffs, default=0)
    values: dict[str, dict[str, float]] = {f"answer@{k}": {} for k in cutoffs}
    for query, texts in answers.items():
        ranked, sought = run.get(query, ())[:deepest], _sought(texts)
        hits = (rank for rank, pid in enumerate(ranked, 1) if _contains(joined(pid), sought))
        first = next(hits, deepest + 1)
        for k in cutoffs:
            values[f"answer@{k}"][query] = float(first <= k)
    return values


def _joined(tokens: Sequence[str]) -> str:
    """Tokens as one text with a blank on each side of each: a run of tokens is then a substring."""
    return f" {' '.join(tokens)} "


def _sought(answers: Sequence[str]) -> list[str]:
    return [_joined(tokens) for tokens in map(tokenize, answers) if tokens]


def _contains(joined: str, sought: Sequence[str]) -> bool:
    return any(answer in joined for answer in sought)
