"""Folders of tab-separated files: those of MS MARCO, DPR and RocketQA.

collection.tsv         id TAB text (a further tab belongs to the text)
psgs_w100.tsv          id TAB text TAB title, quoted as CSV, under the header "id text title"
para.txt               id TAB text, with titles in para.title.txt: id TAB title ("-": none)
queries.SPLIT.tsv      id TAB text; of RocketQA SPLIT.query.txt
qrels.SPLIT.tsv        query 0 passage grade, or query passage, divided by tabs or blanks
qidpidtriples.SPLIT.tsv   query, positive and hard negative by id, of queries that qrels.SPLIT.tsv
                       judges; more may stand before .tsv (qidpidtriples.train.full.2.tsv)
Each may be packed, as collection.tsv.gz. The triples, MS MARCO's own are 400 million, are read when
a split's negatives are first asked for: mined lists, search and evaluation never do.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from rocketjax.data.collection import Collection, Lazy, Split
from rocketjax.data.formats.qrels import Judgement, read_qrels, with_unlabelled
from rocketjax.data.lines import (
    BadRow,
    BadRows,
    Policy,
    by_split,
    checked_id,
    checked_passage,
    columns,
    grade,
    named_text,
    packed_or_not,
    parsed,
)
from rocketjax.data.passages import Passage, StoredPassages
from rocketjax.data.store import Stored, store
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, unsaid

CORPORA = ("collection.tsv", "psgs_w100.tsv", "para.txt")


def corpus_file(folder: Path) -> Path | None:
    """The corpus of such a folder; None: it is none."""
    paths = [packed_or_not(folder / name) for name in CORPORA]
    return next((path for path in paths if path.is_file()), None)


def read_msmarco(folder: Path, policy: Policy = "fail", say: Say = unsaid) -> Collection:
    """The corpus, and a split for each qrels file, of the queries it judges.

    Training queries that no qrels file judges (in MS MARCO, 300,000) make the split "unlabelled".

    Args:
        policy: see `load_collection`.
        say: is told when triples are read, and how many of their rows were left out.

    Raises:
        InputError: a file is missing, or, with the policy "fail", a line is not what it should be,
            an id stands twice or holds white space, a text is empty, or a judgement points nowhere
            or contradicts another; file, line and field are named. Of triples, whoever first looks
            into a split's negatives gets it.
    """
    path, bad = corpus_file(folder), BadRows(policy)
    if path is None:
        raise InputError(f"{folder}: holds none of {', '.join(CORPORA)}")
    passages, notes = read_tsv_corpus(path, policy)
    queries, trained = _read_queries(folder, bad)
    splits: dict[str, Split] = {}
    for name, file in by_split(folder, r"qrels\.(.+)\.tsv"):
        qrels = read_qrels(file, parsed(file, _judgement, bad), queries, passages.by_id, bad)
        pattern = rf"qidpidtriples\.({re.escape(name)})(?:\..+)?\.tsv"
        triples = [path for _, path in by_split(folder, pattern)]
        negatives = Lazy(partial(_read_negatives, triples, qrels, passages.by_id, policy, say))
        splits[name] = Split({query: queries[query] for query in qrels}, qrels, {}, negatives)
    if not splits:
        raise InputError(f"{folder}: no judgements; qrels.train.tsv is missing")
    splits = with_unlabelled(splits, {query: queries[query] for query in trained})
    return Collection(folder.name, passages, splits, [*notes, *bad.notes()])


def read_tsv_corpus(path: Path, policy: Policy) -> Stored:
    """A corpus_file's passages, and what was left out."""
    titles = packed_or_not(path.parent / "para.title.txt")
    if path.name.startswith("para.txt") and titles.is_file():
        named, told = store(str(titles), [titles], lambda bad: parsed(titles, _title, bad), policy)
        passages, notes = store(
            str(path), [path, titles], lambda bad: _with_titles(path, named, bad), policy
        )
        return Stored(passages, [*told, *notes])
    parse = _titled if path.name.startswith("psgs") else _plain
    return store(str(path), [path], lambda bad: parsed(path, parse, bad), policy)


def _with_titles(path: Path, named: StoredPassages, bad: BadRows) -> Iterator[tuple[str, Passage]]:
    """Titles may stand in another order than passages, and be fewer."""
    for place, passage in parsed(path, _plain, bad):
        title = named.by_id.get(passage.id)
        yield place, passage if title is None else passage._replace(title=without_dash(title.text))


def without_dash(title: str) -> str:
    """RocketQA writes "-" where a passage has no title."""
    return "" if title.strip() == "-" else title


def _plain(line: str) -> Passage:
    name, tab, text = line.partition("\t")
    if not tab:
        raise BadRow(f"expected id TAB text, got {line[:80]!r}")
    return checked_passage(name, "", text.strip(), "id")


def _title(line: str) -> Passage:
    name, tab, text = line.partition("\t")
    if not tab:
        raise BadRow(f"expected id TAB title, got {line[:80]!r}")
    return checked_passage(name, "", text.strip() or "-", "id")


def _titled(line: str) -> Passage | None:
    try:
        row = next(csv.reader([line], delimiter="\t", strict=True), [])
    except csv.Error as error:
        raise BadRow(f"not CSV divided by tabs: {error}") from error
    if row == ["id", "text", "title"]:
        return None
    if len(row) != 3:
        raise BadRow(f"expected id TAB text TAB title, got {line[:80]!r}")
    return checked_passage(row[0], row[2], row[1], "id")


def _read_queries(folder: Path, bad: BadRows) -> tuple[dict[str, str], set[str]]:
    """Queries of all splits by id, and the ids of the split "train"."""
    queries: dict[str, str] = {}
    trained: set[str] = set()
    files = [*by_split(folder, r"queries\.(.+)\.tsv"), *by_split(folder, r"(.+)\.query\.txt")]
    for name, file in files:
        seen: set[str] = set()
        for place, (query, text) in parsed(file, named_text, bad):
            if query in seen:
                bad.found(place, f"id: {query!r} stands twice; ids must be unique")
            elif queries.setdefault(query, text) != text:  # one split may be a part of another
                bad.found(place, f"id: {query!r} is another query in another file")
            else:
                seen.add(query)
        if name == "train":
            trained = seen
    if not queries:
        raise InputError(f"{folder}: no queries; queries.train.tsv is missing or empty")
    return queries, trained


def _judgement(line: str) -> Judgement:
    found = re.findall(r"\S+", line, re.ASCII)
    if len(found) == 2:
        return Judgement(found[0], found[1], 1)
    if len(found) != 4:
        raise BadRow(f"expected query 0 passage grade, got {line[:80]!r}")
    return Judgement(found[0], found[2], grade(found[3]))


def _read_negatives(
    files: Sequence[Path],
    qrels: Mapping[str, Mapping[str, int]],
    passages: Mapping[str, Passage],
    policy: Policy,
    say: Say,
) -> dict[str, list[str]]:
    """The hard negatives of each judged query of all files together, each once."""
    bad = BadRows(policy)
    negatives: dict[str, list[str]] = {}
    for file in files:
        say(f"{file}: the hard negatives are read")
        for query, found in _read_triples(file, qrels, passages, bad).items():
            negatives[query] = list(dict.fromkeys([*negatives.get(query, ()), *found]))
    for note in bad.notes():
        say(note)
    return negatives


def _read_triples(
    path: Path,
    qrels: Mapping[str, Mapping[str, int]],
    passages: Mapping[str, Passage],
    bad: BadRows,
) -> dict[str, list[str]]:
    """The hard negatives of each judged query, each once, in the file's order."""

    def parse(line: str) -> tuple[str, str]:
        query, _, negative = columns(line, "query TAB positive TAB negative")
        if negative not in passages:
            raise BadRow(f"negative: {negative!r} is not in the corpus")
        return checked_id(query, "query"), negative

    negatives: dict[str, dict[str, None]] = {}
    for place, (query, pid) in parsed(path, parse, bad):
        if query not in qrels:
            bad.found(place, f"query: {query!r} is not in the qrels file of this split")
        elif qrels[query].get(pid, 0) > 0:
            bad.found(place, f"negative: {pid!r} is a positive of {query!r} by its qrels")
        else:
            negatives.setdefault(query, {})[pid] = None
    return {query: list(found) for query, found in negatives.items()}
