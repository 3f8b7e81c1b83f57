"""Training data from Python objects, written as a collection that a run can be resumed with."""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder
from rocketjax.text.tokenizer import as_texts

Relevant: TypeAlias = Mapping[str, Mapping[str, int] | Sequence[str] | Set[str]]  # by query id


@dataclass(frozen=True)
class Data:
    """A corpus, queries and judgements, by id.

    Attributes:
        passages: texts by id.
        queries: texts by id, of all splits.
        qrels: for each training query the ids of its relevant passages, or their grades.
        held_out: the same for queries to judge on; empty: a tenth of the training queries.
        titles: of passages that have one, by id.
    """

    passages: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Relevant
    held_out: Relevant = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes a BEIR folder, whole or not at all.

        Raises:
            InputError: the folder holds other data, or a judgement names what is not there.
        """
        if strange := [pid for pid in self.titles if pid not in self.passages]:
            raise InputError(f"titles: no passage {strange[0]!r}")
        for qid, grades in [*self.qrels.items(), *self.held_out.items()]:
            if isinstance(grades, str | bytes):
                raise InputError(f"qrels of query {qid!r}: {grades!r} is no list of passage ids")
            if qid not in self.queries:
                raise InputError(f"qrels: query {qid!r} is not among the queries")
            if missing := [pid for pid in grades if pid not in self.passages]:
                raise InputError(f"qrels of query {qid!r}: no passage {missing[0]!r}")
        files = {
            "corpus.jsonl": _lines(
                {"_id": str(pid), "title": self.titles.get(pid, ""), "text": text}
                for pid, text in zip(self.passages, _texts(self.passages, "passages"), strict=True)
            ),
            "queries.jsonl": _lines(
                {"_id": str(qid), "text": text}
                for qid, text in zip(self.queries, _texts(self.queries, "queries"), strict=True)
            ),
            "qrels/train.tsv": _qrels(self.qrels),
        }
        if self.held_out:
            files["qrels/dev.tsv"] = _qrels(self.held_out)
        _write(folder, files)


@dataclass(frozen=True)
class Pairs:
    """Queries and, for each, the passage that answers it; hard negatives where there are some.

    The passages of all pairs are the corpus.

    Attributes:
        queries: N texts; any list, array or column.
        positives: N texts.
        negatives: N lists of texts, which the lists are then made of; None: they are mined.
    """

    queries: Iterable[str]
    positives: Iterable[str]
    negatives: Iterable[Sequence[str]] | None = None

    def write(self, folder: Path) -> None:
        """Writes train.jsonl into the folder, whole or not at all.

        Raises:
            InputError: the folder holds other data, not equally many, or something is not a text.
        """
        queries = as_texts(self.queries, "queries")  # pyright: ignore[reportArgumentType]
        positives = as_texts(self.positives, "positives")  # pyright: ignore[reportArgumentType]
        negatives = [[] for _ in queries] if self.negatives is None else [*self.negatives]
        if not len(queries) == len(positives) == len(negatives):
            raise InputError(
                f"got {len(queries)} queries, {len(positives)} positives and {len(negatives)} "
                "lists of negatives; give equally many"
            )
        rows = [
            {"query": query, "pos": [positive], "neg": as_texts(some, f"negatives[{number}]")}
            for number, (query, positive, some) in enumerate(
                zip(queries, positives, negatives, strict=True)
            )
        ]
        _write(folder, {"train.jsonl": _lines(rows)})


def _texts(texts: Mapping[str, str], what: str) -> list[str]:
    if not isinstance(texts, Mapping):
        raise InputError(f"{what}: expected texts by id, got {type(texts).__name__}")
    return as_texts(list(texts.values()), what)


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _qrels(relevant: Relevant) -> str:
    lines = ["query-id\tcorpus-id\tscore\n"]
    for qid, grades in relevant.items():
        ids = sorted(grades) if isinstance(grades, Set) else grades  # the same in every process
        graded = grades if isinstance(grades, Mapping) else dict.fromkeys(ids, 1)
        lines += [f"{qid}\t{pid}\t{grade}\n" for pid, grade in graded.items()]
    return "".join(lines)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Writes a folder, unless it holds just these files; a run must not change its data."""
    if folder.exists():
        there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        same = there == set(files) and all(
            (folder / name).read_text(encoding="utf-8") == text for name, text in files.items()
        )
        if not same:
            raise InputError(f"{folder}: holds other data; give another run_dir (or name)")
        return
    with new_folder(folder) as aside:
        for name, text in files.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
