"""Self-attention: jax's own where that is fast, plain matrix products on a CPU.

XLA's CPU backend multiplies batches of small matrices as fast as large ones only if each matrix is
contiguous and the sum runs over a suitable axis. What jax.grad derives for
`jax.nn.dot_product_attention` multiplies transposed matrices, and copying those costs more than the
arithmetic, so `_plain` lays out both passes by hand. Measured on 16 texts of 128 tokens, 12 heads
of 32, two cores: forward and backward took 45 ms before and take 17 ms now
(`tests/models/test_attention.py` checks that the two agree).
"""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

Attention: TypeAlias = Literal["plain", "xla", "cudnn"] | None


def attend(qkv: jax.Array, length: jax.Array, implementation: Attention) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v over each text's own tokens.

    Args:
        qkv: [N, S, 3, H, D], queries, keys and values of H heads.
        length: [N], tokens in each text. No token attends to padding; the rows of the result that
            belong to padding are meaningless.
        implementation: "plain" (for CPUs), or an implementation of
            `jax.nn.dot_product_attention`; None: the one jax chooses.

    Returns:
        [N, S, H, D] in the dtype of `qkv`.
    """
    if implementation == "plain":
        return _plain(qkv, length)
    with jax.default_matmul_precision(precision(qkv.dtype)):
        return jax.nn.dot_product_attention(
            *(qkv[:, :, i] for i in range(3)),
            key_value_seq_lengths=length,
            implementation=implementation,
        )


def attend_first(query: jax.Array, keys_values: jax.Array, length: jax.Array) -> jax.Array:
    """Attention of each text's first token only: all that [CLS] pooling needs of the last layer.

    Args:
        query: [N, H, D], of the first tokens.
        keys_values: [N, S, 2, H, D], of all tokens.
        length: [N], tokens in each text.

    Returns:
        [N, H, D] in the dtype of `query`.
    """
    keys, values = keys_values[:, :, 0], keys_values[:, :, 1]
    scores = _dot("nhd,nshd->nhs", query, keys)
    inside = jnp.arange(keys.shape[1]) < length[:, None, None]
    weights = jax.nn.softmax(jnp.where(inside, scores * query.shape[-1] ** -0.5, -1e30))
    weights = weights.astype(values.dtype)
    out = jnp.einsum("nhs,nshd->nhd", weights, values, precision=precision(values.dtype))
    return out.astype(query.dtype)


def precision(dtype: Any) -> Literal["highest"] | None:
    """The precision for products in `dtype`.

    By default, accelerators multiply float32 as bfloat16 or TF32.
    """
    return "highest" if dtype == jnp.float32 else None


@jax.custom_vjp
def _plain(qkv: jax.Array, length: jax.Array) -> jax.Array:
    return _forward(qkv, length)[0]


def _forward(qkv: jax.Array, length: jax.Array) -> tuple[jax.Array, Any]:
    """Returns the output and what the backward pass needs, such as the unnormalised weights."""
    q, k, v = (_heads_first(qkv[:, :, i]) for i in range(3))
    s, d = q.shape[2:]
    q = q * jnp.asarray(d**-0.5, q.dtype)
    scores = _dot("nhqd,nhkd->nhqk", q, k)
    # Mask before taking the maximum: if padding held it, the text's own weights could underflow.
    scores = jnp.where((jnp.arange(s) < length[:, None])[:, None, None], scores, -1e30)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    share = 1 / jnp.sum(weights, axis=-1, keepdims=True)
    # Normalise after the product: D numbers per token instead of S.
    out = _dot("nhqk,nhkd->nhqd", weights.astype(v.dtype), v) * share
    return _heads_first(out).astype(qkv.dtype), (q, k, v, weights, share, out)


def _backward(saved: Any, grad: jax.Array) -> tuple[jax.Array, None]:
    q, k, v, weights, share, out = saved
    grad = _heads_first(grad).astype(jnp.float32)
    low = q.dtype
    # The softmax gradient subtracts the row sums of p * dp, which equal those of out * grad.
    offset = jnp.sum(out * grad, axis=-1, keepdims=True)
    shared = (grad * share).astype(low)
    dv = _dot("nhqd,nhqk->nhdk", shared, weights.astype(low))
    dp = _dot("nhqd,nhkd->nhqk", grad.astype(low), v)
    ds = (weights * (dp - offset)).astype(low)  # not yet multiplied by `share`, row by row
    dq = _dot("nhqk,nhkd->nhqd", ds, k) * (share * q.shape[-1] ** -0.5)
    dk = _dot("nhqd,nhqk->nhdk", (q * share).astype(low), ds)
    grads = (_heads_first(dq), dk.transpose(0, 3, 1, 2), dv.transpose(0, 3, 1, 2))
    return jnp.stack(grads, axis=2).astype(low), None


_plain.defvjp(_forward, _backward)


def _heads_first(x: jax.Array) -> jax.Array:
    """[N, S, H, D] -> [N, H, S, D], or back."""
    return x.transpose(0, 2, 1, 3)


def _dot(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(spec, a, b, precision=precision(a.dtype), preferred_element_type=jnp.float32)
