"""Passages, and a corpus of them on disk: memory-mapped Arrow, so that millions take no memory.

    passages.arrow   id, title, text: a row a passage, in the corpus' order
    hashes.npy       64 bits of each id's hash, sorted
    rows.npy         the row that each of them stands for

Reading touches only the pages it needs. What stays in memory is what Arrow knows of its batches, a
few hundred bytes for 16,384 passages; the operating system keeps pages that were read as long as
nothing else wants the memory.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import map_npy

ROWS = 16_384  # in a batch of Arrow


SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "title", "text")])


FILES = ("passages.arrow", "hashes.npy", "rows.npy")


class Passage(NamedTuple):
    """One unit of retrieval. `title` may be empty."""

    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """Title and text as one, as models read them."""
        return f"{self.title} {self.text}".strip()


class StoredPassages(Sequence[Passage]):
    """A folder's passages by position. Safe to share between threads."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Maps the files of `folder` into memory.

        Raises:
            OSError, ValueError: a file is missing or damaged.
        """
        self.folder = folder
        passages, hashes, rows = (folder / name for name in FILES)
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(passages))).read_all()
            self._table.validate()
        except pa.ArrowException as error:  # not all of them are ValueErrors
            raise ValueError(f"{passages}: damaged: {error}") from error
        self.fingerprint = fingerprint
        self.by_id = PassagesById(self, map_npy(hashes), map_npy(rows))
        shape = (len(self),)
        kinds = ((shape, np.uint64), (shape, np.uint32))
        if self._table.schema != SCHEMA or kinds != tuple(
            (part.shape, part.dtype) for part in (self.by_id.hashes, self.by_id.rows)
        ):
            raise ValueError(f"{folder}: passages and their index do not fit")

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, at: int) -> Passage: ...
    @overload
    def __getitem__(self, at: slice) -> list[Passage]: ...
    def __getitem__(self, at: int | slice) -> Passage | list[Passage]:
        if isinstance(at, int):
            at = range(len(self))[at]  # negative ones, and IndexError
            return Passage(*(column[0].as_py() for column in self._part(at, 1).columns))
        start, stop, step = at.indices(len(self))
        if step != 1:
            return [self[i] for i in range(start, stop, step)]
        part = self._part(start, max(stop - start, 0))
        return list(map(Passage, *(column.to_pylist() for column in part.columns)))

    def _part(self, start: int, count: int) -> pa.Table:
        """Some rows, held against what Arrow expects: damaged offsets lead anywhere in memory."""
        part = self._table.slice(start, count)
        try:
            part.validate(full=True)
        except pa.ArrowException as error:
            raise InputError(f"{self.folder}: damaged: {error}; delete that folder") from error
        return part

    def __iter__(self) -> Iterator[Passage]:
        for start in range(0, len(self), ROWS):
            yield from self[start : start + ROWS]


class PassagesById(Mapping[str, Passage]):
    """The same by id: a search among sorted hashes, then a look at the id itself."""

    def __init__(self, passages: StoredPassages, hashes: np.ndarray, rows: np.ndarray) -> None:
        self.passages, self.hashes, self.rows = passages, hashes, rows

    def __getitem__(self, pid: str) -> Passage:
        wanted = id_hash(pid)
        at = int(np.searchsorted(self.hashes, wanted))
        while at < len(self.hashes) and self.hashes[at] == wanted:
            row = int(self.rows[at])
            if row >= len(self):
                raise InputError(f"{self.passages.folder}: damaged: row {row}; delete that folder")
            passage = self.passages[row]
            if passage.id == pid:
                return passage
            at += 1
        raise KeyError(pid)

    def __iter__(self) -> Iterator[str]:
        return (passage.id for passage in self.passages)

    def __len__(self) -> int:
        return len(self.passages)


class InMemory(Sequence[Passage]):
    """A few passages, as a Python list. Their ids must be unique."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        self._passages = list(passages)

    def __len__(self) -> int:
        return len(self._passages)

    @overload
    def __getitem__(self, at: int) -> Passage: ...
    @overload
    def __getitem__(self, at: slice) -> list[Passage]: ...
    def __getitem__(self, at: int | slice) -> Passage | list[Passage]:
        return self._passages[at]

    @cached_property
    def by_id(self) -> Mapping[str, Passage]:
        """The same by id."""
        return {passage.id: passage for passage in self._passages}

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self._passages)


def fingerprint(passages: Iterable[Passage]) -> str:
    """A hash of every passage's id, title and text, in order: what an index was made from."""
    digest = hashlib.blake2b(digest_size=16)
    for passage in passages:
        for text in passage:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
    return digest.hexdigest()


def id_hash(pid: str) -> np.uint64:
    """64 bits of a passage id's hash."""
    digest = hashlib.blake2b(pid.encode(errors="surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
