"""A corpus of any size with MS MARCO's lengths, and models that take next to no time.

What is left of a run is then all that is not the model: reading, storing, tokenising, batching,
writing, searching. Vectors are no noise: a text's is that of its first tokens, and a query is the
beginning of a passage, so indices find something.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rocketjax.config.schema import ComputeConfig, TextConfig
from rocketjax.data.collection import Collection
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.start import make_batching
from rocketjax.models.architecture import EncoderConfig
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.retrieval.model import Model
from rocketjax.runtime.files import new_folder
from rocketjax.text.batch import Rows, Tokens
from rocketjax.text.rows import one_a_row
from rocketjax.text.tokenizer import Tokenizer

CHARACTERS = 335  # of MS MARCO's passages, on average
SPREAD = 0.35  # of the logarithm of their lengths
LONGEST_WORD = 20  # what is longer is code, or an address
QUERY_WORDS = 6
AT_ONCE = 16_384  # passages drawn at once
LEAD = 12  # tokens of a text that its vector comes from
BUCKETS = 4_096  # rows of the table that a token's number chooses from


def write_collection(folder: Path, passages: int, queries: int, words: Collection) -> None:
    """A folder of MS MARCO's layout, whose words are drawn from another collection's texts.

    Each query is the beginning of a passage, which is its positive.
    """
    asked: list[str] = []
    qrels: list[str] = []
    with new_folder(folder) as aside:
        with (aside / "collection.tsv").open("w", encoding="utf-8") as file:
            for number, passage in enumerate(_passages(passages, words)):
                file.write(f"{number}\t{' '.join(passage)}\n")
                if number * queries // passages >= len(asked) and len(asked) < queries:
                    asked.append(f"q{number}\t{' '.join(passage[:QUERY_WORDS])}\n")
                    qrels.append(f"q{number}\t0\t{number}\t1\n")
        (aside / "queries.train.tsv").write_text("".join(asked), "utf-8")
        (aside / "qrels.train.tsv").write_text("".join(qrels), "utf-8")


def _passages(count: int, words: Collection) -> Iterator[list[str]]:
    """Words in the frequencies of running text, passage by passage."""
    running = [word for passage in words.passages for word in passage.whole.split()]
    stream = np.array([word for word in running if len(word) <= LONGEST_WORD], object)
    mean = 1 + float(np.mean([len(word) for word in stream]))
    rng = np.random.default_rng(0)
    for start in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - start)
        characters = CHARACTERS * rng.lognormal(-(SPREAD**2) / 2, SPREAD, size)
        lengths = np.maximum(1, np.rint(characters / mean)).astype(int)
        drawn = stream[rng.integers(len(stream), size=lengths.sum())].tolist()
        for end, length in zip(np.cumsum(lengths).tolist(), lengths.tolist(), strict=True):
            yield drawn[end - length : end]


def instant_pair(weights: Path, width: int) -> Model:
    """Both models with the tokenizer of `weights` and the batches of an accelerator."""
    tokenizer = Tokenizer(weights, TextConfig(32, 128, 158))
    batching = make_batching(ComputeConfig(), "tpu")
    table = np.random.default_rng(0).standard_normal((BUCKETS, width)).astype(np.float32)
    shape = EncoderConfig(BUCKETS, width, 1, 1, 1, 1)
    retriever = _InstantBiEncoder(shape, shared=True, normalize=True)
    params = {"table": jnp.asarray(table)}
    return Model(
        Retriever(retriever, params, tokenizer, batching),
        Reranker(_InstantCrossEncoder(shape), {}, tokenizer, batching),
    )


class _InstantBiEncoder(BiEncoder):
    """The sum of the first tokens' rows in a table, scaled to length 1."""

    def setup(self) -> None:
        shape = (BUCKETS, self.config.hidden_size)
        self.table = self.param("table", nn.initializers.normal(), shape)

    def encode_query(self, texts: Rows | Tokens, keys: jax.Array | None = None) -> jax.Array:
        del keys
        ids, there = _lead(texts)
        vectors = jnp.sum(self.table[ids % BUCKETS] * there[..., None], axis=1)
        return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    encode_passage = encode_query


class _InstantCrossEncoder(CrossEncoder):
    """Any score, the same for the same pair."""

    @nn.compact
    def __call__(self, pairs: Rows | Tokens, keys: jax.Array | None = None) -> jax.Array:
        del keys
        ids, there = _lead(pairs)
        return 3 * jnp.sin(jnp.sum(ids * there, axis=1).astype(jnp.float32))


def _lead(texts: Rows | Tokens) -> tuple[jax.Array, jax.Array]:
    """The first tokens of each text [N, LEAD], and which of them are there."""
    texts = one_a_row(texts) if isinstance(texts, Tokens) else texts
    ids, text = (jnp.asarray(x).reshape(-1) for x in (texts.ids, texts.text))
    first = jnp.asarray(texts.first)
    at = jnp.clip(first[:, None] + jnp.arange(LEAD), 0, len(ids) - 1)
    return ids[at], text[at] == jnp.arange(len(first))[:, None]
