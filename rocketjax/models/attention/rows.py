"""Self-attention over packed rows as one Pallas kernel for TPUs: scores never leave the chip.

Texts lie end to end in rows of S tokens. XLA's attention writes the [S, S] scores of every head to
main memory (HBM), reads them again, and copies queries, keys and values into layouts of its own. At
the sizes of a retriever a TPU waits for that traffic, not for the arithmetic. This kernel reads
each projected row once and writes its result once.

If you are new to Pallas, read on.

**Blocks.** `pl.pallas_call` runs a function once per point of a grid. A `BlockSpec` says which
piece of an array that function sees: a shape, and a map from the grid point to the piece's place,
counted in such pieces. Pallas copies the next pieces into VMEM (a core's fast memory, 16 MiB on a
v4) while the function works on the current ones, so each block takes its size twice. Here a point
is a few whole rows and `lanes` of their columns. The projection's output [R, S, 3C] is passed three
times, with maps to its queries, keys and values: nothing is split, transposed or copied beforehand.

**Heads: masks of lanes, slices of sublanes.** A TPU register holds 8 sublanes of 128 lanes, and the
matrix unit is 128 wide. Heads of 32 or 64 are narrower; to cut one out of the lanes would shift
data sideways through the chip's slowest unit. So 128 lanes are worked on as one group of heads. A
head's scores are k q^T over all 128 lanes, with the *other heads' lanes of q set to zero*: what
they would add vanishes, and the matrix unit is as fast with zeros. Transposed, on the other hand, a
head's numbers are sublanes, and a slice that starts at a multiple of 16 sublanes is free: it just
names other registers. So the group's values are transposed once, [S, 128] to [128, S], every head's
results are rows of a [128, S] array, and that is transposed back once. This is why C must be a
multiple of 128, and the head size 16, 32, 64 or 128.

**Keys down, queries across.** The scores are laid out [keys, queries]. The softmax then takes
maxima and sums over sublanes, where registers are simply added to each other; over lanes it would
again go through the slowest unit. There is one softmax a row: all scores of a head fit in VMEM
(256 kB at S = 256), so the running maximum of flash attention, for rows that do not fit, is not
needed.

**Recomputation.** The gradients need the weights P again. Storing them would bring back the traffic
that the kernel avoids, so the backward kernel recomputes them from q and k, and nothing but qkv is
kept between the passes. With dO the gradient of the output O = P V, and P, dP, dS one head's
[queries, keys],

    dV = P^T dO        dP = dO V^T        dS = P * (dP - rowsum(P * dP))
    dQ = scale dS K    dK = scale dS^T Q

**Order.** The compiler schedules the matrix unit and the vector unit side by side, but hardly moves
work far from where it is written. So the scores of a few heads are computed first: while the vector
unit takes the softmax of one, the matrix unit multiplies for the next. Compiled for a v5e (heads of
64, S = 256), a group takes 741 bundles of instructions forward and 1,379 backward; head by head,
with scores [queries, keys], it took 1,066 and 1,979. Counted, not timed: libtpu 0.0.42.1 writes the
schedules with LIBTPU_INIT_ARGS="--xla_jf_dump_to=FOLDER --xla_jf_dump_llo_text=true".
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
# Bytes of VMEM that a v4 has, and that a kernel may take elsewhere unless it asks for more. We do
# not ask: XLA keeps other arrays in the rest of a larger VMEM.
VMEM = 16 * 2**20


class _Heads(NamedTuple):
    """What the kernels compute; static."""

    size: int  # of one head
    scale: float
    window: int | None


class _Blocks(NamedTuple):
    """What one step of the grid works on; static."""

    rows: int
    lanes: int  # of each of q, k and v: a multiple of 128 that divides C


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
        qkv: [R, S, 3C], queries, keys and values as one projection lays them out: each C wide, its
            heads side by side. float32 (products at the highest precision) or bfloat16 (products
            summed, and the softmax taken, in float32).
        text: [R, S] int32, the index of each token's text; -1 where a slot is empty. A text's
            tokens are neighbours. Empty slots attend to each other: their results are finite but
            meaningless.
        heads: number of heads in C.
        window: tokens more than window // 2 apart do not see each other, as in the local layers of
            ModernBERT; None: no limit.
        scale: of the scores; None: (C / heads) ** -0.5.
        interpret: run on any device, slowly, for tests.

    Returns:
        [R, S, C] in the dtype of `qkv`.

    Raises:
        ValueError: the kernel is not made for such shapes (see `row_fits`).
    """
    rows, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    if not row_fits(length, width, heads, qkv.dtype):
        raise ValueError(
            f"rows of {length} tokens, {width} wide in {heads} heads, {qkv.dtype}: the kernel "
            "takes rows and widths that are multiples of 128 and fit in VMEM, and heads of 16, 32, "
            "64 or 128"
        )
    size = width // heads
    rule = _Heads(size, size**-0.5 if scale is None else float(scale), window)
    lanes = _lanes(length, width, qkv.dtype)
    # A step of the grid costs a fixed third of a microsecond or so: short rows share one.
    together = 256 // length or 1
    blocks = _Blocks(1 if rows % together else together, lanes)
    return _attend(qkv, text, rule, blocks, interpret)


def row_fits(length: int, width: int, heads: int, dtype: Any) -> bool:
    """Whether `attend_rows` takes rows of `length` tokens, `width` numbers each in `heads` heads.

    In bfloat16 it does up to 512 tokens at a width of 1,024.
    """
    return (
        length % LANES == 0
        and width % LANES == 0
        and width % heads == 0
        and width // heads in (16, 32, 64, 128)
        and _lanes(length, width, dtype) > 0
    )


def _lanes(length: int, width: int, dtype: Any) -> int:
    """The most lanes a step that leave room in VMEM; 0: none do."""
    size = jnp.dtype(dtype).itemsize
    # Scores and their gradients of the heads worked on together, and some more of that size: twice
    # as much in float32, whose products at the highest precision split what they multiply.
    scores = (2 * _together(length) + 2) * length * length * 2 * size
    for lanes in range(width, 0, -LANES):
        # Blocks of the backward kernel: q, k, v and the output's gradient; the gradients of all.
        blocks = 2 * length * (4 * lanes + 3 * width) * size
        if width % lanes == 0 and blocks + scores <= VMEM:
            return lanes
    return 0


def _together(length: int) -> int:
    """Heads worked on together."""
    return max(1, 1024 // length)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _attend(
    qkv: jax.Array, text: jax.Array, heads: _Heads, blocks: _Blocks, interpret: bool
) -> jax.Array:
    rows, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    return pl.pallas_call(
        partial(_forward_kernel, heads=heads),
        grid=(rows // blocks.rows, width // blocks.lanes),
        in_specs=_in_specs(length, width, blocks),
        out_specs=_columns(length, blocks, 0),
        # Not written out, since within shard_map the type says how the array varies over devices.
        out_shape=jax.eval_shape(lambda x: x[..., :width], qkv),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )(text[:, None], qkv, qkv, qkv)


def _forward(
    qkv: jax.Array, text: jax.Array, heads: _Heads, blocks: _Blocks, interpret: bool
) -> tuple[jax.Array, Any]:
    return _attend(qkv, text, heads, blocks, interpret), (qkv, text)


def _backward(
    heads: _Heads, blocks: _Blocks, interpret: bool, saved: Any, grad: jax.Array
) -> tuple[jax.Array, None]:
    qkv, text = saved
    rows, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    # The steps over lanes fill one block of the result, which is written when the rows change.
    whole = pl.BlockSpec((blocks.rows, length, 3 * width), lambda i, g: (i, 0, 0))
    dqkv = pl.pallas_call(
        partial(_backward_kernel, heads=heads),
        grid=(rows // blocks.rows, width // blocks.lanes),
        in_specs=[*_in_specs(length, width, blocks), _columns(length, blocks, 0)],
        out_specs=whole,
        out_shape=jax.eval_shape(lambda x: x, qkv),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
    )(text[:, None], qkv, qkv, qkv, grad.astype(qkv.dtype))
    return dqkv, None


_attend.defvjp(_forward, _backward)


def _in_specs(length: int, width: int, blocks: _Blocks) -> list[pl.BlockSpec]:
    """Blocks of the texts' indices [R, 1, S], then of queries, keys and values in [R, S, 3C]."""
    steps = width // blocks.lanes
    text = pl.BlockSpec((blocks.rows, 1, length), lambda i, g: (i, 0, 0))
    return [text, *(_columns(length, blocks, part * steps) for part in range(3))]


def _columns(length: int, blocks: _Blocks, first: int) -> pl.BlockSpec:
    """Blocks of whole rows and `lanes` columns, from the block number `first` of the columns on."""
    shape = (blocks.rows, length, blocks.lanes)
    return pl.BlockSpec(shape, lambda i, g: (i, 0, first + g))


def _forward_kernel(text_ref, q_ref, k_ref, v_ref, out_ref, *, heads: _Heads) -> None:  # noqa: ANN001
    def group(row: Any, lanes: Any, bias: jax.Array) -> None:
        q, k, v = (ref[row, :, lanes] for ref in (q_ref, k_ref, v_ref))
        vt, out = v.T, []
        for some in _in_turn(heads.size, q.shape[0]):
            scores = [_dot(k, _only(own, q), 1, 1) for own in some]
            for own, score in zip(some, scores, strict=True):
                weights, total = _weights(score * heads.scale + bias)
                out.append(_dot(vt[own], weights.astype(v.dtype), 1, 0) / total)
        out_ref[row, :, lanes] = jnp.concatenate(out).T.astype(out_ref.dtype)

    _each_group(text_ref, q_ref, heads.window, group)


def _backward_kernel(text_ref, q_ref, k_ref, v_ref, grad_ref, dqkv_ref, *, heads: _Heads) -> None:  # noqa: ANN001
    width = dqkv_ref.shape[-1] // 3
    first = pl.program_id(1) * q_ref.shape[-1]

    def group(row: Any, lanes: Any, bias: jax.Array) -> None:
        q, k, v, grad = (ref[row, :, lanes] for ref in (q_ref, k_ref, v_ref, grad_ref))
        qt, kt, gradt = q.T, k.T, grad.T
        dq, dk, dv = [], [], []
        for some in _in_turn(heads.size, q.shape[0]):
            scores = [_dot(k, _only(own, q), 1, 1) for own in some]
            dps = [_dot(v, _only(own, grad), 1, 1) for own in some]
            for own, score, dp in zip(some, scores, dps, strict=True):
                weights, total = _weights(score * heads.scale + bias)
                p = weights / total
                ds = (p * (dp - jnp.sum(p * dp, axis=0, keepdims=True))).astype(q.dtype)
                dq.append(_dot(kt[own], ds, 1, 0) * heads.scale)
                dk.append(_dot(qt[own], ds, 1, 1) * heads.scale)
                dv.append(_dot(gradt[own], p.astype(q.dtype), 1, 1))
        for part, value in enumerate((dq, dk, dv)):
            at = pl.multiple_of(part * width + first + lanes.start, LANES)
            dqkv_ref[row, :, pl.ds(at, LANES)] = jnp.concatenate(value).T.astype(dqkv_ref.dtype)

    _each_group(text_ref, q_ref, heads.window, group)


def _each_group(text_ref, q_ref, window: int | None, group: Any) -> None:  # noqa: ANN001
    """Calls group(row, lanes, bias) for each row of a block and each 128 of its lanes.

    These are loops on the device. Unrolled here, they would take far longer to compile.
    """
    rows, _, width = q_ref.shape

    def row(r: Any, _: None) -> None:
        bias = _bias(text_ref[r], window)

        def lanes(g: Any, _: None) -> None:
            group(r, pl.ds(pl.multiple_of(g * LANES, LANES), LANES), bias)

        jax.lax.fori_loop(0, width // LANES, lanes, None)

    jax.lax.fori_loop(0, rows, row, None)


def _bias(text: jax.Array, window: int | None) -> jax.Array:
    """[S, S], added to scores: 0 where two tokens see each other, else so low that exp gives 0."""
    length = text.shape[1]
    queries = jnp.broadcast_to(text, (length, length))
    seen = queries == queries.T
    if window is not None:
        key, query = (jax.lax.broadcasted_iota(jnp.int32, seen.shape, axis) for axis in (0, 1))
        seen &= jnp.abs(key - query) <= window // 2
    return jnp.where(seen, 0.0, -1e30)


def _in_turn(size: int, length: int) -> list[list[slice]]:
    """Where the heads of a group are in its 128 lanes, in lists of those worked on together."""
    heads = [slice(start, start + size) for start in range(0, LANES, size)]
    step = _together(length)
    return [heads[i : i + step] for i in range(0, len(heads), step)]


def _only(own: slice, x: jax.Array) -> jax.Array:
    """[S, 128], all lanes but a head's own set to zero."""
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where((lane >= own.start) & (lane < own.stop), x, jnp.zeros_like(x))


def _weights(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(scores - max) [keys, queries], and the sums to divide by [1, queries]."""
    weights = jnp.exp(scores - jnp.max(scores, axis=0, keepdims=True))
    return weights, jnp.sum(weights, axis=0, keepdims=True)


def _dot(a: jax.Array, b: jax.Array, axis_of_a: int, axis_of_b: int) -> jax.Array:
    """The product of two matrices, summed over an axis of each, in float32."""
    return jax.lax.dot_general(
        a,
        b,
        (((axis_of_a,), (axis_of_b,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
