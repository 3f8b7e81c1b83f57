"""Training lists and mining candidates as JSON Lines: written whole, checked when read."""

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import pydantic

from rocketjax.data.lines import BadRows, lines
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import write_text

# Kept once, however many lists it is in: of half a million queries with a thousand candidates each,
# ids would take 30 GB.
Id: TypeAlias = Annotated[str, pydantic.AfterValidator(sys.intern)]


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class TrainingList:
    """A query, its positive passage and its negatives, all by id."""

    query: str
    positive: str
    negatives: tuple[Id, ...]
    kind: Literal["undenoised", "denoised"] = "undenoised"
    pseudo: bool = False  # the positive is one by the re-ranker's word, not by a judgement


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Candidates:
    """What mining found for a query, best first; known positives are not among `passages`."""

    query: str
    positives: tuple[str, ...]  # empty: nobody judged the query
    passages: tuple[Id, ...]
    scores: tuple[float, ...] = ()  # the re-ranker's, of the first len(scores) passages
    positive_scores: tuple[float, ...] = ()


def write_lists(path: Path, lists: Sequence[TrainingList]) -> None:
    """One JSON object a line, whole or not at all."""
    _write_rows(path, lists)


def read_lists(path: Path) -> list[TrainingList]:
    """The lists of `write_lists`.

    Raises:
        InputError: a line is no such object, or a list without a positive; the line is named.
    """
    lists = []
    for place, item in _read_rows(path, TrainingList):
        if not item.positive:
            raise InputError(f"{place}: positive: the list of {item.query!r} has none")
        lists.append(item)
    return lists


def write_candidates(path: Path, candidates: Sequence[Candidates]) -> None:
    """One JSON object a line, whole or not at all."""
    _write_rows(path, candidates)


def read_candidates(path: Path) -> list[Candidates]:
    """The candidates of `write_candidates`.

    Raises:
        InputError: a line is no such object, scores and passages do not fit, a passage stands
            twice or is a known positive, or a score is not finite; the line is named.
    """
    rows = []
    for place, row in _read_rows(path, Candidates):
        if len(row.scores) > len(row.passages):
            raise InputError(f"{place}: scores: {len(row.scores)} for {len(row.passages)} passages")
        if row.positive_scores and len(row.positive_scores) != len(row.positives):
            raise InputError(f"{place}: positive_scores: not one for each of the positives")
        if len({*row.passages, *row.positives}) < len(row.passages) + len(row.positives):
            raise InputError(f"{place}: passages: one stands twice, or is a known positive")
        if not all(map(math.isfinite, (*row.scores, *row.positive_scores))):
            raise InputError(f"{place}: scores: one is not finite; mine again")
        rows.append(row)
    return rows


def _write_rows(path: Path, rows: Sequence[Any]) -> None:
    write_text(path, "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))


def _read_rows(path: Path, cls: type) -> Iterator[tuple[str, Any]]:
    """Each line's place ("file:line") and row."""
    adapter = pydantic.TypeAdapter(cls)
    fields = ", ".join(field.name for field in dataclasses.fields(cls))
    for place, line in lines(path, BadRows()):
        try:
            yield place, adapter.validate_json(line, strict=True)
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise InputError(
                f"{place}: {where}: {first['msg']}; expected an object of {fields}"
            ) from error


def _number(text: str) -> int:
    """A number that is the same in every process, unlike hash()."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
