"""Relevance judgements, of whichever format: checked against queries and corpus."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rocketjax.data.collection import Split
from rocketjax.data.lines import BadRows
from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import InputError


class Judgement(NamedTuple):
    """A passage is relevant to a query (grade > 0), or judged not to be."""

    query: str
    passage: str
    grade: int


def read_qrels(
    path: Path,
    judgements: Iterable[tuple[str, Judgement]],
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    bad: BadRows,
) -> dict[str, dict[str, int]]:
    """Grades by query and passage, from the places and judgements of a file.

    A judgement may stand twice if it says the same.

    Raises:
        InputError: a query or passage that is not there, two grades for one pair, no judgement.
    """
    qrels: dict[str, dict[str, int]] = {}
    for place, (query, pid, grade) in judgements:
        if query not in queries:
            bad.found(place, f"query: {query!r} is not among the collection's queries")
        elif pid not in passages:
            bad.found(place, f"passage: {pid!r} is not in the corpus")
        elif (before := qrels.get(query, {}).get(pid, grade)) != grade:
            bad.found(place, f"grade: {grade}, but {query!r} with {pid!r} had {before}")
        else:
            qrels.setdefault(query, {})[pid] = grade
    if not qrels:
        raise InputError(f"{path}: no judgements; {'; '.join(bad.notes()) or 'it holds none'}")
    return qrels


def with_unlabelled(
    splits: Mapping[str, Split],
    queries: Mapping[str, str],
    answers: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Split]:
    """The splits, and "unlabelled" with the queries that none of them judges, if there are any."""
    judged = {query for split in splits.values() for query in split.qrels}
    rest = {query: text for query, text in queries.items() if query not in judged}
    known = {query: texts for query, texts in (answers or {}).items() if query in rest}
    return ({"unlabelled": Split(rest, {}, known)} if rest else {}) | dict(splits)
