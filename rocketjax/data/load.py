"""Loads collections and queries by name; the format is recognised from the files."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from rocketjax.data.collection import Collection
from rocketjax.data.formats.beir import read_beir, read_corpus
from rocketjax.data.formats.beir import read_queries as read_json_queries
from rocketjax.data.formats.datasets import read_datasets, read_ir_datasets
from rocketjax.data.formats.kept_demo import kept_demo
from rocketjax.data.formats.msmarco import (
    CORPORA,
    corpus_file,
    read_msmarco,
    read_tsv_corpus,
    without_dash,
)
from rocketjax.data.formats.rows import collection_of, make_split, passages_of, read_rows, row_files
from rocketjax.data.lines import (
    BadRow,
    BadRows,
    Policy,
    checked_passage,
    headed,
    lines,
    named_text,
    plain_or_gz,
)
from rocketjax.data.passages import Passage
from rocketjax.data.store import Stored, notes_on_duplicates, store
from rocketjax.runtime.cloud import is_address
from rocketjax.runtime.copies import local
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, unsaid

_EXPECTED = (
    "expected a BEIR folder; one with collection.tsv, psgs_w100.tsv or para.txt; a file or folder "
    "of training rows (.jsonl, .json, .tsv, .csv, .parquet); hf:NAME; irds:ID; or demo"
)


def load_collection(name: str, policy: Policy = "fail", say: Say = unsaid) -> Collection:
    """Loads a collection.

    Args:
        name: "demo", a file or folder in one of the formats of data/formats/, hf:NAME or irds:ID;
            or gs://BUCKET/PATH of such a file or folder.
        policy: "fail" stops at the first bad row, "skip" leaves bad rows out and counts them.
        say: gets a line for each file with bad rows. Hard negatives of MS MARCO's layout and splits
            of ir_datasets are read later, and their lines come then.

    Raises:
        InputError: `name` is none of these, a file is missing, or, with the policy "fail", a row
            is bad.
    """
    collection = _load(name, policy, say)
    for note in collection.notes:
        say(note)
    return collection


def _load(name: str, policy: Policy, say: Say) -> Collection:
    if name == "demo":
        return kept_demo()
    if name.startswith("hf:"):
        return read_datasets(name.removeprefix("hf:"), policy)
    if name.startswith("irds:"):
        return read_ir_datasets(name.removeprefix("irds:"), policy, say)
    if is_address(name):  # by which it is called: where it lies here, it need not on other machines
        return dataclasses.replace(_of_path(str(local(name, say)), policy, say), name=name)
    return _of_path(name, policy, say)


def _of_path(name: str, policy: Policy, say: Say) -> Collection:
    path = Path(name).expanduser()
    if path.is_file():
        return _of_file(path, policy)
    if not name or not path.is_dir():
        raise InputError(f"data.collection: {name!r} is not a file or folder; {_EXPECTED}")
    if corpus_file(path) and any(path.glob("qrels.*")):
        return read_msmarco(path, policy, say)
    if plain_or_gz(path / "queries.jsonl").is_file():
        return read_beir(path, policy)
    if files := row_files(path):
        return _of_rows(path, files, policy)
    if corpus_file(path):
        return read_msmarco(path, policy, say)  # which reports what is missing
    if plain_or_gz(path / "corpus.jsonl").is_file():
        return read_beir(path, policy)
    raise InputError(f"{path}: not a collection in any known format; {_EXPECTED}")


def _of_file(path: Path, policy: Policy) -> Collection:
    """A corpus alone, which can be encoded and searched, or a file of training rows."""
    stem = path.name.removesuffix(".gz")
    if stem in CORPORA:
        passages, notes = read_tsv_corpus(path, policy)
    elif stem == "corpus.jsonl":
        passages, notes = store(str(path), [path], partial(read_corpus, path), policy)
    elif stem.endswith((".tp", ".para")) or ".tp." in path.name:
        passages, notes = store(str(path), [path], partial(_numbered, path), policy)
    else:
        return _of_rows(path, row_files(path) or {"train": [path]}, policy)
    return Collection(path.name, passages, {}, notes)


def _numbered(path: Path, bad: BadRows) -> Iterator[tuple[str, Passage]]:
    """RocketQA's title TAB text; a passage's id is its line number, from 0."""
    for place, line in lines(path, bad):
        if not line.strip():
            continue
        number = int(place.rpartition(":")[2]) - 1
        title, tab, text = line.rstrip("\r\n").partition("\t")
        try:
            if not tab:
                raise BadRow(f"expected title TAB text, got {line[:80]!r}")
            yield place, checked_passage(str(number), without_dash(title), text)
        except BadRow as fault:
            bad.reject(place, str(fault))


def _of_rows(path: Path, files: dict[str, list[Path]], policy: Policy) -> Collection:
    """Training rows with their own passages, or with the ids of those in a corpus beside them."""
    passages, notes = _corpus_of_rows(path, files, policy)
    bad = BadRows(policy)
    splits = {
        name: make_split(
            chain.from_iterable(read_rows(file, bad) for file in some), passages.by_id, bad
        )
        for name, some in files.items()
    }
    return collection_of(str(path), passages, splits, [*notes, *bad.notes()])


def _corpus_of_rows(path: Path, files: dict[str, list[Path]], policy: Policy) -> Stored:
    folder = path if path.is_dir() else path.parent
    beside = corpus_file(folder) if path.is_dir() else None
    if beside:
        return read_tsv_corpus(beside, policy)
    corpus = plain_or_gz(folder / "corpus.jsonl")
    if corpus.is_file():
        return store(str(corpus), [corpus], partial(read_corpus, corpus), policy)
    paths = list(chain.from_iterable(files.values()))

    def read(bad: BadRows) -> Iterator[tuple[str, Passage]]:
        return passages_of(paths, bad, read_rows)

    passages, notes = store(str(path), [*paths, "rows"], read, policy, merge=True)
    return Stored(passages, notes_on_duplicates(notes))


def read_queries(path: Path) -> dict[str, str]:
    """Reads queries by id from .tsv (id TAB text), .jsonl ({_id, text}) or .txt.

    A .txt file has one query per line, whose id is the line's number, from 1.

    Raises:
        InputError: no such file, another suffix, a bad row, a duplicate id, or no queries at all.
    """
    if path.suffix not in (".tsv", ".jsonl", ".txt"):
        raise InputError(
            f"{path}: queries are read from .tsv (id TAB text), .jsonl ({{_id, text}}) or .txt "
            "(one per line)"
        )
    if path.suffix == ".jsonl":
        return read_json_queries(path, BadRows())
    queries: dict[str, str] = {}
    rows = (
        _queries_by_number(path) if path.suffix == ".txt" else headed(path, named_text, BadRows())
    )
    for place, (query, text) in rows:
        if query in queries:
            raise InputError(f"{place}: id: duplicate {query!r}; ids must be unique")
        queries[query] = text
    if not queries:
        raise InputError(f"{path}: contains no queries")
    return queries


def _queries_by_number(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    for number, (place, line) in enumerate(lines(path, BadRows()), 1):
        if line.strip():
            yield place, (str(number), line.strip())
