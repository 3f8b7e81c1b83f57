"""Lines of text files with their places, and the checks that every reader makes."""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rocketjax.errors import InputError


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place ("file:line") and JSON object. Raises InputError, as `lines` does."""
    for place, line in lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected an object, got {line[:40]!r}")
        yield place, row


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line's place ("file:line") and text; a name that ends in .gz is unpacked.

    Raises:
        InputError: no such file, not UTF-8, or a damaged .gz; file and line are named.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    place = f"{path}:1"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                place = f"{path}:{number}"
                yield place, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8: {error}") from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
        raise InputError(f"{place}: cannot be read on: {error}") from error


def finite(text: str, place: str) -> float:
    """A finite number. Raises InputError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{place}: expected a finite number, got {text!r}")
    return value


def checked_id(row: Mapping[str, Any], place: str) -> str:
    """The row's _id, a text without white space. Raises InputError."""
    value = checked_text(row, "_id", place)
    if re.search(r"\s", value, re.ASCII):
        raise InputError(
            f"{place}: _id: {value!r} holds white space, which divides a run's columns"
        )
    return value


def checked_text(row: Mapping[str, Any], field: str, place: str) -> str:
    """A field's text, which is not empty. Raises InputError."""
    value = text_or_none(row, field, place)
    if not value.strip():
        got = row.get(field)
        raise InputError(f"{place}: {field}: expected a text that is not empty, got {got!r}")
    return value


def text_or_none(row: Mapping[str, Any], field: str, place: str) -> str:
    """A field's text; empty where it is missing. Raises InputError where it is no text."""
    value = row.get(field)
    if not isinstance(value, str | None):
        raise InputError(f"{place}: {field}: expected a text, got {value!r}")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise InputError(f"{place}: {field}: not Unicode: {error}") from error
    return value or ""
