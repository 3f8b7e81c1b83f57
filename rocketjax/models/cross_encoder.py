"""The re-ranker: reads a query and a passage together and scores the pair."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.architecture import Compute, EncoderConfig
from rocketjax.models.dropout import dropout
from rocketjax.models.encoder import Encoder
from rocketjax.models.layer import activate, init_norm, layer_norm
from rocketjax.models.pooling import mean
from rocketjax.text.batch import Rows, Tokens
from rocketjax.text.rows import one_a_row

HIGHEST = jax.lax.Precision.HIGHEST


class CrossEncoder(nn.Module):
    """s_ce(q, p): [CLS] state of the pair, dropout, one linear unit; a raw score, no sigmoid.

    As in RocketQAv2 (arXiv 2110.07367). Some families read the mean of the states (`config.head`).
    """

    config: EncoderConfig
    compute: Compute = Compute()
    pooler: bool = False  # act(W h + b) before the dropout, as in transformers' cross-encoders

    @nn.compact
    def __call__(self, pairs: Rows | Tokens, keys: jax.Array | None = None) -> jax.Array:
        """Pairs -> float32 scores [N]; arguments as for `BiEncoder.encode_query`."""
        encoder, head = Encoder(self.config, self.compute, name="encoder"), self.config.head
        state = encoder(pairs, keys, first_only=head.pooling == "cls")
        if head.pooling == "mean":
            state = mean(state, one_a_row(pairs) if isinstance(pairs, Tokens) else pairs)
        state = state.astype(jnp.float32)
        if self.pooler:
            state = Pooler(self.config, name="pooler")(state)
        site = 2 * self.config.num_layers + 1  # after those of the layers
        state = dropout(state, keys, self.compute.dropout, site)
        init = nn.initializers.normal(0.02)
        unit = nn.Dense(1, kernel_init=init, precision=HIGHEST, name="head")
        return unit(state)[:, 0]


class Pooler(nn.Module):
    """The dense layer of a family's own head, with its activation and, perhaps, LayerNorm."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, state: jax.Array) -> jax.Array:
        """[N, D] -> [N, D]."""
        config, head = self.config, self.config.head
        shape = config.hidden_size, config.hidden_size
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        state = jnp.matmul(state, kernel, precision=HIGHEST)
        if head.bias:
            state = state + self.param("bias", nn.initializers.zeros, shape[:1])
        state = activate(head.activation, state)
        if not head.norm:
            return state
        bias = config.norm_bias if head.norm_bias is None else head.norm_bias
        epsilon = config.layer_norm_eps if head.norm_eps is None else head.norm_eps
        norm = self.param("norm", lambda _: init_norm(shape[0], bias))
        return layer_norm(norm, state, epsilon)
