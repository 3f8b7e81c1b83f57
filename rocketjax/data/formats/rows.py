"""Training rows: files whose rows hold a query, its positive passages and its hard negatives.

DPR                     {question, answers, positive_ctxs, hard_negative_ctxs, negative_ctxs}
Tevatron 1              {query_id, query, positive_passages, negative_passages}
Tevatron 2              {query_id, query_text, positive_document_ids, negative_document_ids}, the
                        passages in corpus.jsonl beside it
FlagEmbedding           {query, pos: [..], neg: [..]}
sentence-transformers   {query, positive, negative, negative_1, ..} (query: or anchor, question),
                        {query, docs: [..], labels: [..]} or {query, passage, label}
RocketQA's dual         query, title, passage, title of a negative, negative, 0, divided by tabs
RocketQA's cross, joint query, title, passage, label, divided by tabs: one passage a line
pairs                   query, passage, divided by a tab

Rows of one query are taken together: a list of L lines of a joint file is one query's. Passages
without an id are named by a hash of title and text, queries by one of their text, so that equal
texts are one; all passages of all files are the corpus. A passage that is a positive in one row and
a negative in another is a positive.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import ijson

from rocketjax.data.collection import Collection, Split
from rocketjax.data.lines import (
    LONGEST,
    UNREADABLE,
    BadRow,
    BadRows,
    checked_id,
    checked_passage,
    checked_text,
    columns,
    json_row,
    opened,
    parsed,
    text_or_none,
)
from rocketjax.data.passages import Passage, StoredPassages
from rocketjax.runtime.errors import InputError, shown

_SUFFIX = re.compile(r"\.(jsonl|json|tsv)(\.gz)?$")


_OTHERS = ("corpus.", "collection.", "psgs_w100.", "para.", "queries.", "qrels.", ".")


_HEADERS = {"query", "question", "anchor", "passage", "positive", "text", "answer"}


_SPLITS = ("train", "dev", "test", "valid", "validation", "eval")


class Row(NamedTuple):
    """A query with passages, or with the ids of passages that lie elsewhere."""

    id: str
    query: str
    positives: Sequence[Passage | str]
    negatives: Sequence[Passage | str]
    answers: Sequence[str] = ()


def row_files(path: Path) -> dict[str, Path]:
    """The files of training rows at `path`, a file or a folder, by split; empty: there are none.

    Raises:
        InputError: two files are of one split.
    """
    files: dict[str, Path] = {}
    paths = [path] if path.is_file() else sorted(path.iterdir())
    for file in paths:
        if not _SUFFIX.search(file.name) or file.name.startswith(_OTHERS):
            continue
        name = _split_name(file)
        if name in files:
            raise InputError(f"{file}: split {name!r}, as {files[name]} is; keep one of them")
        files[name] = file
    return files


def _split_name(path: Path) -> str:
    """biencoder-nq-train.json and dual.train.tsv are "train"; other names stand for themselves."""
    stem = _SUFFIX.sub("", path.name)
    known = [word for word in re.split(r"[-_.]", stem) if word in _SPLITS]
    return known[-1] if known else stem


def read_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """Places and rows of a file. Raises InputError, as every reader does."""
    kind = _SUFFIX.search(path.name)
    if kind is None:
        raise InputError(f"{path}: training rows are read from .jsonl, .json or .tsv")
    if kind[1] == "tsv":
        return parsed(path, _tsv_row, bad)
    if kind[1] == "jsonl" or not _is_array(path):
        return parsed(path, lambda line: row_of(json_row(line)), bad)
    return _array_rows(path, bad)


def row_of(fields: Mapping[str, Any]) -> Row:
    """The row of a JSON object, or of a Hugging Face dataset. Raises BadRow."""
    for mark, read in _FORMATS.items():
        if mark in fields:
            return read(fields)
    raise BadRow(
        f"fields {', '.join(map(str, list(fields)[:20]))[:200]}: none of the known "
        "formats; expected a query with one of " + ", ".join(_FORMATS)
    )


def passages_of(
    files: Sequence[Path], bad: BadRows, read: Callable[[Path, BadRows], Iterator[tuple[str, Row]]]
) -> Iterator[tuple[str, Passage]]:
    """Every passage of every row, as often as it stands there."""
    for path in files:
        for place, row in read(path, bad):
            for passage in (*row.positives, *row.negatives):
                if isinstance(passage, Passage):
                    yield place, passage


def make_split(
    rows: Iterator[tuple[str, Row]], passages: Mapping[str, Passage], bad: BadRows
) -> Split:
    """Rows of one query taken together; passages by their ids."""
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    answers: dict[str, Sequence[str]] = {}
    negatives: dict[str, dict[str, None]] = {}
    for place, row in rows:
        ids = [p.id if isinstance(p, Passage) else p for p in (*row.positives, *row.negatives)]
        if missing := [pid for pid in ids if pid not in passages]:
            bad.found(place, f"passage: {missing[0]!r} is not in the corpus")
        elif queries.setdefault(row.id, row.query) != row.query:
            bad.found(place, f"query id: {row.id!r} stands for another query before")
        else:
            positive = ids[: len(row.positives)]
            qrels.setdefault(row.id, {}).update(dict.fromkeys(positive, 1))
            negatives.setdefault(row.id, {}).update(dict.fromkeys(ids[len(positive) :]))
            if row.answers:
                answers[row.id] = list(dict.fromkeys([*answers.get(row.id, ()), *row.answers]))
    return Split(
        queries,
        {query: judged for query, judged in qrels.items() if judged},
        answers,
        {
            query: [pid for pid in found if pid not in qrels[query]]
            for query, found in negatives.items()
        },
    )


def collection_of(
    place: str, passages: StoredPassages, splits: Mapping[str, Split], notes: Sequence[str]
) -> Collection:
    """A collection of splits that hold something. Raises InputError where none is judged."""
    if not any(split.qrels for split in splits.values()):
        raise InputError("; ".join([f"{place}: no query has a positive passage", *notes]))
    return Collection(place.rpartition("/")[2], passages, splits, notes)


def _is_array(path: Path) -> bool:
    """DPR's files are one JSON array, whatever their name; others hold a row a line."""
    try:
        with opened(path) as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    except UNREADABLE as error:
        raise InputError(f"{path}:1: cannot be read: {error}") from error


def _array_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """Items of an array, one at a time: NQ's is 7 GB long."""
    place = f"{path}:item 1"
    try:
        with opened(path) as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            bounded = _Bounded(file)
            for number, fields in enumerate(ijson.items(bounded, "item", use_float=True), 1):
                place, bounded.left = f"{path}:item {number}", LONGEST
                try:
                    if not isinstance(fields, dict):
                        raise BadRow(f"expected an object, got {shown(fields)}")
                    yield place, row_of(fields)
                except BadRow as fault:
                    bad.found(place, str(fault))
    except (ijson.JSONError, UnicodeDecodeError, *UNREADABLE) as error:
        raise InputError(f"{place}: cannot be read on after it: {error}") from error


class _Bounded:
    """A file of which no more than LONGEST bytes are read until someone allows more."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, LONGEST

    def read(self, size: int) -> bytes:
        """As ijson asks for it."""
        if self.left <= 0:
            raise OSError(f"the next item is longer than {LONGEST:,} bytes")
        data = self.file.read(size)
        self.left -= len(data)
        return data


def _tsv_row(line: str) -> Row:
    if line.count("\t") == 1:
        query, text = columns(line, "query TAB passage")
        if {query.strip().lower(), text.strip().lower()} <= _HEADERS:
            raise BadRow("the columns' names, and no row; take this line out")
        return _row(query, [_passage("", text)], [])
    if line.count("\t") == 5:
        names = "query TAB title TAB passage TAB title TAB negative TAB label"
        query, *texts, _ = columns(line, names)
        positive, negative = _passage(texts[0], texts[1]), _passage(texts[2], texts[3])
        return _row(query, [positive], [negative])
    names = "query TAB title TAB passage TAB label"
    query, title, text, label = columns(line, names)
    if label.strip() not in ("0", "1"):
        raise BadRow(f"label: expected 0 or 1, got {label[:40]!r}")
    passages = [_passage(title, text)]
    return _row(query, passages, []) if label.strip() == "1" else _row(query, [], passages)


def _dpr(fields: Mapping[str, Any]) -> Row:
    hard = _list(fields, "hard_negative_ctxs")
    return _row(
        fields.get("question"),
        [_context(item, "positive_ctxs") for item in _list(fields, "positive_ctxs")],
        [_context(item, "hard_negative_ctxs") for item in hard]
        or [_context(item, "negative_ctxs") for item in _list(fields, "negative_ctxs")],
        answers=[checked_text(text, "answers") for text in _list(fields, "answers")],
    )


def _tevatron(fields: Mapping[str, Any]) -> Row:
    names = ("positive_passages", "negative_passages")
    positives, negatives = ([_context(p, name) for p in _list(fields, name)] for name in names)
    return _row(fields.get("query"), positives, negatives, fields.get("query_id"))


def _tevatron_ids(fields: Mapping[str, Any]) -> Row:
    names = ("positive_document_ids", "negative_document_ids")
    positives, negatives = (
        [checked_id(_spelled(pid), name) for pid in _list(fields, name)] for name in names
    )
    text = fields.get("query_text") or fields.get("query")
    return _row(text, positives, negatives, fields.get("query_id"))


def _flag_embedding(fields: Mapping[str, Any]) -> Row:
    positives, negatives = (
        [_passage("", checked_text(text, name)) for text in _list(fields, name)]
        for name in ("pos", "neg")
    )
    return _row(fields.get("query"), positives, negatives)


def _columns(fields: Mapping[str, Any]) -> Row:
    names = [name for name in fields if re.fullmatch(r"negative(_[0-9]+)?", str(name))]
    negatives = [fields[name] for name in names if fields[name] is not None]
    return _row(
        _query_of(fields),
        [_passage("", checked_text(fields["positive"], "positive"))],
        [_passage("", checked_text(text, "negative")) for text in negatives],
    )


def _labelled_list(fields: Mapping[str, Any]) -> Row:
    texts, labels = _list(fields, "docs"), _list(fields, "labels")
    if len(texts) != len(labels):
        raise BadRow(f"labels: {len(labels)} for {len(texts)} docs")
    both = [_labelled(text, label, "docs") for text, label in zip(texts, labels, strict=True)]
    return _row(_query_of(fields), [p for p, yes in both if yes], [p for p, yes in both if not yes])


def _labelled_pair(fields: Mapping[str, Any]) -> Row:
    passage, yes = _labelled(fields["passage"], fields.get("label"), "passage")
    return _row(_query_of(fields), [passage] if yes else [], [] if yes else [passage])


def _labelled(text: Any, label: Any, name: str) -> tuple[Passage, bool]:
    if label not in (0, 1):  # False and True, 0.0 and 1.0 are equal to these
        raise BadRow(f"label: expected 0 or 1, got {shown(label)}")
    return _passage("", checked_text(text, name)), label == 1


# By the field that tells a format from those after it.
_FORMATS: dict[str, Callable[[Mapping[str, Any]], Row]] = {
    "positive_ctxs": _dpr,
    "positive_document_ids": _tevatron_ids,
    "positive_passages": _tevatron,
    "pos": _flag_embedding,
    "positive": _columns,
    "docs": _labelled_list,
    "passage": _labelled_pair,
}


def _query_of(fields: Mapping[str, Any]) -> Any:
    return next((fields[name] for name in ("query", "anchor", "question") if name in fields), None)


def _row(
    query: Any,
    positives: Sequence[Passage | str],
    negatives: Sequence[Passage | str],
    name: Any = None,
    answers: Sequence[str] = (),
) -> Row:
    text = checked_text(query, "query").strip()
    given = "q" + _digest(text) if name is None else checked_id(_spelled(name), "query_id")
    return Row(given, text, positives, negatives, answers)


def _context(item: Any, field: str) -> Passage:
    """{title, text} with, where there is one, docid, passage_id or psg_id."""
    if not isinstance(item, dict):
        raise BadRow(f"{field}: expected objects of title and text, got {shown(item)}")
    names = [name for name in ("docid", "passage_id", "psg_id") if item.get(name) is not None]
    title, text = (text_or_none(item.get(name), name) for name in ("title", "text"))
    if not names:
        return _passage(title, text)
    return checked_passage(_spelled(item[names[0]]), _title(title), text, names[0])


def _passage(title: str, text: str) -> Passage:
    """A passage without an id; "-" stands for no title."""
    title = _title(title)
    text = text_or_none(text, "passage").strip()
    name = "p" + _digest(f"{title}\n{text}")
    return checked_passage(name, title, text, "passage")


def _title(text: str) -> str:
    return "" if text.strip() == "-" else text.strip()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _spelled(name: Any) -> Any:
    """Ids may be numbers."""
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


def _list(fields: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow(f"{name}: expected a list, got {shown(value)}")
    return value
