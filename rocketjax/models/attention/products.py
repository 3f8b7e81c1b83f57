"""Self-attention over packed rows by jax.nn.dot_product_attention: XLA's products, or cuDNN's."""

from typing import Literal, TypeAlias

import jax

from rocketjax.models.attention.visible import visible
from rocketjax.models.precision import precision

Products: TypeAlias = Literal["xla", "cudnn"] | None


def attend_by_products(
    qkv: jax.Array,
    text: jax.Array,
    heads: int,
    implementation: Products,
    window: int | None = None,
    bias: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """Takes and returns what `attend` does; `scale`: of the scores, None: 1 / sqrt(D)."""
    rows, length, _ = qkv.shape
    split = qkv.reshape(rows, length, 3, heads, -1)
    with jax.default_matmul_precision(precision(qkv.dtype)):
        out = jax.nn.dot_product_attention(
            *(split[:, :, i] for i in range(3)),
            bias=None if bias is None else bias.reshape(-1, *bias.shape[-3:]).astype(qkv.dtype),
            mask=visible(text, window)[:, None],
            scale=scale,
            implementation=implementation,
        )
    return out.reshape(rows, length, -1)
