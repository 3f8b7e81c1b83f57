"""Rows of embedding tables, and how their gradients are added up."""

from functools import partial

import jax
import jax.numpy as jnp

from rocketjax.models.architecture import Dtype
from rocketjax.models.precision import precision

SMALL = 1_024  # rows of a table for which a product's cost, 2 V D operations a token, is negligible


def look_up(table: jax.Array, index: jax.Array, dtype: Dtype | None) -> jax.Array:
    """Rows of a table: [V, D] and [T] -> [T, D].

    The gradient of row v is the sum over all tokens t with index[t] = v: a scatter, which CPUs are
    fast at. A TPU takes its rows one after the other. A GPU adds them up atomically, and tokens
    wait for one another where a table has few rows: on those before Hopper, with some versions of
    jax, hundreds of times as long (openxla/xla issue 46225). Both multiply matrices well: there a
    small table's gradient is onehot(index)^T [V, T] times what comes back [T, D]. For a vocabulary
    that would take more operations than a layer.

    Args:
        table: float32.
        index: of rows.
        dtype: of that product's factors, which are added up in float32; None: a scatter.
    """
    if dtype is None or len(table) > SMALL:
        return table[index]
    return _look_up(table, index, len(table), dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _look_up(table: jax.Array, index: jax.Array, rows: int, dtype: Dtype) -> jax.Array:
    del rows, dtype
    return table[index]


def _forward(
    table: jax.Array, index: jax.Array, rows: int, dtype: Dtype
) -> tuple[jax.Array, jax.Array]:
    del rows, dtype
    return table[index], index


def _backward(rows: int, dtype: Dtype, index: jax.Array, grad: jax.Array) -> tuple[jax.Array, None]:
    one_hot = (jnp.arange(rows)[:, None] == index).astype(dtype)
    summed = jnp.matmul(
        one_hot, grad.astype(dtype), precision=precision(dtype), preferred_element_type=jnp.float32
    )
    return summed, None


_look_up.defvjp(_forward, _backward)
