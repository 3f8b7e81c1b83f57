"""One layer of the encoder, a pure function of its parameters: attention and a perceptron."""

from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.architecture import Compute, Dtype, EncoderConfig
from rocketjax.models.attention import attend, precision
from rocketjax.models.positions import Places, rotated
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
    keys = fold_in(keys, index + 1)
    x, total = states
    text = jnp.asarray(rows.text)
    qkv = dense(params["qkv"], x, compute.dtype)
    if places.turns is not None:
        qkv = rotated(qkv, places.turns, config.num_heads)
    qkv = qkv.reshape(*text.shape, -1)
    attended = attend(qkv, text, config.num_heads, compute.attention, window, places.bias)
    attended = attended.reshape(x.shape)
    if first_only:
        x, attended = rows.one_per_text(x), rows.one_per_text(attended)
        total = None if total is None else rows.one_per_text(total)
        keys = None if keys is None else keys[rows.first]
    attended = dense(params["attention_out"], attended, compute.dtype)
    states = _added(how, params["attention_norm"], States(x, total), attended, fold_in(keys, 0))

    hidden = dense(params["mlp_in"], states.normed, compute.dtype)
    if config.gated:
        gate, hidden = jnp.split(hidden, 2, axis=-1)
        gate, hidden = (hidden, gate) if config.gate_last else (gate, hidden)
        hidden = activate(config.activation, gate) * hidden
    else:
        hidden = activate(config.activation, hidden)
    hidden = dense(params["mlp_out"], hidden, compute.dtype)
    x, total = _added(how, params["mlp_norm"], states, hidden, fold_in(keys, 1))
    return States(x.astype(compute.dtype), total)


def _added(
    how: How, norm: Params, states: States, result: jax.Array, keys: jax.Array | None
) -> States:
    """The states after a sublayer's result is added to them."""
    base = states.normed if states.total is None else states.total
    total = base + dropout(result, keys, how.compute.dropout)
    normed = layer_norm(norm, total, how.config.layer_norm_eps)
    return States(normed, None if states.total is None else total)


def init_layers(key: jax.Array, config: EncoderConfig) -> Params:
    """Draws the parameters of all layers, stacked [num_layers, ...]."""

    def init(key: jax.Array) -> Params:
        draw = nn.initializers.lecun_normal()
        norm = init_norm(config.hidden_size, config.norm_bias)
        params = {}
        keys = jax.random.split(key, 4)
        for key, (name, shape) in zip(keys, config.dense_shapes.items(), strict=True):
            params[name] = {"kernel": draw(key, shape)}
            if name in config.biases:
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
    if x.dtype == jnp.float32:
        return _gelu(x)
    # Recomputed in the backward pass, which would otherwise keep three float32 arrays of it.
    return jax.checkpoint(_gelu, prevent_cse=False)(x)


def _gelu(x: jax.Array) -> jax.Array:
    # By erf, as in torch: jax's own uses erfc, which takes more than twice as long on a CPU and is
    # more accurate only where the result is close to 0. In float32, as 1 + erf would cancel in
    # bfloat16.
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def dropout(x: jax.Array, keys: jax.Array | None, rate: float) -> jax.Array:
    """Zeroes a share `rate` of x [N, ...] and scales up the rest; without keys, returns x.

    Each row has its own key [N], so that what is dropped from a text depends neither on the number
    of devices nor on how a batch is laid out or cut into chunks.
    """
    if keys is None or rate == 0.0:
        return x
    # 16 random bits per value: half the cost of 32, and the rate is exact to 1 in 65,536.
    bits = jax.vmap(lambda key: jax.random.bits(key, x.shape[1:], jnp.uint16))(keys)
    kept = bits >= jnp.uint16(round(rate * 65536))
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def fold_in(keys: jax.Array | None, data: int | jax.Array) -> jax.Array | None:
    """Folds one number, or one per key [N], into `keys` [N]; None stays None."""
    if keys is None:
        return None
    return jax.vmap(jax.random.fold_in, in_axes=(0, 0 if jnp.ndim(data) else None))(keys, data)
