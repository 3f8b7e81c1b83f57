"""Vectors in fewer bits, a scale for each: x ~ scale * code, and what that costs in recall.

    int8     code = round(x / scale),  scale = max |x| / 127      D + 4 bytes
    binary   code = sign(x), 0 as -1,  scale = |x|^2 / sum |x|    D / 8 + 4 bytes

A vector's scale depends on that vector alone: nothing is learned from the corpus first, so that
workers need not agree on anything and a stopped encode resumes as with other types. Search computes
with codes and a query in int8, whose products are exact integers, and then scores the best
candidates again with the query as it is. docs/speed.md has what other choices give.

While a shard's vectors are at hand in float32, the best of it for a sample of queries are kept
beside it: the recall of the finished index is measured against them.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from rocketjax.runtime.files import is_empty, map_npy, write_npy

Quantised: TypeAlias = Literal["int8", "binary"]
SAMPLE = "sample.npy"  # the queries [S, D] on which recall is measured, written before all else
MEASURED = 100  # recall is of this many passages
_ROWS = 8_192  # whose scores for the sample are in memory at once
_TINY = float(np.finfo(np.float32).tiny)


class Codes(NamedTuple):
    """n vectors; numpy's arrays, or jax's on the devices."""

    codes: Any  # int8 [n, D], or uint8 [n, D / 8 rounded up], the first number's bit highest
    scales: Any  # float32 [n]


def is_quantised(dtype: str) -> TypeGuard[Quantised]:
    """Whether vectors of this type are stored as codes."""
    return dtype in ("int8", "binary")


def code_width(width: int, dtype: str) -> int:
    """Bytes of the code of a vector of `width` numbers."""
    return -(-width // 8) if dtype == "binary" else width


def quantise(vectors: np.ndarray, dtype: Quantised) -> Codes:
    """Codes and scales of vectors [n, D]; numbers that are not finite give a scale that is not."""
    vectors = vectors.astype(np.float32)
    size = np.abs(vectors)
    if dtype == "binary":
        total = size.sum(axis=1)
        scales = np.square(size).sum(axis=1) / np.maximum(total, _TINY)
        return Codes(np.packbits(vectors > 0, axis=1), scales)
    scales = size.max(axis=1) / np.float32(127)
    with np.errstate(invalid="ignore"):
        codes = np.rint(vectors / np.maximum(scales, _TINY)[:, None])
    return Codes(np.nan_to_num(codes).clip(-127, 127).astype(np.int8), scales)


def dequantise(stored: Codes, width: int) -> np.ndarray:
    """The vectors [n, D] that codes stand for, float32."""
    return signs(stored.codes, width).astype(np.float32) * stored.scales[:, None]


def signs(codes: np.ndarray, width: int) -> np.ndarray:
    """Codes as int8 numbers [n, D]: those of int8 as they are, bits as +1 and -1."""
    if codes.dtype == np.int8:
        return codes
    return (2 * np.unpackbits(codes, axis=1, count=width).astype(np.int8) - 1).astype(np.int8)


# ---- recall, measured


def keep_sample(folder: Path, queries: np.ndarray) -> None:
    """Writes the sample into a folder that is going to hold quantised vectors, if it is new.

    A sample alone, which a killed encode left, may be of another model: it is written again.
    """
    if is_empty(folder, but=SAMPLE):
        folder.mkdir(parents=True, exist_ok=True)
        write_npy(folder / SAMPLE, queries.astype(np.float32))


def keep_best(folder: Path, path: Path, first: int, vectors: np.ndarray) -> None:
    """Writes the best rows of a shard for the sample, and their scores, [2, S, k] float64.

    Args:
        folder: with the sample; without one, nothing is written.
        path: of the file.
        first: the row of the shard's first vector in the corpus.
        vectors: the shard's [n, D], before they are quantised.
    """
    if not (folder / SAMPLE).is_file():
        return
    queries = np.array(map_npy(folder / SAMPLE))
    best = np.empty((2, len(queries), 0))
    for start in range(0, len(vectors), _ROWS):
        scores = queries @ vectors[start : start + _ROWS].astype(np.float32).T
        rows = np.broadcast_to(
            np.arange(first + start, first + start + scores.shape[1]), scores.shape
        )
        best = _best(np.concatenate([best, np.stack([rows, scores])], axis=2))
    write_npy(path, best)


def exact_best(paths: list[Path], top_k: int) -> np.ndarray:
    """The sample's best rows [S, top_k] of all shards in float32."""
    best = np.concatenate([map_npy(path) for path in paths], axis=2)
    return _best(best)[0, :, :top_k].astype(np.int64)


def _best(found: np.ndarray) -> np.ndarray:
    """The first `MEASURED` of (rows, scores) [2, S, n] by score, ties to the lower row."""
    order = np.argsort(-found[1], axis=1, kind="stable")[:, :MEASURED]
    return np.take_along_axis(found, order[None], axis=2)
