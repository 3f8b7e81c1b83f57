"""Folders of tab-separated files: MS MARCO's passages, and DPR's psgs_w100.

collection.tsv         id TAB text (a further tab belongs to the text)
psgs_w100.tsv          id TAB text TAB title, quoted as CSV, under the header "id text title"
queries.SPLIT.tsv      id TAB text
qrels.SPLIT.tsv        query 0 passage grade, divided by tabs or blanks
Each may be packed, as collection.tsv.gz.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from rocketjax.data.collection import Collection, Passage, Split
from rocketjax.data.lines import lines
from rocketjax.errors import InputError

CORPORA = ("collection.tsv", "collection.tsv.gz", "psgs_w100.tsv", "psgs_w100.tsv.gz")


def corpus_file(folder: Path) -> Path | None:
    """The corpus of such a folder; None: it is none."""
    return next((folder / name for name in CORPORA if (folder / name).is_file()), None)


def read_msmarco(folder: Path) -> Collection:
    """The corpus, and a split for each qrels file, of the queries it judges.

    Training queries that no qrels file judges (in MS MARCO, 300,000) make the split "unlabelled".

    Raises:
        InputError: a file is missing, a line is not what it should be, an id stands twice or holds
            white space, a text is empty, or a judgement points nowhere or contradicts another;
            file, line and field are named.
    """
    path = corpus_file(folder)
    if path is None:
        raise InputError(f"{folder}: holds none of {', '.join(CORPORA)}")
    passages: dict[str, Passage] = {}
    rows = _titled(path) if path.name.startswith("psgs") else _plain(path)
    for place, passage in rows:
        _check_id(passage.id, place)
        if not passage.text.strip():
            raise InputError(f"{place}: text: passage {passage.id!r} is empty; give it a text")
        if passage.id in passages:
            raise InputError(f"{place}: id: {passage.id!r} stands twice; ids must be unique")
        passages[passage.id] = passage
    if not passages:
        raise InputError(f"{path}: the corpus is empty")
    queries, trained = _read_queries(folder)
    splits = {
        name: _read_split(file, queries, passages) for name, file in _by_split(folder, "qrels")
    }
    if not splits:
        raise InputError(f"{folder}: no judgements; qrels.train.tsv is missing")
    judged = {query for split in splits.values() for query in split.qrels}
    unlabelled = {query: queries[query] for query in trained if query not in judged}
    if unlabelled:
        splits.setdefault("unlabelled", Split(unlabelled, {}))
    return Collection(folder.name, list(passages.values()), splits)


def _plain(path: Path) -> Iterator[tuple[str, Passage]]:
    for place, pid, text in _pairs(path):
        yield place, Passage(pid, "", text)


def _titled(path: Path) -> Iterator[tuple[str, Passage]]:
    for place, line in lines(path):
        try:
            columns = next(csv.reader([line], delimiter="\t", strict=True), [])
        except csv.Error as error:
            raise InputError(f"{place}: not CSV divided by tabs: {error}") from error
        if not columns or (columns == ["id", "text", "title"] and place == f"{path}:1"):
            continue
        if len(columns) != 3:
            raise InputError(f"{place}: expected id TAB text TAB title, got {line[:80]!r}")
        pid, text, title = columns
        yield place, Passage(pid, title, text)


def _read_queries(folder: Path) -> tuple[dict[str, str], set[str]]:
    """Queries of all splits by id, and the ids of the split "train"."""
    queries: dict[str, str] = {}
    trained: set[str] = set()
    for name, file in _by_split(folder, "queries"):
        seen: set[str] = set()
        for place, query, text in _pairs(file):
            _check_id(query, place)
            if query in seen:
                raise InputError(f"{place}: id: {query!r} stands twice; ids must be unique")
            if queries.setdefault(query, text) != text:  # one split may be a part of another
                raise InputError(f"{place}: id: {query!r} is another query in another file")
            if not text.strip():
                raise InputError(f"{place}: text: query {query!r} is empty; give it a text")
            seen.add(query)
        if name == "train":
            trained = seen
    if not queries:
        raise InputError(f"{folder}: no queries; queries.train.tsv is missing or empty")
    return queries, trained


def _read_split(path: Path, queries: Mapping[str, str], passages: Mapping[str, Passage]) -> Split:
    qrels: dict[str, dict[str, int]] = {}
    for place, line in lines(path):
        columns = re.findall(r"\S+", line, re.ASCII)
        if not columns:
            continue
        if len(columns) != 4 or not re.fullmatch(r"-?[0-9]{1,9}", columns[3], re.ASCII):
            raise InputError(f"{place}: expected query 0 passage grade, got {line[:80]!r}")
        query, _, pid, grade = columns[0], columns[1], columns[2], int(columns[3])
        if query not in queries:
            raise InputError(f"{place}: query: {query!r} is in no queries.*.tsv of the folder")
        if pid not in passages:
            raise InputError(f"{place}: passage: {pid!r} is not in the corpus")
        before = qrels.setdefault(query, {}).setdefault(pid, grade)
        if before != grade:
            raise InputError(
                f"{place}: grade: {grade}, but {query!r} with {pid!r} had {before}; keep one line"
            )
    if not qrels:
        raise InputError(f"{path}: holds no judgement")
    return Split({query: queries[query] for query in qrels}, qrels)


def _pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place, id and text of each line; empty lines are passed over."""
    for place, line in lines(path):
        if not line.strip():
            continue
        name, tab, text = line.rstrip("\r\n").partition("\t")
        if not tab:
            raise InputError(f"{place}: expected id TAB text, got {line[:80]!r}")
        yield place, name, text.strip()


def _by_split(folder: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """("dev.small", queries.dev.small.tsv) and so on, by name."""
    for path in sorted(folder.glob(f"{kind}.*")):
        found = re.fullmatch(rf"{kind}\.(.+)\.tsv(\.gz)?", path.name)
        if found:
            yield found[1], path


def _check_id(value: str, place: str) -> None:
    if not value or re.search(r"\s", value, re.ASCII):
        raise InputError(
            f"{place}: id: {value!r} is empty or holds white space, which divides a run's columns"
        )
