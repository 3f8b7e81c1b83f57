"""Texts without their padding: all tokens end to end [T], and back to a row a text [N, S].

Nine tenths of an encoder's arithmetic is done token by token and need not see padding; only
attention wants texts side by side. Both moves are gathers, and each is the other's transpose, so
that no gradient is a scatter.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from rocketjax.batch import Array


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


def _forward(x: jax.Array, there: jax.Array, back: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _move(x, there, back), back


def _backward(back: jax.Array, grad: jax.Array) -> tuple[jax.Array, None, None]:
    return jnp.take(grad, back, axis=0, mode="fill", fill_value=0), None, None


_move.defvjp(_forward, _backward)
