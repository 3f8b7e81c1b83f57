"""Collections by name, of whichever format: what is given is looked at, not asked for."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rocketjax.data.collection import Collection
from rocketjax.data.formats.beir import read_beir, read_corpus
from rocketjax.data.formats.beir import read_queries as read_json_queries
from rocketjax.data.formats.datasets import read_datasets, read_ir_datasets
from rocketjax.data.formats.demo import load_demo
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
    lines,
    named_text,
    packed_or_not,
    parsed,
)
from rocketjax.data.passages import Passage
from rocketjax.data.store import Stored, store
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, unsaid

EXPECTED = (
    "expected a BEIR folder; one with collection.tsv, psgs_w100.tsv or para.txt; a file or folder "
    "of training rows (.jsonl, .json, .tsv); hf:NAME; irds:ID; or demo"
)


def load_collection(name: str, policy: Policy = "fail", say: Say = unsaid) -> Collection:
    """ "demo", a folder or file of any format that rocketjax reads, hf:NAME or irds:ID.

    Args:
        name: see data/beir.py, data/msmarco.py, data/rows.py and data/hub.py for the formats.
        policy: "fail" stops at the first bad row, "skip" leaves it out and counts.
        say: is told, for each file, how many rows were left out; what is read later (hard negatives
            of MS MARCO's layout, splits of ir_datasets) is told of then.

    Raises:
        InputError: it is none of these, or a row in it is not what it should be.
    """
    collection = _load(name, policy, say)
    for note in collection.notes:
        say(note)
    return collection


def _load(name: str, policy: Policy, say: Say) -> Collection:
    if name == "demo":
        return load_demo()
    if name.startswith("hf:"):
        return read_datasets(name.removeprefix("hf:"), policy)
    if name.startswith("irds:"):
        return read_ir_datasets(name.removeprefix("irds:"), policy, say)
    path = Path(name).expanduser()
    if path.is_file():
        return _of_file(path, policy)
    if not name or not path.is_dir():
        raise InputError(f"data.collection: {name!r} is no file or folder; {EXPECTED}")
    if corpus_file(path) and any(path.glob("qrels.*")):
        return read_msmarco(path, policy, say)
    if packed_or_not(path / "queries.jsonl").is_file():
        return read_beir(path, policy)
    if files := row_files(path):
        return _of_rows(path, files, policy)
    if corpus_file(path):
        return read_msmarco(path, policy, say)  # says what is missing
    if packed_or_not(path / "corpus.jsonl").is_file():
        return read_beir(path, policy)
    raise InputError(f"{path}: no collection that rocketjax knows; {EXPECTED}")


def _of_file(path: Path, policy: Policy) -> Collection:
    """A corpus alone, to be encoded and searched, or a file of training rows."""
    stem = path.name.removesuffix(".gz")
    if stem in CORPORA:
        passages, notes = read_tsv_corpus(path, policy)
    elif stem == "corpus.jsonl":
        passages, notes = store(str(path), [path], partial(read_corpus, path), policy)
    elif stem.endswith((".tp", ".para")) or ".tp." in path.name:
        passages, notes = store(str(path), [path], partial(_numbered, path), policy)
    else:
        return _of_rows(path, row_files(path) or {"train": path}, policy)
    return Collection(path.name, passages, {}, notes)


def _numbered(path: Path, bad: BadRows) -> Iterator[tuple[str, Passage]]:
    """RocketQA's title TAB text, with the number of the line, from 0, for an id."""
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
            bad.found(place, str(fault))


def _of_rows(path: Path, files: dict[str, Path], policy: Policy) -> Collection:
    """Rows with their own passages; or with ids, where a corpus lies beside them."""
    passages, notes = _corpus_of_rows(path, files, policy)
    bad = BadRows(policy)
    splits = {
        name: make_split(read_rows(file, bad), passages.by_id, bad) for name, file in files.items()
    }
    return collection_of(str(path), passages, splits, [*notes, *bad.notes()])


def _corpus_of_rows(path: Path, files: dict[str, Path], policy: Policy) -> Stored:
    folder = path if path.is_dir() else path.parent
    beside = corpus_file(folder) if path.is_dir() else None
    if beside:
        return read_tsv_corpus(beside, policy)
    corpus = packed_or_not(folder / "corpus.jsonl")
    if corpus.is_file():
        return store(str(corpus), [corpus], partial(read_corpus, corpus), policy)
    paths = list(files.values())

    def read(bad: BadRows) -> Iterator[tuple[str, Passage]]:
        return passages_of(paths, bad, read_rows)

    passages, notes = store(str(path), [*paths, "rows"], read, policy, merge=True)
    # Bad rows are met again as splits are made, and counted there.
    return Stored(passages, [note for note in notes if "stands twice" in note])


def read_queries(path: Path) -> dict[str, str]:
    """Queries by id: .tsv (id TAB text), .jsonl ({_id, text}) or .txt (a line each: 1, 2, ..).

    Raises:
        InputError: no file, one by another name, an id that stands twice or holds white space, an
            empty text, or no query at all.
    """
    if path.suffix not in (".tsv", ".jsonl", ".txt"):
        raise InputError(
            f"{path}: queries are read from .tsv (id TAB text), .jsonl ({{_id, text}}) or .txt "
            "(one a line)"
        )
    if path.suffix == ".jsonl":
        return read_json_queries(path, BadRows())
    queries: dict[str, str] = {}
    rows = (
        _queries_by_number(path) if path.suffix == ".txt" else parsed(path, named_text, BadRows())
    )
    for place, (query, text) in rows:
        if query in queries:
            raise InputError(f"{place}: id: {query!r} stands twice; ids must be unique")
        queries[query] = text
    if not queries:
        raise InputError(f"{path}: holds no query")
    return queries


def _queries_by_number(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    for number, (place, line) in enumerate(lines(path, BadRows()), 1):
        if line.strip():
            yield place, (str(number), line.strip())
