"""Exact top-k by dot product on the accelerators, the corpus spread over all of them."""

import threading
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rocketjax.retrieval.index import check_search
from rocketjax.retrieval.vectors import Vectors
from rocketjax.runtime import processes
from rocketjax.runtime.devices import AXIS, refuse_forked
from rocketjax.runtime.errors import InputError

# Work is cut into blocks of one shape, whatever the number of devices: scores then do not depend
# on it, to the last bit. A block's scores take 256 x 8,192 x 4 bytes = 8 MiB.
QUERIES = 256
ROWS = 8_192
SHARE_OF_MEMORY = 0.6  # of a device, for the corpus; the models are there too
# Of many threads' searches: the corpus is placed once, and no device is asked for one search's
# part of a collective while another waits for a different one.
_one_at_a_time = threading.Lock()


class ExactIndex:
    """Compares every query with every passage. Each process gets the whole result.

    The corpus lies on the devices, in the type it is stored in, a part on each; every process reads
    only its devices' rows from the memory map. One that does not fit is streamed through them in
    pieces at every search, so search many queries at once then.
    """

    def __init__(
        self, vectors: Vectors, devices: list[Any] | None = None, memory: int | None = None
    ) -> None:
        """Places nothing yet.

        Args:
            devices: default all, of all processes.
            memory: bytes of each device that the corpus may take; default by its size, unbounded
                where the device does not know it (CPU).
        """
        self.vectors = vectors
        devices = devices or jax.devices()
        self._mesh = Mesh(np.array(devices), (AXIS,))
        most = processes.from_main(_memory) if memory is None else memory
        row = vectors.width * vectors.dtype.itemsize
        self._block, self._piece = cut(len(vectors), row, len(devices), most)
        self._resident: jax.Array | None = None

    def search(self, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index.search`; ties go to the passage that comes first in the corpus."""
        rows, scores = self.rows(queries, top_k)
        return self.vectors.names(rows), scores

    def rows(self, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """The same by row: rows [Q, top_k] int32 and scores [Q, top_k] float32."""
        check_search(queries, top_k, self.vectors)
        refuse_forked()
        with _one_at_a_time:
            rows, scores = self._rows(queries, few(top_k, len(self.vectors)))
        if (wrong := np.isnan(scores) | np.isposinf(scores)).any():  # they are sorted to the front
            raise InputError(
                f"{self.vectors.folder}: the vector of passage "
                f"{self.vectors.names(rows[wrong])[0]} is not finite, or too large; encode again"
            )
        return rows[:, :top_k], scores[:, :top_k]

    def _rows(self, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            np.pad(queries[i : i + QUERIES], ((0, max(0, QUERIES - len(queries[i:]))), (0, 0)))
            for i in range(0, len(queries), QUERIES)
        ]
        nothing = jnp.full((QUERIES, top_k), -1, jnp.int32)
        best = [(nothing, jnp.full((QUERIES, top_k), -jnp.inf, jnp.float32)) for _ in parts]
        for start in range(0, len(self.vectors), self._piece):
            piece = self._place(start)
            best = [
                search_piece(
                    self._mesh, self._block, part, piece, (start, len(self.vectors)), found
                )
                for part, found in zip(parts, best, strict=True)
            ]
            best = jax.block_until_ready(best)
            del piece  # a streamed one, before the next comes: devices may have no room for two
        best = [tuple(map(np.asarray, found)) for found in best] or [
            (np.empty((0, top_k), np.int32), np.empty((0, top_k), np.float32))
        ]
        rows, scores = (np.concatenate(parts)[: len(queries)] for parts in zip(*best, strict=True))
        return rows, scores

    def _place(self, start: int) -> jax.Array:
        """The rows from `start` on the devices; rows beyond the corpus are zeros."""
        if self._resident is not None:
            return self._resident
        shape = (self._piece, self.vectors.width)

        def part(index: Any) -> np.ndarray:
            first, last, _ = index[0].indices(self._piece)
            rows = self.vectors.rows(
                min(start + first, len(self.vectors)), min(start + last, len(self.vectors))
            )
            missing = last - first - len(rows)
            return np.pad(rows, ((0, missing), (0, 0))) if missing else rows

        piece = jax.make_array_from_callback(shape, NamedSharding(self._mesh, P(AXIS)), part)
        if self._piece >= len(self.vectors):
            self._resident = piece
        return piece


def cut(count: int, row: int, devices: int, memory: int | None) -> tuple[int, int]:
    """Rows in a block, and rows of the corpus that are on the devices at once.

    Args:
        count: rows of the corpus.
        row: bytes of one.
        devices: how many share the corpus.
        memory: bytes of each device that the corpus may take; None: unbounded.
    """
    block = min(ROWS, -(-count // 128) * 128)
    blocks = -(-count // (block * devices))  # of a device, for the whole corpus
    fitting = blocks if memory is None else max(1, min(blocks, memory // (block * row)))
    return block, fitting * block * devices


def few(top_k: int, count: int) -> int:
    """At least `top_k`, at most `count`; 8, 12, 16, 24 and so on: each is a program to compile."""
    power = 8
    while power < top_k:
        power *= 2
    three_quarters = 3 * power // 4
    return min(three_quarters if top_k <= three_quarters and power > 8 else power, count)


def _memory() -> int | None:
    stats = jax.local_devices()[0].memory_stats()  # another process' device does not tell
    return int(SHARE_OF_MEMORY * stats["bytes_limit"]) if stats else None


@partial(jax.jit, static_argnums=(0, 1))
def search_piece(
    mesh: Mesh,
    block: int,
    queries: jax.Array,
    piece: jax.Array,
    place: tuple[int, int],
    best: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Merges the best of a piece [P, D] into the best (rows, scores) so far, each [Q, k].

    `place`: the corpus row of the piece's first vector, and how many rows the corpus has.

    Every device goes through its part block by block. In every merge what has lower rows stands
    first, and of equal scores the first is taken: so ties go to the lower row.
    """

    (start, count), k = place, best[0].shape[1]
    platform = mesh.devices.flat[0].platform  # the mesh may be of devices that are only described

    def per_device(
        queries: jax.Array, part: jax.Array, rows: jax.Array, scores: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        blocks = part.reshape(-1, block, part.shape[1])
        first = start + jax.lax.axis_index(AXIS) * part.shape[0]
        firsts = first + block * jnp.arange(len(blocks), dtype=jnp.int32)
        nothing = (jnp.full_like(rows, -1), jnp.full_like(scores, -jnp.inf))

        def merge(
            best: tuple[jax.Array, jax.Array], item: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            vectors, first = item
            new = first + jnp.arange(block, dtype=jnp.int32)
            found = jnp.where(new < count, _scores(queries, vectors, platform), -jnp.inf)
            found, places = select(found, min(k, block), platform)
            return _best(best, (jnp.take(new, places), found), k), None

        own, _ = jax.lax.scan(merge, nothing, (blocks, firsts))
        everyones = jax.lax.all_gather(own, AXIS)  # [devices, Q, k], in the order of rows
        gathered = jax.tree.map(
            lambda x: jnp.moveaxis(x, 0, 1).reshape(len(queries), -1), everyones
        )
        return _best((rows, scores), gathered, k)

    # check_vma=False: what comes out is the same everywhere, which jax cannot see.
    spread = jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(P(), P(AXIS), P(), P()),
        out_specs=P(),
        check_vma=False,
    )
    return spread(queries, piece, *best)


def _scores(queries: jax.Array, vectors: jax.Array, platform: str) -> jax.Array:
    """Dot products [Q, n], added up in float32."""
    if platform == "cpu":  # slow at small types
        vectors = vectors.astype(jnp.float32)
    return jax.lax.dot_general(
        queries.astype(vectors.dtype),
        vectors,
        (((1,), (1,)), ((), ())),
        # float32 stays float32. Of smaller vectors the query takes the type, too (not on a CPU, nor
        # in ScaNN): of 8,192 random unit vectors in bfloat16, 0.995 of the first 10 and 0.998 of
        # the first 100 stay.
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _best(
    one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array], k: int
) -> tuple[jax.Array, jax.Array]:
    """The k best (rows, scores) of two [Q, n], the first before the other where they tie."""
    rows, scores = (jnp.concatenate(pair, axis=1) for pair in zip(one, other, strict=True))
    scores, places = jax.lax.top_k(scores, k)
    return jnp.take_along_axis(rows, places, axis=1), scores


def select(scores: jax.Array, k: int, platform: str) -> tuple[jax.Array, jax.Array]:
    """The k highest of each row [Q, n] and their places [Q, k], as the platform does it best.

    Of equal ones, the first. In one stage on a CPU, where two take 1.1 to 1.6 times as long
    (measured), and on a TPU: compiled for a v5e, a block's selection is one operation, XLA's TopK
    for 96 of 8,192 and a sort for 128 or more. `approx_max_k` at a recall of 0.999 compiles to the
    same two, as it may leave nothing out of so few; two stages move up to ten times the bytes.
    """
    if platform not in ("cpu", "tpu"):
        return two_stage(scores, k)
    values, places = jax.lax.top_k(scores, k)
    return values, places


def two_stage(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Exact top-k without sorting whole rows: the k best bins by their maximum, then within them.

    No element outside those bins can belong: each of the k bins holds one that is higher, or equal
    and in an earlier bin. Bins are put back in order, so that ties still go to the lower place.
    """
    queries, n = scores.shape
    size = max(1, int((n / k) ** 0.5))
    bins = -(-n // size)
    padded = jnp.pad(scores, ((0, 0), (0, bins * size - n)), constant_values=-jnp.inf)
    padded = padded.reshape(queries, bins, size)
    _, chosen = jax.lax.top_k(padded.max(axis=-1), min(k, bins))
    chosen = jnp.sort(chosen, axis=1)
    inside = jnp.take_along_axis(padded, chosen[:, :, None], axis=1).reshape(queries, -1)
    values, places = jax.lax.top_k(inside, k)
    return values, jnp.take_along_axis(chosen, places // size, axis=1) * size + places % size
