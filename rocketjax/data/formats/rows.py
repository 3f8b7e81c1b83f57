"""Training rows: files of queries, each with its positive passages and hard negatives.

DPR                     {question, answers, positive_ctxs, hard_negative_ctxs, negative_ctxs}
Tevatron 1              {query_id, query, positive_passages, negative_passages}
Tevatron 2              {query_id, query_text, positive_document_ids, negative_document_ids}, the
                        passages in corpus.jsonl beside it
FlagEmbedding           {query, pos: [..], neg: [..]}
sentence-transformers   {query, positive, negative, negative_1, ..} (query: or anchor, question),
                        {query, docs: [..], labels: [..]} or {query, passage, label}
RocketQA's dual         query, title, passage, title of a negative, negative, 0, separated by tabs
RocketQA's cross, joint query, title, passage, label, separated by tabs: one passage per line
pairs                   query, passage, separated by a tab

Rows of one query are merged; the L lines of a list in a joint file are one query. Passages and
queries without an id get a hash of their text as one, so that equal texts are one passage or query.
The passages of all files form the corpus. A passage that is a positive of a query in one row and a
negative in another counts as a positive.
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
    """A query with its passages, or with the ids of passages in a corpus."""

    id: str
    query: str
    positives: Sequence[Passage | str]
    negatives: Sequence[Passage | str]
    answers: Sequence[str] = ()


def row_files(path: Path) -> dict[str, Path]:
    """Finds the files of training rows at `path`, a file or a folder, by split.

    Raises:
        InputError: two files have the same split.
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
    """ "train" of biencoder-nq-train.json and dual.train.tsv; else the name without its suffix."""
    stem = _SUFFIX.sub("", path.name)
    words = [word for word in re.split(r"[-_.]", stem) if word in _SPLITS]
    return words[-1] if words else stem


def read_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """Yields the places and rows of a file.

    Raises:
        InputError: another suffix, a damaged file or, unless `bad` lets it pass, a bad row; file
            and line are named.
    """
    kind = _SUFFIX.search(path.name)
    if kind is None:
        raise InputError(f"{path}: training rows are read from .jsonl, .json or .tsv")
    if kind[1] == "tsv":
        return parsed(path, _tsv_row, bad)
    if kind[1] == "jsonl" or not _is_array(path):
        return parsed(path, lambda line: row_of(json_row(line)), bad)
    return _array_rows(path, bad)


def row_of(fields: Mapping[str, Any]) -> Row:
    """Makes a row of a JSON object or of a row of a Hugging Face dataset. Raises BadRow."""
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
    """Yields the places and passages of all rows, with duplicates."""
    for path in files:
        for place, row in read(path, bad):
            for passage in (*row.positives, *row.negatives):
                if isinstance(passage, Passage):
                    yield place, passage


def make_split(
    rows: Iterator[tuple[str, Row]], passages: Mapping[str, Passage], bad: BadRows
) -> Split:
    """Merges the rows of each query into a split.

    Raises:
        InputError: unless `bad` lets it pass, a passage that is not in `passages`, or two queries
            with one id.
    """
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    answers: dict[str, Sequence[str]] = {}
    negatives: dict[str, dict[str, None]] = {}  # the inner dict is an ordered set
    for place, row in rows:
        ids = [p.id if isinstance(p, Passage) else p for p in (*row.positives, *row.negatives)]
        if missing := [pid for pid in ids if pid not in passages]:
            bad.reject(place, f"passage: {missing[0]!r} is not in the corpus")
        elif queries.setdefault(row.id, row.query) != row.query:
            bad.reject(place, f"query id: {row.id!r} had another query text before")
        else:
            count = len(row.positives)
            qrels.setdefault(row.id, {}).update(dict.fromkeys(ids[:count], 1))
            negatives.setdefault(row.id, {}).update(dict.fromkeys(ids[count:]))
            if row.answers:
                answers[row.id] = list(dict.fromkeys([*answers.get(row.id, ()), *row.answers]))
    return Split(
        queries,
        {query: grades for query, grades in qrels.items() if grades},
        answers,
        {
            query: [pid for pid in pids if pid not in qrels[query]]
            for query, pids in negatives.items()
        },
    )


def collection_of(
    place: str, passages: StoredPassages, splits: Mapping[str, Split], notes: Sequence[str]
) -> Collection:
    """Makes a collection. Raises InputError if no query of any split has a positive passage."""
    if not any(split.qrels for split in splits.values()):
        raise InputError("; ".join([f"{place}: no query has a positive passage", *notes]))
    return Collection(place.rpartition("/")[2], passages, splits, notes)


def _is_array(path: Path) -> bool:
    """Whether a file is one JSON array, as DPR's are; others have one row per line."""
    try:
        with opened(path) as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    except UNREADABLE as error:
        raise InputError(f"{path}:1: cannot be read: {error}") from error


def _array_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """Streams the items of an array: that of NQ has 7 GB."""
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
                    bad.reject(place, str(fault))
    except (ijson.JSONError, UnicodeDecodeError, *UNREADABLE) as error:
        raise InputError(f"{place}: cannot be read any further: {error}") from error


class _Bounded:
    """A file that fails after LONGEST bytes, unless `left` is reset before."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, LONGEST

    def read(self, size: int) -> bytes:
        """Reads at most `size` bytes. Raises OSError if none are left to read."""
        if self.left <= 0:
            raise OSError(f"the next item is longer than {LONGEST:,} bytes")
        data = self.file.read(size)
        self.left -= len(data)
        return data


def _tsv_row(line: str) -> Row:
    if line.count("\t") == 1:
        query, text = columns(line, "query TAB passage")
        if {query.strip().lower(), text.strip().lower()} <= _HEADERS:
            raise BadRow("a header, not a row; delete this line")
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
        [checked_id(_id_text(pid), name) for pid in _list(fields, name)] for name in names
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
    if label not in (0, 1):  # also False and True, 0.0 and 1.0
        raise BadRow(f"label: expected 0 or 1, got {shown(label)}")
    return _passage("", checked_text(text, name)), label == 1


# By a field that distinguishes each format from those after it.
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
    query_id = "q" + _digest(text) if name is None else checked_id(_id_text(name), "query_id")
    return Row(query_id, text, positives, negatives, answers)


def _context(item: Any, field: str) -> Passage:
    """A passage of {title, text} and optionally docid, passage_id or psg_id."""
    if not isinstance(item, dict):
        raise BadRow(f"{field}: expected objects with title and text, got {shown(item)}")
    names = [name for name in ("docid", "passage_id", "psg_id") if item.get(name) is not None]
    title, text = (text_or_none(item.get(name), name) for name in ("title", "text"))
    if not names:
        return _passage(title, text)
    return checked_passage(_id_text(item[names[0]]), _title(title), text, names[0])


def _passage(title: str, text: str) -> Passage:
    """A passage that has no id. A title of "-" means none."""
    title = _title(title)
    text = text_or_none(text, "passage").strip()
    name = "p" + _digest(f"{title}\n{text}")
    return checked_passage(name, title, text, "passage")


def _title(text: str) -> str:
    return "" if text.strip() == "-" else text.strip()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _id_text(name: Any) -> Any:
    """An id as text, if it is a number."""
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


def _list(fields: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow(f"{name}: expected a list, got {shown(value)}")
    return value
