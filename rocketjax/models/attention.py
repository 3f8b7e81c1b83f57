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

from rocketjax.models.rows_attention import attend_rows, row_fits

Attention: TypeAlias = Literal["plain", "rows", "xla", "cudnn"] | None


def attend(qkv: jax.Array, text: jax.Array, heads: int, implementation: Attention) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v of every token over the tokens of its own text.

    Args:
        qkv: [R, S, 3 * heads * D]: queries, keys and values, each head by head.
        text: [R, S] int32, the number of each token's text; -1 where there is none: such slots see
            one another, and their results are finite and mean nothing.
        heads: H.
        implementation: "plain" (for CPUs), "rows" (for TPUs, see rows_attention.py), or an
            implementation of `jax.nn.dot_product_attention`; None: the one jax chooses.

    Returns:
        [R, S, heads * D] in the dtype of `qkv`.
    """
    r, s, width = qkv.shape
    if implementation == "rows" and row_fits(s, width // 3, heads, qkv.dtype):
        return attend_rows(qkv, text, heads)
    split = qkv.reshape(r, s, 3, heads, width // (3 * heads))
    if implementation == "plain":
        out = _plain(split, text)
    else:
        with jax.default_matmul_precision(precision(qkv.dtype)):
            out = jax.nn.dot_product_attention(
                *(split[:, :, i] for i in range(3)),
                mask=same_text(text)[:, None],
                implementation="xla" if implementation == "rows" else implementation,
            )
    return out.reshape(r, s, -1)


def same_text(text: jax.Array) -> jax.Array:
    """[R, S] -> [R, S, S] bool: which slots see each other."""
    return text[:, :, None] == text[:, None, :]


def precision(dtype: Any) -> Literal["highest"] | None:
    """The precision for products in `dtype`.

    By default, accelerators multiply float32 as bfloat16 or TF32.
    """
    return "highest" if dtype == jnp.float32 else None


@jax.custom_vjp
def _plain(qkv: jax.Array, text: jax.Array) -> jax.Array:
    """[R, S, 3, H, D] -> [R, S, H, D]."""
    return _forward(qkv, text)[0]


def _forward(qkv: jax.Array, text: jax.Array) -> tuple[jax.Array, Any]:
    """Returns the output and what the backward pass needs, such as the unnormalised weights."""
    q, k, v = (_heads_first(qkv[:, :, i]) for i in range(3))
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    scores = _dot("nhqd,nhkd->nhqk", q, k)
    # Mask before taking the maximum: if another text held it, its own weights could underflow.
    scores = jnp.where(same_text(text)[:, None], scores, -1e30)
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
