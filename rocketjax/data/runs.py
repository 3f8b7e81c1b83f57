"""TREC runs, written and read."""

import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rocketjax.data.lines import BadRow, BadRows, checked_id, finite, headed
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_file
from rocketjax.runtime.progress import Say, unsaid

_UNSCORED = "-unscored"  # ends the tag of a passage that the model has not scored
_COLUMNS = "expected query Q0 passage rank score tag"


def write_run(
    path: Path,
    run: Mapping[str, Sequence[tuple[str, float]]],
    tag: str,
    scored: int | None = None,
) -> None:
    """Writes a TREC run: query Q0 passage rank score tag, best first.

    Scores have nine digits, enough to restore a float32. `scored`: see `write_rankings`.
    """
    write_rankings(path, run.items(), tag, scored)


def write_rankings(
    path: Path,
    rankings: Iterable[tuple[str, Sequence[tuple[str, float]]]],
    tag: str,
    scored: int | None = None,
) -> int:
    """Writes a TREC run, as `write_run` does, ranking by ranking; returns how many there were.

    The file appears once it is complete, or not at all.

    Args:
        path, rankings, tag: as for `write_run`.
        scored: how many of a query's passages the model has scored. The scores of those behind
            only keep their order; their tag says so, and `read_scores` leaves them out.
    """
    count, tag = 0, "_".join(tag.split())  # a tag can be a folder's name, with spaces in it
    most = math.inf if scored is None else scored
    with new_file(path) as file:
        for query, ranked in rankings:
            rows = (
                f"{query} Q0 {pid} {rank} {score:.9g} {tag}{'' if rank <= most else _UNSCORED}\n"
                for rank, (pid, score) in enumerate(ranked, 1)
            )
            file.write("".join(rows).encode())
            count += 1
    return count


def read_run(path: Path, say: Say = unsaid) -> dict[str, list[tuple[str, float]]]:
    """Reads a TREC run: query id -> (passage id, score), sorted by score and, for ties, by rank.

    Columns are separated by ASCII whitespace. A .gz file is decompressed. (trec_eval ignores the
    rank and breaks ties by passage id.) MS MARCO's top1000 files (query id, passage id and both
    texts, separated by tabs) can be read too: in the file's order, with scores 0, -1, -2 ..

    Args:
        path: of the file.
        say: gets a line if ranks contradict scores, as they do where low scores are the best.

    Raises:
        InputError: no such file, an empty one, a line in neither format, a score or rank that is
            not a finite number, or a duplicate passage for a query; file, line and field are named.
    """
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    for place, (query, pid, number, position) in headed(path, _ranked, BadRows()):
        ranked = rows.setdefault(query, {})
        if pid in ranked:
            raise InputError(f"{place}: passage: duplicate {pid!r} for query {query!r}")
        ranked[pid] = (len(ranked) if number is None else -number, position)
    if not rows:
        raise InputError(f"{path}: contains no rankings")
    found = {query: sorted(ranked, key=ranked.__getitem__) for query, ranked in rows.items()}
    odd = [
        query
        for query, pids in found.items()
        if any(rows[query][a][1] > rows[query][b][1] for a, b in pairwise(pids))
    ]
    if odd:
        say(
            f"{path}: ranks contradict scores in {len(odd):,} of {len(found):,} queries (the first "
            f"is {odd[0]!r}); scores count, the highest first, as in trec_eval"
        )
    return {query: [(pid, -rows[query][pid][0]) for pid in pids] for query, pids in found.items()}


def read_scores(
    path: Path, say: Say = unsaid, queries: Collection[str] | None = None
) -> dict[str, dict[str, float]]:
    """Reads a TREC run of a re-ranker as scores: query id -> passage id -> score.

    What `rerank` has not scored (see `write_rankings`) is left out.

    Args:
        path: of the file; .gz is decompressed.
        say: gets a line on how many were left out.
        queries: whose scores are kept; None: all that the file has. (A run may have 100 million
            lines, of a few queries that somebody trains on.)

    Raises:
        InputError: as for `read_run`, for a file of rankings without scores, and for one with none
            of `queries`.
    """
    scores: dict[str, dict[str, float]] = {}
    left_out, other = 0, None
    for place, (query, pid, score, tag) in headed(path, _scored, BadRows()):
        if queries is not None and query not in queries:
            other = other or query
        elif tag.endswith(_UNSCORED):
            left_out += 1
        elif pid in scores.setdefault(sys.intern(query), {}):
            raise InputError(f"{place}: passage: duplicate {pid!r} for query {query!r}")
        else:
            scores[query][sys.intern(pid)] = score  # one passage is in many rankings
    if other and not scores and not left_out:
        raise InputError(
            f"{path}: has none of the {len(queries or ()):,} queries that lists are made for (its "
            f"first is {other!r}); give a run of these"
        )
    if not scores:
        raise InputError(f"{path}: contains no scores")
    if left_out:
        say(f"{path}: {left_out:,} passages are ranked but not scored, and left out")
    return scores


def _scored(line: str) -> tuple[str, str, float, str]:
    """Query, passage, score and tag."""
    query, pid, score, _ = _ranked(line)
    if score is None:
        raise BadRow(f"score: a line of four columns has none; {_COLUMNS}, got {line[:80]!r}")
    return query, pid, score, line.split()[-1]


def _ranked(line: str) -> tuple[str, str, float | None, float]:
    """Query, passage, score (None: ranked by the file's order) and rank."""
    if line.count("\t") == 3:
        query, pid, _, _ = line.split("\t")
        return checked_id(query, "query"), checked_id(pid, "passage"), None, 0.0
    columns = re.findall(r"\S+", line, re.ASCII)
    if len(columns) != 6:
        raise BadRow(f"{_COLUMNS}, got {line[:80]!r}")
    query, _, pid, rank, score, _ = columns
    return query, pid, finite(score, "score"), finite(rank, "rank")
