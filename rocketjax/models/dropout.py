"""Dropout whose pattern is a text's own: the same wherever the text lies, on any device."""

import math

import jax
import jax.numpy as jnp


def fold_in(keys: jax.Array | None, data: int | jax.Array) -> jax.Array | None:
    """Folds one number, or one per key [N], into `keys` [N]; None stays None."""
    if keys is None:
        return None
    return jax.vmap(jax.random.fold_in, in_axes=(0, 0 if jnp.ndim(data) else None))(keys, data)


def dropout(
    x: jax.Array, keys: jax.Array | None, rate: float, site: int | jax.Array = 0
) -> jax.Array:
    """Zeroes a share `rate` of x [N, ...] and scales up the rest; without keys, returns x.

    Each row has its own key, so that what is dropped from a text depends neither on the number of
    devices nor on how a batch is laid out or cut into chunks.

    Args:
        x: [N, ...].
        keys: [N], one per row; None: no dropout.
        rate: exact to one in four billion.
        site: which of a model's dropouts this is: each drops other numbers.
    """
    if keys is None or rate == 0.0:
        return x
    kept = _bits(keys, x.shape, site) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def _bits(keys: jax.Array, shape: tuple[int, ...], site: int | jax.Array) -> jax.Array:
    """Random bits [N, ...], uint32.

    The row's key is jax's, and hashed with the number's place in the row. jax.random.bits would
    draw them from the row's key as well, but its cipher of 20 rounds for each number takes longer
    to run, and four times as long to compile for a TPU, than the layer around it.
    """
    words = jax.random.key_data(keys)
    place = jnp.arange(math.prod(shape[1:]), dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    row = _mix(words[:, 0] ^ jnp.asarray(site, jnp.uint32) * jnp.uint32(0x85EBCA6B))
    row = _mix(row ^ words[:, -1])
    # The key once more at the end: else two rows might get one sequence, from different places on.
    return (_mix(row[:, None] + place) ^ words[:, :1]).reshape(shape)


def _mix(x: jax.Array) -> jax.Array:
    """A hash of 32 bits to 32 bits: each bit of x flips each of the result half of the time.

    By xor with shifts of itself and products with odd numbers (those of MurmurHash3's finalizer).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
