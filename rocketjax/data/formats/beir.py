"""BEIR folders.

corpus.jsonl       {_id, title, text}
queries.jsonl      {_id, text}
qrels/SPLIT.tsv    query-id TAB corpus-id TAB score, with or without a header line
answers.jsonl      {_id, answers: [..]}: strings that answer a query; optional

Each file may be compressed, as corpus.jsonl.gz.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from rocketjax.data.collection import Collection, Split
from rocketjax.data.formats.qrels import QUERY_FIRST, Judgement, read_qrels, with_unlabelled
from rocketjax.data.formats.rows import is_row_file
from rocketjax.data.lines import (
    BadRow,
    BadRows,
    Policy,
    Row,
    by_split,
    checked_id,
    checked_passage,
    checked_text,
    distinct,
    grade,
    headed,
    json_row,
    parsed,
    plain_or_gz,
)
from rocketjax.data.passages import Passage
from rocketjax.data.store import store
from rocketjax.runtime.errors import InputError, shown

# BEIR's own files have metadata, which is of no use to a model.
_CORPUS_FIELDS = {"_id", "docid", "title", "text", "metadata"}
_QUERY_FIELDS = {"_id", "text", "metadata"}


def read_beir(folder: Path, policy: Policy = "fail") -> Collection:
    """Reads the corpus, and a split for each qrels file, of the queries in it.

    Queries in no qrels file form the split "unlabelled", or, if there is a qrels/unlabelled.tsv,
    belong to no split.

    Raises:
        InputError: a file is missing, or, with the policy "fail", a line does not parse, an id is a
            duplicate or contains whitespace, a text is empty, or a qrels line has an unknown query
            or passage or contradicts another; file, line and field are named.
    """
    bad = BadRows(policy)
    corpus = plain_or_gz(folder / "corpus.jsonl")
    queries_file = plain_or_gz(folder / "queries.jsonl")
    for path in (corpus, queries_file):
        if not path.is_file():
            raise InputError(f"{path}: missing; a BEIR folder has corpus.jsonl and queries.jsonl")
    passages, notes = store(str(corpus), [corpus], lambda bad: read_corpus(corpus, bad), policy)
    queries = read_queries(queries_file, bad)
    answers = _read_answers(plain_or_gz(folder / "answers.jsonl"), queries, bad)
    qrels = {
        name: read_qrels(
            path, headed(path, _judgement, bad, QUERY_FIRST), queries, passages.by_id, bad
        )
        for name, path in by_split(folder / "qrels", r"(.+)\.tsv")
    }
    if not qrels:
        raise InputError(f"{folder}/qrels: no judgements; a BEIR folder has qrels/SPLIT.tsv")
    splits = {name: Split(queries, part, answers).only(part) for name, part in qrels.items()}
    splits = with_unlabelled(splits, queries, answers)
    return Collection(folder.name, passages, splits, [*notes, *bad.notes(), *_unread(folder)])


def _unread(folder: Path) -> list[str]:
    """A line for files beside the corpus that may hold training rows."""
    known = ("corpus.jsonl", "queries.jsonl", "answers.jsonl")
    others = (path.name for path in sorted(folder.iterdir()) if path.suffix != ".json")
    names = [n for n in others if n.removesuffix(".gz") not in known and is_row_file(n)]
    if not names:
        return []
    return [
        f"{folder}: not read, since queries.jsonl makes it a BEIR folder: {', '.join(names)[:300]}"
    ]


def read_corpus(path: Path, bad: BadRows) -> Iterator[tuple[str, Passage]]:
    """Yields places and passages of a corpus.jsonl. Tevatron's has docid instead of _id."""

    def parse(row: Mapping[str, Any]) -> Passage:
        name = "docid" if "docid" in row and "_id" not in row else "_id"
        return checked_passage(row.get(name), row.get("title"), row.get("text"), name)

    return _rows(path, _CORPUS_FIELDS, parse, bad)


def read_queries(path: Path, bad: BadRows) -> dict[str, str]:
    """Reads queries by id from a queries.jsonl. Raises InputError if there are none, too."""

    def parse(row: Mapping[str, Any]) -> tuple[str, str]:
        return checked_id(row.get("_id"), "_id"), checked_text(row.get("text"), "text")

    queries = distinct(_rows(path, _QUERY_FIELDS, parse, bad), bad)
    if not queries:
        raise InputError(f"{path}: contains no queries")
    return queries


def _rows(
    path: Path, known: Set[str], make: Callable[[Mapping[str, Any]], Row], bad: BadRows
) -> Iterator[tuple[str, Row]]:
    """Yields places and what `make` makes of each object; fields beyond `known` are named."""
    unread: dict[str, None] = {}  # an ordered set

    def parse(line: str) -> Row:
        row = json_row(line)
        unread.update(dict.fromkeys(name for name in row if name not in known))
        return make(row)

    yield from parsed(path, parse, bad)
    bad.unused(f"{path}:1", list(unread))


def _read_answers(
    path: Path, queries: Mapping[str, str], bad: BadRows
) -> dict[str, tuple[str, ...]]:
    def parse(line: str) -> tuple[str, tuple[str, ...]]:
        row = json_row(line)
        query, texts = checked_id(row.get("_id"), "_id"), row.get("answers")
        if query not in queries:
            raise BadRow(f"_id: {query!r} is not in queries.jsonl")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadRow(f"answers: expected a list of strings, got {shown(texts)}")
        return query, tuple(texts)

    return distinct(parsed(path, parse, bad), bad) if path.is_file() else {}


def _judgement(line: str) -> Judgement:
    """Ids hold no blanks, so these separate columns, too."""
    values = re.findall(r"\S+", line, re.ASCII)
    if len(values) != 3:
        raise BadRow(f"expected query-id, corpus-id, score, got {line[:80]!r}")
    return Judgement(values[0], values[1], grade(values[2]))
