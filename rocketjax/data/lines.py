"""Lines of text files with their places, and the checks that all readers share."""

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, TypeVar, cast

from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import InputError, shown

Policy: TypeAlias = Literal["fail", "skip"]  # what to do about a bad row
Row = TypeVar("Row")
UNREADABLE = (OSError, EOFError, zlib.error)  # the last two: a damaged .gz
SHOWN = 3  # faults of a file that its note spells out
# What people call the columns of queries, passages, judgements and training rows.
_NAMES = re.compile(
    r"_?id|[qpd]id|(query|corpus|doc|document|passage|topic)[-_ ]?id|query|question|anchor|topic"
    r"|passage|document|doc|text|title|answer|(hard[-_]?)?(pos|neg)(itive|ative)?s?[-_]?[0-9]*"
    r"|iter(ation)?|score|label|grade|rel(evance|evancy)?"
)
LONGEST = 16 * 2**20  # bytes of a line; a megabyte of .gz can decompress to a gigabyte


class BadRows:
    """What happens to bad rows: the first raises an error, or all are left out and counted."""

    def __init__(self, policy: Policy = "fail") -> None:
        self.policy: Policy = policy
        self._faults: dict[str, list[str]] = {}
        # By file; the inner dict is an ordered set of fields.
        self._unused: dict[str, dict[str, None]] = {}
        self._scored: dict[str, dict[str, None]] = {}

    def reject(self, place: str, fault: str) -> None:
        """Counts the row at `place` ("file:line") as left out.

        Raises:
            InputError: the policy is "fail"; place and fault are named.
        """
        if self.policy == "fail":
            raise InputError(f"{place}: {fault}")
        self._faults.setdefault(place.rpartition(":")[0], []).append(f"{place}: {fault}")

    def unused(self, place: str, fields: Sequence[str]) -> None:
        """Remembers fields of a good row that nothing reads."""
        if fields:
            self._unused.setdefault(place.rpartition(":")[0], {}).update(dict.fromkeys(fields))

    def scored(self, place: str, fields: Sequence[str]) -> None:
        """Remembers fields of a good row that hold a teacher's scores."""
        if fields:
            self._scored.setdefault(place.rpartition(":")[0], {}).update(dict.fromkeys(fields))

    def notes(self) -> list[str]:
        """A line for each file: how many rows were left out, and why, for the first few.

        And one for each file with a teacher's scores, and with fields that nothing reads.
        """
        left_out = [
            f"{path}: left out {len(faults):,} bad rows: {'; '.join(faults[:SHOWN])}"
            + (" .." if len(faults) > SHOWN else "")
            for path, faults in self._faults.items()
        ]
        scored = [
            f"{path}: a teacher's scores in {', '.join(fields)[:300]}; --loss.teacher stored or "
            "both distils from them"
            for path, fields in self._scored.items()
        ]
        return [*left_out, *scored] + [
            f"{path}: not used in training so far: {', '.join(fields)[:300]}"
            for path, fields in self._unused.items()
        ]


class BadRow(Exception):
    """A row cannot be used; the message says why, and whoever catches it adds the place."""


def parsed(
    path: Path, parse: Callable[[str], Row | None], bad: BadRows
) -> Iterator[tuple[str, Row]]:
    """Yields each line's place ("file:line") and what `parse` returns for it, unless that is None.

    Empty lines are skipped; lines may end in "\\n" or "\\r\\n".

    Raises:
        InputError: as for `lines`, and for a BadRow of `parse` unless `bad` lets it pass.
    """
    for place, line in lines(path, bad):
        if not line.strip():
            continue
        try:
            row = parse(line.rstrip("\r\n"))
        except BadRow as fault:
            bad.reject(place, str(fault))
            continue
        if row is not None:
            yield place, row


def headed(
    path: Path, parse: Callable[[str], Row | None], bad: BadRows, starts: str = ".*"
) -> Iterator[tuple[str, Row]]:
    """As `parsed`, but without the first line if that is a header.

    Args:
        starts: pattern of the first column's name, where another order would be another meaning.
    """
    first = True

    def parse_below(line: str) -> Row | None:
        nonlocal first
        names, first = column_names(line) if first else [], False
        return None if names and re.fullmatch(starts, names[0]) else parse(line)

    return parsed(path, parse_below, bad)


def column_names(line: str) -> list[str]:
    """The names in a header, such as "query-id TAB corpus-id TAB score"; none of any other line."""
    cells = [cell.strip().lower() for cell in line.split("\t" if "\t" in line else None)]
    known = all(_NAMES.fullmatch(cell) for cell in cells)
    return cells if known and len(cells) > 1 else []


def lines(path: Path, bad: BadRows) -> Iterator[tuple[str, str]]:
    """Yields each line's place ("file:line") and text. A .gz file is decompressed.

    Raises:
        InputError: no such file, a damaged .gz or, unless `bad` lets it pass, a line that is not
            UTF-8 or is longer than `LONGEST`; file and line are named.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    place = f"{path}:1"
    try:
        with opened(path) as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST + 1), b""), 1):
                place = f"{path}:{number}"
                if len(line) > LONGEST:
                    bad.reject(place, f"longer than {LONGEST:,} bytes")
                    while not line.endswith(b"\n") and (line := file.readline(LONGEST)):
                        pass
                    continue
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    bad.reject(place, f"not UTF-8: {error}")
                else:
                    yield place, text
    except UNREADABLE as error:
        raise InputError(f"{place}: cannot be read any further: {error}") from error


def distinct(rows: Iterator[tuple[str, tuple[str, Row]]], bad: BadRows) -> dict[str, Row]:
    """Collects (place, (id, value)) rows into values by id, of a duplicate id the first.

    Raises:
        InputError: a duplicate id, unless `bad` lets it pass.
    """
    values: dict[str, Row] = {}
    for place, (name, value) in rows:
        if name in values:
            bad.reject(place, f"_id: duplicate {name!r}; ids must be unique")
        else:
            values[name] = value
    return values


def plain_or_gz(path: Path) -> Path:
    """`path`, or its compressed copy (corpus.jsonl.gz) if only that exists."""
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if compressed.is_file() and not path.is_file() else path


def by_split(folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """Yields splits and their files, as ("dev.small", queries.dev.small.tsv), sorted by name.

    Yields nothing if there is no such folder.

    Args:
        folder: of files, plain or compressed; of queries.dev.tsv and queries.dev.tsv.gz the plain
            one is used.
        pattern: matches a whole name without .gz; its first group is the split.
    """
    for path in sorted(folder.glob("*")):
        match = re.fullmatch(pattern, path.name.removesuffix(".gz"))
        if match and plain_or_gz(path.with_name(match[0])) == path:
            yield match[1], path


def opened(path: Path) -> IO[bytes]:
    """Opens a file for reading bytes. A .gz file is decompressed."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def json_row(line: str) -> dict[str, Any]:
    """Parses a line as a JSON object. Raises BadRow."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadRow(f"expected an object, got {line[:40]!r}")
    return row


def columns(line: str, names: str) -> list[str]:
    """Splits a line at tabs into as many columns as "name TAB name" names. Raises BadRow."""
    values = line.split("\t")
    if len(values) != len(names.split(" TAB ")):
        raise BadRow(f"expected {names}, got {len(values)} columns: {line[:80]!r}")
    return values


def finite(text: str, field: str) -> float:
    """Parses a finite number. Raises BadRow."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRow(f"{field}: expected a finite number, got {shown(text)}")
    return value


def grade(text: str) -> int:
    """Parses a relevance grade, such as 1, -1 or 1.0. Raises BadRow."""
    match = re.fullmatch(r"(-?[0-9]{1,9})(\.0*)?", text, re.ASCII)
    if match is None:
        raise BadRow(f"grade: expected a whole number, got {text[:40]!r}")
    return int(match[1])


def checked_id(value: Any, field: str) -> str:
    """Checks that a value is a string without whitespace, or a whole number. Raises BadRow."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    name = checked_text(str(value) if is_number else value, field)
    if re.search(r"\s", name, re.ASCII):
        raise BadRow(
            f"{field}: {shown(name)} contains whitespace, which separates the columns of a run"
        )
    return name


def checked_text(value: Any, field: str) -> str:
    """Checks that a value is a non-empty string. Raises BadRow."""
    text = text_or_none(value, field)
    if not text.strip():
        raise BadRow(f"{field}: expected non-empty text, got {shown(value)}")
    return text


def text_or_none(value: Any, field: str) -> str:
    """Checks that a value is a string, or None, which becomes "". Raises BadRow."""
    if not isinstance(value, str | None):
        raise BadRow(f"{field}: expected a string, got {shown(value)}")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise BadRow(f"{field}: not Unicode: {error}") from error
    return value or ""


def checked_passage(pid: Any, title: Any, text: Any, field: str = "_id") -> Passage:
    """Makes a passage, which needs an id, and a title or a text. Raises BadRow."""
    passage = Passage(
        checked_id(pid, field), text_or_none(title, "title"), text_or_none(text, "text")
    )
    if not (passage.title.strip() or passage.text.strip()):
        raise BadRow(f"text: passage {shown(passage.id)} is empty; give it a title or a text")
    return passage


def named_text(line: str) -> tuple[str, str]:
    """Parses id TAB text; any further tab belongs to the text. Raises BadRow."""
    name, tab, text = line.partition("\t")
    if not tab:
        raise BadRow(f"expected id TAB text, got {line[:80]!r}")
    return checked_id(name, "id"), checked_text(text, "text").strip()
