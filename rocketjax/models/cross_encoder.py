"""The re-ranker: reads a query and a passage together and scores the pair."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.encoder import Compute, Encoder, EncoderConfig, dropout, fold_in
from rocketjax.text.batch import Rows, Tokens

HIGHEST = jax.lax.Precision.HIGHEST


class CrossEncoder(nn.Module):
    """s_ce(q, p): [CLS] state of the pair, dropout, one linear unit; a raw score, no sigmoid.

    As in RocketQAv2 (arXiv 2110.07367).
    """

    config: EncoderConfig
    compute: Compute = Compute()
    pooler: bool = False  # tanh(W h + b) before the dropout, as in transformers' cross-encoders

    @nn.compact
    def __call__(self, pairs: Rows | Tokens, keys: jax.Array | None = None) -> jax.Array:
        """Pairs -> float32 scores [N]; arguments as for `BiEncoder.encode_query`."""
        encoder = Encoder(self.config, self.compute, name="encoder")
        first = encoder(pairs, keys, first_only=True).astype(jnp.float32)
        if self.pooler:
            pooler = nn.Dense(self.config.hidden_size, precision=HIGHEST, name="pooler")
            first = jnp.tanh(pooler(first))
        first = dropout(first, fold_in(keys, self.config.num_layers + 1), self.compute.dropout)
        init = nn.initializers.normal(0.02)
        head = nn.Dense(1, kernel_init=init, precision=HIGHEST, name="head")
        return head(first)[:, 0]
