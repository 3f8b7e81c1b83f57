"""Positions as attention sees them: rotated queries and keys, or what distances add to scores."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rocketjax.models.architecture import Distances

_FAR = 128  # MPNet: tokens farther apart than this share a bucket


class Places(NamedTuple):
    """What a layer's attention is told of positions, beyond which text each slot belongs to."""

    turns: tuple[jax.Array, jax.Array] | None = None  # see `turns`; None: nothing is rotated
    bias: jax.Array | None = None  # [H, S, S], added to scores
    distances: jax.Array | None = None  # [2 S, D], see `by_distance`


def turns(
    position: jax.Array, size: int, theta: float, factor: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary embeddings (arXiv 2104.09864), [T, size / 2] each, float32.

    Args:
        position: [T] of each token in its text.
        size: of a head, even.
        theta: the base of the wavelengths.
        factor: by which all are longer.
    """
    frequency = 1.0 / theta ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    frequency = jnp.asarray(frequency / factor, jnp.float32)
    angle = position[:, None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotated(qkv: jax.Array, turned: tuple[jax.Array, jax.Array], heads: int) -> jax.Array:
    """Turns queries and keys by their tokens' positions; values stay.

    A head's numbers are rotated in pairs: each of its first half with that of its second.

    Args:
        qkv: [T, 3 * heads * D].
        turned: of `turns`.
        heads: H.
    """
    split = qkv.reshape(qkv.shape[0], 3, heads, 2, -1)
    first, second = (split[:, :2, :, half].astype(jnp.float32) for half in range(2))
    cos, sin = (each[:, None, None] for each in turned)
    both = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=3)
    return jnp.concatenate([both.astype(qkv.dtype), split[:, 2:]], axis=1).reshape(qkv.shape)


def rotated_in_one_pass(
    qkv: jax.Array, turned: tuple[jax.Array, jax.Array], heads: int
) -> jax.Array:
    """The same in one pass that joins nothing; values are turned by nothing.

    Taken with plain attention, which is what CPUs run. XLA for CPUs writes what is joined inside a
    fusion number by number: encoding with ModernBERT's 17M shape took 1.1 times as long.
    """
    cos, sin = turned
    ones, zeros = jnp.ones_like(cos), jnp.zeros_like(sin)
    cos = jnp.stack([cos, cos, ones], axis=1)[:, :, None, None]  # [T, 3, 1, 1, size / 2]
    both, none = jnp.stack([-sin, sin], axis=1), jnp.stack([zeros, zeros], axis=1)
    sin = jnp.stack([both, both, none], axis=1)[:, :, None]  # [T, 3, 1, 2, size / 2]
    split = qkv.reshape(qkv.shape[0], 3, heads, 2, -1)
    return (split * cos + split[:, :, :, ::-1] * sin).astype(qkv.dtype).reshape(qkv.shape)


def relative_bias(table: jax.Array, length: int) -> jax.Array:
    """[buckets, H] -> [H, S, S], queries by keys: a learned number by distance (MPNet, T5).

    A text's tokens are neighbours in a row, so the distance of slots is that of positions.
    """
    by_distance = table[_bucket(np.arange(-_FAR, _FAR + 1), len(table))]
    place = jnp.arange(length)  # whose number an exported program leaves open
    apart = jnp.clip(place - place[:, None], -_FAR, _FAR)
    return by_distance[apart + _FAR].transpose(2, 0, 1)


def _bucket(apart: np.ndarray, buckets: int) -> np.ndarray:
    """The bucket of each distance key - query: half of them after the query, ever wider ones."""
    half = buckets // 2
    exact = half // 2  # distances with a bucket of their own
    far = np.maximum(np.abs(apart), 1).astype(np.float32)
    wide = np.log(far / exact) / math.log(_FAR / exact) * (half - exact)
    wide = np.minimum(exact + wide.astype(np.int64), half - 1)
    return np.where(np.abs(apart) < exact, np.abs(apart), wide) + half * (apart > 0)


def by_distance(table: jax.Array, distances: Distances, most: int, length: int) -> jax.Array:
    """The embeddings of distances in a row, query - key from -S to S - 1: [2 S, D].

    Args:
        table: [2 * distances.side, D].
        distances: which of them is whose.
        most: no tokens of a text are farther apart.
        length: S.
    """
    known = jnp.asarray(distance_rows(distances, np.arange(-most, most + 1)))
    apart = jnp.arange(2 * length) - length  # whose number an exported program leaves open
    return table[known[jnp.clip(apart, -most, most) + most]]


def distance_rows(distances: Distances, apart: np.ndarray) -> np.ndarray:
    """The row of DeBERTa's table for each distance query - key, ever wider ones sharing one.

    In float32, as transformers computes them: a logarithm that rounds otherwise is another row.
    """
    side, half = distances.side, distances.buckets // 2
    if distances.buckets:
        far = np.maximum(np.abs(apart), half).astype(np.float32) / np.float32(half)
        steps = np.log(far) / np.log(np.float32((distances.reach - 1) / half))
        wide = np.ceil(steps * np.float32(half - 1)) + half
        apart = np.where(np.abs(apart) <= half, apart, np.sign(apart) * wide)
    return np.clip(apart + side, 0, 2 * side - 1).astype(np.int32)
