"""Folders of tab-separated files, as of MS MARCO, DPR and RocketQA.

collection.tsv         id TAB text (a further tab belongs to the text)
psgs_w100.tsv          id TAB text TAB title, quoted as CSV, below the header "id text title"
para.txt               id TAB text, with titles in para.title.txt: id TAB title ("-": none)
queries.SPLIT.tsv      id TAB text; RocketQA's is SPLIT.query.txt
qrels.SPLIT.tsv        query 0 passage grade, or query passage, separated by tabs or spaces
qidpidtriples.SPLIT.tsv   ids of a query in qrels.SPLIT.tsv, a positive and a hard negative; the
                       name may continue (qidpidtriples.train.full.2.tsv)

Each file may be compressed, as collection.tsv.gz. Triples (MS MARCO has 400 million) are only read
when a split's negatives are first used, which mined lists, search and evaluation never do.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from rocketjax.data.collection import Collection, Lazy, Split
from rocketjax.data.formats.qrels import QUERY_FIRST, Judgement, read_qrels, with_unlabelled
from rocketjax.data.lines import (
    BadRow,
    BadRows,
    Policy,
    by_split,
    checked_id,
    checked_passage,
    column_names,
    columns,
    grade,
    headed,
    lines,
    named_text,
    plain_or_gz,
)
from rocketjax.data.passages import Passage, StoredPassages
from rocketjax.data.store import Stored, store
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, unsaid

CORPORA = ("collection.tsv", "psgs_w100.tsv", "para.txt")


def corpus_file(folder: Path) -> Path | None:
    """The corpus file of such a folder; None if it has none."""
    paths = [plain_or_gz(folder / name) for name in CORPORA]
    return next((path for path in paths if path.is_file()), None)


def read_msmarco(folder: Path, policy: Policy = "fail", say: Say = unsaid) -> Collection:
    """Reads the corpus, and a split for each qrels file, of the queries in it.

    Training queries in no qrels file (300,000 of MS MARCO's) form the split "unlabelled".

    Args:
        policy: see `load_collection`.
        say: gets a line when triples are read, and one for each file of them with bad rows.

    Raises:
        InputError: a file is missing, or, with the policy "fail", a line does not parse, an id is a
            duplicate or contains whitespace, a text is empty, or a qrels line has an unknown query
            or passage or contradicts another; file, line and field are named. Errors in triples are
            raised when a split's negatives are first used.
    """
    path, bad = corpus_file(folder), BadRows(policy)
    if path is None:
        raise InputError(f"{folder}: contains none of {', '.join(CORPORA)}")
    passages, notes = read_tsv_corpus(path, policy)
    queries, training_ids = _read_queries(folder, bad)
    splits: dict[str, Split] = {}
    for name, file in by_split(folder, r"qrels\.(.+)\.tsv"):
        qrels = read_qrels(
            file, headed(file, _judgement, bad, QUERY_FIRST), queries, passages.by_id, bad
        )
        pattern = rf"qidpidtriples\.({re.escape(name)})(?:\..+)?\.tsv"
        triples = [path for _, path in by_split(folder, pattern)]
        negatives = Lazy(partial(_read_negatives, triples, qrels, passages.by_id, policy, say))
        splits[name] = Split({query: queries[query] for query in qrels}, qrels, {}, negatives)
    if not splits:
        raise InputError(f"{folder}: no judgements; qrels.train.tsv is missing")
    splits = with_unlabelled(splits, {query: queries[query] for query in training_ids})
    texts = [
        f"{path}: not read; of triples only those by id are (qidpidtriples.SPLIT.tsv)"
        for path in sorted(folder.glob("triples.*"))
    ]
    return Collection(folder.name, passages, splits, [*notes, *bad.notes(), *texts])


def read_tsv_corpus(path: Path, policy: Policy) -> Stored:
    """Reads the passages of a `corpus_file`."""
    titles = plain_or_gz(path.parent / "para.title.txt")
    if path.name.startswith("para.txt") and titles.is_file():
        titled = store(str(titles), [titles], lambda bad: headed(titles, _title, bad), policy)
        passages, notes = store(
            str(path), [path, titles], lambda bad: _with_titles(path, titled.passages, bad), policy
        )
        return Stored(passages, [*titled.notes, *notes])
    parse = _dpr_passage if path.name.startswith("psgs") else _untitled
    if parse is _untitled:
        _refuse_more_columns(path)
    return store(str(path), [path], lambda bad: headed(path, parse, bad), policy)


def _refuse_more_columns(path: Path) -> None:
    """A header with a title would be believed, and the title would then be part of the text."""
    first = next(lines(path, BadRows("skip")), None)
    names = column_names(first[1].rstrip("\r\n")) if first else []
    if len(names) > 2:
        raise InputError(
            f"{path}:1: columns {', '.join(names)}, but here a line is id TAB text; for titles use "
            "psgs_w100.tsv (id TAB text TAB title) or BEIR's corpus.jsonl"
        )


def _with_titles(path: Path, titles: StoredPassages, bad: BadRows) -> Iterator[tuple[str, Passage]]:
    """Joins passages with their titles, which may be fewer and in another order."""
    for place, passage in headed(path, _untitled, bad):
        title = titles.by_id.get(passage.id)
        yield place, passage if title is None else passage._replace(title=without_dash(title.text))


def without_dash(title: str) -> str:
    """A title, or "" for the "-" that RocketQA writes if there is none."""
    return "" if title.strip() == "-" else title


def _untitled(line: str) -> Passage:
    name, tab, text = line.partition("\t")
    if not tab:
        raise BadRow(f"expected id TAB text, got {line[:80]!r}")
    return checked_passage(name, "", text.strip(), "id")


def _title(line: str) -> Passage:
    """A title, stored as the text of a passage."""
    name, tab, text = line.partition("\t")
    if not tab:
        raise BadRow(f"expected id TAB title, got {line[:80]!r}")
    return checked_passage(name, "", text.strip() or "-", "id")


def _dpr_passage(line: str) -> Passage | None:
    try:
        row = next(csv.reader([line], delimiter="\t", strict=True), [])
    except csv.Error as error:
        raise BadRow(f"not CSV separated by tabs: {error}") from error
    if row == ["id", "text", "title"]:
        return None
    if len(row) != 3:
        raise BadRow(f"expected id TAB text TAB title, got {line[:80]!r}")
    return checked_passage(row[0], row[2], row[1], "id")


def _read_queries(folder: Path, bad: BadRows) -> tuple[dict[str, str], list[str]]:
    """Reads the queries of all splits by id, and the ids of the split "train" in their order."""
    queries: dict[str, str] = {}
    training_ids: list[str] = []
    files = [*by_split(folder, r"queries\.(.+)\.tsv"), *by_split(folder, r"(.+)\.query\.txt")]
    for name, file in files:
        seen: dict[str, None] = {}  # an ordered set
        for place, (query, text) in headed(file, named_text, bad):
            if query in seen:
                bad.reject(place, f"id: duplicate {query!r}; ids must be unique")
            elif queries.setdefault(query, text) != text:  # splits may overlap
                bad.reject(place, f"id: {query!r} has another text in another file")
            else:
                seen[query] = None
        if name == "train":
            training_ids = list(seen)
    if not queries:
        raise InputError(f"{folder}: no queries; queries.train.tsv is missing or empty")
    return queries, training_ids


def _judgement(line: str) -> Judgement:
    values = re.findall(r"\S+", line, re.ASCII)
    if len(values) == 2:
        return Judgement(values[0], values[1], 1)
    if len(values) != 4:
        raise BadRow(f"expected query 0 passage grade, got {line[:80]!r}")
    return Judgement(values[0], values[2], grade(values[3]))


def _read_negatives(
    files: Sequence[Path],
    qrels: Mapping[str, Mapping[str, int]],
    passages: Mapping[str, Passage],
    policy: Policy,
    say: Say,
) -> dict[str, list[str]]:
    """Reads the hard negatives of each query in `qrels` from all files, without duplicates."""
    bad = BadRows(policy)
    negatives: dict[str, list[str]] = {}
    for file in files:
        say(f"{file}: reading hard negatives")
        for query, more in _read_triples(file, qrels, passages, bad).items():
            negatives[query] = list(dict.fromkeys([*negatives.get(query, ()), *more]))
    for note in bad.notes():
        say(note)
    return negatives


def _read_triples(
    path: Path,
    qrels: Mapping[str, Mapping[str, int]],
    passages: Mapping[str, Passage],
    bad: BadRows,
) -> dict[str, list[str]]:
    """Reads the hard negatives of each query in the file's order, without duplicates."""

    def parse(line: str) -> tuple[str, str]:
        query, _, negative = columns(line, "query TAB positive TAB negative")
        if negative not in passages:
            raise BadRow(f"negative: {negative!r} is not in the corpus")
        return checked_id(query, "query"), negative

    negatives: dict[str, dict[str, None]] = {}  # the inner dict is an ordered set
    for place, (query, pid) in headed(path, parse, bad):
        if query not in qrels:
            bad.reject(place, f"query: {query!r} is not in the qrels file of this split")
        elif qrels[query].get(pid, 0) > 0:
            bad.reject(place, f"negative: {pid!r} is a positive of {query!r} by its qrels")
        else:
            negatives.setdefault(query, {})[pid] = None
    return {query: list(pids) for query, pids in negatives.items()}
