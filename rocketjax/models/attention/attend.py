"""Self-attention over packed rows: by what is fastest where it runs."""

from typing import Literal, TypeAlias

import jax

from rocketjax.models.attention.cpu import attend_on_cpu
from rocketjax.models.attention.visible import visible
from rocketjax.models.precision import precision

Attention: TypeAlias = Literal["plain", "tpu", "xla", "cudnn"] | None


def attend(qkv: jax.Array, text: jax.Array, heads: int, implementation: Attention) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v of every token over the tokens of its own text.

    Args:
        qkv: [R, S, 3 * heads * D]: queries, keys and values, each head by head.
        text: [R, S] int32, the number of each token's text; -1 where there is none: such slots see
            one another, and their results are finite and mean nothing.
        heads: H.
        implementation: "plain" (for CPUs, cpu.py), "tpu" (tpu.py), or an implementation of
            `jax.nn.dot_product_attention`; None: the one jax chooses.

    Returns:
        [R, S, heads * D] in the dtype of `qkv`.
    """
    if implementation == "tpu":
        # Imported where it is used: Pallas takes longer to import than all else here.
        from rocketjax.models.attention.tpu import attend_on_tpu

        return attend_on_tpu(qkv, text, heads)
    r, s, width = qkv.shape
    split = qkv.reshape(r, s, 3, heads, width // (3 * heads))
    if implementation == "plain":
        return attend_on_cpu(split, text).reshape(r, s, -1)
    with jax.default_matmul_precision(precision(qkv.dtype)):
        out = jax.nn.dot_product_attention(
            *(split[:, :, i] for i in range(3)),
            mask=visible(text)[:, None],
            implementation=implementation,
        )
    return out.reshape(r, s, -1)
