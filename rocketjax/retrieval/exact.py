"""Exact top-k by dot product on the accelerators, the corpus spread over all of them."""

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rocketjax.retrieval.index import check_search
from rocketjax.retrieval.quantised import Codes, quantise, signs
from rocketjax.retrieval.vectors import Vectors
from rocketjax.runtime import processes
from rocketjax.runtime.devices import AXIS, refuse_forked
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.memory import machine_memory

# Work is cut into blocks of one shape, whatever the number of devices: scores then do not depend
# on it, to the last bit. A block's scores take 256 x 8,192 x 4 bytes = 8 MiB.
QUERIES = 256
ROWS = 8_192
_WHOLE = 1_024  # products of int8, whose sum is exact in float32
SHARE_OF_MEMORY = 0.6  # of a device, for the corpus; the models are there too
# Of many threads' searches: the corpus is placed once, and no device is asked for one search's
# part of a collective while another waits for a different one.
_one_at_a_time = threading.Lock()

Piece: TypeAlias = jax.Array | Codes  # vectors [P, D] on the devices


class ExactIndex:
    """Compares every query with every passage. Each process gets the whole result.

    The corpus lies on the devices, in the type it is stored in, a part on each; every process reads
    only its devices' rows from the memory map. One that does not fit is streamed through them in
    pieces at every search, so search many queries at once then.

    Vectors in int8 or binary are searched by their codes, with the query in int8, for `rescore`
    times as many candidates, which are then scored again with the query as it is.
    """

    def __init__(
        self,
        vectors: Vectors,
        devices: list[Any] | None = None,
        memory: int | None = None,
        rescore: int = 2,
    ) -> None:
        """Places nothing yet.

        Args:
            devices: default all, of all processes.
            memory: bytes of each device that the corpus may take; default by its size, which of a
                CPU is the machine's.
            rescore: of quantised vectors: candidates a passage that is asked for.
        """
        self.vectors = vectors
        self._rescore = rescore
        devices = devices or jax.devices()
        self._mesh = Mesh(np.array(devices), (AXIS,))
        most = processes.from_main(_memory) if memory is None else memory
        self._block, self._piece = cut(len(vectors), vectors.row_bytes, len(devices), most)
        self._resident: Piece | None = None

    def search(self, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index.search`; ties go to the passage that comes first in the corpus."""
        rows, scores = self.rows(queries, top_k)
        return self.vectors.names(rows), scores

    def rows(self, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """The same by row: rows [Q, top_k] int32 and scores [Q, top_k] float32."""
        check_search(queries, top_k, self.vectors)
        refuse_forked()
        most, quantised = len(self.vectors), self.vectors.quantised
        wanted = min(self._rescore * top_k, most) if quantised else top_k
        with _one_at_a_time:
            asked = in_int8(queries) if quantised else queries
            rows, scores = self._rows(asked, few(wanted, most))
        if quantised:
            rows, scores = self._scored_again(queries, rows)
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

    def _scored_again(self, queries: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Candidates' rows [Q, k] in the order of their scores with the queries as they are.

        Added up in float64, so that equal vectors have equal scores, and ties go to the lower row.
        """
        rows, width = np.sort(rows, axis=1), self.vectors.width
        scores = np.empty(rows.shape, np.float32)
        for query, own, out in zip(queries.astype(np.float64), rows, scores, strict=True):
            stored = self.vectors.codes_at(own)
            out[:] = (signs(stored.codes, width).astype(np.float64) @ query) * stored.scales
        order = np.argsort(-np.nan_to_num(scores, nan=np.inf), axis=1, kind="stable")
        return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)

    def _place(self, start: int) -> Piece:
        """The rows from `start` on the devices; rows beyond the corpus are zeros."""
        if self._resident is not None:
            return self._resident
        vectors = self.vectors

        def placed(read: Callable[[int, int], np.ndarray]) -> jax.Array:
            def part(index: Any) -> np.ndarray:
                first, last, _ = index[0].indices(self._piece)
                part = _zeros((last - first, *one.shape[1:]), one.dtype)
                for at in range(start + first, min(start + last, len(vectors)), self._block):
                    rows = read(at, min(at + self._block, start + last, len(vectors)))
                    part[at - start - first :][: len(rows)] = rows
                return part

            one = read(0, 0)  # of its shape and type
            shape = (self._piece, *one.shape[1:])
            return jax.make_array_from_callback(shape, NamedSharding(self._mesh, P(AXIS)), part)

        if vectors.quantised:
            piece = Codes(
                placed(lambda *rows: vectors.codes(*rows).codes),
                placed(lambda *rows: vectors.codes(*rows).scales),
            )
        elif vectors.dtype == jnp.bfloat16 and self._mesh.devices.flat[0].platform == "cpu":
            # By its bits: XLA slices no bfloat16 there, and first makes float32 of all of it.
            piece = placed(lambda *rows: vectors.rows(*rows).view(np.uint16))
        else:
            piece = placed(vectors.rows)
        if self._piece >= len(vectors):
            self._resident = piece
        return piece


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Where jax does not copy it on a CPU, which takes arrays that begin at a multiple of 64."""
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + 64, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + size].view(dtype).reshape(shape)


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
    device = jax.local_devices()[0]  # another process' device does not tell
    if device.platform == "cpu":  # simulated ones share the machine's
        return int(SHARE_OF_MEMORY * machine_memory() / jax.local_device_count())
    stats = device.memory_stats()
    return int(SHARE_OF_MEMORY * stats["bytes_limit"]) if stats else None


@partial(jax.jit, static_argnums=(0, 1))
def search_piece(
    mesh: Mesh,
    block: int,
    queries: jax.Array,
    piece: Piece,
    place: tuple[int, int],
    best: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Merges the best of a piece [P, D] into the best (rows, scores) so far, each [Q, k].

    The queries are in int8 where the piece is of codes. A piece of uint16 holds bfloat16's bits.

    `place`: the corpus row of the piece's first vector, and how many rows the corpus has.

    Every device goes through its part block by block. In every merge what has lower rows stands
    first, and of equal scores the first is taken: so ties go to the lower row.
    """

    (start, count), k = place, best[0].shape[1]
    platform = mesh.devices.flat[0].platform  # the mesh may be of devices that are only described

    def per_device(
        queries: jax.Array, part: Piece, rows: jax.Array, scores: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        blocks = jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), part)
        number = jax.tree.leaves(blocks)[0].shape[0]
        first = start + jax.lax.axis_index(AXIS) * number * block
        firsts = first + block * jnp.arange(number, dtype=jnp.int32)
        nothing = (jnp.full_like(rows, -1), jnp.full_like(scores, -jnp.inf))

        def merge(
            best: tuple[jax.Array, jax.Array], item: tuple[Piece, jax.Array]
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


def in_int8(queries: np.ndarray) -> np.ndarray:
    """Queries [Q, D] as int8, each by a scale that its order of passages does not depend on."""
    return quantise(queries, "int8").codes


def _scores(queries: jax.Array, vectors: Piece, platform: str) -> jax.Array:
    """Dot products [Q, n], added up in float32; of codes with queries in int8, in integers."""
    if isinstance(vectors, Codes):
        return _integers(queries, vectors.codes, platform).astype(jnp.float32) * vectors.scales
    if vectors.dtype == jnp.uint16:  # the bits of
        vectors = jax.lax.bitcast_convert_type(vectors, jnp.bfloat16)
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


def _integers(queries: jax.Array, codes: jax.Array, platform: str) -> jax.Array:
    """Exact products [Q, n] int32 of queries [Q, D] int8 with codes.

    Bits are unpacked: the product of a block is then the matrix unit's, which counting bits is not.
    """
    width = queries.shape[1]
    if codes.dtype == jnp.uint8:
        bits = codes[:, :, None] >> jnp.arange(7, -1, -1, dtype=jnp.uint8) & 1
        codes = (2 * bits.astype(jnp.int8) - 1).reshape(len(codes), -1)[:, :width]
    sides = (((1,), (1,)), ((), ()))
    if platform != "cpu":
        return jax.lax.dot_general(queries, codes, sides, preferred_element_type=jnp.int32)
    # On a CPU products of integers are slow. Sums of up to 1,024 of 127 x 127 are whole numbers in
    # float32, whatever the order.
    parts = [
        jax.lax.dot_general(
            queries[:, i : i + _WHOLE].astype(jnp.float32),
            codes[:, i : i + _WHOLE].astype(jnp.float32),
            sides,
            precision=jax.lax.Precision.HIGHEST,
        ).astype(jnp.int32)
        for i in range(0, width, _WHOLE)
    ]
    return sum(parts[1:], parts[0])


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
