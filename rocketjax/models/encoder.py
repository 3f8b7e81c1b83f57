"""A Transformer encoder of the BERT family: BERT, MiniLM, ERNIE 2.0, RoBERTa.

One linen module, a pure function of its parameters. The layers are one `nn.scan`, so that their
parameters are stacked ([num_layers, ...]) and compile time does not grow with depth.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.batch import Tokens
from rocketjax.models.attention import Attention, attend

Params: TypeAlias = Any  # a pytree of arrays
Dtype: TypeAlias = Any
RematPolicy: TypeAlias = Literal["none", "full", "dots"]


@dataclass(frozen=True)
class EncoderConfig:
    """What a checkpoint is: its shape and its arithmetic (config.json of transformers)."""

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
        """Longest text in tokens."""
        return self.max_positions - self.position_offset


@dataclass(frozen=True)
class Compute:
    """How an encoder runs; none of it changes what is stored in a checkpoint."""

    dtype: Dtype = jnp.float32  # of matrix products; parameters, norms and softmax stay float32
    attention: Attention = None  # see models/attention.py; None: jax's choice
    remat: RematPolicy = "none"  # full: keep only each layer's input; dots: keep matrix products
    unroll: int = 1  # layers a scan step holds
    dropout: float = 0.0  # of hidden states, while training; attention weights are not dropped


def dropout(x: jax.Array, keys: jax.Array | None, rate: float) -> jax.Array:
    """Zeroes a share `rate` of x [N, ...] and scales the rest; each row draws from its own key [N].

    A key a row, not one for the array: what a text drops then depends neither on the number of
    devices nor on how a batch is cut into chunks. No keys: x as it is.
    """
    if keys is None or rate == 0.0:
        return x
    # 16 random bits a value: half the cost of 32, and the rate is right to 1 in 65,536.
    bits = jax.vmap(lambda key: jax.random.bits(key, x.shape[1:], jnp.uint16))(keys)
    kept = bits >= jnp.uint16(round(rate * 65536))
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def _fold_in(keys: jax.Array | None, data: int | jax.Array) -> jax.Array | None:
    return None if keys is None else jax.vmap(partial(jax.random.fold_in, data=data))(keys)


def _activation(name: str, x: jax.Array) -> jax.Array:
    if name == "relu":
        return nn.relu(x)
    if name == "gelu_tanh":
        return nn.gelu(x, approximate=True)
    # By erf, as torch has it: jax's own is by erfc, more than twice as slow on a CPU, and exact to
    # more digits only where both are next to 0.
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class Layer(nn.Module):
    """Self-attention and a two-layer perceptron, each followed by residual and LayerNorm."""

    config: EncoderConfig
    compute: Compute

    @nn.compact
    def __call__(
        self, x: jax.Array, index: jax.Array, length: jax.Array, keys: jax.Array | None
    ) -> tuple[jax.Array, None]:
        """x [N, S, D] -> [N, S, D]; `index` is the layer's number, `length` [N] the texts'."""
        config, rate = self.config, self.compute.dropout
        keys = _fold_in(keys, index + 1)
        dense = partial(nn.Dense, dtype=self.compute.dtype, param_dtype=jnp.float32)
        norm = partial(
            nn.LayerNorm,
            epsilon=config.layer_norm_eps,
            dtype=jnp.float32,
            use_fast_variance=False,  # E[x^2] - E[x]^2 cancels where a unit is large
        )

        n, s, d = x.shape
        qkv = dense(3 * d, name="qkv")(x).reshape(n, s, 3, config.num_heads, -1)
        attended = attend(qkv, length, self.compute.attention).reshape(n, s, d)
        attended = dense(d, name="attention_out")(attended)
        x = norm(name="attention_norm")(x + dropout(attended, _fold_in(keys, 0), rate))

        hidden = _activation(config.activation, dense(config.intermediate_size, name="mlp_in")(x))
        hidden = dense(d, name="mlp_out")(hidden)
        x = norm(name="mlp_norm")(x + dropout(hidden, _fold_in(keys, 1), rate))
        return x.astype(self.compute.dtype), None


class Encoder(nn.Module):
    """Token ids to one vector a token."""

    config: EncoderConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, tokens: Tokens, keys: jax.Array | None = None) -> jax.Array:
        """Encodes texts [N, S] to hidden states [N, S, D] in the compute dtype.

        Args:
            tokens: [N, S] with S <= config.max_length.
            keys: [N] random keys for dropout, one a text; None: no dropout.

        Raises:
            ValueError: S is longer than the position table.
        """
        config = self.config
        if tokens.ids.shape[1] > config.max_length:
            raise ValueError(
                f"texts padded to {tokens.ids.shape[1]} tokens, but the encoder has positions "
                f"for {config.max_length}: lower the text lengths of the config"
            )
        x = self._embed(tokens)
        x = nn.LayerNorm(
            epsilon=config.layer_norm_eps,
            dtype=jnp.float32,
            use_fast_variance=False,
            name="embedding_norm",
        )(x)
        x = dropout(x, _fold_in(keys, 0), self.compute.dropout).astype(self.compute.dtype)
        layers = nn.scan(
            _rematerialised(self.compute.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=config.num_layers,
            unroll=min(self.compute.unroll, config.num_layers),
        )(config, self.compute, name="layers")
        x, _ = layers(x, jnp.arange(config.num_layers), jnp.asarray(tokens.length), keys)
        return x

    def _embed(self, tokens: Tokens) -> jax.Array:
        """The sum of word, position, segment (and task) embeddings: [N, S, D] float32."""
        config = self.config
        init = nn.initializers.normal(0.02)

        def table(name: str, rows: int) -> jax.Array:
            return self.param(name, init, (rows, config.hidden_size), jnp.float32)

        positions = jnp.arange(tokens.ids.shape[1]) + config.position_offset
        x = table("word_embedding", config.vocab_size)[tokens.ids]
        x = x + table("position_embedding", config.max_positions)[positions]
        x = x + table("type_embedding", config.type_vocab_size)[tokens.types]
        if config.task_type_vocab_size:  # rocketjax trains one task: number 0
            x = x + table("task_embedding", config.task_type_vocab_size)[0]
        return x


def _rematerialised(policy: RematPolicy) -> type[nn.Module]:
    if policy == "none":
        return Layer
    save = {
        "full": jax.checkpoint_policies.nothing_saveable,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[policy]
    return nn.remat(Layer, policy=save, prevent_cse=False)  # scan already prevents CSE
