"""The retriever: a query tower and a passage tower whose vectors are compared by dot product."""

from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.architecture import Compute, EncoderConfig
from rocketjax.models.encoder import Encoder
from rocketjax.models.pooling import mean
from rocketjax.text.batch import Rows, Tokens
from rocketjax.text.rows import one_a_row

Pooling: TypeAlias = Literal["cls", "mean"]


def cut(vectors: jax.Array, width: int, normalize: bool) -> jax.Array:
    """The first `width` numbers of vectors [..., D], scaled to length 1 if `normalize` says so."""
    vectors = vectors[..., :width]
    if normalize:
        norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        vectors = vectors / jnp.maximum(norm, 1e-12)
    return vectors


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
    truncate: int = 0  # keep the first numbers of a vector only, then scale (Matryoshka); 0: all

    @property
    def width(self) -> int:
        """D, how many numbers a vector has."""
        return self.truncate or self.config.hidden_size

    def setup(self) -> None:
        """Creates the towers (linen calls this)."""
        if self.shared:
            self.query_tower = self.passage_tower = Encoder(
                self.config, self.compute, name="shared"
            )
        else:
            self.query_tower = Encoder(self.config, self.compute, name="query")
            self.passage_tower = Encoder(self.config, self.compute, name="passage")

    def encode_query(self, texts: Rows | Tokens, keys: jax.Array | None = None) -> jax.Array:
        """Queries -> float32 vectors [N, D].

        Args:
            texts: N in packed rows [R, S], or padded [N, S].
            keys: [N] random keys for dropout, one per text; None: no dropout.

        Raises:
            ValueError: padded texts are longer than the position table.
        """
        return self._vector(self.query_tower, texts, keys)

    def encode_passage(self, texts: Rows | Tokens, keys: jax.Array | None = None) -> jax.Array:
        """Passages -> float32 vectors [N, D]; arguments as for `encode_query`."""
        return self._vector(self.passage_tower, texts, keys)

    def __call__(self, query: Rows | Tokens, passage: Rows | Tokens) -> tuple[jax.Array, jax.Array]:
        """Runs both towers, so that `init` creates all parameters."""
        return self.encode_query(query), self.encode_passage(passage)

    def _vector(self, tower: Encoder, texts: Rows | Tokens, keys: jax.Array | None) -> jax.Array:
        hidden = tower(texts, keys, first_only=self.pooling == "cls")
        if self.pooling == "mean":
            hidden = mean(hidden, one_a_row(texts) if isinstance(texts, Tokens) else texts)
        return cut(hidden.astype(jnp.float32), self.width, self.normalize)
