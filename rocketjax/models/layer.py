"""One layer of the encoder, a pure function of its parameters: attention and a perceptron."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.architecture import Compute, Distances, Dtype, EncoderConfig
from rocketjax.models.attention.attend import attend
from rocketjax.models.attention.distances import distance_scores
from rocketjax.models.dropout import dropout
from rocketjax.models.positions import Places, rotated, rotated_in_one_pass
from rocketjax.models.precision import precision
from rocketjax.text.batch import Rows

Params: TypeAlias = Any  # a pytree of arrays


class How(NamedTuple):
    """What a layer computes, and how; static."""

    config: EncoderConfig
    compute: Compute
    window: int | None = None  # None: every token of a text sees every other
    first_only: bool = False  # after attention, go on with the first token of each text only: a
    # model that reads no other saves most of its last layer


class States(NamedTuple):
    """What goes from layer to layer, for each slot or each text."""

    normed: jax.Array  # [T, D], what the next sublayer reads
    total: jax.Array | None  # [T, D], what it adds to, float32; None: the same


def layer(
    how: How,
    states: States,
    indexed: tuple[Params, jax.Array | int],
    rows: Rows,
    places: Places,
    keys: jax.Array | None,
) -> States:
    """Self-attention and a two-layer perceptron, each followed by residual and LayerNorm.

    What is added to the next sublayer's result is the normalised sum or, with `config.prenorm`, the
    sum itself. So the norm that such models have before a sublayer is the one after the sublayer
    before it, and their final norm is the one after the last.

    Args:
        how: static.
        states: of all slots, R * S.
        indexed: this layer's parameters and its index, as `jax.lax.scan` passes them.
        rows: where the tokens of each text are.
        places: how attention sees positions.
        keys: [R * S] random keys for dropout, one per token; None: no dropout.

    Returns:
        The states of all slots, or of N texts with `first_only`.
    """
    (config, compute, window, first_only), (params, index) = how, indexed
    contract = _cheaply_kept(partial(_contract, config=config, dtype=compute.dtype), compute.dtype)
    x, total = states
    text = jnp.asarray(rows.text)
    qkv = dense(params["qkv"], x, compute.dtype)
    if places.turns is not None:
        rotate = rotated_in_one_pass if compute.attention == "plain" else rotated
        qkv = rotate(qkv, places.turns, config.num_heads)
    qkv = qkv.reshape(*text.shape, -1)
    bias, scale = places.bias, None
    if config.distances is not None and places.distances is not None:
        terms, size = config.distances.terms, config.hidden_size // config.num_heads
        scale = ((1 + len(terms)) * size) ** -0.5
        projected = _projected(params, places.distances, config.distances, compute.dtype)
        bias = distance_scores(qkv, projected, terms, config.num_heads, scale)
    attended = attend(qkv, text, config.num_heads, compute.attention, window, bias, scale)
    attended = attended.reshape(x.shape)
    if first_only:
        x, attended = rows.one_per_text(x), rows.one_per_text(attended)
        total = None if total is None else rows.one_per_text(total)
        keys = None if keys is None else keys[rows.first]
    attended = dense(params["attention_out"], attended, compute.dtype)
    attended = dropout(attended, keys, compute.dropout, 2 * index + 1)
    states = _added(how, params["attention_norm"], States(x, total), attended)
    hidden = contract(params["mlp_out"], dense(params["mlp_in"], states.normed, compute.dtype))
    hidden = dropout(hidden, keys, compute.dropout, 2 * index + 2)
    x, total = _added(how, params["mlp_norm"], states, hidden)
    return States(x.astype(compute.dtype), total)


def _projected(params: Params, embedded: jax.Array, of: Distances, dtype: Dtype) -> jax.Array:
    """The embeddings of distances [2 S, D] as queries and keys, one for each term, side by side."""
    if not of.shared:
        return dense(params["distance"], embedded, dtype)
    width = embedded.shape[-1]
    first = 0 if "p2c" in of.terms else width
    last = 2 * width if "c2p" in of.terms else width
    own = jax.tree.map(lambda each: each[..., first:last], params["qkv"])
    return dense(own, embedded, dtype)


def _added(how: How, norm: Params, states: States, result: jax.Array) -> States:
    """The states after a sublayer's result is added to them."""
    total = result + (states.normed if states.total is None else states.total)
    run = _cheaply_kept(partial(layer_norm, epsilon=how.config.layer_norm_eps), how.compute.dtype)
    return States(run(norm, total), None if states.total is None else total)


def _contract(params: Params, hidden: jax.Array, config: EncoderConfig, dtype: Dtype) -> jax.Array:
    """The perceptron's second half: [T, F] or, gated, [T, 2 F] -> [T, D]."""
    if config.gated:
        gate, hidden = jnp.split(hidden, 2, axis=-1)
        gate, hidden = (hidden, gate) if config.gate_last else (gate, hidden)
        hidden = activate(config.activation, gate) * hidden
    else:
        hidden = activate(config.activation, hidden)
    return dense(params, hidden, dtype)


def _cheaply_kept(part: Callable[..., jax.Array], dtype: Dtype) -> Callable[..., jax.Array]:
    """`part`, which the backward pass computes again from its arguments.

    LayerNorm and gelu would keep several float32 arrays of each: in bfloat16 training, writing and
    reading those takes a TPU longer than computing them (docs/tpu.md).
    """
    return part if dtype == jnp.float32 else jax.checkpoint(part, prevent_cse=False)


def init_layers(key: jax.Array, config: EncoderConfig) -> Params:
    """Draws the parameters of all layers, stacked [num_layers, ...]."""

    def init(key: jax.Array) -> Params:
        draw = nn.initializers.lecun_normal()
        norm = init_norm(config.hidden_size, config.norm_bias)
        params = {}
        shapes = config.dense_shapes
        keys = jax.random.split(key, len(shapes))
        for key, (name, shape) in zip(keys, shapes.items(), strict=True):
            params[name] = {"kernel": draw(key, shape)}
            if name in (*config.biases, "distance"):
                params[name]["bias"] = jnp.zeros(shape[-1])
        return params | {"attention_norm": norm, "mlp_norm": norm}

    return jax.vmap(init)(jax.random.split(key, config.num_layers))


def init_norm(width: int, bias: bool) -> Params:
    """The parameters of a fresh LayerNorm."""
    return {"scale": jnp.ones(width)} | ({"bias": jnp.zeros(width)} if bias else {})


def dense(params: Params, x: jax.Array, dtype: Dtype) -> jax.Array:
    """x W + b in `dtype`; without b where there is none."""
    product = jnp.matmul(
        x.astype(dtype), params["kernel"].astype(dtype), precision=precision(dtype)
    )
    return product + params["bias"].astype(dtype) if "bias" in params else product


def layer_norm(params: Params, x: jax.Array, epsilon: float) -> jax.Array:
    """LayerNorm in float32, in two passes: E[x^2] - E[x]^2 would cancel if a unit is large."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * params["scale"]
    return x + params["bias"] if "bias" in params else x


def activate(name: str, x: jax.Array) -> jax.Array:
    """The activation function of that name."""
    if name in ("relu", "silu", "tanh"):
        return {"relu": nn.relu, "silu": nn.silu, "tanh": jnp.tanh}[name](x)
    if name == "gelu_tanh":
        return nn.gelu(x, approximate=True)
    return _gelu(x)


def _gelu(x: jax.Array) -> jax.Array:
    # By erf, as in torch: jax's own uses erfc, which takes more than twice as long on a CPU and is
    # more accurate only where the result is close to 0. In float32, as 1 + erf would cancel in
    # bfloat16.
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)
