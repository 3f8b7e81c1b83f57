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
MS MARCO's triples      query, positive, negative, as texts separated by tabs
pairs                   query, passage, separated by a tab; or {query, answer}

Objects are rows of .jsonl, items of one array in a .json, or rows of a .csv or .parquet, or of a
.tsv whose first line names its columns. Negatives may be texts or lists of them, and be called
negatives, negative1, neg, hard_negative and the like. A teacher's scores are read, too (scores.py);
what is not, such as prompts, is named in a note.

Rows of one query are merged; the L lines of a list in a joint file are one query. Passages and
queries without an id get a hash of their text as one, so that equal texts are one passage or query.
The passages of all files form the corpus. A passage that is a positive of a query in one row and a
negative in another counts as a positive.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import ijson

from rocketjax.data.collection import Collection, Split
from rocketjax.data.formats.row import QUERIES, Row, row_of, row_of_line
from rocketjax.data.lines import (
    LONGEST,
    UNREADABLE,
    BadRow,
    BadRows,
    column_names,
    json_row,
    lines,
    opened,
    parsed,
)
from rocketjax.data.passages import Passage, StoredPassages
from rocketjax.runtime.errors import InputError, shown

_SUFFIX = re.compile(r"\.(?:(jsonl|json|tsv|csv)(\.gz)?|(parquet))$")
_PART = re.compile(r"-([0-9]{5})-of-([0-9]{5})$")  # as the Hugging Face hub names parts of a split
_OTHERS = ("corpus.", "collection.", "psgs_w100.", "para.", "queries.", "qrels.", ".")
_BATCH = 1_024  # rows of a parquet file in memory at once
_SPLITS = ("train", "dev", "test", "valid", "validation", "eval")


def is_row_file(name: str) -> bool:
    """Whether a file of this name holds training rows, unless it is something of the folder."""
    return bool(_SUFFIX.search(name)) and not name.startswith(_OTHERS)


def row_files(path: Path) -> dict[str, list[Path]]:
    """Finds the files of training rows at `path`, a file or a folder, by split.

    A split has one file, or all of its parts (train-00000-of-00002.jsonl ..) in their order.

    Raises:
        InputError: two files have the same split, or a part is missing.
    """
    files: dict[str, list[Path]] = {}
    paths = [path] if path.is_file() else sorted(path.iterdir())
    for file in paths:
        if is_row_file(file.name):
            files.setdefault(_split_name(file), []).append(file)
    for name, some in files.items() if path.is_dir() else ():
        _check_parts(name, some)
    return files


def _split_name(path: Path) -> str:
    """ "train" of biencoder-nq-train.json and dual.train.tsv; else the name without its suffix."""
    stem = _PART.sub("", _SUFFIX.sub("", path.name))
    words = [word for word in re.split(r"[-_.]", stem) if word in _SPLITS]
    return words[-1] if words else stem


def _check_parts(split: str, files: Sequence[Path]) -> None:
    """Raises InputError unless the files are one, or all parts of one."""
    first = files[0]
    match = _PART.search(_SUFFIX.sub("", first.name))
    wanted = [first.name]
    if match:
        parts = (match[0].replace(match[1], f"{i:05d}", 1) for i in range(int(match[2])))
        wanted = [first.name.replace(match[0], part) for part in parts]
    names = [file.name for file in files]
    if strange := [file for file in files[1:] if file.name not in wanted]:
        raise InputError(f"{strange[0]}: split {split!r}, as {first} is; keep one of them")
    if missing := [name for name in wanted if name not in names]:
        raise InputError(f"{first.with_name(missing[0])}: missing, a part of split {split!r}")


def read_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """Yields the places and rows of a file.

    Raises:
        InputError: another suffix, a damaged file or, unless `bad` lets it pass, a bad row; file
            and line are named.
    """
    match = _SUFFIX.search(path.name)
    if match is None:
        raise InputError(
            f"{path}: training rows are read from .jsonl, .json, .tsv, .csv or .parquet"
        )
    kind = match[1] or match[3]
    if kind in _TABLES:
        return _TABLES[kind](path, bad)
    if kind == "jsonl" or not _is_array(path):
        return parsed(path, lambda line: row_of(json_row(line)), bad)
    return _array_rows(path, bad)


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
    teacher = _MergedScores()
    for place, row in rows:
        ids = [p.id if isinstance(p, Passage) else p for p in (*row.positives, *row.negatives)]
        if missing := [pid for pid in ids if pid not in passages]:
            bad.reject(place, f"passage: {missing[0]!r} is not in the corpus")
        elif queries.get(row.id, row.query) != row.query:
            bad.reject(place, f"query id: {row.id!r} had another query text before")
        elif fault := teacher.add(row, ids):
            bad.reject(place, fault)
        else:
            queries[row.id] = row.query
            count = len(row.positives)
            qrels.setdefault(row.id, {}).update(dict.fromkeys(ids[:count], 1))
            negatives.setdefault(row.id, {}).update(dict.fromkeys(ids[count:]))
            bad.unused(place, row.unused)
            bad.scored(place, row.scored.fields)
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
        scores=teacher.scores,
    )


_SAME = 0.01  # of a score: half precision and other batches make no other score


class _MergedScores:
    """A teacher's scores of all rows, by query and passage."""

    def __init__(self) -> None:
        self.scores: dict[str, dict[str, float]] = {}
        self._above: dict[str, str] = {}  # by query: the positive that its scores are relative to

    def add(self, row: Row, ids: Sequence[str]) -> str:
        """Takes up a row's scores; the fault, if they contradict what the query had before."""
        given = row.scored
        found = [
            (pid, s)
            for pid, s in zip(ids, given.scores or [None] * len(ids), strict=True)
            if s is not None
        ]
        if not found:
            return ""
        name, known = given.fields[0], dict(self.scores.get(row.id, {}))
        base = ids[0] if given.margins else ""
        if known and self._above[row.id] != base:
            return (
                f"{name}: the query's scores are relative to another positive in an earlier row, "
                "and cannot be compared; give scores in place of margins"
            )
        for pid, score in found:  # one text may stand in a row twice
            if abs(known.setdefault(pid, score) - score) > _SAME * max(1.0, abs(score)):
                return f"{name}: {score:g}, but query and passage had {known[pid]:g} before"
        self._above[row.id] = base
        self.scores[row.id] = known
        return ""


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


def _tsv_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """Reads columns by the names in the first line; without a header, by how many there are.

    All lines then have as many as the first.
    """
    names: list[str] | None = None
    width = 0
    for place, line in parsed(path, str, bad):
        if names is None and (names := _pair(column_names(line))):
            continue
        cells = line.split("\t")
        try:
            if names:
                yield place, row_of(_named(names, cells))
            else:
                row = row_of_line(line, width or len(cells))
                width = len(cells)
                yield place, row
        except BadRow as fault:
            bad.reject(place, str(fault))


def _csv_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """Reads cells by the names in the first line. The place of a row is the line it ends in."""
    place = f"{path}:1"

    def texts() -> Iterator[str]:
        nonlocal place
        for at, line in lines(path, bad):
            place = at
            yield line

    reader, names = csv.reader(texts(), strict=True), []
    try:
        for cells in reader:
            if not any(cells):
                continue
            if not names:
                names = _pair([cell.strip().lower() for cell in cells])
                _check_header(place, names)
                continue
            try:
                yield place, row_of(_named(names, cells))
            except BadRow as fault:
                bad.reject(place, str(fault))
    except csv.Error as error:
        raise InputError(f"{place}: not CSV: {error}") from error


def _check_header(place: str, names: Sequence[str]) -> None:
    try:
        row_of(dict.fromkeys(names))
    except BadRow as fault:
        if "none of the known formats" in str(fault):
            raise InputError(f"{place}: expected the names of the columns; {fault}") from fault


def _parquet_rows(path: Path, bad: BadRows) -> Iterator[tuple[str, Row]]:
    """The place of a row is its number, from 1."""
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for fields in batch.to_pylist():
                    number += 1
                    try:
                        yield f"{path}:row {number}", row_of(fields)
                    except BadRow as fault:
                        bad.reject(f"{path}:row {number}", str(fault))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}:row {number + 1}: cannot be read any further: {error}") from error


_TABLES = {"tsv": _tsv_rows, "csv": _csv_rows, "parquet": _parquet_rows}


_NO_TEXT = re.compile(r"(.*[-_ ]?id|pid|qid|docid|.*score|label|grade|rel.*)s?")


def _pair(names: list[str]) -> list[str]:
    """Two columns, a query and something else that is no id and no score, are query and passage."""
    is_pair = len(names) == 2 and names[0] in QUERIES and not _NO_TEXT.fullmatch(names[1])
    return ["query", "positive"] if is_pair else names


def _named(names: Sequence[str], cells: Sequence[str]) -> dict[str, str | None]:
    """Cells by the names of their columns; None for an empty one. Raises BadRow."""
    if len(cells) != len(names):
        raise BadRow(f"expected {len(names)} columns, got {len(cells)}: {' '.join(cells)[:80]!r}")
    return {name: cell or None for name, cell in zip(names, cells, strict=True)}
