"""Self-attention over packed rows, as one Pallas kernel for TPUs: a whole row in fast memory.

Texts lie end to end in rows of S tokens. XLA's attention writes the [S, S] scores of every head to
main memory (HBM), reads them again, and copies queries, keys and values into layouts of its own. At
the sizes of a retriever that traffic, not the arithmetic, is what a TPU waits for. This kernel
reads each projected row once and writes the result once: scores never leave the chip.

How to read it, if Pallas is new to you:

**Blocks.** `pl.pallas_call` runs a function once per point of a grid. A `BlockSpec` says which
piece of an array that function sees: a shape, and a map from grid point to the piece's place, in
units of that shape. Pallas copies the next pieces into VMEM (a TPU core's fast memory, 16 MiB on
a v4) while the current ones are worked on. Here one point is `rows` rows by `lanes` columns. The
projection's output [R, S, 3C] is passed three times, with maps that point at its queries, keys and
values, so nothing is split, transposed or copied beforehand.

**Masks of lanes, not slices.** A TPU holds arrays in tiles whose last axis is 128 lanes. Heads of
32 or 64 are narrower: cutting one out would move data between lanes, at a multiple of the cost of
computing with it. So heads are handled in groups of 128 lanes, uncut. A head's scores are q k^T
over all 128 lanes with the *other heads' lanes of q set to zero*: their products vanish. The matrix
unit is 128 wide in any case, so the zeros cost it nothing. Likewise weights times v gives results
in all 128 lanes, of which only the head's own are kept. This is why C must be a multiple of 128,
and a head size must divide 128.

**One row, one softmax.** A row's scores for one head are [S, S] float32: 256 kB at S = 256. They
fit in VMEM whole, so there is no running maximum and no loop over blocks of keys, as there is in
flash attention, which is made for rows that do not fit.

**Recompute.** For gradients, the weights P = softmax(scores) of the forward pass are needed again.
Storing them would bring back the traffic that the kernel avoids. The backward kernel computes them
again from q and k: one more product of six, and nothing but qkv is kept between the passes. With
dO the gradient of the output O = P V,

    dV = P^T dO        dP = dO V^T        dS = P * (dP - rowsum(P * dP))
    dQ = scale dS K    dK = scale dS^T Q

The weights stay unnormalised, W = exp(scores - max), and P = W / sum(W) is never formed: dividing
dO by the sums, row by row, gives the same results for S / 128 times less work.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128


class _Heads(NamedTuple):
    """What the kernels know of the arithmetic; static."""

    size: int  # of one head; divides 128
    scale: float
    window: int | None


class _Blocks(NamedTuple):
    """What one step of the grid works on; static."""

    rows: int
    lanes: int  # columns of each of q, k and v: a multiple of 128 that divides C
    interpret: bool


def attend_rows(
    qkv: jax.Array,
    text: jax.Array,
    heads: int,
    window: int | None = None,
    scale: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """softmax(scale q k^T) v over the tokens of the same text, on a TPU.

    Args:
        qkv: [R, S, 3C], queries, keys and values as one projection lays them out, each C wide, its
            heads side by side. float32 (products at the highest precision) or bfloat16 (products
            summed in float32).
        text: [R, S] int32, the index of each token's text; -1 where a slot is empty. A text's
            tokens are neighbours. Empty slots attend to each other: their results are finite and
            mean nothing.
        heads: in C; C / heads must divide 128, and C be a multiple of 128.
        window: tokens further apart than window // 2 do not attend to each other, as in the local
            layers of ModernBERT; None: no limit.
        scale: of the scores; None: (C / heads) ** -0.5.
        interpret: run on a CPU, slowly, for tests.

    Returns:
        [R, S, C] in the dtype of `qkv`.
    """
    width = qkv.shape[-1] // 3
    size = width // heads
    rule = _Heads(size, size**-0.5 if scale is None else float(scale), window)
    return _attend(qkv, text, rule, _Blocks(1, width, interpret))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _attend(qkv: jax.Array, text: jax.Array, heads: _Heads, blocks: _Blocks) -> jax.Array:
    """The forward kernel over all rows."""
    rows, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    here = pl.BlockSpec((blocks.rows, length, blocks.lanes), lambda i, g: (i, 0, g))
    return pl.pallas_call(
        partial(_forward_kernel, heads=heads),
        grid=(rows // blocks.rows, width // blocks.lanes),
        in_specs=_in_specs(length, width, blocks),
        out_specs=here,
        # Not written out: inside shard_map the type also says along which axes it varies.
        out_shape=jax.eval_shape(lambda x: x[..., :width], qkv),
        compiler_params=_compiler_params(),
        interpret=blocks.interpret,
    )(text[:, None], qkv, qkv, qkv)


def _forward(qkv: jax.Array, text: jax.Array, heads: _Heads, blocks: _Blocks) -> tuple[Any, Any]:
    return _attend(qkv, text, heads, blocks), (qkv, text)


def _backward(heads: _Heads, blocks: _Blocks, saved: Any, grad: jax.Array) -> tuple[Any, None]:
    """The backward kernel over all rows. Steps over lanes fill one block of the result."""
    qkv, text = saved
    rows, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    here = pl.BlockSpec((blocks.rows, length, blocks.lanes), lambda i, g: (i, 0, g))
    dqkv = pl.pallas_call(
        partial(_backward_kernel, heads=heads),
        grid=(rows // blocks.rows, width // blocks.lanes),
        in_specs=[*_in_specs(length, width, blocks), here],
        out_specs=pl.BlockSpec((blocks.rows, length, 3 * width), lambda i, g: (i, 0, 0)),
        out_shape=jax.eval_shape(lambda x: x, qkv),
        compiler_params=_compiler_params(),
        interpret=blocks.interpret,
    )(text[:, None], qkv, qkv, qkv, grad.astype(qkv.dtype))
    return dqkv, None


_attend.defvjp(_forward, _backward)


def _in_specs(length: int, width: int, blocks: _Blocks) -> list[pl.BlockSpec]:
    """Blocks of the text's indices [R, 1, S], then of queries, keys and values in [R, S, 3C]."""
    steps = width // blocks.lanes

    def part(index: int) -> pl.BlockSpec:
        shape = (blocks.rows, length, blocks.lanes)
        return pl.BlockSpec(shape, lambda i, g: (i, 0, index * steps + g))

    text = pl.BlockSpec((blocks.rows, 1, length), lambda i, g: (i, 0, 0))
    return [text, part(0), part(1), part(2)]


def _compiler_params() -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"))


def _forward_kernel(text_ref, q_ref, k_ref, v_ref, out_ref, *, heads: _Heads) -> None:  # noqa: ANN001
    def group(row: Any, bias: jax.Array, lanes: Any) -> None:
        q, k, v = (ref[row, :, lanes] for ref in (q_ref, k_ref, v_ref))
        out = jnp.zeros(q.shape, jnp.float32)
        for mine in _masks(q.shape, heads.size):
            weights, total = _weights(_only(mine, q), k, bias, heads.scale)
            out = jnp.where(mine, _dot(weights.astype(v.dtype), v, 1, 0) / total, out)
        out_ref[row, :, lanes] = out.astype(out_ref.dtype)

    _each_group(text_ref, q_ref, heads.window, group)


def _backward_kernel(text_ref, q_ref, k_ref, v_ref, grad_ref, dqkv_ref, *, heads: _Heads) -> None:  # noqa: ANN001
    width = dqkv_ref.shape[-1] // 3
    step = pl.program_id(1) * q_ref.shape[-1]

    def group(row: Any, bias: jax.Array, lanes: Any) -> None:
        q, k, v, grad = (ref[row, :, lanes] for ref in (q_ref, k_ref, v_ref, grad_ref))
        dq = dk = dv = jnp.zeros(q.shape, jnp.float32)
        for mine in _masks(q.shape, heads.size):
            own = _only(mine, q)
            weights, total = _weights(own, k, bias, heads.scale)
            shared = (_only(mine, grad).astype(jnp.float32) / total).astype(q.dtype)
            dp = _dot(shared, v, 1, 1)
            offset = jnp.sum(weights * dp, axis=1, keepdims=True) / total
            ds = (weights * (dp - offset)).astype(q.dtype)
            dq = jnp.where(mine, _dot(ds, k, 1, 0), dq)
            dk += _dot(ds, own, 0, 0)
            dv += _dot(weights.astype(q.dtype), shared, 0, 0)
        for part, value in enumerate((dq * heads.scale, dk * heads.scale, dv)):
            at = pl.multiple_of(part * width + step + lanes.start, LANES)
            dqkv_ref[row, :, pl.ds(at, LANES)] = value.astype(dqkv_ref.dtype)

    _each_group(text_ref, q_ref, heads.window, group)


def _each_group(text_ref, q_ref, window: int | None, group: Any) -> None:  # noqa: ANN001
    """Calls `group` for each row of a block and each 128 lanes of it.

    Loops of the machine, not of Python: unrolled, they take minutes to compile.
    """
    rows, _, lanes = q_ref.shape

    def row(r: Any, _: None) -> None:
        bias = _bias(text_ref[r], window)

        def lane(g: Any, _: None) -> None:
            group(r, bias, pl.ds(pl.multiple_of(g * LANES, LANES), LANES))

        jax.lax.fori_loop(0, lanes // LANES, lane, None)

    jax.lax.fori_loop(0, rows, row, None)


def _bias(text: jax.Array, window: int | None) -> jax.Array:
    """[S, S], added to scores: 0 where two tokens see each other, else so low that exp gives 0."""
    length = text.shape[1]
    keys = jnp.broadcast_to(text, (length, length))
    seen = keys == keys.T
    if window is not None:
        here, there = (jax.lax.broadcasted_iota(jnp.int32, seen.shape, axis) for axis in (0, 1))
        seen &= jnp.abs(here - there) <= window // 2
    return jnp.where(seen, 0.0, -1e30)


def _masks(shape: tuple[int, ...], size: int) -> list[jax.Array]:
    """For each head in 128 lanes, where its lanes are."""
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return [(lane >= start) & (lane < start + size) for start in range(0, LANES, size)]


def _only(mine: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(mine, x, jnp.zeros_like(x))


def _weights(
    q: jax.Array, k: jax.Array, bias: jax.Array, scale: float
) -> tuple[jax.Array, jax.Array]:
    """One head's weights before normalisation [S, S], and their sums [S, 1], in float32."""
    scores = _dot(q, k, 1, 1) * scale + bias
    weights = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
    return weights, jnp.sum(weights, axis=1, keepdims=True)


def _dot(a: jax.Array, b: jax.Array, axis_of_a: int, axis_of_b: int) -> jax.Array:
    """The product of two matrices, summed over one axis of each, in float32."""
    return jax.lax.dot_general(
        a,
        b,
        (((axis_of_a,), (axis_of_b,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
