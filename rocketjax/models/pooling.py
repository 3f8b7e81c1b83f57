"""The mean of a text's states."""

import jax
import jax.numpy as jnp

from rocketjax.models.attention.visible import visible
from rocketjax.text.batch import Rows


def mean(hidden: jax.Array, rows: Rows) -> jax.Array:
    """Averages the states [R, S, D] of each text's tokens: [N, D], in float32.

    As attention with equal weights would, so that no gather and no scatter is needed. A text that
    is not there gets another's mean.
    """
    same = visible(jnp.asarray(rows.text)).astype(jnp.float32)
    share = same / jnp.sum(same, axis=2, keepdims=True)
    highest = jax.lax.Precision.HIGHEST
    means = jnp.einsum("rij,rjd->rid", share, hidden.astype(jnp.float32), precision=highest)
    return rows.one_per_text(means.reshape(-1, means.shape[-1]))
