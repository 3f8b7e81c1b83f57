"""A sample of a collection, small enough to train and evaluate on, as a BEIR folder."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from rocketjax.data.collection import Collection, Split
from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, read_json, write_text

REQUEST = "request.json"  # says what the sample was drawn from, and how


def write_sample(
    collection: Collection,
    folder: Path,
    train: int,
    held_out: int,
    passages: int,
    seed: int,
    held_out_split: str = "dev",
) -> None:
    """Writes split train and the held-out one with a part of the queries, and a corpus for them.

    All passages that are judged for these queries are in the corpus; others are drawn until there
    are `passages`. A smaller corpus is easier to search: compare figures only with each other. A
    size of 0 takes all there are. A folder that holds this sample already stays as it is.

    Raises:
        InputError: the collection lacks one of the splits, or the folder holds another sample.
    """
    request = {"train": train, "held_out": held_out, "passages": passages, "seed": seed}
    request |= {"collection": collection.fingerprint}
    if folder.is_dir():
        _check_same(folder, request)
        return
    rng = np.random.default_rng(seed)
    splits = {
        name: _part(collection.split(name), most, rng)
        for name, most in (("train", train), (held_out_split, held_out))
    }
    corpus = _corpus(collection, splits, passages, rng)
    passage_rows = ({"_id": p.id, "title": p.title, "text": p.text} for p in corpus)
    texts = {query: text for split in splits.values() for query, text in split.queries.items()}
    query_rows = ({"_id": query, "text": text} for query, text in texts.items())
    with new_folder(folder) as aside:
        _write_lines(aside / "corpus.jsonl", passage_rows)
        _write_lines(aside / "queries.jsonl", query_rows)
        write_text(aside / REQUEST, json.dumps(request) + "\n")
        (aside / "qrels").mkdir()
        for name, split in splits.items():
            _write_qrels(aside / "qrels" / f"{name}.tsv", split.qrels)


def _check_same(folder: Path, request: Mapping[str, object]) -> None:
    path = folder / REQUEST
    if not path.is_file():
        raise InputError(f"{folder}: does not say what it is a sample of; choose another --folder")
    if (existing := read_json(path)) != request:
        raise InputError(
            f"{folder}: a sample of {existing}, not of {request}; choose another --folder"
        )


def _part(split: Split, most: int, rng: np.random.Generator) -> Split:
    """At most `most` of the queries that have a relevant passage; 0: all."""
    names = sorted(query for query, grades in split.qrels.items() if max(grades.values()) > 0)
    drawn = [names[i] for i in sorted(rng.permutation(len(names))[: most or None].tolist())]
    return split.only(drawn)


def _corpus(
    collection: Collection, splits: Mapping[str, Split], size: int, rng: np.random.Generator
) -> Iterator[Passage]:
    """The judged passages and as many others as fit, in the collection's order."""
    ids = {pid for split in splits.values() for grades in split.qrels.values() for pid in grades}
    for row in rng.permutation(len(collection.passages)).tolist():
        if size and len(ids) >= size:
            break
        ids.add(collection.passages[row].id)
    return (passage for passage in collection.passages if passage.id in ids)


def _write_lines(path: Path, rows: Iterable[object]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    lines = ["query-id\tcorpus-id\tscore\n"]
    lines += [
        f"{query}\t{pid}\t{grade}\n"
        for query, grades in qrels.items()
        for pid, grade in grades.items()
    ]
    write_text(path, "".join(lines))
