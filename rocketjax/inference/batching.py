"""Texts through a compiled program, on every device: sorted by length, in few shapes."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from rocketjax.models.encoder import Params, unstacked
from rocketjax.runtime.devices import local_mesh, on_each_device, replicate, shard_rows
from rocketjax.runtime.progress import Advance
from rocketjax.text.batch import Text, Tokens
from rocketjax.text.padding import bucket, lay_end_to_end, pad
from rocketjax.text.tokenizer import Tokenizer


class Batching(NamedTuple):
    """How texts are given to a device."""

    size: int = 16  # texts of full length at once, or as many tokens of shorter ones
    skip_padding: bool = True  # tokens are laid end to end
    coarse: bool = False  # fewer shapes: where compiling one costs more than filling it up


BATCHING = Batching()


ON_ACCELERATORS = 256  # texts of full length at once, unless the config says otherwise


class Program(Protocol):
    """What is run on every device of a mesh."""

    def __call__(
        self, mesh: Mesh, params: Params, tokens: Tokens, spots: np.ndarray | None
    ) -> jax.Array:
        """Tokens [devices * N, S], or laid out by `spots`, to values [devices * N, *width]."""
        ...


class Unit(NamedTuple):
    """Texts that one device takes at once, and the shape they are given."""

    rows: np.ndarray  # which texts
    texts: int  # N, at least as many
    width: int  # S
    room: int  # T, at least as many as they have tokens

    @property
    def shape(self) -> tuple[int, int, int]:
        """What must be equal to run at the same time."""
        return self.texts, self.width, self.room


def in_batches(
    program: Program,
    params: Params,
    texts: Sequence[Text],
    width: tuple[int, ...],
    limit: int,
    pad_id: int,
    batching: Batching,
    advance: Advance,
    steady: bool,
) -> np.ndarray:
    """Runs texts through a program, sorted by length; values [len(texts), *width] in their order.

    Shapes are few, so that the number of compilations is bounded whatever comes.
    """
    results = np.empty((len(texts), *width), np.float32)
    mesh = local_mesh()
    devices = mesh.size
    waiting: list[tuple[list[Unit], jax.Array]] = []
    # Fetched late, so that devices do not wait for the host; two on a CPU would share its cores.
    in_flight = 1 if jax.default_backend() == "cpu" else 3
    for units in _together(
        plan([len(text.ids) for text in texts], limit, batching, steady), devices
    ):
        tokens, spots = _lay_out(units, texts, pad_id, devices, batching.skip_padding)
        placed = shard_rows((tokens, spots))
        if len(waiting) == in_flight:
            _fetch(results, *waiting.pop(0), advance)
        waiting.append((units, program(mesh, params, *placed)))
    for item in waiting:
        _fetch(results, *item, advance)
    return results


def plan(lengths: Sequence[int], limit: int, batching: Batching, steady: bool) -> list[Unit]:
    """Texts of one padded length to units of a few sizes (steady: of one), the longest first.

    What does not fit into the memory then fails at once.
    """
    length = np.array(lengths, np.int64)
    padded = np.array([_width(n, limit, batching) for n in lengths], np.int64)
    units: list[Unit] = []
    for width in map(int, np.unique(padded)[::-1]):
        most = max(batching.size * limit, width)
        some = (most // 16,) if batching.coarse else (most // 16, most // 4)
        rooms = sorted({max(width, part) for part in (() if steady else some)} | {most})
        rows = np.flatnonzero(padded == width)
        shortest = max(width - 31, width // 2) if batching.skip_padding else width
        cost = length if batching.skip_padding else padded
        while len(rows):
            total = np.cumsum(cost[rows])
            room = _fitting(int(total[-1]), rooms)
            texts = room // width
            if batching.coarse or total[min(texts, len(rows)) - 1] < 0.9 * room:
                texts = room // shortest
            taken = min(int(np.searchsorted(total, room, side="right")), texts)
            units.append(Unit(rows[:taken], texts, width, room))
            rows = rows[taken:]
    return units


def _width(tokens: int, limit: int, batching: Batching) -> int:
    """What a text of so many tokens is padded to: coarsely, the longest there are, or half of it.

    A program takes a GPU's compiler 3 to 6 s, in which an H200 encodes some 20 million tokens.
    """
    half = bucket(limit // 2, limit)
    if not batching.coarse:
        return bucket(tokens, limit)
    return half if tokens <= half else limit


def of_every_shape(limit: int, batching: Batching) -> Iterator[list[Text]]:
    """Texts that together make `plan` give every shape it has for steady work.

    It has two for each padded length: for texts that fill it, and for shorter ones.
    """
    shortest = {_width(n, limit, batching): n for n in range(limit, 0, -1)}
    for width, least in shortest.items():
        fitting = max(batching.size * limit, width) // width
        for length, count in ((width, fitting), (least, 1)):
            yield [Text(*np.zeros((2, length), np.int32))] * count


def _fitting(tokens: int, rooms: Sequence[int]) -> int:
    """The room to fill next with so many tokens: one that is full, or two thirds full."""
    above = next((room for room in rooms if room >= tokens), rooms[-1])
    if 3 * tokens >= 2 * above:
        return above
    return max((room for room in rooms if room <= tokens), default=above)


def _together(units: Sequence[Unit], devices: int) -> Iterator[list[Unit]]:
    """One unit a device, all of one shape."""
    for _, alike in groupby(units, key=lambda unit: unit.shape):
        some = list(alike)
        yield from (some[i : i + devices] for i in range(0, len(some), devices))


def _lay_out(
    units: Sequence[Unit], texts: Sequence[Text], pad_id: int, devices: int, skip_padding: bool
) -> tuple[Tokens, np.ndarray | None]:
    """Tokens [devices * N, S] of one unit a device; devices beyond the units are idle."""
    size, width, room = units[0].shape
    parts = [pad([texts[row] for row in unit.rows], size, width, pad_id) for unit in units]
    parts += [pad([], size, width, pad_id)] * (devices - len(units))
    tokens = Tokens(*map(np.concatenate, zip(*parts, strict=True)))
    if not skip_padding:
        return tokens, None
    # Texts that only fill up have no tokens here.
    taken = np.array([len(unit.rows) for unit in units] + [0] * (devices - len(units)))
    length = np.where(np.arange(size) < taken[:, None], tokens.length.reshape(devices, size), 0)
    tokens = tokens._replace(length=length.reshape(-1))
    return tokens, lay_end_to_end(length, width, room)


def _fetch(results: np.ndarray, units: Sequence[Unit], values: jax.Array, advance: Advance) -> None:
    parts = np.asarray(values).reshape(-1, units[0].texts, *values.shape[1:])
    for unit, part in zip(units, parts, strict=False):
        results[unit.rows] = part[: len(unit.rows)]
        advance(len(unit.rows))


def placed(params: Params) -> Params:
    """Parameters on every device, as they are used fastest there."""
    return replicate(unstacked(params) if jax.default_backend() == "cpu" else params)


@partial(jax.jit, static_argnums=(0, 1, 2))
def apply(
    module: nn.Module,
    method: str,
    mesh: Mesh,
    params: Params,
    tokens: Tokens,
    spots: jax.Array | None,
) -> jax.Array:
    """One program for each module, method and shape, whoever calls; each device has its part."""

    def part(params: Params, tokens: Tokens, spots: jax.Array | None) -> jax.Array:
        own = None if spots is None else spots[0]
        return module.apply({"params": params}, tokens, None, own, method=method)  # pyright: ignore

    return on_each_device(part, mesh)(params, tokens, spots)


def fingerprint(module: nn.Module, params: Params, tokenizer: Tokenizer) -> str:
    """Of the parameters' values and names, of the module (not how it computes), of the texts."""
    digest = hashlib.blake2b(digest_size=16)
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).data)
    digest.update(repr(module.clone(compute=None)).encode())  # pyright: ignore
    digest.update(tokenizer.description.encode())
    return digest.hexdigest()
