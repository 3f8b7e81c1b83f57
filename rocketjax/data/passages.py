"""Passages, in memory or as a memory-mapped folder, so that millions of them take no memory.

    passages.arrow   id, title, text: one row per passage, in the order of the corpus
    hashes.npy       a 64-bit hash of each id, sorted
    rows.npy         the row of each of these hashes

Reading touches only the pages it needs. Only Arrow's metadata stays in memory, a few hundred bytes
for each batch of 16,384 passages; pages that were read stay cached until the operating system needs
the memory for something else.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import map_npy

ROWS = 16_384  # in an Arrow record batch
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "title", "text")])
FILES = ("passages.arrow", "hashes.npy", "rows.npy")


class Passage(NamedTuple):
    """One unit of retrieval. `title` may be empty."""

    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """Title and text joined, as models read them."""
        return f"{self.title} {self.text}".strip()


class StoredPassages(Sequence[Passage]):
    """The passages of a folder, by position. Safe to share between threads."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Maps the files of `folder` into memory.

        Raises:
            OSError: a file is missing.
            ValueError: a file is damaged, or the files do not belong together.
        """
        self.folder = folder
        passages, hashes, rows = (folder / name for name in FILES)
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(passages))).read_all()
            self._table.validate()
        except pa.ArrowException as error:  # not always a ValueError
            raise ValueError(f"{passages}: damaged: {error}") from error
        self.fingerprint = fingerprint
        self.by_id = PassagesById(self, map_npy(hashes), map_npy(rows))
        shape = (len(self),)
        kinds = ((shape, np.uint64), (shape, np.uint32))
        if self._table.schema != SCHEMA or kinds != tuple(
            (part.shape, part.dtype) for part in (self.by_id.hashes, self.by_id.rows)
        ):
            raise ValueError(f"{folder}: the passages do not match their index")

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, at: int) -> Passage: ...
    @overload
    def __getitem__(self, at: slice) -> list[Passage]: ...
    def __getitem__(self, at: int | slice) -> Passage | list[Passage]:
        if isinstance(at, int):
            at = range(len(self))[at]  # resolves negative positions, raises IndexError
            return Passage(*(column[0].as_py() for column in self._part(at, 1).columns))
        start, stop, step = at.indices(len(self))
        if step != 1:
            return [self[i] for i in range(start, stop, step)]
        part = self._part(start, max(stop - start, 0))
        return list(map(Passage, *(column.to_pylist() for column in part.columns)))

    def _part(self, start: int, count: int) -> pa.Table:
        """Rows, validated first: with damaged offsets Arrow would read anywhere in memory."""
        part = self._table.slice(start, count)
        try:
            part.validate(full=True)
        except pa.ArrowException as error:
            raise InputError(f"{self.folder}: damaged: {error}; delete the folder") from error
        return part

    def __iter__(self) -> Iterator[Passage]:
        for start in range(0, len(self), ROWS):
            yield from self[start : start + ROWS]


class PassagesById(Mapping[str, Passage]):
    """Stored passages by id: finds the id's hash by bisection, then compares the id itself."""

    def __init__(self, passages: StoredPassages, hashes: np.ndarray, rows: np.ndarray) -> None:
        self.passages, self.hashes, self.rows = passages, hashes, rows

    def __getitem__(self, pid: str) -> Passage:
        wanted = id_hash(pid)
        at = int(np.searchsorted(self.hashes, wanted))
        while at < len(self.hashes) and self.hashes[at] == wanted:
            row = int(self.rows[at])
            if row >= len(self):
                raise InputError(f"{self.passages.folder}: damaged: row {row}; delete the folder")
            passage = self.passages[row]
            if passage.id == pid:
                return passage
            at += 1
        raise KeyError(pid)

    def __iter__(self) -> Iterator[str]:
        return (passage.id for passage in self.passages)

    def __len__(self) -> int:
        return len(self.passages)

    def values(self) -> ValuesView[Passage]:
        """The passages in the order of the corpus, read one after the other: no id is looked up."""
        return _InOrder(self)


class _InOrder(ValuesView[Passage]):
    def __init__(self, by_id: PassagesById) -> None:
        super().__init__(by_id)
        self._passages = by_id.passages

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._passages)


class InMemory(Sequence[Passage]):
    """A few passages in a Python list, by position. Their ids must be unique."""

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
        """The passages by id."""
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
    """A 64-bit hash of a passage id."""
    digest = hashlib.blake2b(pid.encode(errors="surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
