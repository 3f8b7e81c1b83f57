"""Self-attention over packed rows on a TPU: which of three programs computes it.

By shapes alone, so that what is compiled does not depend on what happens to fail:

    rows    our kernel (rows.py), wherever a row fits: BERT, MiniLM and ERNIE up to
            512 tokens a row
    splash  jax's own kernel, for other widths and longer rows in bfloat16. It wants heads first,
            so queries, keys and values are transposed and copied
    plain   XLA's matrix products, for rows that are no multiple of 128, and for what is left in
            float32: splash cannot be told to multiply it at more than a TPU's default precision,
            bfloat16, in its backward pass. Scores pass through HBM
"""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)

from rocketjax.models.attention.products import attend_by_products
from rocketjax.models.attention.rows import LANES, attend_rows, row_fits

Program: TypeAlias = Literal["rows", "splash", "plain"]


def choose(length: int, width: int, heads: int, dtype: jnp.dtype) -> Program:
    """The fastest program for rows of `length` tokens, `width` numbers each in `heads` heads."""
    if row_fits(length, width, heads, dtype):
        return "rows"
    return "splash" if length % LANES == 0 and dtype == jnp.bfloat16 else "plain"


def attend_on_tpu(
    qkv: jax.Array,
    text: jax.Array,
    heads: int,
    window: int | None = None,
    scale: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """softmax(scale q k^T) v over the tokens of the same text, by the program `choose` names.

    Takes and returns what `attend_rows` does, at any width and length.
    """
    width = qkv.shape[-1] // 3
    factor = (width // heads) ** -0.5 if scale is None else scale
    program = choose(qkv.shape[1], width, heads, qkv.dtype)
    if program == "rows":
        return attend_rows(qkv, text, heads, window, factor, interpret)
    if program == "splash":
        return _splash(qkv, text, heads, window, factor, interpret)
    return attend_by_products(qkv, text, heads, "xla", window, scale=factor)


def _splash(
    qkv: jax.Array,
    text: jax.Array,
    heads: int,
    window: int | None,
    scale: float,
    interpret: bool,
) -> jax.Array:
    rows, length, _ = qkv.shape
    q, k, v = qkv.reshape(rows, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    mask = masks.FullMask((length, length))
    if window is not None:
        reach = window // 2
        mask = masks.LocalMask((length, length), (reach, reach), offset=0)
    # The longest blocks that divide a row: short ones cost more steps than they save work.
    block = next(size for size in (512, 384, 256, 128) if length % size == 0)
    attend: Any = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=interpret,
    )
    scaled = (q.astype(jnp.float32) * scale).astype(q.dtype)
    out = jax.vmap(attend)(scaled, k, v, kernels.SegmentIds(text, text))
    return out.transpose(0, 2, 1, 3).reshape(rows, length, -1)
