"""A corpus as vectors on disk: memory-mapped shards, the passages' ids, and a manifest.

    manifest.json     what the folder holds, or is going to hold: written first
    00000.npy         the first `shard` passages' vectors [shard, D]
    00000.ids.npy     their ids, UTF-8 bytes
    00000.scales.npy  of int8 and binary vectors (quantised.py), whose codes 00000.npy then holds
    00000.best.npy    of those, too: which are the best for sample.npy, some queries, in float32
    exact.json        of those, too: how they are searched (open.py)
    00001.npy         ...

A shard appears whole, its vectors last, so a folder whose making was stopped has whole shards and
no others. bfloat16, which numpy's files do not know, is stored as uint16.
"""

import dataclasses
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import ml_dtypes
import numpy as np
import pydantic

from rocketjax.retrieval.quantised import (
    SAMPLE,
    Codes,
    code_width,
    dequantise,
    exact_best,
    is_quantised,
    keep_best,
    quantise,
)
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import map_npy, read_json, valid, write_json, write_npy

MANIFEST = "manifest.json"

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "binary": np.dtype(np.uint8),  # eight numbers each
}


class Origin(NamedTuple):
    """Which model made vectors, and of which collection: hashes tell, names are for people."""

    model: str
    model_hash: str
    collection: str
    collection_hash: str


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Manifest:
    """What a folder of vectors holds; vectors of two equal manifests are interchangeable."""

    model: str  # where the model was, for people to read
    model_hash: str  # what it computes with: parameters, tokenizer, lengths, pooling
    collection: str
    collection_hash: str
    passages: Annotated[int, pydantic.Field(ge=1, lt=2**31)]  # rows are int32
    width: Annotated[int, pydantic.Field(ge=1, lt=2**31)]
    dtype: Literal["float32", "float16", "bfloat16", "int8", "binary"]
    shard: Annotated[int, pydantic.Field(ge=1, lt=2**62)]  # passages in a shard, but for the last

    @property
    def shards(self) -> int:
        """How many shards the passages fill."""
        return -(-self.passages // self.shard)

    def rows(self, shard: int) -> range:
        """The rows of the corpus that a shard holds."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.passages))


def read_manifest(folder: Path) -> Manifest:
    """Raises InputError where there is none, or a damaged one."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder}: no vectors here ({MANIFEST} is missing); make them with "
            "python -m rocketjax.encode"
        )
    return valid(Manifest, read_json(path), path, "encode the corpus again")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Makes the folder, and records in it what it will hold."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))  # pyright: ignore


def has_shard(folder: Path, shard: int) -> bool:
    """Whether a shard is there (and then whole)."""
    return _shard_path(folder, shard).is_file()


def write_shard(folder: Path, shard: int, ids: list[str], vectors: np.ndarray) -> None:
    """Vectors [n, D] of any float type and their passages' ids, stored as the manifest says.

    Raises:
        InputError: an id that cannot be stored, or a vector that is not finite in that type.
    """
    manifest = read_manifest(folder)
    dtype = DTYPES[manifest.dtype]
    encoded = [pid.encode() for pid in ids]
    for pid in encoded:
        if not pid or pid.endswith(b"\0"):
            raise InputError(f"passage id {pid!r}: empty, or ends in a NUL; rename it")
    codes = None
    with np.errstate(over="ignore", invalid="ignore"):
        if is_quantised(manifest.dtype):
            codes = quantise(vectors, manifest.dtype)
            stored, finite = codes.codes, np.isfinite(codes.scales)
        else:
            stored = vectors.astype(dtype)
            finite = np.isfinite(stored).all(axis=1)
    if not finite.all():
        raise InputError(
            f"passage {ids[int(np.argmin(finite))]}: its vector is not finite in {manifest.dtype}; "
            "take --index.dtype float32, or, if it is not finite there either, sound weights"
        )
    write_npy(folder / f"{shard:05d}.ids.npy", np.array(encoded))
    if dtype == ml_dtypes.bfloat16:
        stored = stored.view(np.uint16)
    if codes is not None:
        write_npy(folder / f"{shard:05d}.scales.npy", codes.scales)
        best = folder / f"{shard:05d}.best.npy"
        keep_best(folder, best, manifest.rows(shard).start, vectors)
    write_npy(_shard_path(folder, shard), stored)


class Vectors:
    """An encoded corpus, opened: N vectors of width D, in the order of the collection."""

    def __init__(self, folder: Path) -> None:
        """Maps the shards; reads only the ids.

        Raises:
            InputError: no vectors, unfinished ones, or a shard that is not what the manifest says.
        """
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._refuse_missing()
        shards = [self._open(i) for i in range(self.manifest.shards)]
        self._shards = [vectors for _, vectors in shards]
        # One id more, "", stands where row -1 leads.
        self._ids: np.ndarray = np.concatenate([*(ids for ids, _ in shards), np.array([b""])])
        self.ids: np.ndarray = self._ids[:-1]  # [N] bytes
        self.dtype = DTYPES[self.manifest.dtype]
        self.quantised = is_quantised(self.manifest.dtype)
        # Of vectors that are not quantised, nothing.
        self._scales = self._all_scales() if self.quantised else np.empty(0, np.float32)

    def __len__(self) -> int:
        return self.manifest.passages

    @property
    def width(self) -> int:
        """D."""
        return self.manifest.width

    @property
    def row_bytes(self) -> int:
        """Of a vector as it is stored, and searched."""
        stored = code_width(self.width, self.manifest.dtype) * self.dtype.itemsize
        return stored + self.quantised * self._scales.itemsize

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Vectors [stop - start, D] of rows start .. stop - 1: in the stored type, or float32 where
        they are quantised."""
        if self.quantised:
            return dequantise(self.codes(start, stop), self.width)
        return self._stored(start, stop)

    def codes(self, start: int, stop: int) -> Codes:
        """The codes and scales of those rows, of quantised vectors."""
        return Codes(self._stored(start, stop), self._scales[start:stop])

    def codes_at(self, rows: np.ndarray) -> Codes:
        """The codes and scales of any rows [n], of quantised vectors."""
        codes = np.empty((len(rows), self._shards[0].shape[1]), self.dtype)
        shards, places = np.divmod(rows, self.manifest.shard)
        for shard in np.unique(shards):
            own = shards == shard
            codes[own] = self._shards[shard][places[own]]
        return Codes(codes, self._scales[rows])

    def exact_best(self, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample's queries [S, D] and their best rows [S, top_k] before vectors were quantised.

        Where `unmeasured` names nothing. `top_k` at most `MEASURED`.
        """
        best = exact_best(self._best_files(), top_k)
        return np.array(map_npy(self.folder / SAMPLE)), best

    def unmeasured(self) -> list[str]:
        """The files that are missing of those that `exact_best` reads."""
        wanted = [self.folder / SAMPLE, *self._best_files()]
        return [path.name for path in wanted if not path.is_file()]

    def _best_files(self) -> list[Path]:
        return [self.folder / f"{i:05d}.best.npy" for i in range(self.manifest.shards)]

    def _stored(self, start: int, stop: int) -> np.ndarray:
        size = self.manifest.shard
        pieces = [
            self._shards[i][max(start - i * size, 0) : stop - i * size]
            for i in range(start // size, -(-stop // size))
        ]
        return np.concatenate(pieces).view(self.dtype) if pieces else self._empty()

    def in_float32(self) -> np.ndarray:
        """All vectors [N, D], copied shard by shard: no second copy of that size is made."""
        whole = np.empty((len(self), self.width), np.float32)
        for number, shard in enumerate(self._shards):
            rows = self.manifest.rows(number)
            whole[rows.start : rows.stop] = (
                self.rows(rows.start, rows.stop) if self.quantised else shard.view(self.dtype)
            )
        return whole

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Passage ids (str) of rows of any shape; row -1, "nothing found", has the id ""."""
        ids = self._ids[rows]
        if self._ascii:  # 50 times as fast as decoding: every byte is its character's number
            numbers = ids.reshape(-1, 1).view(np.uint8).astype(np.uint32)
            return numbers.view(f"U{ids.dtype.itemsize}").reshape(rows.shape)
        try:
            return np.char.decode(ids, "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.folder}: passage ids: {error}; encode again") from error

    @cached_property
    def _ascii(self) -> bool:
        return not len(self) or bool(self.ids.view(np.uint8).max() < 128)

    def _empty(self) -> np.ndarray:
        return np.empty((0, code_width(self.width, self.manifest.dtype)), self.dtype)

    def _all_scales(self) -> np.ndarray:
        """[N] float32, read into memory, as ids are."""
        parts = []
        for shard in range(self.manifest.shards):
            path, count = self.folder / f"{shard:05d}.scales.npy", len(self.manifest.rows(shard))
            scales = map_npy(path)
            if scales.shape != (count,) or scales.dtype != np.float32:
                raise InputError(f"{path}: not the scales of {count} passages; encode again")
            parts.append(np.array(scales))
        return np.concatenate(parts)

    def _refuse_missing(self) -> None:
        """A manifest may promise more shards than could be looked for one by one."""
        there = {path.name for path in self.folder.iterdir()}
        names = (_shard_path(self.folder, i).name for i in range(self.manifest.shards))
        first = next((name for name in names if name not in there), None)
        if first is None:
            return
        numbers = [int(name[:-4]) for name in there if re.fullmatch(r"[0-9]{5,18}\.npy", name)]
        count = self.manifest.shards - sum(number < self.manifest.shards for number in numbers)
        raise InputError(
            f"{self.folder}: {count} of {self.manifest.shards} shards are missing (the first is "
            f"{first}); run the same encode again, it resumes"
        )

    def _open(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        path = _shard_path(self.folder, shard)
        count = len(self.manifest.rows(shard))
        try:
            ids, vectors = map_npy(path.with_suffix(".ids.npy")), map_npy(path)
        except InputError as error:
            raise InputError(f"{error}; delete the shard's files and encode again") from error
        stored = DTYPES[self.manifest.dtype]
        if stored == ml_dtypes.bfloat16:
            stored = np.dtype(np.uint16)
        wanted = (count, code_width(self.manifest.width, self.manifest.dtype))
        if vectors.shape != wanted or vectors.dtype != stored:
            raise InputError(
                f"{path}: holds {vectors.dtype} {vectors.shape}, but {MANIFEST} says "
                f"{stored} {wanted}; delete it and encode again"
            )
        if ids.shape != (count,) or ids.dtype.kind != "S":
            raise InputError(f"{path.with_suffix('.ids.npy')}: not the ids of {count} passages")
        return np.array(ids), vectors


class Shortened(Vectors):
    """The same corpus with vectors of their first numbers: what a retriever cut to that width gives
    (models/bi_encoder.py), but for the rounding of what is stored. Rows are float32."""

    def __init__(self, whole: Vectors, width: int, normalize: bool) -> None:
        """Reads and copies nothing. `normalize`: vectors are scaled to length 1 after the cut."""
        vars(self).update(vars(whole), quantised=False, dtype=DTYPES["float32"])
        self._whole, self._width, self._normalize = whole, width, normalize

    @property
    def width(self) -> int:
        """Of the vectors that are left."""
        return self._width

    @property
    def row_bytes(self) -> int:
        """Of a vector as it is searched."""
        return 4 * self._width

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Vectors [stop - start, width] float32."""
        rows = self._whole.rows(start, stop)[:, : self._width].astype(np.float32)
        if not self._normalize:
            return rows
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.npy"


def sweep(folder: Path, shards: Iterable[int]) -> None:
    """Removes what a killed writer of these shards left aside; others may be at work on theirs."""
    for shard in shards:
        for path in folder.glob(f".{shard:05d}.*npy.*"):
            path.unlink(missing_ok=True)
