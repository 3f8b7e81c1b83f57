"""Texts without their padding: all tokens end to end [T], and back to a row a text [N, S].

Nine tenths of an encoder's arithmetic is done token by token and need not see padding; only
attention wants texts side by side. Both moves are gathers, and each is the other's transpose, so
that no gradient is a scatter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rocketjax.text.batch import Array, Text, Tokens

ROOM = 256  # tokens by which the sizes of parts differ, at least


def pad(texts: Sequence[Text], rows: int, length: int, pad_id: int) -> Tokens:
    """Pads texts to [rows, length]; the rows that are left over hold one `pad_id`."""
    ids = np.full((rows, length), pad_id, np.int32)
    types = np.zeros((rows, length), np.int32)
    lengths = np.ones(rows, np.int32)
    for row, text in enumerate(texts):
        size = len(text.ids)
        ids[row, :size], types[row, :size], lengths[row] = text.ids, text.types, size
    return Tokens(ids, types, lengths)


def lay_end_to_end(length: np.ndarray, width: int, room: int = 0) -> np.ndarray:
    """Where the tokens of padded texts are, without the padding.

    Args:
        length: [K, n], of n texts in each of K parts.
        width: S, to which texts are padded.
        room: T; 0: what the fullest part needs, rounded up so that few sizes come.

    Returns:
        [K, T] int32, see batch.Spots.
    """
    parts, texts = length.shape
    room = room or rounded(int(length.sum(axis=1).max()), texts * width)
    spots = np.full((parts, room), texts * width + 1, np.int32)  # + 1: no text begins there
    inside = np.arange(width) < length[:, :, None]
    for part, places in enumerate(inside.reshape(parts, -1)):
        own = np.flatnonzero(places)
        spots[part, : len(own)] = own
    return spots


def rounded(tokens: int, most: int) -> int:
    """The next of a few sizes: each is a program to compile, so small batches have but one."""
    step = max(ROOM, -(-most // 64) * 8)
    return min(-(-tokens // step) * step, -(-most // 8) * 8)


def bucket(longest: int, limit: int) -> int:
    """The padded length of texts of at most `longest` tokens: a multiple of 32, or `limit`.

    Few lengths mean few compilations; a new text's length then brings no new one.
    """
    return min(-(-longest // 32) * 32, limit)


@partial(jax.tree_util.register_dataclass, data_fields=["length", "spots"], meta_fields=["width"])
@dataclass(frozen=True)
class Layout:
    """Where the tokens of N texts of at most S tokens stand."""

    length: Array  # [N]
    width: int  # S
    spots: Array | None  # [T], see batch.Spots; None: padding stays, T = N * S

    def flat(self, x: Array) -> jax.Array:
        """[N, S, ...] -> [T, ...]; entries beyond the last token are 0."""
        x = jnp.asarray(x)
        flat = x.reshape(-1, *x.shape[2:])
        return flat if self.spots is None else _move(flat, self.spots, self._grid().reshape(-1))

    def grid(self, x: jax.Array) -> jax.Array:
        """[T, ...] -> [N, S, ...]; padding is 0."""
        shape = (len(self.length), self.width, *x.shape[1:])
        if self.spots is None:
            return x.reshape(shape)
        return _move(x, self._grid().reshape(-1), self.spots).reshape(shape)

    def first(self, x: jax.Array) -> jax.Array:
        """[T, ...] -> [N, ...], each text's first token."""
        if self.spots is None:
            return x.reshape(-1, self.width, *x.shape[1:])[:, 0]
        back = jnp.where(self.position() == 0, self.text(), len(self.length))
        return _move(x, self.start(), back)

    def start(self) -> jax.Array:
        """[N], where each text's first token stands in [T]."""
        if self.spots is None:
            return jnp.arange(len(self.length)) * self.width
        length = jnp.asarray(self.length)
        return jnp.cumsum(length) - length

    def position(self) -> jax.Array:
        """[T], each token's place in its text."""
        if self.spots is None:
            return jnp.tile(jnp.arange(self.width), len(self.length))
        return jnp.asarray(self.spots) % self.width  # beyond the last token: 1 or more, see spots

    def text(self) -> jax.Array:
        """[T], the text each token belongs to; of entries beyond the last token: any."""
        if self.spots is None:
            return jnp.repeat(jnp.arange(len(self.length)), self.width)
        beyond = jnp.asarray(self.spots) >= len(self.length) * self.width
        return jnp.where(beyond, 0, jnp.asarray(self.spots) // self.width)

    def _grid(self) -> jax.Array:
        """[N, S], the token at each place; T at padding."""
        assert self.spots is not None
        place = jnp.arange(self.width)
        inside = place < jnp.asarray(self.length)[:, None]
        return jnp.where(inside, self.start()[:, None] + place, len(self.spots))


@jax.custom_vjp
def _move(x: jax.Array, there: jax.Array, back: jax.Array) -> jax.Array:
    """x[there], 0 where it points outside; `back` is the move that undoes it."""
    del back
    return jnp.take(x, there, axis=0, mode="fill", fill_value=0)


def _moved(x: jax.Array, there: jax.Array, back: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _move(x, there, back), back


def _moved_back(back: jax.Array, grad: jax.Array) -> tuple[jax.Array, None, None]:
    return jnp.take(grad, back, axis=0, mode="fill", fill_value=0), None, None


_move.defvjp(_moved, _moved_back)
