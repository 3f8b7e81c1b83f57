"""Training data from Python objects, written as a collection that a run can be resumed with."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rocketjax.data.lines import BadRow, Policy, checked_id, checked_passage, checked_text, grade
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

    def write(self, folder: str | Path) -> None:
        """Writes a BEIR folder, whole or not at all.

        Raises:
            InputError: the folder holds other data, or what `files` raises.
        """
        _write(Path(folder).expanduser(), self.files())

    def files(self, on_bad_rows: Policy = "fail") -> dict[str, str]:
        """The files of a BEIR folder, by name.

        Args:
            on_bad_rows: "skip" leaves bad ids, texts and grades to whoever reads the files, who
                then counts them.

        Raises:
            InputError: a judgement names what is not there, or an id, a text or a grade is bad.
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
        passages, queries = _texts(self.passages, "passages"), _texts(self.queries, "queries")
        if on_bad_rows == "fail":
            self._check(passages, queries)
        files = {
            "corpus.jsonl": _lines(
                {"_id": str(pid), "title": self.titles.get(pid, ""), "text": text}
                for pid, text in passages.items()
            ),
            "queries.jsonl": _lines(
                {"_id": str(qid), "text": text} for qid, text in queries.items()
            ),
            "qrels/train.tsv": _qrels(self.qrels),
        }
        if self.held_out:
            files["qrels/dev.tsv"] = _qrels(self.held_out)
        return files

    def _check(self, passages: Mapping[str, str], queries: Mapping[str, str]) -> None:
        """Raises InputError for what no reader would take, by its name here."""
        for pid, text in passages.items():
            with _named(f"passages[{pid!r}]"):
                checked_passage(str(pid), self.titles.get(pid), text, "id")
        for qid, text in queries.items():
            with _named(f"queries[{qid!r}]"):
                checked_id(str(qid), "id")
                checked_text(text, "text")
        for qid, grades in [*self.qrels.items(), *self.held_out.items()]:
            with _named(f"qrels of query {qid!r}"):
                for value in grades.values() if isinstance(grades, Mapping) else ():
                    grade(str(value))


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

    def write(self, folder: str | Path) -> None:
        """Writes train.jsonl into the folder, whole or not at all.

        Raises:
            InputError: the folder holds other data, or what `files` raises.
        """
        _write(Path(folder).expanduser(), self.files())

    def files(self, on_bad_rows: Policy = "fail") -> dict[str, str]:
        """train.jsonl, by its name.

        Args:
            on_bad_rows: "skip" leaves empty texts to whoever reads the file, who then counts them.

        Raises:
            InputError: not equally many, or something is not a text, or empty.
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
        for number, row in enumerate(rows) if on_bad_rows == "fail" else ():
            with _named(f"pair {number}"):
                checked_text(row["query"], "query")
                for name in ("pos", "neg"):
                    for text in row[name]:
                        checked_text(text, name)
        return {"train.jsonl": _lines(rows)}


@contextmanager
def _named(place: str) -> Iterator[None]:
    """What readers would call a bad row is bad input at `place`."""
    try:
        yield
    except BadRow as fault:
        raise InputError(f"{place}: {fault}") from fault


def _texts(texts: Mapping[str, str], what: str) -> dict[str, str]:
    if not isinstance(texts, Mapping):
        raise InputError(f"{what}: expected texts by id, got {type(texts).__name__}")
    return dict(zip(texts, as_texts(list(texts.values()), what), strict=True))


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _qrels(relevant: Relevant) -> str:
    lines = ["query-id\tcorpus-id\tscore\n"]
    for qid, grades in relevant.items():
        ids = sorted(grades) if isinstance(grades, Set) else grades  # the same in every process
        graded = grades if isinstance(grades, Mapping) else dict.fromkeys(ids, 1)
        lines += [f"{qid}\t{pid}\t{grade}\n" for pid, grade in graded.items()]
    return "".join(lines)


def write_beside(run: Path, files: Mapping[str, str]) -> Path:
    """The folder beside a run's that holds these files; it is written unless it is there.

    Its name ends in a hash of them: other data, maybe corrected, never meet those of another run.
    """
    digest = hashlib.blake2b(digest_size=4)
    for name, text in files.items():
        digest.update(f"{name}\n{text}".encode())
    folder = run.with_name(f"{run.name}-data-{digest.hexdigest()}")
    _write(folder, files)
    return folder


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Writes a folder, unless it holds just these files; a run must not change its data."""
    if folder.exists():
        there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        same = there == set(files) and all(
            (folder / name).read_text(encoding="utf-8") == text for name, text in files.items()
        )
        if not same:
            raise InputError(f"{folder}: holds other data; delete it, or give another folder")
        return
    with new_folder(folder) as aside:
        for name, text in files.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
