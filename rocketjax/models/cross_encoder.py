"""The re-ranker: reads a query and a passage together and scores the pair."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.dropout import dropout
from rocketjax.models.encoder import Compute, Encoder, EncoderConfig
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
        site = 2 * self.config.num_layers + 1  # after those of the layers
        first = dropout(first, keys, self.compute.dropout, site)
        init = nn.initializers.normal(0.02)
        head = nn.Dense(1, kernel_init=init, precision=HIGHEST, name="head")
        return head(first)[:, 0]
