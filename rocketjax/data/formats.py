"""Files of the field in and out: BEIR folders in, TREC runs out."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rocketjax.data.collection import Collection, Passage, Split
from rocketjax.errors import InputError
from rocketjax.files import write_text


def read_beir(folder: Path) -> Collection:
    """corpus.jsonl {_id, title, text}, queries.jsonl {_id, text}, qrels/SPLIT.tsv.

    Raises:
        InputError: a file is missing, a line is not what it should be, an id stands twice, a text
            is empty, or a judgement points nowhere; file, line and field are named.
    """
    passages: dict[str, Passage] = {}
    for place, row in _json_lines(folder / "corpus.jsonl"):
        title, text = (_text_or_none(row, name, place) for name in ("title", "text"))
        passage = Passage(_text(row, "_id", place), title, text)
        if not (passage.title.strip() or passage.text.strip()):
            raise InputError(f"{place}: text: passage {passage.id!r} is empty; give it a text")
        if passage.id in passages:
            raise InputError(f"{place}: _id: {passage.id!r} stands twice; ids must be unique")
        passages[passage.id] = passage
    queries: dict[str, str] = {}
    for place, row in _json_lines(folder / "queries.jsonl"):
        query = _text(row, "_id", place)
        if query in queries:
            raise InputError(f"{place}: _id: {query!r} stands twice; ids must be unique")
        queries[query] = _text(row, "text", place)
    if not passages:
        raise InputError(f"{folder / 'corpus.jsonl'}: the corpus is empty")
    splits = {
        path.stem: _read_split(path, queries, passages)
        for path in sorted((folder / "qrels").glob("*.tsv"))
    }
    if not splits:
        raise InputError(f"{folder}/qrels: no judgements; a BEIR folder has qrels/train.tsv there")
    return Collection(folder.name, list(passages.values()), splits)


def write_run(path: Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """A TREC run: query Q0 passage rank score tag, best first."""
    lines = [
        f"{query} Q0 {pid} {rank} {score:.6f} {tag}\n"
        for query, ranked in run.items()
        for rank, (pid, score) in enumerate(ranked, 1)
    ]
    write_text(path, "".join(lines))


def _read_split(path: Path, queries: Mapping[str, str], passages: Mapping[str, Passage]) -> Split:
    qrels: dict[str, dict[str, int]] = {}
    header = True  # the first line names the columns
    for place, line in _lines(path):
        columns = line.rstrip("\r\n").split("\t")
        judgement = len(columns) == 3 and re.fullmatch(r"-?[0-9]+", columns[2])
        if header and judgement:
            raise InputError(f"{place}: expected the line query-id, corpus-id, score first")
        if header or not line.strip():
            header = False
            continue
        if not judgement:
            raise InputError(f"{place}: expected query-id, corpus-id, score, got {line!r}")
        query, pid, grade = columns[0], columns[1], int(columns[2])
        if query not in queries:
            raise InputError(f"{place}: query-id: {query!r} is not in queries.jsonl")
        if pid not in passages:
            raise InputError(f"{place}: corpus-id: {pid!r} is not in corpus.jsonl")
        qrels.setdefault(query, {})[pid] = grade
    return Split({query: queries[query] for query in qrels}, qrels)


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place ("file:line") and object."""
    if not path.is_file():
        raise InputError(f"{path}: missing; a BEIR folder has corpus.jsonl and queries.jsonl")
    for place, line in _lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected an object, got {line[:40]!r}")
        yield place, row


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line's place ("file:line") and text."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}:{number}"
            try:
                yield place, line.decode()
            except UnicodeDecodeError as error:
                raise InputError(f"{place}: not UTF-8: {error}") from error


def _text(row: Mapping[str, Any], field: str, place: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}: {field}: expected a text that is not empty, got {value!r}")
    return value


def _text_or_none(row: Mapping[str, Any], field: str, place: str) -> str:
    value = row.get(field)
    if not isinstance(value, str | None):
        raise InputError(f"{place}: {field}: expected a text, got {value!r}")
    return value or ""
