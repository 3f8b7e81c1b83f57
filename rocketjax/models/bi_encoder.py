"""The retriever: a query tower and a passage tower whose vectors are compared by dot product."""

from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.batch import Tokens
from rocketjax.models.encoder import Compute, Encoder, EncoderConfig

Pooling: TypeAlias = Literal["cls", "mean"]


def pool(hidden: jax.Array, length: jax.Array, pooling: Pooling) -> jax.Array:
    """Hidden states [N, S, D] of texts of `length` [N] -> one float32 vector a text [N, D].

    cls: the first token's last-layer state, with no pooler on top (RocketQAv2);
    mean: the mean over the text's tokens (sentence-transformers).
    """
    hidden = hidden.astype(jnp.float32)
    if pooling == "cls":
        return hidden[:, 0]
    text = jnp.arange(hidden.shape[1]) < length[:, None]
    return jnp.sum(hidden, axis=1, where=text[:, :, None]) / length[:, None]


class BiEncoder(nn.Module):
    """s_de(q, p) = E_Q(q) . E_P(p), equation 1.

    `shared` towers are one encoder; otherwise the parameters are {"query": .., "passage": ..}.
    """

    config: EncoderConfig
    compute: Compute = Compute()
    shared: bool = False
    pooling: Pooling = "cls"
    normalize: bool = False  # vectors of length 1: the dot product is then the cosine

    def setup(self) -> None:
        """Makes the towers, as linen asks."""
        if self.shared:
            self.shared_tower = Encoder(self.config, self.compute, name="shared")
        else:
            self.query_tower = Encoder(self.config, self.compute, name="query")
            self.passage_tower = Encoder(self.config, self.compute, name="passage")

    def encode_query(self, tokens: Tokens, keys: jax.Array | None = None) -> jax.Array:
        """Queries [N, S] -> float32 vectors [N, D]; `keys` [N] switch dropout on."""
        tower = self.shared_tower if self.shared else self.query_tower
        return self._vector(tower(tokens, keys), tokens)

    def encode_passage(self, tokens: Tokens, keys: jax.Array | None = None) -> jax.Array:
        """Passages [N, S] -> float32 vectors [N, D]; `keys` [N] switch dropout on."""
        tower = self.shared_tower if self.shared else self.passage_tower
        return self._vector(tower(tokens, keys), tokens)

    def __call__(self, query: Tokens, passage: Tokens) -> tuple[jax.Array, jax.Array]:
        """Both towers, as `init` needs them."""
        return self.encode_query(query), self.encode_passage(passage)

    def _vector(self, hidden: jax.Array, tokens: Tokens) -> jax.Array:
        vector = pool(hidden, jnp.asarray(tokens.length), self.pooling)
        if self.normalize:
            norm = jnp.linalg.norm(vector, axis=-1, keepdims=True)
            vector = vector / jnp.maximum(norm, 1e-12)
        return vector
