"""A corpus' files to memory-mapped Arrow, once: kept in a cache, by the files' size and time.

The cache is ~/.cache/rocketjax, or what the environment's ROCKETJAX_CACHE or XDG_CACHE_HOME say;
it may be deleted at any time. A corpus takes there about the room that its texts have, and twelve
bytes more for each passage.
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

_VERSION = 2  # of what a reader makes of a file: a later one does not take up what this one stored


Read = Callable[[BadRows], Iterator[tuple[str, Passage]]]  # places and passages


class Stored(NamedTuple):
    """A corpus, and a line for each file of which rows were left out."""

    passages: StoredPassages
    notes: list[str]


def store(
    name: str, source: Sequence[Any], read: Read, policy: Policy, merge: bool = False
) -> Stored:
    """The passages that `read` yields, from the cache where they are there.

    Args:
        name: of the corpus, for error messages.
        source: what they hang on: paths (taken with size and time) and values.
        read: may be called again, to find the places of passages of one id.
        policy: "skip" leaves bad rows out, and of several passages with one id all but the first.
        merge: a passage may stand many times, if it says the same.

    Raises:
        InputError: what `read` raises, an id that stands twice, or no passage at all.
    """
    folder = cache_folder() / _key([_VERSION, policy, merge, *source])
    found = _open(folder)
    if found is None:
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
        found = _open(folder)
        if found is None:
            raise InputError(f"{folder}: cannot be read; set ROCKETJAX_CACHE to another folder")
    return found


def _key(source: Sequence[Any]) -> str:
    """Files by their path, size and time; other values as they are."""
    parts = []
    for part in source:
        if isinstance(part, Path):
            status = part.stat()
            part = [str(part.resolve()), status.st_size, status.st_mtime_ns]
        parts.append(part)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _open(folder: Path) -> Stored | None:
    """None where it is not there, or damaged: the corpus is then read again."""
    try:
        manifest = read_json(folder / "manifest.json")
        fingerprint, notes = str(manifest["fingerprint"]), list(map(str, manifest["notes"]))
        return Stored(StoredPassages(folder, fingerprint), notes)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _put(aside: Path, folder: Path) -> None:
    """Gives the folder its name; another process may have been faster with the same."""
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _write(folder: Path, read: Read, bad: BadRows, merge: bool) -> int:
    """Fills the folder; returns how many passages it holds. With none it is left unfinished."""
    folder.mkdir()
    hashes = _write_rows(folder, read(bad))
    if not len(hashes):
        return 0
    order = np.argsort(hashes, kind="stable").astype(np.uint32)
    again = _again(folder, hashes, order, merge)
    if again:
        wrong = [(first, second) for first, second, same in again if not (merge and same)]
        _complain(read, bad, wrong, "with another text" if merge else "ids must be unique")
        hashes = _without(folder, hashes, {second for _, second, _ in again})
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
    np.save(folder / "hashes.npy", hashes[order])
    np.save(folder / "rows.npy", order)
    manifest = {"fingerprint": fingerprint(StoredPassages(folder, "")), "notes": bad.notes()}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return len(hashes)


def _write_rows(folder: Path, rows: Iterator[tuple[str, Passage]]) -> np.ndarray:
    """Writes passages.arrow; returns the ids' hashes."""
    hashes = array("Q")
    with pa.OSFile(str(folder / FILES[0]), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        while part := [passage for _, passage in islice(rows, ROWS)]:
            hashes.extend(int(id_hash(passage.id)) for passage in part)
            writer.write_batch(pa.record_batch(list(map(list, zip(*part, strict=True))), SCHEMA))
    return np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)


def _again(
    folder: Path, hashes: np.ndarray, order: np.ndarray, merge: bool
) -> list[tuple[int, int, bool]]:
    """Rows of one id: the first, a further one, and whether both say the same."""
    ordered = hashes[order]
    equal = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(equal):
        return []
    np.save(folder / "hashes.npy", ordered)
    np.save(folder / "rows.npy", order)
    passages = StoredPassages(folder, "")
    again = []
    firsts: dict[str, int] = {}  # by id, as one hash may be that of two
    for at in sorted({*order[equal].tolist(), *order[equal + 1].tolist()}):
        passage = passages[at]
        first = firsts.setdefault(passage.id, at)
        if first != at:
            again.append((first, at, merge and passages[first] == passage))
    return again


def _complain(read: Read, bad: BadRows, wrong: Sequence[tuple[int, int]], rule: str) -> None:
    """Reads once more for the places: a fault that few corpora have must not cost them all."""
    wanted = {row for pair in wrong for row in pair}
    rows = enumerate(read(BadRows(bad.policy))) if wanted else ()
    places = {row: (place, passage.id) for row, (place, passage) in rows if row in wanted}
    for first, second in sorted(wrong, key=lambda pair: pair[1]):
        place, pid = places[second]
        bad.found(place, f"id: {pid!r} stands twice (first at {places[first][0]}); {rule}")


def _without(folder: Path, hashes: np.ndarray, rows: set[int]) -> np.ndarray:
    """Writes passages.arrow anew without some rows; returns the hashes of those that stay."""
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
