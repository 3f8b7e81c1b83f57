"""A part of a collection that a small machine can train and judge on, as a BEIR folder."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rocketjax.data.collection import Collection, Split
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, read_json, write_text

REQUEST = "request.json"  # what a sample is of


def write_sample(
    collection: Collection, folder: Path, train: int, held_out: int, passages: int, seed: int
) -> None:
    """Writes splits train and dev of some judged queries, and a corpus that holds their passages.

    All passages that are judged for them are in the corpus; others are drawn until there are
    `passages`. A smaller corpus is easier to search: figures are to be compared with each other
    only. A size of 0 is all there are. A folder that is there stays.

    Raises:
        InputError: the collection lacks a split train or dev, or the folder holds another sample.
    """
    request = {"train": train, "held_out": held_out, "passages": passages, "seed": seed}
    request |= {"collection": collection.fingerprint}
    if folder.is_dir():
        path = folder / REQUEST
        if not path.is_file():
            raise InputError(f"{folder}: does not say what sample it is; choose another --folder")
        if (found := read_json(path)) != request:
            raise InputError(
                f"{folder}: a sample of {found}, not of {request}; choose another --folder"
            )
        return
    rng = np.random.default_rng(seed)
    parts = {
        name: _part(collection.split(name), most, rng)
        for name, most in (("train", train), ("dev", held_out))
    }
    wanted = {pid for part in parts.values() for judged in part.qrels.values() for pid in judged}
    rows = range(len(collection.passages))
    for row in rng.permutation(len(rows)).tolist():
        if passages and len(wanted) >= passages:
            break
        wanted.add(collection.passages[row].id)
    with new_folder(folder) as aside:
        # In the collection's order, so that the same passages make the same rows.
        found = (passage for passage in collection.passages if passage.id in wanted)
        corpus = ({"_id": p.id, "title": p.title, "text": p.text} for p in found)
        _write_lines(aside / "corpus.jsonl", corpus)
        texts = {query: text for part in parts.values() for query, text in part.queries.items()}
        queries = ({"_id": query, "text": text} for query, text in texts.items())
        _write_lines(aside / "queries.jsonl", queries)
        write_text(aside / REQUEST, json.dumps(request) + "\n")
        (aside / "qrels").mkdir()
        for name, part in parts.items():
            _write_qrels(aside / "qrels" / f"{name}.tsv", part.qrels)


def _part(split: Split, most: int, rng: np.random.Generator) -> Split:
    names = sorted(query for query, judged in split.qrels.items() if max(judged.values()) > 0)
    drawn = [names[i] for i in sorted(rng.permutation(len(names))[: most or None].tolist())]
    return split.only(drawn)


def _write_lines(path: Path, rows: object) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))  # pyright: ignore


def _write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    lines = ["query-id\tcorpus-id\tscore\n"]
    lines += [
        f"{query}\t{pid}\t{grade}\n"
        for query, judged in qrels.items()
        for pid, grade in judged.items()
    ]
    write_text(path, "".join(lines))
