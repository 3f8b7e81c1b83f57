"""A teacher's scores for training lists: a cross-encoder's, or those that a file brings.

Beside the lists, in their folder:

    teacher.json         whose scores they keep: another teacher's are refused
    scored-00000.jsonl   the first lists with their scores, then the next .., until all are scored
    lists.jsonl          then holds all of them
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax

from rocketjax.config.schema import ComputeConfig
from rocketjax.data.collection import Split
from rocketjax.data.lists import TrainingList, read_lists, write_lists
from rocketjax.data.passages import Passage
from rocketjax.data.runs import read_scores
from rocketjax.inference.folder import open_reranker
from rocketjax.inference.reranker import Reranker
from rocketjax.retrieval.model import Model
from rocketjax.retrieval.ranking import score_pairs
from rocketjax.runtime import processes
from rocketjax.runtime.copies import local
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_object, remove, write_json
from rocketjax.runtime.progress import Say, Watch, unwatched

PAIRS_AT_ONCE = 16_384  # scored between two files
_RUNS = (".trec", ".run", ".txt", ".tsv")  # what runs are called


# A model, or scores by query and passage; those of a file are in process 0 alone.
Teacher: TypeAlias = Reranker | Mapping[str, Mapping[str, float]]


class Texts(NamedTuple):
    """What is scored, by id."""

    queries: Mapping[str, str]
    passages: Mapping[str, Passage]


def is_run(teacher: str) -> bool:
    """Whether a teacher is a file of scores; else it is a model."""
    return Path(teacher).expanduser().is_file() or teacher.removesuffix(".gz").endswith(_RUNS)


def open_teacher(name: str, compute: ComputeConfig, split: Split, say: Say) -> Teacher | None:
    """The teacher of that name (`lists.teacher`); without one the scores that the split has.

    Raises:
        InputError: what `open_reranker` or `read_scores` raises, or a run has none of the split's
            queries.
    """
    if not name:
        return split.scores or None
    if not processes.from_main(lambda: is_run(name)):
        return open_reranker(name, compute, say=say)
    scores: dict[str, dict[str, float]] = {}
    processes.from_main(lambda: scores.update(read_scores(local(name, say), say, split.queries)))
    return scores


def with_teacher(model: Model, teacher: Teacher | None) -> Model:
    """The pair that mines: a teacher that is a model takes the re-ranker's place."""
    is_model = isinstance(teacher, Reranker)
    return dataclasses.replace(model, reranker=teacher) if is_model else model


def keep_scores(folder: Path, teacher: Teacher | None, texts: Texts, watch: Watch) -> str:
    """Puts a teacher's scores into the lists of a folder; one line on how many have some.

    A model scores all lists once, and resumes where it was stopped. Another number of devices may
    change the last digits of its scores, as those of all others.

    Raises:
        InputError: the folder holds the scores of another teacher.
    """
    if teacher is None:
        return ""
    if isinstance(teacher, Reranker):
        _score_all(folder, teacher, texts, watch)
    else:
        processes.from_main(lambda: _look_up_all(folder, teacher))
    return _summary(read_lists(folder / "lists.jsonl"))


def _score_all(folder: Path, teacher: Reranker, texts: Texts, watch: Watch) -> None:
    lists = read_lists(folder / "lists.jsonl")
    processes.from_main(lambda: _claim(folder, f"model {teacher.fingerprint}"))
    if processes.from_main(lambda: _is_done(folder, lists)):
        return
    longest = max(len(item.passages) for item in lists)
    size = max(1, PAIRS_AT_ONCE // longest)
    parts = [lists[i : i + size] for i in range(0, len(lists), size)]
    paths = [folder / f"scored-{i:05d}.jsonl" for i in range(len(parts))]
    missing = processes.from_main(lambda: [i for i, p in enumerate(paths) if not p.is_file()])
    turns, own = jax.process_count(), jax.process_index()
    with watch("score lists", sum(len(parts[i]) for i in missing), "lists") as advance:
        for first in range(0, len(missing), turns):
            turn = missing[first : first + turns]
            for i in turn[own : own + 1]:
                write_lists(paths[i], _scored(teacher, parts[i], texts))
            advance(sum(len(parts[i]) for i in turn))
    processes.barrier()

    def join() -> None:
        read = map(_read_scored, paths, parts)
        write_lists(folder / "lists.jsonl", list(chain.from_iterable(read)))
        for path in paths:
            remove(path)

    processes.from_main(join)


def _read_scored(path: Path, part: Sequence[TrainingList]) -> list[TrainingList]:
    """The lists of a file. Raises InputError unless they are those of its part."""
    lists = read_lists(path)
    if [(item.query, item.passages) for item in lists] != [
        (item.query, item.passages) for item in part
    ]:
        raise InputError(
            f"{path}: not the {len(part):,} lists that it was made for; delete it, and the same "
            "command scores them again"
        )
    return lists


def _is_done(folder: Path, lists: Sequence[TrainingList]) -> bool:
    """Whether all lists have their scores; what a stopped run may have left of them is removed."""
    if done := all(item.scores for item in lists):
        for path in folder.glob("scored-*.jsonl"):
            remove(path)
    return done


def _look_up_all(folder: Path, scores: Mapping[str, Mapping[str, float]]) -> None:
    digest = hashlib.blake2b(digest_size=16)
    for query in sorted(scores):
        digest.update(json.dumps([query, sorted(scores[query].items())]).encode())
    _claim(folder, f"file {digest.hexdigest()}")
    path = folder / "lists.jsonl"
    lists = read_lists(path)
    if not any(item.scores for item in lists):
        write_lists(path, [_looked_up(item, scores.get(item.query, {})) for item in lists])


def _summary(lists: Sequence[TrainingList]) -> str:
    lacking = [item for item in lists if not item.is_scored]
    line = f"{len(lists) - len(lacking):,} of {len(lists):,} lists have a teacher's scores"
    if not lacking:
        return line
    gaps = sum(item.scores.count(None) or len(item.passages) for item in lacking)
    return (
        f"{line}; the others lack those of {gaps:,} passages, and loss.teacher stored leaves them "
        "out of the distillation (with both, the re-ranker alone teaches them)"
    )


def check_scored(path: Path, lists: Sequence[TrainingList], teacher: str) -> None:
    """Refuses lists without scores where a stored teacher is to teach.

    Raises:
        InputError: no list has a score of each of its passages; file, field and remedy are named.
    """
    if not any(item.is_scored for item in lists):
        raise InputError(
            f"{path}: scores: none of {len(lists):,} lists has a teacher's score of each of its "
            f"passages, and loss.teacher is {teacher}; give --lists.teacher (a cross-encoder, or a "
            "run that holds these passages) and --from mine, or take --loss.teacher live"
        )


def _scored(teacher: Reranker, lists: Sequence[TrainingList], texts: Texts) -> list[TrainingList]:
    """The same with the teacher's scores; each pair of query and passage is scored once."""
    pairs = list(dict.fromkeys((item.query, pid) for item in lists for pid in item.passages))
    scores = score_pairs(teacher, pairs, texts.queries, texts.passages, unwatched)
    known: dict[str, dict[str, float]] = {}
    for (query, pid), score in zip(pairs, scores, strict=True):
        known.setdefault(query, {})[pid] = float(f"{score:.9g}")  # restores a float32
    return [_looked_up(item, known[item.query]) for item in lists]


def _looked_up(item: TrainingList, scores: Mapping[str, float]) -> TrainingList:
    found = tuple(scores.get(pid) for pid in item.passages)
    return dataclasses.replace(item, scores=() if set(found) == {None} else found)


def _claim(folder: Path, teacher: str) -> None:
    path = folder / "teacher.json"
    if path.is_file() and read_object(path).get("teacher") != teacher:
        raise InputError(
            f"{folder}: its lists keep the scores of another teacher; choose another folder, or "
            "mine again"
        )
    write_json(path, {"teacher": teacher})
