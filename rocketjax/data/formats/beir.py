"""BEIR folders.

corpus.jsonl       {_id, title, text}
queries.jsonl      {_id, text}
qrels/SPLIT.tsv    query-id, corpus-id, score, divided by tabs, under a line that says so
answers.jsonl      {_id, answers: [..]}: strings that answer a query; there need be none
Each may be packed, as corpus.jsonl.gz.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from rocketjax.data.collection import Collection, Split
from rocketjax.data.formats.qrels import Judgement, read_qrels, with_unlabelled
from rocketjax.data.lines import (
    BadRow,
    BadRows,
    Policy,
    by_split,
    checked_id,
    checked_passage,
    checked_text,
    distinct,
    json_row,
    packed_or_not,
    parsed,
)
from rocketjax.data.passages import Passage
from rocketjax.data.store import store
from rocketjax.runtime.errors import InputError, shown


def read_beir(folder: Path, policy: Policy = "fail") -> Collection:
    """The corpus, and a split for each file of judgements, of the queries it judges.

    Queries that no qrels file judges make the split "unlabelled", unless qrels/unlabelled.tsv
    makes one by that name: then they are in none.

    Raises:
        InputError: a file is missing, or, with the policy "fail", a line is not what it should be,
            an id stands twice or holds white space, a text is empty, or a judgement points nowhere
            or contradicts another; file, line and field are named.
    """
    bad = BadRows(policy)
    corpus, asked = packed_or_not(folder / "corpus.jsonl"), packed_or_not(folder / "queries.jsonl")
    for path in (corpus, asked):
        if not path.is_file():
            raise InputError(f"{path}: missing; a BEIR folder has corpus.jsonl and queries.jsonl")
    passages, notes = store(str(corpus), [corpus], lambda bad: read_corpus(corpus, bad), policy)
    queries = read_queries(asked, bad)
    answers = _read_answers(packed_or_not(folder / "answers.jsonl"), queries, bad)
    qrels = {
        name: read_qrels(path, parsed(path, _Judgements(), bad), queries, passages.by_id, bad)
        for name, path in by_split(folder / "qrels", r"(.+)\.tsv")
    }
    if not qrels:
        raise InputError(f"{folder}/qrels: no judgements; a BEIR folder has qrels/train.tsv there")
    splits = {name: Split(queries, judged, answers).only(judged) for name, judged in qrels.items()}
    splits = with_unlabelled(splits, queries, answers)
    return Collection(folder.name, passages, splits, [*notes, *bad.notes()])


def read_corpus(path: Path, bad: BadRows) -> Iterator[tuple[str, Passage]]:
    """Places and passages of a corpus.jsonl; Tevatron's has docid for _id."""

    def parse(line: str) -> Passage:
        row = json_row(line)
        name = "docid" if "docid" in row and "_id" not in row else "_id"
        return checked_passage(row.get(name), row.get("title"), row.get("text"), name)

    return parsed(path, parse, bad)


def read_queries(path: Path, bad: BadRows) -> dict[str, str]:
    """Queries by id, of a queries.jsonl. Raises InputError, also where there is none."""

    def parse(line: str) -> tuple[str, str]:
        row = json_row(line)
        return checked_id(row.get("_id"), "_id"), checked_text(row.get("text"), "text")

    queries = distinct(parsed(path, parse, bad), bad)
    if not queries:
        raise InputError(f"{path}: holds no query")
    return queries


def _read_answers(
    path: Path, queries: Mapping[str, str], bad: BadRows
) -> dict[str, tuple[str, ...]]:
    def parse(line: str) -> tuple[str, tuple[str, ...]]:
        row = json_row(line)
        query, texts = checked_id(row.get("_id"), "_id"), row.get("answers")
        if query not in queries:
            raise BadRow(f"_id: {query!r} is not in queries.jsonl")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadRow(f"answers: expected a list of texts, got {shown(texts)}")
        return query, tuple(texts)

    return distinct(parsed(path, parse, bad), bad) if path.is_file() else {}


class _Judgements:
    """Parses the lines of a file of judgements, of which the first names the columns."""

    def __init__(self) -> None:
        self.header = True

    def __call__(self, line: str) -> Judgement | None:
        columns = line.split("\t")
        judges = len(columns) == 3 and re.fullmatch(r"-?[0-9]{1,9}", columns[2], re.ASCII)
        header, self.header = self.header, False
        if header and not judges:
            return None
        if header:
            raise BadRow("expected the line query-id, corpus-id, score first")
        if not judges:
            raise BadRow(f"expected query-id, corpus-id, score, got {line[:80]!r}")
        return Judgement(columns[0], columns[1], int(columns[2]))
