"""Collections of Hugging Face's datasets library and of ir_datasets.

Both libraries are optional: `pip install 'rocketjax[hub]'` installs the first, `'rocketjax[irds]'`
the second. They keep what they download in caches of their own.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rocketjax.data.collection import Collection, Split
from rocketjax.data.formats.qrels import Judgement, read_qrels, with_unlabelled
from rocketjax.data.formats.row import Row, row_of
from rocketjax.data.formats.rows import collection_of, make_split, passages_of
from rocketjax.data.lines import (
    BadRow,
    BadRows,
    Policy,
    checked_id,
    checked_passage,
    checked_text,
    distinct,
)
from rocketjax.data.passages import Passage
from rocketjax.data.store import notes_on_duplicates, store
from rocketjax.runtime.errors import InputError, shown
from rocketjax.runtime.progress import Say, unsaid


def read_datasets(name: str, policy: Policy = "fail") -> Collection:
    """Reads a dataset of the Hugging Face hub, or a local folder of its files.

    Args:
        name: ORG/NAME or a folder, optionally followed by ":CONFIG". A dataset with the
            configurations "corpus" and "queries", each with all its splits, is read in BEIR's
            layout, with its qrels in CONFIG, else in the configuration "qrels" or "default" or in
            the dataset ORG/NAME-qrels. Any other is read as training rows, with the columns of
            formats/rows.py and the dataset's own splits.
        policy: see `load_collection`.

    Raises:
        InputError: the library is not installed, the dataset cannot be loaded, CONFIG holds no
            qrels or, with the policy "fail", a row is bad.
    """
    library = _import("datasets", "hub")
    path, _, config = name.partition(":")

    def load(config: str | None, source: str = path) -> Mapping[str, Any]:
        with _loading(f"hf:{source}" + (f":{config}" if config else "")):
            return library.load_dataset(source, config)

    with _loading(f"hf:{path}"):
        configs = library.get_dataset_config_names(path)
    if {"corpus", "queries"} <= set(configs):
        if config in ("corpus", "queries"):
            raise InputError(
                f"hf:{name}: its configurations corpus and queries are read together; name the one "
                f"of its judgements, or none: hf:{path}"
            )
        qrels_config = config or next((n for n in ("qrels", "default") if n in configs), None)
        corpus, queries = load("corpus"), load("queries")
        qrels = load(qrels_config) if qrels_config else load(None, f"{path}-qrels")
        return _from_beir_layout(name, corpus, queries, qrels, policy)
    return _from_rows(name, load(config or None), policy)


def _from_rows(name: str, parts: Mapping[str, Any], policy: Policy) -> Collection:
    def read(split: str, bad: BadRows) -> Iterator[tuple[str, Row]]:
        return _parsed(f"hf:{name}/{split}", parts[split], row_of, bad)

    def passages(bad: BadRows) -> Iterator[tuple[str, Passage]]:
        return passages_of([Path(split) for split in parts], bad, lambda p, b: read(str(p), b))

    fingerprints = [part._fingerprint for part in parts.values()]
    stored, notes = store(f"hf:{name}", ["hf", name, *fingerprints], passages, policy, merge=True)
    bad = BadRows(policy)
    splits = {split: make_split(read(split, bad), stored.by_id, bad) for split in parts}
    return collection_of(f"hf:{name}", stored, splits, [*notes_on_duplicates(notes), *bad.notes()])


def _from_beir_layout(
    name: str,
    corpus: Mapping[str, Any],
    queries: Mapping[str, Any],
    qrels: Mapping[str, Any],
    policy: Policy,
) -> Collection:
    def passages(bad: BadRows) -> Iterator[tuple[str, Passage]]:
        return _of_all(f"hf:{name}/corpus", corpus, _passage, bad)

    fingerprints = [part._fingerprint for part in corpus.values()]
    stored, notes = store(
        f"hf:{name}", ["hf", name, *fingerprints], passages, policy, merge=len(corpus) > 1
    )
    bad = BadRows(policy)
    texts = distinct(_of_all(f"hf:{name}/queries", queries, _query, bad), bad)
    splits = {}
    for split, rows in qrels.items():
        place = f"hf:{name}/{split}"
        split_qrels = read_qrels(
            Path(place), _parsed(place, rows, _judgement, bad), texts, stored.by_id, bad
        )
        splits[split] = Split(texts, split_qrels).only(split_qrels)
    return Collection(name, stored, with_unlabelled(splits, texts), [*notes, *bad.notes()])


def _of_all(
    place: str, parts: Mapping[str, Any], parse: Callable[[Any], Any], bad: BadRows
) -> Iterator[tuple[str, Any]]:
    """The rows of all splits of a configuration."""
    for split, rows in parts.items():
        yield from _parsed(f"{place}/{split}" if len(parts) > 1 else place, rows, parse, bad)


def _parsed(
    place: str, rows: Any, parse: Callable[[Any], Any], bad: BadRows
) -> Iterator[tuple[str, Any]]:
    for number, fields in enumerate(_loaded(place, rows)):
        try:
            yield f"{place}:{number}", parse(fields)
        except BadRow as fault:
            bad.reject(f"{place}:{number}", str(fault))


def _loaded(place: str, rows: Any) -> Iterator[Any]:
    """Yields the rows, which their library may only download now."""
    with _loading(place):
        yield from rows


def _passage(fields: Mapping[str, Any]) -> Passage:
    return checked_passage(_id_of(fields), fields.get("title"), fields.get("text"))


def _query(fields: Mapping[str, Any]) -> tuple[str, str]:
    return checked_id(_id_of(fields), "_id"), checked_text(fields.get("text"), "text")


def _id_of(fields: Mapping[str, Any]) -> Any:
    return fields.get("_id", fields.get("id"))


def _judgement(fields: Mapping[str, Any]) -> Judgement:
    query, pid = (checked_id(str(fields.get(name, "")), name) for name in ("query-id", "corpus-id"))
    score = fields.get("score", 1)
    if not isinstance(score, int | float) or not math.isfinite(score) or score != int(score):
        raise BadRow(f"score: expected a whole number, got {shown(score)}")
    return Judgement(query, pid, int(score))


def read_ir_datasets(name: str, policy: Policy = "fail", say: Say = unsaid) -> Collection:
    """Reads a dataset of ir_datasets: its documents, and a split for each part that has qrels.

    Args:
        name: an id. "msmarco-passage" has the splits "train", "dev/small" and so on, each
            downloaded when it is first used; "beir/scifact/test" has the one split "test". If
            there is a split "train", the split "unlabelled" has its queries without qrels.
        policy, say: see `load_collection`.

    Raises:
        InputError: the library is not installed, does not have or cannot download the dataset or,
            with the policy "fail", a row is bad.
    """
    library = _import("ir_datasets", "irds")
    names = set(library.registry)
    if name not in names:
        raise InputError(f"irds:{name}: ir_datasets {library.__version__} has no such dataset")
    with _loading(f"irds:{name}"):
        dataset = library.load(name)
    if not dataset.has_docs():
        raise InputError(f"irds:{name}: the dataset has no documents")

    def passages(bad: BadRows) -> Iterator[tuple[str, Passage]]:
        with _loading(f"irds:{name}"):
            documents = dataset.docs_iter()
        return _parsed(f"irds:{name}", documents, _document, bad)

    # Keyed by the parent, as all parts of a dataset share its documents.
    source = ["irds", library.__version__, library.docs_parent_id(name)]
    stored, notes = store(f"irds:{name}", source, passages, policy)
    if dataset.has_qrels():
        parts = {name.rpartition("/")[2]: name}
    else:
        parts = {
            other.removeprefix(f"{name}/"): other for other in names if other.startswith(f"{name}/")
        }
    with_qrels = {
        split: part
        for split, part in sorted(parts.items())
        if library.load(part).has_qrels() and library.load(part).has_queries()
    }
    return Collection(name, stored, _Splits(library, with_qrels, stored.by_id, policy, say), notes)


class _Splits(Mapping[str, Split]):
    """Splits that are downloaded when they are first used."""

    def __init__(
        self,
        library: ModuleType,
        names: Mapping[str, str],
        passages: Mapping[str, Passage],
        policy: Policy,
        say: Say,
    ) -> None:
        self.library, self.passages, self.say = library, passages, say
        # For each split the part of the dataset, and which result of `_fetch` it is.
        self.names = {split: (part, 0) for split, part in names.items()}
        if "train" in names:
            self.names = {"unlabelled": (names["train"], 1)} | self.names
        self.policy: Policy = policy
        self._load = lru_cache(maxsize=None)(self._fetch)

    def __getitem__(self, split: str) -> Split:
        part, which = self.names[split]
        return self._load(part)[which]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def _fetch(self, name: str) -> tuple[Split, Split]:
        """Reads a part of the dataset: its queries with qrels, and the others."""
        dataset, bad = self.library.load(name), BadRows(self.policy)
        place = f"irds:{name}"
        with _loading(place):
            rows = list(dataset.queries_iter())
        parsed = distinct(_parsed(f"{place}/queries", rows, _query_with_answers, bad), bad)
        queries = {query: text for query, (text, _) in parsed.items()}
        answers = {query: texts for query, (_, texts) in parsed.items() if texts}
        with _loading(place):
            rows = list(dataset.qrels_iter())
        judgements = [
            (f"{place}:{i}", Judgement(row.query_id, row.doc_id, int(row.relevance)))
            for i, row in enumerate(rows)
        ]
        qrels = read_qrels(Path(place), judgements, queries, self.passages, bad)
        for note in bad.notes():
            self.say(note)
        labelled = Split(queries, qrels, answers).only(qrels)
        splits = with_unlabelled({"labelled": labelled}, queries, answers)
        return labelled, splits.get("unlabelled", Split({}, {}))


def _query_with_answers(query: Any) -> tuple[str, tuple[str, tuple[str, ...]]]:
    text = getattr(query, "text", None) or query.default_text()
    name, answers = checked_id(query.query_id, "query_id"), tuple(getattr(query, "answers", ()))
    return name, (checked_text(text, "text"), answers)


def _document(document: Any) -> Passage:
    text = getattr(document, "text", None)
    if text is None:
        return checked_passage(document.doc_id, "", document.default_text(), "doc_id")
    return checked_passage(document.doc_id, getattr(document, "title", ""), text, "doc_id")


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Turns any error in its block, be it a library's or a download's, into InputError.

    Left alone, an OSError of a download would be reported as one of the disk.
    """
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise InputError(f"{what}: cannot be loaded: {reason}") from error


def _import(library: str, extra: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(library)
    except ImportError as error:
        raise InputError(
            f"{library} is not installed; pip install 'rocketjax[{extra}]' installs it"
        ) from error
