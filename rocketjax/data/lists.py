"""Training lists and mined candidates as JSON Lines, checked when read.

Lists with a teacher's scores say that they are of version 2; those without are as they always were.
"""

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import pydantic

from rocketjax.data.lines import BadRows, lines
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_file

# Interned, since an id is in many lists: half a million queries with a thousand candidates each
# would otherwise hold 30 GB of ids.
Id: TypeAlias = Annotated[str, pydantic.AfterValidator(sys.intern)]


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class TrainingList:
    """A query, its positive passage and its negatives, all by id."""

    query: str
    positive: str  # "" in an unlabelled list, whose passages are all in `negatives`
    negatives: tuple[Id, ...]
    kind: Literal["undenoised", "denoised", "unlabelled"] = "undenoised"
    pseudo: bool = False  # the re-ranker calls the positive relevant, no judgement does
    # A teacher's, of the positive and then of the negatives; None: of that one there is none.
    scores: tuple[float | None, ...] = ()

    @property
    def passages(self) -> tuple[str, ...]:
        """All of them, the positive first."""
        return (self.positive, *self.negatives) if self.positive else self.negatives

    @property
    def is_scored(self) -> bool:
        """Whether there is a teacher's score of each passage."""
        return bool(self.scores) and None not in self.scores


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class _Line(TrainingList):
    """A list as its file holds it."""

    version: Literal[1, 2] = 1  # a later one may mean what this reader does not know


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Candidates:
    """A query's mined passages, best first by the retriever, without what is known to answer it."""

    query: str
    positives: tuple[str, ...]  # empty for an unlabelled query
    passages: tuple[Id, ...]
    scores: tuple[float, ...] = ()  # the re-ranker's, of the first passages
    positive_scores: tuple[float, ...] = ()
    copies: int = 0  # of positives, under other ids or of other queries of its text, left out
    above: tuple[int, ...] | None = None  # passages above each positive that was found, in order


def write_lists(path: Path, lists: Sequence[TrainingList]) -> None:
    """Writes one JSON object per line. The file appears complete or not at all."""
    with new_lists(path) as add:
        add(lists)


@contextmanager
def new_lists(path: Path) -> Iterator[Callable[[Iterable[TrainingList]], None]]:
    """As `write_lists`, of lists that come a few at a time: the block calls what it gets with them.

    The file appears when the block ends without an error.
    """
    with new_file(path) as file:
        yield lambda lists: file.writelines(map(_encoded, map(_as_written, lists)))


def read_lists(path: Path) -> list[TrainingList]:
    """Reads what `write_lists` wrote, now or before there were scores.

    Raises:
        InputError: a line is not such an object; has no positive though it is labelled, or one
            though it is not; or not as many scores as passages. File and line are named.
    """
    lists = []
    for place, line in _read_rows(path, _Line):
        item = TrainingList(
            line.query, line.positive, line.negatives, line.kind, line.pseudo, line.scores
        )
        _check(place, item)
        lists.append(item)
    return lists


def _check(place: str, item: TrainingList) -> None:
    if not item.passages:
        raise InputError(f"{place}: no passage in the list of query {item.query!r}")
    if bool(item.positive) == (item.kind == "unlabelled"):
        wrong = "given in an unlabelled" if item.positive else "missing in the"
        raise InputError(f"{place}: positive: {wrong} list of query {item.query!r}")
    count = len(item.passages)
    if len(item.scores) not in (0, count):
        raise InputError(f"{place}: scores: {len(item.scores)} for {count} passages")
    if not all(math.isfinite(score) for score in item.scores if score is not None):
        raise InputError(f"{place}: scores: one is not finite; mine again")


def write_candidates(path: Path, candidates: Sequence[Candidates]) -> None:
    """Writes one JSON object per line. The file appears complete or not at all."""
    with new_file(path) as file:
        file.writelines(map(_encoded, map(dataclasses.asdict, candidates)))


def read_candidates(path: Path) -> list[Candidates]:
    """Reads what `write_candidates` wrote.

    Raises:
        InputError: a line is not such an object, the numbers of scores and passages do not match,
            a passage is a duplicate or a known positive, or a score is not finite; file and line
            are named.
    """
    rows = []
    for place, row in _read_rows(path, Candidates):
        if len(row.scores) > len(row.passages):
            raise InputError(f"{place}: scores: {len(row.scores)} for {len(row.passages)} passages")
        if row.positive_scores and len(row.positive_scores) != len(row.positives):
            raise InputError(
                f"{place}: positive_scores: {len(row.positive_scores)} for {len(row.positives)} "
                "positives"
            )
        if len({*row.passages, *row.positives}) < len(row.passages) + len(row.positives):
            raise InputError(f"{place}: passages: one is a duplicate or a known positive")
        if not all(map(math.isfinite, (*row.scores, *row.positive_scores))):
            raise InputError(f"{place}: scores: one is not finite; mine again")
        rows.append(row)
    return rows


def _as_written(item: TrainingList) -> dict[str, Any]:
    fields = dataclasses.asdict(item)
    if not item.scores:
        del fields["scores"]
        return fields
    return fields | {"version": 2}


def _encoded(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _read_rows(path: Path, cls: type) -> Iterator[tuple[str, Any]]:
    """Yields each line's place ("file:line") and its row."""
    adapter = pydantic.TypeAdapter(cls)
    fields = ", ".join(field.name for field in dataclasses.fields(cls))
    for place, line in lines(path, BadRows()):
        try:
            yield place, adapter.validate_json(line, strict=True)
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise InputError(
                f"{place}: {where}: {first['msg']}; expected an object with {fields}"
            ) from error


def hash_bits(text: str) -> int:
    """64 bits of a text's hash, to seed draws with: the same in every process, unlike hash()."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
