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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rocketjax.config.schema import ListConfig
from rocketjax.data.collection import Split, relevant
from rocketjax.data.lists import (
    Candidates,
    TrainingList,
    read_candidates,
    read_lists,
    write_candidates,
    write_lists,
)
from rocketjax.data.passages import Passage
from rocketjax.mining.augment import hybrid_lists
from rocketjax.mining.calibrate import Calibration, platt
from rocketjax.mining.report import MiningReport, read_report, write_report
from rocketjax.retrieval.index import Index
from rocketjax.retrieval.model import Corpus, Model
from rocketjax.retrieval.ranking import QUERIES_AT_ONCE, retrieve, score_pairs
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import is_empty, read_object, write_json
from rocketjax.runtime.progress import Watch, unwatched

PAIRS_AT_ONCE = 16_384  # scored between two files of candidates
SHOWN = 300  # characters of an example's texts


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

    With `config.denoised` 0 the re-ranker is not used. The same models, queries and seed give the
    same lists, byte for byte, on any number of devices.

    Raises:
        InputError: `folder` holds lists of another request; no query at all; or the re-ranker
            cannot tell positives from candidates (see calibrate.py).
    """
    if not split.queries:
        raise InputError("no query to mine for; choose another split")
    request = _request(model, corpus, split, config, seed)
    processes.check_same("what is mined", json.dumps(request, indent=0))
    processes.from_main(lambda: _claim(folder, request))
    lists, report = folder / "lists.jsonl", folder / "report.json"
    if not processes.from_main(lists.is_file):
        paths = _write_all_candidates(model, corpus, split, config, folder, watch)

        def write() -> None:
            with watch("make lists", len(paths), "files") as advance:
                candidates = []
                for path in paths:
                    candidates += read_candidates(path)
                    advance(1)
                made, counts = hybrid_lists(
                    candidates, _calibrate(candidates, config), config, seed
                )
            write_report(report, counts, _texts(counts, split.queries, corpus.passages))
            write_lists(lists, made)  # the last: where they are, all is done

        processes.from_main(write)  # the others' memory need not hold all candidates
    return read_lists(lists), read_report(report)[0]


class _Depths(NamedTuple):
    """How many candidates a query has."""

    found: int  # by the retriever, the known positives taken out
    scored: int  # by the re-ranker


def _depths(config: ListConfig) -> _Depths:
    if not config.denoised:
        return _Depths(config.top_n, 0)
    deepest = config.depth or 2 * config.top_n
    return _Depths(max(config.top_n, deepest), config.scored or config.top_n)


def _write_all_candidates(
    model: Model, corpus: Corpus, split: Split, config: ListConfig, folder: Path, watch: Watch
) -> list[Path]:
    """Writes every query's candidates, except for files that are there already; the files."""
    depths = _depths(config)
    size = max(1, PAIRS_AT_ONCE // max(depths.scored, 1))
    names = list(split.queries)
    parts = [names[i : i + size] for i in range(0, len(names), size)]
    paths = [folder / f"candidates-{i:05d}.jsonl" for i in range(len(parts))]
    missing = processes.from_main(lambda: [i for i, p in enumerate(paths) if not p.is_file()])
    turns, own = jax.process_count(), jax.process_index()
    most = max(len(relevant(split.qrels.get(query, {}))) for query in split.queries)
    at_once = turns * max(1, QUERIES_AT_ONCE // (size * turns))
    with watch("mine", sum(len(parts[i]) for i in missing), "queries") as advance:
        for start in range(0, len(missing), at_once):
            # All processes search together; then each re-ranks its own parts.
            group = missing[start : start + at_once]
            some = Split({q: split.queries[q] for i in group for q in parts[i]}, split.qrels)
            found = _candidates(model, corpus.index, some, depths.found, most)
            for first in range(0, len(group), turns):
                turn = group[first : first + turns]
                for i in turn[own : own + 1]:
                    rows = [found[query] for query in parts[i]]
                    if depths.scored:
                        rows = _scored(model, rows, some.queries, corpus.passages, depths.scored)
                    write_candidates(paths[i], rows)
                advance(sum(len(parts[i]) for i in turn))
    processes.barrier()
    return paths


def _candidates(
    model: Model, index: Index, split: Split, depth: int, most: int
) -> dict[str, Candidates]:
    """What the retriever finds for each query, without its known positives.

    No query has more than `most` positives: that many more passages are retrieved for every query,
    whichever are mined together, since ScaNN searches wider the more passages it is asked for.
    """
    positives = {q: tuple(relevant(split.qrels.get(q, {}))) for q in split.queries}
    found = retrieve(model.retriever, index, split.queries, depth + most, unwatched)
    return {
        query: Candidates(
            query,
            positives[query],
            # Nor the query itself, where queries are passages of the corpus (ArguAna).
            tuple(p for p, _ in ranked if p != query and p not in positives[query])[:depth],
        )
        for query, ranked in found.items()
    }


def _scored(
    model: Model,
    rows: Sequence[Candidates],
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    scored: int,
) -> list[Candidates]:
    """The same with the re-ranker's scores, of all queries' pairs in one sorted run."""
    pairs = [(row.query, pid) for row in rows for pid in (*row.positives, *row.passages[:scored])]
    scores = score_pairs(model.reranker, pairs, queries, passages, unwatched)
    result, at = [], 0
    for row in rows:
        middle = at + len(row.positives)
        end = middle + len(row.passages[:scored])
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


def _calibrate(candidates: Sequence[Candidates], config: ListConfig) -> Calibration | None:
    if not config.denoised:
        return None
    if config.calibration == "sigmoid":
        return Calibration(1.0, 0.0)
    return platt(
        np.fromiter((s for row in candidates for s in row.positive_scores), float),
        np.fromiter((s for row in candidates if row.positives for s in row.scores), float),
    )


def _request(
    model: Model, corpus: Corpus, split: Split, config: ListConfig, seed: int
) -> dict[str, object]:
    """All that the lists depend on."""
    judged = {query: sorted(split.qrels.get(query, {}).items()) for query in split.queries}
    text = json.dumps([list(split.queries.items()), list(judged.items())])
    return {
        "retriever": model.retriever.fingerprint,
        "reranker": model.reranker.fingerprint if config.denoised else None,
        "index": type(corpus.index).__name__,
        "vectors": dataclasses.asdict(corpus.index.vectors.manifest),  # pyright: ignore
        "queries": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        "lists": dataclasses.asdict(config) | {"refresh": None, "after": None},
        "seed": seed,
    }


def _claim(folder: Path, request: dict[str, object]) -> None:
    path = folder / "request.json"
    if path.is_file():
        other = read_object(path)
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
