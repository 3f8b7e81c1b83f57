"""The retriever: a query tower and a passage tower whose vectors are compared by dot product."""

from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.encoder import Compute, Encoder, EncoderConfig
from rocketjax.text.batch import Array, Tokens

Pooling: TypeAlias = Literal["cls", "mean"]


def mean(hidden: jax.Array, length: jax.Array) -> jax.Array:
    """Mean of the hidden states [N, S, D] of texts of `length` [N], padding left out: [N, D]."""
    text = jnp.arange(hidden.shape[1]) < length[:, None]
    # A text without tokens only fills a batch up.
    return jnp.sum(hidden, axis=1, where=text[:, :, None]) / jnp.maximum(length, 1)[:, None]


class BiEncoder(nn.Module):
    """s_de(q, p) = E_Q(q) . E_P(p), equation 1.

    `shared` towers are one encoder; otherwise the parameters are {"query": .., "passage": ..}.
    """

    config: EncoderConfig
    compute: Compute = Compute()
    shared: bool = False
    pooling: Pooling = "cls"  # the first token's state (RocketQAv2), or the mean over the text's
    normalize: bool = False  # vectors of length 1: the dot product is then the cosine

    def setup(self) -> None:
        """Makes the towers, as linen asks."""
        if self.shared:
            self.query_tower = self.passage_tower = Encoder(
                self.config, self.compute, name="shared"
            )
        else:
            self.query_tower = Encoder(self.config, self.compute, name="query")
            self.passage_tower = Encoder(self.config, self.compute, name="passage")

    def encode_query(
        self, tokens: Tokens, keys: jax.Array | None = None, spots: Array | None = None
    ) -> jax.Array:
        """Queries [N, S] -> float32 vectors [N, D].

        `keys` [N] switch dropout on; `spots` [T] spare the padding (see batch.Spots).
        """
        return self._vector(self.query_tower, tokens, keys, spots)

    def encode_passage(
        self, tokens: Tokens, keys: jax.Array | None = None, spots: Array | None = None
    ) -> jax.Array:
        """Passages [N, S] -> float32 vectors [N, D]; `keys` and `spots` as for queries."""
        return self._vector(self.passage_tower, tokens, keys, spots)

    def __call__(self, query: Tokens, passage: Tokens) -> tuple[jax.Array, jax.Array]:
        """Both towers, as `init` needs them."""
        return self.encode_query(query), self.encode_passage(passage)

    def _vector(
        self, tower: Encoder, tokens: Tokens, keys: jax.Array | None, spots: Array | None
    ) -> jax.Array:
        hidden = tower(tokens, keys, spots, first_only=self.pooling == "cls")
        vector = hidden.astype(jnp.float32)
        if self.pooling == "mean":
            vector = mean(vector, jnp.asarray(tokens.length))
        if self.normalize:
            norm = jnp.linalg.norm(vector, axis=-1, keepdims=True)
            vector = vector / jnp.maximum(norm, 1e-12)
        return vector
