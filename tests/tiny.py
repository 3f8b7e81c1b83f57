"""Tiny random models and batches that several tests share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rocketjax.models.architecture import Compute, Distances, EncoderConfig, Head
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.heads import has_own_pooler
from rocketjax.text.batch import ListBatch, Text, Tokens
from rocketjax.text.chunks import in_chunks, shape_for
from rocketjax.text.rows import WIDE, fitting, one_a_row

ENCODER = EncoderConfig(
    vocab_size=50,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=32,
    max_positions=24,
)

# Windows are narrower than the texts, and layers are no multiple of those that take turns.
MODERN = dataclasses.replace(
    ENCODER,
    family="modernbert",
    num_layers=5,
    type_vocab_size=0,
    rope_theta=100.0,
    local_rope_theta=10.0,
    window=4,
    global_every=3,
    prenorm=True,
    gated=True,
    biases=(),
    norm_bias=False,
    head=Head("mean", "gelu", bias=False, norm=True),
)
KINDS = {
    "modernbert": MODERN,
    "mpnet": dataclasses.replace(
        ENCODER, family="mpnet", type_vocab_size=0, position_offset=2, relative_buckets=32
    ),
    "electra": dataclasses.replace(
        ENCODER, family="electra", embedding_size=8, head=Head(activation="gelu")
    ),
    "nomic": dataclasses.replace(
        ENCODER, family="nomic_bert", rope_theta=50.0, gated=True, gate_last=True, biases=()
    ),
    "gte": dataclasses.replace(
        ENCODER,
        family="gte",
        rope_theta=80.0,
        rope_factor=1.5,
        gated=True,
        gate_last=True,
        biases=("qkv", "attention_out", "mlp_out"),
    ),
    "bert": ENCODER,
    "ernie": dataclasses.replace(ENCODER, family="ernie", task_type_vocab_size=3),
    "roberta": dataclasses.replace(ENCODER, family="roberta", pad_token_id=1, position_offset=2),
    "distilbert": dataclasses.replace(
        ENCODER, family="distilbert", type_vocab_size=0, head=Head(activation="relu")
    ),
    # Buckets are wider than one within the texts, which reach beyond the last.
    "deberta": dataclasses.replace(
        ENCODER,
        family="deberta-v2",
        type_vocab_size=0,
        positions=False,
        distances=Distances(reach=9, buckets=6),
        head=Head(activation="gelu"),
    ),
}
# Those that compute nothing that another one of them does not.
REPEATED = ("bert", "ernie", "roberta", "distilbert")


def tokens(rng, *shape, length=12):
    """Random texts of random lengths, padded to `length`."""
    return Tokens(
        rng.integers(1, 50, (*shape, length)).astype(np.int32),
        rng.integers(0, 2, (*shape, length)).astype(np.int32),
        rng.integers(2, length + 1, shape).astype(np.int32),
    )


def list_batch(seed=0, rows=8, slots=5, uneven=True):
    """A random batch, still padded (see `packed`).

    Uneven: lists of 1 to `slots` passages and one row that is no list.
    """
    rng = np.random.default_rng(seed)
    valid = np.ones((rows, slots), bool)
    if uneven:
        valid = np.arange(slots) < rng.integers(1, slots + 1, rows)[:, None]
        valid[1] = False
    query, passage, pair = tokens(rng, rows), tokens(rng, rows, slots), tokens(rng, rows, slots)
    return ListBatch(query, passage, pair, valid, own_positives(rows, slots))


def packed(batch, devices=1, chunk=0, width=32):
    """The batch of padded texts in packed rows, as the loader makes it."""
    query, passage, pair = (
        laid_out(as_texts(tokens), devices, chunk, [width]) for tokens in batch[:3]
    )
    return batch._replace(query=query, passage=passage, pair=pair)


def laid_out(texts, devices, chunk, widths):
    """Texts in the chunks of devices."""
    count = len(texts) // devices
    own = [texts[i : i + count] for i in range(0, len(texts), count)]
    lengths = [[len(text.ids) for text in some] for some in own]
    return in_chunks(own, shape_for(lengths, chunk, widths), 0)


def apart(batch):
    """The same for one device, but nothing is packed: each text has a row of its own."""

    def rows(tokens):
        flat = Tokens(*(x.reshape(-1, *x.shape[tokens.length.ndim :]) for x in tokens))
        return jax.tree.map(lambda x: np.asarray(x)[None], one_a_row(flat))

    query, passage, pair = map(rows, batch[:3])
    return batch._replace(query=query, passage=passage, pair=pair)


def as_texts(tokens):
    """Padded tokens of any shape as single texts."""
    flat = (x.reshape(-1, *x.shape[tokens.length.ndim :]) for x in tokens)
    return [Text(ids[:size], types[:size]) for ids, types, size in zip(*flat, strict=True)]


def own_positives(rows, slots):
    """[rows, rows * slots]: nothing but its own positive answers a query."""
    return np.arange(rows * slots) == slots * np.arange(rows)[:, None]


def models(dropout=0.0, shared=False, compute=None, scale=2.0, encoder=ENCODER):
    """A bi-encoder and a cross-encoder with random parameters large enough to matter."""
    compute = compute or Compute(dropout=dropout)
    retriever = BiEncoder(encoder, compute, shared=shared, pooling="mean")
    reranker = CrossEncoder(encoder, compute, pooler=has_own_pooler(encoder))
    text = tokens(np.random.default_rng(0), 2)

    def init():
        return {
            "retriever": retriever.init(jax.random.key(1), text, text)["params"],
            "reranker": reranker.init(jax.random.key(2), text)["params"],
        }

    return retriever, reranker, drawn(init, scale)


def drawn(init, scale=1.0):
    """Fresh parameters, in size as `init` draws them, times `scale`; nothing is compiled."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "bias"):
            return jnp.full(leaf.shape, scale if name == "scale" else 0.0)
        size = leaf.shape[-2] ** -0.5 if name == "kernel" else 0.02
        return jnp.asarray(scale * size * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))


def shapes_of(config, devices):
    """The joint stage's batch of a config, as shapes without contents: every text its longest."""
    lists, slots, text = config.joint.batch, config.lists.length, config.text
    valid = np.ones((lists, slots), bool)
    kinds = (
        (lists, text.query_length),
        (valid.size, text.passage_length),
        (valid.size, text.pair_length),
    )

    def rows(count, length):
        texts = [Text(*np.zeros((2, length), np.int32))] * count
        widths = [fitting(length, WIDE)]
        return laid_out(texts, devices, config.compute.chunk, widths)

    batch = ListBatch(*(rows(*kind) for kind in kinds), valid, own_positives(lists, slots))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)


def vectors_folder(folder, array, ids=None, shard=7, dtype="float32", **named):
    """Vectors on disk, as `encode` leaves them."""
    from rocketjax.retrieval.vectors import Manifest, Vectors, write_manifest, write_shard

    ids = ids or [f"p{i}" for i in range(len(array))]
    names = {"model": "m", "model_hash": "1", "collection": "c", "collection_hash": "2"} | named
    manifest = Manifest(
        **names, passages=len(array), width=array.shape[1], dtype=dtype, shard=shard
    )
    write_manifest(folder, manifest)
    for number in range(manifest.shards):
        rows = manifest.rows(number)
        write_shard(folder, number, ids[rows.start : rows.stop], array[rows.start : rows.stop])
    return Vectors(folder)


def vectors(kind, queries=13, passages=1001):
    """Random: distinct scores. Tied: small integers, so that most scores stand many times."""
    rng = np.random.default_rng(0)
    if kind == "random":
        draw = rng.standard_normal
        return draw((queries, 16)).astype(np.float32), draw((passages, 16)).astype(np.float32)
    draw = rng.integers
    return (
        draw(-1, 2, (queries, 3)).astype(np.float32),
        draw(-1, 2, (passages, 3)).astype(np.float32),
    )
