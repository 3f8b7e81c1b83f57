"""Unpadded texts: the tokens of many texts laid end to end, [T] instead of [N, S].

Nine tenths of an encoder's arithmetic treats each token by itself and need not see padding; only
attention needs texts side by side. So the host finds where the tokens are among the padded texts
(`lay_end_to_end` makes `Spots`), and on the device a `Layout` moves values into [T], and to [N, S]
and back around attention. Both moves are gathers, each the other's transpose, so that no gradient
is a scatter.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray

ROOM = 256  # tokens: the least difference between two sizes of T


class Spots(NamedTuple):
    """Where the tokens of a batch's texts are; None where padding is not skipped.

    Each is [K, T] int32, for K parts of equally many texts: the part of one device, or of one of
    its chunks. An entry is a token's index in its part's padded texts [N, S], row by row. Entries
    beyond the last token are at least N * S and no multiple of S, so that none looks like a text's
    first token.
    """

    query: Array | None = None
    passage: Array | None = None
    pair: Array | None = None


def lay_end_to_end(length: np.ndarray, width: int, room: int = 0) -> np.ndarray:
    """Finds the tokens of padded texts.

    Args:
        length: [K, N], the lengths in tokens of N texts in each of K parts.
        width: S, the padded length.
        room: T; 0 means what the fullest part needs, `rounded`.

    Returns:
        [K, T] int32, see `Spots`.
    """
    parts, texts = length.shape
    room = room or rounded(int(length.sum(axis=1).max()), texts * width)
    spots = np.full((parts, room), texts * width + 1, np.int32)  # + 1: not a multiple of `width`
    is_token = np.arange(width) < length[:, :, None]
    for part, mask in enumerate(is_token.reshape(parts, -1)):
        places = np.flatnonzero(mask)
        spots[part, : len(places)] = places
    return spots


def rounded(tokens: int, most: int) -> int:
    """Rounds a number of tokens up to one of at most eight sizes up to `most`.

    Each size is a program to compile; steps are at least `ROOM`, so small batches have only one.
    """
    step = max(ROOM, -(-most // 64) * 8)
    return min(-(-tokens // step) * step, -(-most // 8) * 8)


@partial(jax.tree_util.register_dataclass, data_fields=["length", "spots"], meta_fields=["width"])
@dataclass(frozen=True)
class Layout:
    """Moves values between padded [N, S, ...] and unpadded [T, ...] form."""

    length: Array  # [N] int32
    width: int  # S
    spots: Array | None  # [T], one part's `Spots`; None: padding is not skipped, T = N * S

    def flat(self, x: Array) -> jax.Array:
        """[N, S, ...] -> [T, ...]; entries beyond the last token are 0."""
        x = jnp.asarray(x)
        flat = x.reshape(-1, *x.shape[2:])
        return flat if self.spots is None else _move(flat, self.spots, self._grid().reshape(-1))

    def grid(self, x: jax.Array) -> jax.Array:
        """[T, ...] -> [N, S, ...]; padding is 0."""
        shape = (self.length.shape[0], self.width, *x.shape[1:])
        if self.spots is None:
            return x.reshape(shape)
        return _move(x, self._grid().reshape(-1), self.spots).reshape(shape)

    def first(self, x: jax.Array) -> jax.Array:
        """[T, ...] -> [N, ...], each text's first token."""
        if self.spots is None:
            return x.reshape(-1, self.width, *x.shape[1:])[:, 0]
        back = jnp.where(self.position() == 0, self.text(), self.length.shape[0])
        return _move(x, self.start(), back)

    def start(self) -> jax.Array:
        """[N], the index in [T] of each text's first token."""
        if self.spots is None:
            return jnp.arange(self.length.shape[0]) * self.width
        length = jnp.asarray(self.length)
        return jnp.cumsum(length) - length

    def position(self) -> jax.Array:
        """[T], each token's position in its text."""
        if self.spots is None:
            return jnp.tile(jnp.arange(self.width), self.length.shape[0])
        return jnp.asarray(self.spots) % self.width  # never 0 beyond the last token, see Spots

    def text(self) -> jax.Array:
        """[T], the index of each token's text; arbitrary beyond the last token."""
        if self.spots is None:
            return jnp.repeat(jnp.arange(self.length.shape[0]), self.width)
        beyond = jnp.asarray(self.spots) >= self.length.shape[0] * self.width
        return jnp.where(beyond, 0, jnp.asarray(self.spots) // self.width)

    def _grid(self) -> jax.Array:
        """[N, S], the index in [T] of each token; T at padding."""
        assert self.spots is not None
        place = jnp.arange(self.width)
        inside = place < jnp.asarray(self.length)[:, None]
        return jnp.where(inside, self.start()[:, None] + place, len(self.spots))


@jax.custom_vjp
def _move(x: jax.Array, there: jax.Array, back: jax.Array) -> jax.Array:
    """x[there], 0 where an index is out of bounds; `back` are the indices of the inverse move."""
    del back
    return jnp.take(x, there, axis=0, mode="fill", fill_value=0)


def _move_forward(x: jax.Array, there: jax.Array, back: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _move(x, there, back), back


def _move_backward(back: jax.Array, grad: jax.Array) -> tuple[jax.Array, None, None]:
    return jnp.take(grad, back, axis=0, mode="fill", fill_value=0), None, None


_move.defvjp(_move_forward, _move_backward)
