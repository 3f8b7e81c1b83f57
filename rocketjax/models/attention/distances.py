"""DeBERTa's disentangled attention (arXiv 2006.03654): what distances add to the scores.

A query at i and a key at j score, d = i - j,

    (q_i . k_j  +  q_i . K_d  +  k_j . Q_d) / sqrt((1 + terms) D)

where Q_d and K_d are projections of an embedding of the distance. Of a row of S slots there are
2 S - 1 distances: so the second term is one product of all queries with all K_d, [S, 2 S], of which
each query needs S numbers in a run that begins one further left than its predecessor's. The third
is the same of the keys, transposed. Shifting each row by one needs no gather and no scatter: it is
a view of the numbers end to end, as rows that are one shorter.

There is no kernel for this: on every device it is XLA's products, and the scores go through memory.
"""

import jax
import jax.numpy as jnp

from rocketjax.models.precision import precision


def distance_scores(
    qkv: jax.Array, projected: jax.Array, terms: tuple[str, ...], heads: int, scale: float
) -> jax.Array:
    """What is added to the scores of queries with keys: [R, H, S, S] in the dtype of `qkv`.

    Args:
        qkv: [R, S, 3 * heads * D].
        projected: [2 S, len(terms) * heads * D], of the distances from -S to S - 1.
        terms: "c2p", queries with distances, or "p2c", keys with them, as they are in `projected`.
        heads: H.
        scale: of the scores.
    """
    rows, length, _ = qkv.shape
    split = qkv.reshape(rows, length, 3, heads, -1)
    scores = jnp.zeros((), qkv.dtype)
    for index, term in enumerate(terms):
        own = projected.reshape(2 * length, len(terms), heads, -1)[:, index]
        own = own * jnp.asarray(scale, own.dtype)
        if term == "c2p":  # a query's keys come in the order of falling distances
            falling = jnp.roll(own[::-1], 1, axis=0)
            scores += _shifted(_products(split[:, :, 0], falling))
        else:
            scores += _shifted(_products(split[:, :, 1], own)).swapaxes(2, 3)
    return scores


def _products(x: jax.Array, distances: jax.Array) -> jax.Array:
    """[R, S, H, D] and [2 S, H, D] -> [R, H, S, 2 S]."""
    return jnp.einsum("rshd,mhd->rhsm", x, distances, precision=precision(x.dtype))


def _shifted(x: jax.Array) -> jax.Array:
    """[R, H, S, 2 S] -> [R, H, S, S]: row i's numbers from S - i on."""
    rows, heads, length, double = x.shape
    # Without the first S numbers; by rows, as an exported program leaves open how many there are.
    rest = x.reshape(rows, heads, double, length)[:, :, 1:]
    return rest.reshape(rows, heads, length, double - 1)[..., :length]
