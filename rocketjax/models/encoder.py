"""A Transformer encoder of the BERT family: BERT, MiniLM, ERNIE 2.0, RoBERTa.

One linen module whose layers all run the same pure function, `layer`. Their parameters are stacked
([num_layers, ...]) and scanned over, so that compile time does not grow with depth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.attention.attend import Attention, attend
from rocketjax.models.dropout import dropout, fold_in
from rocketjax.models.precision import precision
from rocketjax.text.batch import Rows, Tokens
from rocketjax.text.rows import one_a_row

Params: TypeAlias = Any  # a pytree of arrays
Dtype: TypeAlias = Any
RematPolicy: TypeAlias = Literal["none", "full", "dots"]


@dataclass(frozen=True)
class EncoderConfig:
    """A checkpoint's shape and arithmetic, as in transformers' config.json."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int = 2  # ERNIE 2.0 has 4, RoBERTa 1
    task_type_vocab_size: int = 0  # ERNIE's optional task-type embedding; 0: none
    position_offset: int = 0  # RoBERTa counts positions from pad_token_id + 1
    layer_norm_eps: float = 1e-12
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    pad_token_id: int = 0

    @property
    def max_length(self) -> int:
        """Tokens in the longest text that can be encoded."""
        return self.max_positions - self.position_offset


@dataclass(frozen=True)
class Compute:
    """How an encoder runs; none of this changes what a checkpoint stores."""

    dtype: Dtype = jnp.float32  # of matrix products; parameters, norms and softmax stay float32
    attention: Attention = None  # see attention/attend.py; None: jax chooses
    remat: RematPolicy = "none"  # full: keep only each layer's input; dots: keep matrix products
    unroll: int = 1  # layers in one step of the scan
    dropout: float = 0.0  # of hidden states, in training; attention weights are not dropped


def _activation(name: str, x: jax.Array) -> jax.Array:
    if name == "relu":
        return nn.relu(x)
    if name == "gelu_tanh":
        return nn.gelu(x, approximate=True)
    return _gelu(x)


def _gelu(x: jax.Array) -> jax.Array:
    # By erf, as in torch: jax's own uses erfc, which takes more than twice as long on a CPU and is
    # more accurate only where the result is close to 0. In float32, as 1 + erf would cancel in
    # bfloat16.
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def layer(
    config: EncoderConfig,
    compute: Compute,
    first_only: bool,
    x: jax.Array,
    indexed: tuple[Params, jax.Array | int],
    rows: Rows,
    keys: jax.Array | None,
) -> jax.Array:
    """Self-attention and a two-layer perceptron, each followed by residual and LayerNorm.

    Args:
        first_only: after attention, go on with the first token of each text only: a model that
            reads no other saves most of its last layer.
        x: [R * S, D], the states of all slots.
        indexed: this layer's parameters and its index, as `jax.lax.scan` passes them.
        rows: where the tokens of each text are.
        keys: [R * S] random keys for dropout, one per token; None: no dropout.

    Returns:
        [R * S, D], or [N, D] with `first_only`.
    """
    params, index = indexed
    dtype, rate = compute.dtype, compute.dropout
    norm = _cheaply_kept(partial(_norm, config=config), dtype)
    contract = _cheaply_kept(partial(_contract, config=config, dtype=dtype), dtype)
    text = jnp.asarray(rows.text)
    qkv = _dense(params["qkv"], x, dtype).reshape(*text.shape, -1)
    attended = attend(qkv, text, config.num_heads, compute.attention).reshape(x.shape)
    if first_only:
        x, attended = rows.one_per_text(x), rows.one_per_text(attended)
        keys = None if keys is None else keys[rows.first]
    attended = _dense(params["attention_out"], attended, dtype)
    x = norm(params["attention_norm"], x + dropout(attended, keys, rate, 2 * index + 1))
    hidden = contract(params["mlp_out"], _dense(params["mlp_in"], x, dtype))
    x = norm(params["mlp_norm"], x + dropout(hidden, keys, rate, 2 * index + 2))
    return x.astype(dtype)


def _contract(params: Params, hidden: jax.Array, config: EncoderConfig, dtype: Dtype) -> jax.Array:
    """The perceptron's second half: [T, F] -> [T, D]."""
    return _dense(params, _activation(config.activation, hidden), dtype)


def _cheaply_kept(part: Callable[..., jax.Array], dtype: Dtype) -> Callable[..., jax.Array]:
    """`part`, which the backward pass computes again from its arguments.

    LayerNorm and gelu would keep several float32 arrays of each: in bfloat16 training, writing and
    reading those takes a TPU longer than computing them (docs/tpu.md).
    """
    return part if dtype == jnp.float32 else jax.checkpoint(part, prevent_cse=False)


def init_layers(key: jax.Array, config: EncoderConfig) -> Params:
    """Draws the parameters of all layers, stacked [num_layers, ...]."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes = {
        "qkv": (width, 3 * width),
        "attention_out": (width, width),
        "mlp_in": (width, inner),
        "mlp_out": (inner, width),
    }

    def init(key: jax.Array) -> Params:
        draw = nn.initializers.lecun_normal()
        norm = {"scale": jnp.ones(width), "bias": jnp.zeros(width)}
        dense = {
            name: {"kernel": draw(key, shape), "bias": jnp.zeros(shape[-1])}
            for key, (name, shape) in zip(jax.random.split(key, 4), shapes.items(), strict=True)
        }
        return dense | {"attention_norm": norm, "mlp_norm": norm}

    return jax.vmap(init)(jax.random.split(key, config.num_layers))


def unstacked(params: Params) -> Params:
    """The same parameters with every encoder's layers as a tuple; an `Encoder` accepts either.

    Slicing the stack copies each layer's matrices at every call, which is slow on a CPU.
    """
    if not isinstance(params, Mapping):
        return params
    return {
        name: tuple(
            jax.tree.map(lambda p, i=i: p[i], value) for i in range(len(jax.tree.leaves(value)[0]))
        )
        if name == "layers"
        else unstacked(value)
        for name, value in params.items()
    }


def _dense(params: Params, x: jax.Array, dtype: Dtype) -> jax.Array:
    product = jnp.matmul(
        x.astype(dtype), params["kernel"].astype(dtype), precision=precision(dtype)
    )
    return product + params["bias"].astype(dtype)


def _norm(params: Params, x: jax.Array, config: EncoderConfig) -> jax.Array:
    """LayerNorm in float32, in two passes: E[x^2] - E[x]^2 would cancel if a unit is large."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.layer_norm_eps)
    return x * scale * params["scale"] + params["bias"]


class Encoder(nn.Module):
    """Token ids to hidden states, one vector per token."""

    config: EncoderConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, texts: Rows | Tokens, keys: jax.Array | None = None, first_only: bool = False
    ) -> jax.Array:
        """Encodes texts to hidden states in the compute dtype.

        Args:
            texts: N in packed rows [R, S], or padded [N, S], which is a row for each. No text is
                longer than config.max_length.
            keys: [N] random keys for dropout, one per text; None: no dropout.
            first_only: return only the state of each text's first token.

        Returns:
            [R, S, D], or [N, D] with `first_only`.

        Raises:
            ValueError: padded texts are longer than the position table.
        """
        config, compute = self.config, self.compute
        if isinstance(texts, Tokens) and texts.ids.shape[1] > config.max_length:
            raise ValueError(
                f"texts padded to {texts.ids.shape[1]} tokens, but the encoder has positions "
                f"for {config.max_length}: lower the text lengths of the config"
            )
        rows = one_a_row(texts) if isinstance(texts, Tokens) else texts
        if keys is not None:  # one per token, the same wherever a text lies
            keys = fold_in(rows.per_token(keys), jnp.asarray(rows.position).reshape(-1))
        x = self._embed(rows)
        x = dropout(x, keys, compute.dropout).astype(compute.dtype)
        if self.has_variable("params", "layers"):
            layers = self.get_variable("params", "layers")
        else:
            layers = self.param("layers", init_layers, config)
        run = _rematerialised(compute.remat)
        # The last layer is compiled by itself only if it computes less than the others: inside the
        # scan it costs no compile time.
        whole = config.num_layers - int(first_only)

        def body(x: jax.Array, indexed: tuple[Params, jax.Array | int]) -> tuple[jax.Array, None]:
            return run(config, compute, False, x, indexed, rows, keys), None

        if isinstance(layers, tuple):
            for indexed in zip(layers[:whole], range(whole), strict=True):
                x, _ = body(x, indexed)
        else:
            stacked = jax.tree.map(lambda p: p[:whole], layers)
            unroll = max(1, min(compute.unroll, whole))
            x, _ = jax.lax.scan(body, x, (stacked, jnp.arange(whole)), unroll=unroll)
        if not first_only:
            return x.reshape(*rows.text.shape, -1)
        last = layers[-1] if isinstance(layers, tuple) else jax.tree.map(lambda p: p[-1], layers)
        return run(config, compute, True, x, (last, whole), rows, keys)

    def _embed(self, rows: Rows) -> jax.Array:
        """The normalised sum of word, position, segment (and task) embeddings, float32."""
        config = self.config
        init = nn.initializers.normal(0.02)
        width = config.hidden_size

        def table(name: str, rows: int) -> jax.Array:
            return self.param(name, init, (rows, width), jnp.float32)

        ids, types, position = (
            jnp.asarray(each).reshape(-1) for each in (rows.ids, rows.types, rows.position)
        )
        x = table("word_embedding", config.vocab_size)[ids]
        x = x + table("position_embedding", config.max_positions)[position + config.position_offset]
        x = x + table("type_embedding", config.type_vocab_size)[types]
        if config.task_type_vocab_size:  # ERNIE numbers its tasks; rocketjax trains one, number 0
            x = x + table("task_embedding", config.task_type_vocab_size)[0]
        norm = {"scale": jnp.ones(width), "bias": jnp.zeros(width)}
        return _norm(self.param("embedding_norm", lambda _: norm), x, config)


def _rematerialised(policy: RematPolicy) -> Callable[..., jax.Array]:
    """`layer`; its backward pass recomputes what `policy` does not save."""
    if policy == "none":
        return layer
    save = {
        "full": jax.checkpoint_policies.nothing_saveable,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[policy]
    # Static: config, compute and first_only. The layer's index is traced, as it is in the scan.
    return jax.checkpoint(layer, policy=save, static_argnums=(0, 1, 2))


def family(config: EncoderConfig) -> Literal["bert", "ernie", "roberta"]:
    """The model_type that computes this in transformers; also the prefix of its tensors' names."""
    if config.position_offset:
        return "roberta"
    return "ernie" if config.task_type_vocab_size else "bert"
