"""Mines training lists: retrieve, score with the re-ranker, denoise. Resumes where it was stopped.

A folder of mined lists:

    request.json           everything the lists depend on: another request is refused
    candidates-00000.jsonl candidates of the first queries, then of the next ...
    lists.jsonl            the lists
    report.json            what was dropped, added and topped up
"""

import dataclasses
import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from rocketjax.config.schema import ListConfig
from rocketjax.data.collection import Split, relevant
from rocketjax.data.lists import (
    Candidates,
    TrainingList,
    new_lists,
    read_candidates,
    read_lists,
    write_candidates,
)
from rocketjax.data.passages import Passage
from rocketjax.mining.augment import is_distilled, lists_of
from rocketjax.mining.calibrate import Calibration, platt
from rocketjax.mining.known import Known, known_answers
from rocketjax.mining.report import MiningReport, Tally, read_report, write_report
from rocketjax.mining.rules import draws_by_score, has_rules, has_thresholds, scored_depth
from rocketjax.retrieval.index import Index
from rocketjax.retrieval.model import Corpus, Model
from rocketjax.retrieval.ranking import QUERIES_AT_ONCE, retrieve, score_pairs
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import is_empty, read_object, write_json
from rocketjax.runtime.progress import Watch, unwatched

PAIRS_AT_ONCE = 16_384  # scored between two files of candidates
ROOM = 16  # answers that every search has room for; where a query has more, it is searched again
SHOWN = 300  # characters of an example's texts
# Options that mined lists do not depend on; whose scores they keep is said elsewhere (teacher.py).
_ELSEWHERE: dict[str, object] = {"easy": None, "refresh": None, "after": None, "teacher": None}

Files: TypeAlias = Mapping[Path, list[str]]  # of candidates, and the queries they are of


def mine(
    model: Model,
    corpus: Corpus,
    split: Split,
    config: ListConfig,
    seed: int,
    folder: Path,
    watch: Watch,
) -> tuple[list[TrainingList], MiningReport]:
    """Lists for a split's queries: their positives by its qrels, their negatives by both models.

    With `config.denoised` 0 and no rule by score the re-ranker is not used. The same models,
    queries and seed give the same lists, byte for byte, on any number of devices.

    Raises:
        InputError: `folder` holds lists of another request, or candidates of other queries; no
            query at all, or none with a positive; no list has any negative; or the re-ranker cannot
            tell positives from candidates (see calibrate.py).
    """
    if not split.queries:
        raise InputError("no query to mine for; choose another split")
    judged = any(relevant(split.qrels.get(query, {})) for query in split.queries)
    if not (judged or config.takes_unlabelled):
        raise InputError("no query to mine for has a positive; choose another split")
    request = _request(model, corpus, split, config, seed)
    processes.check_same("what is mined", json.dumps(request, indent=0))
    processes.from_main(lambda: _claim(folder, request))
    lists, report = folder / "lists.jsonl", folder / "report.json"
    if not processes.from_main(lists.is_file):
        files = _write_all_candidates(model, corpus, split, config, folder, watch)

        def write() -> None:
            calibration = _calibration(folder, files, config)
            tally = Tally(calibration, config)
            with watch("make lists", len(files), "files") as advance, new_lists(lists) as add:
                for file in files.items():
                    for row in _read(*file):
                        add(lists_of(row, calibration, config, seed, tally))
                    advance(1)
                counts = tally.report()
                _check_negatives(folder, counts, config)
                # Before the lists: where they are, all is done.
                write_report(report, counts, _texts(counts, split.queries, corpus.passages))

        processes.from_main(write)
    return read_lists(lists), read_report(report)[0]


def _calibration(folder: Path, files: Files, config: ListConfig) -> Calibration | None:
    """What all files of candidates together say, read one after the other."""
    if config.length > 1:
        _check_found(folder, files)
    if not (config.denoised or has_thresholds(config)):
        return None
    if config.calibration == "sigmoid":
        return Calibration(1.0, 0.0)
    positives, others = array("d"), array("d")  # of all queries, since the fit is one of all scores
    for row in _rows(files):
        positives.extend(row.positive_scores)
        if row.positives:
            others.extend(row.scores)
    return platt(np.asarray(positives), np.asarray(others))


def _rows(files: Files) -> Iterator[Candidates]:
    return chain.from_iterable(_read(*file) for file in files.items())


def _read(path: Path, queries: Sequence[str]) -> list[Candidates]:
    """The candidates of a file. Raises InputError unless they are those of its queries."""
    rows = read_candidates(path)
    if [row.query for row in rows] != queries:
        raise InputError(
            f"{path}: not the candidates of the {len(queries):,} queries that it was made for; "
            "delete it, and the same command mines for them again"
        )
    return rows


def _check_found(folder: Path, files: Files) -> None:
    """Refuses to go on where no query with a positive has a candidate: there is no negative."""
    if any(row.positives and row.passages for row in _rows(files)):  # most often the first has
        return
    copies = [row.copies for row in _rows(files) if row.positives]
    if copies:
        raise InputError(
            f"{folder}: no list would have a negative: whatever was found for {len(copies):,} "
            f"queries answers them ({sum(copies):,} copies of positives were left out); give a "
            "corpus with other passages too"
        )


def _check_negatives(folder: Path, counts: MiningReport, config: ListConfig) -> None:
    """Refuses no list at all, and lists that all are a positive alone.

    Those without a label always have others.
    """
    labelled = counts.undenoised + counts.denoised
    if not labelled + counts.distilled:
        raise InputError(
            f"{folder}: no list: {counts.unlabelled:,} of {counts.queries:,} queries have no "
            "positive, nor a pseudo-positive; lower --lists.high, or choose another split"
        )
    if labelled and config.length > 1 and counts.alone == labelled:
        raise InputError(
            f"{folder}: none of {labelled:,} lists has a negative: {_why_none(counts)}"
        )


def _why_none(report: MiningReport) -> str:
    """What left no list a negative, and what helps."""
    rules = ", ".join(report.taken)
    if not report.denoised:  # then the re-ranker clears none, and --lists.low does nothing
        return f"all candidates are left out by {rules}; loosen that, or give a larger corpus"
    return (
        "the re-ranker finds all candidates too likely to answer; raise --lists.low or "
        "--lists.depth" + (f", or loosen {rules}" if rules else "")
    )


class _Depths(NamedTuple):
    """How many candidates a query has."""

    found: int  # by the retriever, the known positives taken out
    scored: int  # by the re-ranker


def _depths(config: ListConfig) -> _Depths:
    if not config.denoised:
        return _Depths(config.top_n, scored_depth(config))
    deepest = config.depth or 2 * config.top_n
    return _Depths(max(config.top_n, deepest), scored_depth(config))


def _write_all_candidates(
    model: Model, corpus: Corpus, split: Split, config: ListConfig, folder: Path, watch: Watch
) -> Files:
    """Writes every query's candidates, except for files that are there already; the files."""
    depths = _depths(config)
    size = max(1, PAIRS_AT_ONCE // max(depths.scored, 1))
    names = list(split.queries)
    parts = [names[i : i + size] for i in range(0, len(names), size)]
    files = {folder / f"candidates-{i:05d}.jsonl": part for i, part in enumerate(parts)}
    paths = list(files)
    missing = processes.from_main(lambda: [i for i, p in enumerate(paths) if not p.is_file()])
    turns, own = jax.process_count(), jax.process_index()
    known = known_answers(split, corpus.passages, watch) if missing else Known(split, {})
    # As deep for all, whichever are mined together: ScaNN searches wider the more it is asked for.
    deep = depths.found + min(ROOM, max(map(known.number, split.queries)))
    at_once = turns * max(1, QUERIES_AT_ONCE // (size * turns))
    with watch("mine", sum(len(parts[i]) for i in missing), "queries") as advance:
        for start in range(0, len(missing), at_once):
            # All processes search together; then each re-ranks its own parts.
            group = missing[start : start + at_once]
            some = {q: split.queries[q] for i in group for q in parts[i]}
            found = _candidates(model, corpus.index, known, some, depths.found, deep)
            for first in range(0, len(group), turns):
                turn = group[first : first + turns]
                for i in turn[own : own + 1]:
                    rows = [found[query] for query in parts[i]]
                    if depths.scored:
                        rows = _scored(model, rows, some, corpus.passages, config)
                    write_candidates(paths[i], rows)
                advance(sum(len(parts[i]) for i in turn))
    processes.barrier()
    return files


def _candidates(
    model: Model, index: Index, known: Known, queries: Mapping[str, str], depth: int, deep: int
) -> dict[str, Candidates]:
    """What the retriever finds for each query, without what is known to answer it.

    At first the best `deep` passages of all. Where answers leave fewer than `depth` of them, twice
    as many are retrieved for those queries alone, and so on, fewer queries at once.
    """
    result: dict[str, Candidates] = {}
    top_k, waiting = deep, list(queries)
    while waiting:
        size = max(1, QUERIES_AT_ONCE * deep // top_k)
        for start in range(0, len(waiting), size):
            some = {query: queries[query] for query in waiting[start : start + size]}
            found = retrieve(model.retriever, index, some, top_k, unwatched)
            for query, ranked in found.items():
                left = known.left(query, [pid for pid, _ in ranked], depth)
                own, rest = known.positives(query), left.passages
                result[query] = Candidates(query, own, rest, copies=left.copies, above=left.above)
        all_found = top_k >= len(index.vectors)
        waiting = [
            query
            for query in waiting
            if len(result[query].passages) < depth
            and not (all_found or top_k > depth + known.number(query))
        ]
        top_k *= 2
    return result


def _scored(
    model: Model,
    rows: Sequence[Candidates],
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    config: ListConfig,
) -> list[Candidates]:
    """The same with the re-ranker's scores, of all queries' pairs in one sorted run.

    Those of a query whose list has no label need none, unless it is drawn by score.
    """
    depth = _depths(config).scored
    unscored = not draws_by_score(config)
    best = [() if unscored and is_distilled(row, config) else row.passages[:depth] for row in rows]
    pairs = [
        (row.query, pid)
        for row, some in zip(rows, best, strict=True)
        for pid in (*row.positives, *some)
    ]
    scores = score_pairs(model.reranker, pairs, queries, passages, unwatched)
    result, at = [], 0
    for row, some in zip(rows, best, strict=True):
        middle = at + len(row.positives)
        end = middle + len(some)
        result.append(
            dataclasses.replace(
                row, positive_scores=tuple(scores[at:middle]), scores=tuple(scores[middle:end])
            )
        )
        at = end
    return result


def _texts(
    report: MiningReport, queries: Mapping[str, str], passages: Mapping[str, Passage]
) -> list[tuple[str, str]]:
    """What the examples' queries and passages say, the beginning of it."""
    return [
        (queries[query][:SHOWN], passages[pid].whole[:SHOWN]) for query, pid, _ in report.examples
    ]


def _request(
    model: Model, corpus: Corpus, split: Split, config: ListConfig, seed: int
) -> dict[str, object]:
    """All that the lists depend on."""
    judged = {query: sorted(split.qrels.get(query, {}).items()) for query in split.queries}
    known: list[object] = [list(split.queries.items()), list(judged.items())]
    if shared := {query: split.shared[query] for query in split.queries if query in split.shared}:
        known.append(shared)
    text = json.dumps(known)
    return {
        "retriever": model.retriever.fingerprint,
        "reranker": model.reranker.fingerprint if config.denoised or has_rules(config) else None,
        "index": type(corpus.index).__name__,
        "vectors": dataclasses.asdict(corpus.index.vectors.manifest),  # pyright: ignore
        "queries": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        "lists": dataclasses.asdict(config) | _ELSEWHERE,
        "seed": seed,
    }


def _claim(folder: Path, request: dict[str, object]) -> None:
    path = folder / "request.json"
    if path.is_file():
        other = read_object(path)
        if isinstance(lists := other.get("lists"), dict):  # older ones lack what is new since
            other["lists"] = dataclasses.asdict(ListConfig()) | lists | _ELSEWHERE
        wrong = [name for name in request if other.get(name) != request[name]]
        if wrong:
            raise InputError(
                f"{folder}: holds lists mined with other {', '.join(wrong)}; choose another "
                "folder, or delete this one"
            )
        return
    if not is_empty(folder):
        raise InputError(f"{folder}: holds other files and no mined lists; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, request)
