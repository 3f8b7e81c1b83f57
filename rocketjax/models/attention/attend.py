"""Self-attention over packed rows: by what is fastest where it runs."""

from typing import Any, Literal, TypeAlias

import jax

from rocketjax.models.attention.cpu import attend_on_cpu
from rocketjax.models.attention.products import attend_by_products

Attention: TypeAlias = Literal["plain", "tpu", "xla", "cudnn"] | None


def attend(
    qkv: jax.Array,
    text: jax.Array,
    heads: int,
    implementation: Attention,
    window: int | None = None,
    bias: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """softmax(scale q k^T + bias) v of every token over the tokens of its own text.

    Args:
        qkv: [R, S, 3 * heads * D]: queries, keys and values, each head by head.
        text: [R, S] int32, the number of each token's text; -1 where there is none: such slots see
            one another, and their results are finite and mean nothing.
        heads: H.
        implementation: "plain" (for CPUs, cpu.py), "tpu" (tpu.py), or an implementation of
            `jax.nn.dot_product_attention`; None: the one jax chooses.
        window: tokens more than window // 2 apart do not see each other; None: no limit.
        bias: [H, S, S], queries by keys, or [R, H, S, S]; "tpu" leaves both to XLA, and "cudnn" the
            second, whose gradient it does not give. None: no bias.
        scale: None: 1 / sqrt(D).

    Returns:
        [R, S, heads * D] in the dtype of `qkv`.
    """
    if implementation == "tpu" and bias is None:
        # Imported where it is used: Pallas takes longer to import than all else here.
        from rocketjax.models.attention.tpu import attend_on_tpu

        return attend_on_tpu(qkv, text, heads, window, scale)
    if implementation == "plain":
        r, s, width = qkv.shape
        split = qkv.reshape(r, s, 3, heads, width // (3 * heads))
        plain: Any = attend_on_cpu(split, text, bias, window, scale)
        return plain.reshape(r, s, -1)
    by = "xla" if implementation == "tpu" else implementation
    if bias is not None and bias.ndim == 4:
        by = "xla"
    return attend_by_products(qkv, text, heads, by, window, bias, scale)
