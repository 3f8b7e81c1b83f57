"""Lines of text files with their places, and the checks that every reader makes."""

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, TypeVar, cast

from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import InputError, shown

Policy: TypeAlias = Literal["fail", "skip"]


Row = TypeVar("Row")


UNREADABLE = (OSError, EOFError, zlib.error)  # the last two: a damaged .gz


SHOWN = 3  # faults of a file that a report spells out


LONGEST = 16 * 2**20  # bytes of a line: a packed one of a megabyte may unpack to a gigabyte


class BadRows:
    """What becomes of a row that is not what it should be: an error, or left out and counted."""

    def __init__(self, policy: Policy = "fail") -> None:
        self.policy: Policy = policy
        self._faults: dict[str, list[str]] = {}

    def found(self, place: str, fault: str) -> None:
        """Notes that the row at `place` ("file:line") is left out. Raises InputError by policy."""
        if self.policy == "fail":
            raise InputError(f"{place}: {fault}")
        self._faults.setdefault(place.rpartition(":")[0], []).append(f"{place}: {fault}")

    def notes(self) -> list[str]:
        """A line for each file: how many rows were left out, and why the first of them."""
        return [
            f"{path}: left out {len(faults):,} bad rows: {'; '.join(faults[:SHOWN])}"
            + (" .." if len(faults) > SHOWN else "")
            for path, faults in self._faults.items()
        ]


class BadRow(Exception):
    """What is wrong with a row, for the one who knows its place."""


def parsed(
    path: Path, parse: Callable[[str], Row | None], bad: BadRows
) -> Iterator[tuple[str, Row]]:
    """Each line's place ("file:line") and what `parse` makes of it; not where that is None.

    Empty lines are passed over; "\\r\\n" ends a line as "\\n" does.

    Raises:
        InputError: what `lines` raises, and BadRow of `parse`, unless `bad` lets it pass.
    """
    for place, line in lines(path, bad):
        if not line.strip():
            continue
        try:
            row = parse(line.rstrip("\r\n"))
        except BadRow as fault:
            bad.found(place, str(fault))
            continue
        if row is not None:
            yield place, row


def lines(path: Path, bad: BadRows) -> Iterator[tuple[str, str]]:
    """Each line's place ("file:line") and text; a name that ends in .gz is unpacked.

    Raises:
        InputError: no such file, a damaged .gz or, unless `bad` lets it pass, a line that is not
            UTF-8, or longer than `LONGEST`; file and line are named.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    place = f"{path}:1"
    try:
        with opened(path) as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST + 1), b""), 1):
                place = f"{path}:{number}"
                if len(line) > LONGEST:
                    bad.found(place, f"longer than {LONGEST:,} bytes")
                    while not line.endswith(b"\n") and (line := file.readline(LONGEST)):
                        pass
                    continue
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    bad.found(place, f"not UTF-8: {error}")
                else:
                    yield place, text
    except UNREADABLE as error:
        raise InputError(f"{place}: cannot be read on: {error}") from error


def distinct(rows: Iterator[tuple[str, tuple[str, Row]]], bad: BadRows) -> dict[str, Row]:
    """What each id stands for, of places, ids and values; of an id that stands twice, the first.

    Raises:
        InputError: an id stands twice, unless `bad` lets it pass.
    """
    found: dict[str, Row] = {}
    for place, (name, value) in rows:
        if name in found:
            bad.found(place, f"_id: {name!r} stands twice; ids must be unique")
        else:
            found[name] = value
    return found


def packed_or_not(path: Path) -> Path:
    """`path`, or the packed file of that name (corpus.jsonl.gz) where only that is there."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def by_split(folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """("dev.small", queries.dev.small.tsv) and so on, by name; nothing where there is no folder.

    Args:
        folder: of files that may be packed; of queries.dev.tsv and queries.dev.tsv.gz, the first.
        pattern: of the whole name without .gz; its first group is the split.
    """
    for path in sorted(folder.glob("*")):
        found = re.fullmatch(pattern, path.name.removesuffix(".gz"))
        if found and packed_or_not(path.with_name(found[0])) == path:
            yield found[1], path


def opened(path: Path) -> IO[bytes]:
    """A file to read bytes from; a name that ends in .gz is unpacked."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def json_row(line: str) -> dict[str, Any]:
    """A line's JSON object. Raises BadRow."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadRow(f"expected an object, got {line[:40]!r}")
    return row


def columns(line: str, names: str) -> list[str]:
    """The columns of a line, as many as `names` has, divided by tabs. Raises BadRow."""
    found = line.split("\t")
    if len(found) != len(names.split(" TAB ")):
        raise BadRow(f"expected {names}, got {len(found)} columns: {line[:80]!r}")
    return found


def finite(text: str, field: str) -> float:
    """A finite number. Raises BadRow."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRow(f"{field}: expected a finite number, got {shown(text)}")
    return value


def grade(text: str) -> int:
    """A judgement, which may be negative. Raises BadRow."""
    if not re.fullmatch(r"-?[0-9]{1,9}", text, re.ASCII):
        raise BadRow(f"grade: expected a whole number, got {text[:40]!r}")
    return int(text)


def checked_id(value: Any, field: str) -> str:
    """An id: a text that is not empty, without white space. Raises BadRow."""
    name = checked_text(value, field)
    if re.search(r"\s", name, re.ASCII):
        raise BadRow(f"{field}: {shown(name)} holds white space, which divides a run's columns")
    return name


def checked_text(value: Any, field: str) -> str:
    """A text that is not empty. Raises BadRow."""
    text = text_or_none(value, field)
    if not text.strip():
        raise BadRow(f"{field}: expected a text that is not empty, got {shown(value)}")
    return text


def text_or_none(value: Any, field: str) -> str:
    """A text; empty for None. Raises BadRow where it is no text."""
    if not isinstance(value, str | None):
        raise BadRow(f"{field}: expected a text, got {shown(value)}")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise BadRow(f"{field}: not Unicode: {error}") from error
    return value or ""


def checked_passage(pid: Any, title: Any, text: Any, field: str = "_id") -> Passage:
    """A passage with an id, and a title or a text. Raises BadRow."""
    passage = Passage(
        checked_id(pid, field), text_or_none(title, "title"), text_or_none(text, "text")
    )
    if not (passage.title.strip() or passage.text.strip()):
        raise BadRow(f"text: passage {shown(passage.id)} is empty; give it a text")
    return passage


def named_text(line: str) -> tuple[str, str]:
    """id TAB text; a further tab belongs to the text. Raises BadRow."""
    name, tab, text = line.partition("\t")
    if not tab:
        raise BadRow(f"expected id TAB text, got {line[:80]!r}")
    return checked_id(name, "id"), checked_text(text, "text").strip()
