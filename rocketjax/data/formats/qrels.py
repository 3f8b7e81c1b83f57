"""Relevance judgements of all formats, checked against the queries and the corpus."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rocketjax.data.collection import Split
from rocketjax.data.lines import BadRows
from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import InputError

QUERY_FIRST = r"_?id|q.*|topic.*"  # what the first column of judgements is called


class Judgement(NamedTuple):
    """A passage's graded relevance to a query; above 0 is relevant."""

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
    """Collects the judgements of a file, given with their places, into qrels.

    Duplicates are allowed if their grades are equal.

    Raises:
        InputError: no judgements at all or, unless `bad` lets it pass, an unknown query or passage,
            or two grades for one pair.
    """
    qrels: dict[str, dict[str, int]] = {}
    for place, (query, pid, grade) in judgements:
        if query not in queries:
            bad.reject(place, f"query: {query!r} is not among the collection's queries")
        elif pid not in passages:
            bad.reject(place, f"passage: {pid!r} is not in the corpus")
        elif (before := qrels.get(query, {}).get(pid, grade)) != grade:
            bad.reject(place, f"grade: {grade}, but {query!r} with {pid!r} had {before}")
        else:
            qrels.setdefault(query, {})[pid] = grade
    if not qrels:
        raise InputError(f"{path}: no judgements; {'; '.join(bad.notes()) or 'the file is empty'}")
    return qrels


def with_unlabelled(
    splits: Mapping[str, Split],
    queries: Mapping[str, str],
    answers: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Split]:
    """Adds the split "unlabelled" of the queries without qrels in any split, if there are any.

    A split that is already called "unlabelled" takes precedence.
    """
    labelled = {query for split in splits.values() for query in split.qrels}
    rest = {query: text for query, text in queries.items() if query not in labelled}
    if not rest:
        return dict(splits)
    rest_answers = {query: texts for query, texts in (answers or {}).items() if query in rest}
    return {"unlabelled": Split(rest, {}, rest_answers), **splits}
