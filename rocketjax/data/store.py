"""The cache of corpora: each is parsed once and stored as memory-mapped Arrow (data/passages.py).

The key is the paths, sizes and modification times of a corpus' files. The cache is
~/.cache/rocketjax unless ROCKETJAX_CACHE or XDG_CACHE_HOME says otherwise, and may be deleted at
any time. A corpus takes about the size of its texts, plus twelve bytes for each passage.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rocketjax.data.lines import BadRows, Policy
from rocketjax.data.passages import (
    FILES,
    ROWS,
    SCHEMA,
    Passage,
    StoredPassages,
    fingerprint,
    id_hash,
)
from rocketjax.runtime.errors import InputError, writing
from rocketjax.runtime.files import cache_folder, read_json

# Of the parsers: raised when one of them makes different passages of the same file, so that what
# earlier ones stored is not used.
_VERSION = 3

Read = Callable[[BadRows], Iterator[tuple[str, Passage]]]  # yields places and passages


class Stored(NamedTuple):
    """A stored corpus, and `BadRows.notes` on the rows that were left out of it."""

    passages: StoredPassages
    notes: list[str]


def store(
    name: str, source: Sequence[Any], read: Read, policy: Policy, merge: bool = False
) -> Stored:
    """Returns the passages that `read` yields, from the cache if they are there.

    Args:
        name: of the corpus, for error messages.
        source: everything the passages depend on: paths (with their size and time) and values.
        read: may be called twice, the second time to find the places of duplicate ids.
        policy: "skip" leaves out bad rows, and all but the first of several passages with one id.
        merge: allows duplicates of a passage with the same title and text.

    Raises:
        InputError: as for `read`, or there is a duplicate id or no passage at all.
    """
    folder = cache_folder() / _key([_VERSION, policy, merge, *source])
    stored = _open(folder)
    if stored is None:
        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        try:
            with writing(folder):
                folder.parent.mkdir(parents=True, exist_ok=True)
                if not _write(aside, read, BadRows(policy), merge):
                    raise InputError(f"{name}: the corpus is empty")
                _put(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        stored = _open(folder)
        if stored is None:
            raise InputError(f"{folder}: cannot be read; set ROCKETJAX_CACHE to another folder")
    return stored


def notes_on_duplicates(notes: Sequence[str]) -> list[str]:
    """The notes on files that have duplicate ids.

    Training rows are read once for the corpus and again for their splits, which count bad rows
    themselves but do not notice duplicates.
    """
    # The second is what caches of earlier versions say.
    return [note for note in notes if ": duplicate " in note or "stands twice" in note]


def _key(source: Sequence[Any]) -> str:
    """A hash of files, by path, size and time, and of other values."""
    parts = []
    for part in source:
        if isinstance(part, Path):
            status = part.stat()
            part = [str(part.resolve()), status.st_size, status.st_mtime_ns]
        parts.append(part)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _open(folder: Path) -> Stored | None:
    """Opens a cached corpus; None if it is missing or damaged and has to be stored again."""
    try:
        manifest = read_json(folder / "manifest.json")
        fingerprint, notes = str(manifest["fingerprint"]), list(map(str, manifest["notes"]))
        return Stored(StoredPassages(folder, fingerprint), notes)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _put(aside: Path, folder: Path) -> None:
    """Renames the folder, unless another process has stored the same corpus meanwhile."""
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _write(folder: Path, read: Read, bad: BadRows, merge: bool) -> int:
    """Writes the folder and returns its number of passages; stops halfway if there are none."""
    folder.mkdir()
    hashes = _write_rows(folder, read(bad))
    if not len(hashes):
        return 0
    order = np.argsort(hashes, kind="stable").astype(np.uint32)
    duplicates = _find_duplicates(folder, hashes, order)
    if duplicates:
        rejected = [pair for pair in duplicates if not (merge and pair.same)]
        _reject(read, bad, rejected, "the texts differ" if merge else "ids must be unique")
        hashes = _remove_rows(folder, hashes, {pair.row for pair in duplicates})
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
    np.save(folder / "hashes.npy", hashes[order])
    np.save(folder / "rows.npy", order)
    manifest = {"fingerprint": fingerprint(StoredPassages(folder, "")), "notes": bad.notes()}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return len(hashes)


def _write_rows(folder: Path, rows: Iterator[tuple[str, Passage]]) -> np.ndarray:
    """Writes passages.arrow and returns the hashes of the ids, [rows] uint64."""
    hashes = array("Q")
    with pa.OSFile(str(folder / FILES[0]), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        while part := [passage for _, passage in islice(rows, ROWS)]:
            hashes.extend(int(id_hash(passage.id)) for passage in part)
            writer.write_batch(pa.record_batch(list(map(list, zip(*part, strict=True))), SCHEMA))
    return np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)


class _Duplicate(NamedTuple):
    """Two rows with one id."""

    first: int
    row: int
    same: bool  # title and text are equal


def _find_duplicates(folder: Path, hashes: np.ndarray, order: np.ndarray) -> list[_Duplicate]:
    """Every row, in order, whose id an earlier row has."""
    ordered = hashes[order]
    equal = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(equal):
        return []
    np.save(folder / "hashes.npy", ordered)
    np.save(folder / "rows.npy", order)
    passages = StoredPassages(folder, "")
    duplicates = []
    firsts: dict[str, int] = {}  # by id, since different ids can have the same hash
    for at in sorted({*order[equal].tolist(), *order[equal + 1].tolist()}):
        passage = passages[at]
        first = firsts.setdefault(passage.id, at)
        if first != at:
            duplicates.append(_Duplicate(first, at, passages[first] == passage))
    return duplicates


def _reject(read: Read, bad: BadRows, duplicates: Sequence[_Duplicate], rule: str) -> None:
    """Rejects duplicates by their places.

    Reads the corpus again for these: duplicates are rare, and storing the place of every passage
    would slow down the corpora that have none.
    """
    wanted = {row for pair in duplicates for row in (pair.first, pair.row)}
    rows = enumerate(read(BadRows(bad.policy))) if wanted else ()
    places = {row: (place, passage.id) for row, (place, passage) in rows if row in wanted}
    for pair in duplicates:
        place, pid = places[pair.row]
        bad.reject(place, f"id: duplicate {pid!r} (first at {places[pair.first][0]}); {rule}")


def _remove_rows(folder: Path, hashes: np.ndarray, rows: set[int]) -> np.ndarray:
    """Rewrites passages.arrow without these rows; returns the hashes of the others."""
    old, new = folder / FILES[0], folder / f"{FILES[0]}.new"
    keep = np.ones(len(hashes), bool)
    keep[list(rows)] = False
    with pa.memory_map(str(old)) as source, pa.OSFile(str(new), "wb") as file:
        reader, at = pa.ipc.open_file(source), 0
        with pa.ipc.new_file(file, SCHEMA) as writer:
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                writer.write_batch(batch.filter(pa.array(keep[at : at + len(batch)])))
                at += len(batch)
    new.replace(old)
    return hashes[keep]
