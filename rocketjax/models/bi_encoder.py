"""The retriever: a query tower and a passage tower whose vectors are compared by dot product."""

from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.encoder import Compute, Encoder, EncoderConfig
from rocketjax.text.batch import Array, Tokens

Pooling: TypeAlias = Literal["cls", "mean"]


def mean(hidden: jax.Array, length: jax.Array) -> jax.Array:
    """Averages hidden states [N, S, D] over the first `length` [N] tokens of each text: [N, D]."""
    text = jnp.arange(hidden.shape[1]) < length[:, None]
    # A text without tokens only fills up the batch; its vector is 0.
    return jnp.sum(hidden, axis=1, where=text[:, :, None]) / jnp.maximum(length, 1)[:, None]


class BiEncoder(nn.Module):
    """s_de(q, p) = E_Q(q) . E_P(p): equation 1 of RocketQAv2 (arXiv 2110.07367).

    With `shared`, one encoder serves as both towers and the parameters are {"shared": ..};
    otherwise they are {"query": .., "passage": ..}.
    """

    config: EncoderConfig
    compute: Compute = Compute()
    shared: bool = False
    pooling: Pooling = "cls"  # first token's state (RocketQAv2), or the mean over all tokens
    normalize: bool = False  # scale vectors to length 1: the dot product is then the cosine

    def setup(self) -> None:
        """Creates the towers (linen calls this)."""
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

        Args:
            tokens: [N, S], S at most `config.max_length`.
            keys: [N] random keys for dropout, one per text; None: no dropout.
            spots: [T], where the tokens are, so that padding is skipped (see unpadded.Spots).

        Raises:
            ValueError: S is longer than the position table.
        """
        return self._vector(self.query_tower, tokens, keys, spots)

    def encode_passage(
        self, tokens: Tokens, keys: jax.Array | None = None, spots: Array | None = None
    ) -> jax.Array:
        """Passages [N, S] -> float32 vectors [N, D]; arguments as for `encode_query`."""
        return self._vector(self.passage_tower, tokens, keys, spots)

    def __call__(self, query: Tokens, passage: Tokens) -> tuple[jax.Array, jax.Array]:
        """Runs both towers, so that `init` creates all parameters."""
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
