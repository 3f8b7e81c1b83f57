"""The re-ranker: reads a query and a passage together and gives the pair one score."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.batch import Tokens
from rocketjax.models.encoder import Compute, Encoder, EncoderConfig, dropout


class CrossEncoder(nn.Module):
    """s_ce(q, p): the pair's [CLS] state, dropout, one linear unit. No sigmoid: a raw score."""

    config: EncoderConfig
    compute: Compute = Compute()
    pooler: bool = False  # tanh(W h + b) before the dropout, as in transformers' own cross-encoders

    @nn.compact
    def __call__(self, tokens: Tokens, keys: jax.Array | None = None) -> jax.Array:
        """Pairs [N, S] -> float32 scores [N]; `keys` [N] switch dropout on."""
        hidden = Encoder(self.config, self.compute, name="encoder")(tokens, keys)
        first = hidden[:, 0].astype(jnp.float32)
        if self.pooler:
            first = jnp.tanh(nn.Dense(self.config.hidden_size, name="pooler")(first))
        if keys is not None:
            head_keys = jax.vmap(lambda key: jax.random.fold_in(key, self.config.num_layers + 1))(
                keys
            )
            first = dropout(first, head_keys, self.compute.dropout)
        head = nn.Dense(1, kernel_init=nn.initializers.normal(0.02), name="head")
        return head(first)[:, 0]
