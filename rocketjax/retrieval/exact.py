"""Exact top-k by dot product, on the accelerator."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rocketjax.errors import InputError

QUERIES_AT_ONCE = 256  # bounds the score matrix: 256 x 65,536 x 4 bytes = 64 MiB
PASSAGES_AT_ONCE = 65_536


def search(queries: np.ndarray, passages: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top_k` passages of highest dot product with each query.

    Args:
        queries: [Q, D].
        passages: [N, D].

    Returns:
        rows of `passages` [Q, top_k] int64, best first, ties by lower row; scores [Q, top_k]
        float32.

    Raises:
        InputError: top_k above N, or no passages.
    """
    if not 1 <= top_k <= len(passages):
        raise InputError(
            f"top_k is {top_k}, but the corpus holds {len(passages)} passages; lower it"
        )
    found = [
        _search_some(jnp.asarray(queries[i : i + QUERIES_AT_ONCE]), passages, top_k)
        for i in range(0, len(queries), QUERIES_AT_ONCE)
    ]
    rows = np.concatenate([np.asarray(rows, np.int64) for rows, _ in found])
    scores = np.concatenate([np.asarray(scores) for _, scores in found])
    return rows, scores


def _search_some(
    queries: jax.Array, passages: np.ndarray, top_k: int
) -> tuple[jax.Array, jax.Array]:
    """Runs over the corpus in pieces and keeps the best so far."""
    best = None
    for start in range(0, len(passages), PASSAGES_AT_ONCE):
        piece = jnp.asarray(passages[start : start + PASSAGES_AT_ONCE])
        rows, scores = _top_k(queries, piece, min(top_k, len(piece)))
        best = (
            (rows + start, scores) if best is None else _merge(best, (rows + start, scores), top_k)
        )
    assert best is not None
    return best


@partial(jax.jit, static_argnums=2)
def _top_k(queries: jax.Array, passages: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    scores = jnp.matmul(queries, passages.T, preferred_element_type=jnp.float32)
    scores, rows = jax.lax.top_k(scores, k)  # of equal scores, the lower row comes first
    return rows, scores


@partial(jax.jit, static_argnums=2)
def _merge(
    best: tuple[jax.Array, jax.Array], more: tuple[jax.Array, jax.Array], k: int
) -> tuple[jax.Array, jax.Array]:
    # Earlier rows stand first, so that ties still go to the lower row.
    rows = jnp.concatenate([best[0], more[0]], axis=1)
    scores = jnp.concatenate([best[1], more[1]], axis=1)
    scores, places = jax.lax.top_k(scores, min(k, scores.shape[1]))
    return jnp.take_along_axis(rows, places, axis=1), scores
