"""TREC runs in and out, and files of queries."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rocketjax.data.lines import BadRow, BadRows, checked_id, finite, parsed
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_file


def write_run(path: Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """A TREC run: query Q0 passage rank score tag, best first; scores as exact as float32."""
    write_rankings(path, run.items(), tag)


def write_rankings(
    path: Path, rankings: Iterable[tuple[str, Sequence[tuple[str, float]]]], tag: str
) -> int:
    """The same, written as queries and rankings come; returns how many did.

    The file appears whole or not at all, after the last.
    """
    count, tag = 0, "_".join(tag.split())  # it may have a folder's name in it
    with new_file(path) as file:
        for query, ranked in rankings:
            rows = (
                f"{query} Q0 {pid} {rank} {score:.9g} {tag}\n"
                for rank, (pid, score) in enumerate(ranked, 1)
            )
            file.write("".join(rows).encode())
            count += 1
    return count


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """A TREC run: query id -> (passage id, score), by score, of equal ones by rank.

    Columns are divided by any ASCII white space; a name that ends in .gz is unpacked. (trec_eval
    ignores the rank, and takes equal scores by passage id.) MS MARCO's top1000 files (query,
    passage and both their texts, divided by tabs) are read too: in the file's order, with scores
    that go down from 0.

    Raises:
        InputError: no file, an empty one, a line that is no such row, a score that is no finite
            number, or a passage that stands twice for a query; file, line and field are named.
    """
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    for place, (query, pid, number, position) in parsed(path, _ranked, BadRows()):
        ranked = rows.setdefault(query, {})
        if pid in ranked:
            raise InputError(f"{place}: passage: {pid!r} stands twice for query {query!r}")
        ranked[pid] = (len(ranked) if number is None else -number, position)
    if not rows:
        raise InputError(f"{path}: holds no ranking")
    return {
        query: [(pid, -found[pid][0]) for pid in sorted(found, key=found.__getitem__)]
        for query, found in rows.items()
    }


def _ranked(line: str) -> tuple[str, str, float | None, float]:
    """Query, passage, score (None: as in the file's order) and rank."""
    if line.count("\t") == 3:
        query, pid, _, _ = line.split("\t")
        return checked_id(query, "query"), checked_id(pid, "passage"), None, 0.0
    columns = re.findall(r"\S+", line, re.ASCII)
    if len(columns) != 6:
        raise BadRow(f"expected query Q0 passage rank score tag, got {line[:80]!r}")
    query, _, pid, rank, score, _ = columns
    return query, pid, finite(score, "score"), finite(rank, "rank")
