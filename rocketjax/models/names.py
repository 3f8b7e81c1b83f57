"""How transformers names an encoder's tensors, by family: data for models/convert.py and heads.py.

Several names for one matrix of ours: its outputs are theirs side by side.
"""

from collections.abc import Iterator
from typing import NamedTuple

from rocketjax.models.architecture import DENSE, Distances, EncoderConfig

_SEPARATE = ("attention.self.query", "attention.self.key", "attention.self.value")


class Names(NamedTuple):
    """A family's names; those of BERT unless said otherwise."""

    prefixes: tuple[str, ...]  # of a model with a head, before the encoder's names; the first ours
    words: str = "embeddings.word_embeddings"
    embedding_norm: str = "embeddings.LayerNorm"
    layer: str = "encoder.layer.{}."
    dense: tuple[tuple[str, ...], ...] = (  # in the order of DENSE
        _SEPARATE,
        ("attention.output.dense",),
        ("intermediate.dense",),
        ("output.dense",),
    )
    attention_norm: str = "attention.output.LayerNorm"
    mlp_norm: str = "output.LayerNorm"
    pooler: str = "pooler.dense"  # the dense layer of a cross-encoder's head ..
    pooler_in_encoder: bool = True  # .. whose name has the encoder's prefix
    pooler_norm: str = ""
    unit: str = "classifier"  # the linear unit that scores
    projection: str = "embeddings_project"  # of narrow embeddings


_TABLES = {
    "position_embedding": "embeddings.position_embeddings.weight",
    "type_embedding": "embeddings.token_type_embeddings.weight",
    "task_embedding": "embeddings.task_type_embeddings.weight",
    "relative_embedding": "encoder.relative_attention_bias.weight",
    "distance_embedding": "encoder.rel_embeddings.weight",
}
_DISTANCE_NORM = "encoder.LayerNorm"
# A distance as a query, whose score is with the keys, and as a key.
_DISTANCE = {"p2c": "attention.self.pos_query_proj", "c2p": "attention.self.pos_key_proj"}
_OWN_HEAD = {
    "pooler": "classifier.dense",
    "pooler_in_encoder": False,
    "unit": "classifier.out_proj",
}
NAMES = {
    # An ERNIE without task embeddings is of BERT's family, but its tensors are named "ernie.".
    "bert": Names(("bert", "ernie", "roberta")),
    "ernie": Names(("ernie", "bert", "roberta")),
    "roberta": Names(("roberta", "bert", "ernie"), **_OWN_HEAD),
    "modernbert": Names(
        ("model",),
        "embeddings.tok_embeddings",
        "embeddings.norm",
        "layers.{}.",
        (("attn.Wqkv",), ("attn.Wo",), ("mlp.Wi",), ("mlp.Wo",)),
        "mlp_norm",
        "attn_norm",
        "head.dense",
        False,
        "head.norm",
    ),
    "distilbert": Names(
        ("distilbert",),
        layer="transformer.layer.{}.",
        dense=(
            ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            ("attention.out_lin",),
            ("ffn.lin1",),
            ("ffn.lin2",),
        ),
        attention_norm="sa_layer_norm",
        mlp_norm="output_layer_norm",
        pooler="pre_classifier",
        pooler_in_encoder=False,
    ),
    "electra": Names(("electra",), **_OWN_HEAD),
    "mpnet": Names(
        ("mpnet",),
        dense=(
            ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
            ("attention.attn.o",),
            ("intermediate.dense",),
            ("output.dense",),
        ),
        attention_norm="attention.LayerNorm",
        **_OWN_HEAD,
    ),
    # As on the hub, and as transformers 5 writes them, which renames them when it reads them.
    "nomic_bert": Names(
        ("nomic_bert", "bert"),
        embedding_norm="emb_ln",
        layer="encoder.layers.{}.",
        dense=(("attn.Wqkv",), ("attn.out_proj",), ("mlp.fc11", "mlp.fc12"), ("mlp.fc2",)),
        attention_norm="norm1",
        mlp_norm="norm2",
    ),
    "gte": Names(
        ("gte", "new"),
        dense=(
            ("attention.qkv_proj",),
            ("attention.o_proj",),
            ("mlp.up_gate_proj",),
            ("mlp.down_proj",),
        ),
        attention_norm="attn_ln",
        mlp_norm="mlp_ln",
    ),
    "deberta-v2": Names(
        ("deberta",),
        dense=(
            ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
            ("attention.output.dense",),
            ("intermediate.dense",),
            ("output.dense",),
        ),
        pooler_in_encoder=False,
        projection="embeddings.embed_proj",
    ),
}


class Leaf(NamedTuple):
    """One parameter, or that of one layer, and the tensors that hold it."""

    path: tuple[str, ...]  # in the tree of parameters
    layer: int | None
    names: tuple[str, ...]
    shape: tuple[int, ...]  # of each tensor


def leaves(config: EncoderConfig) -> Iterator[Leaf]:
    """Every parameter of an encoder."""
    own = NAMES[config.family]
    width = config.table_width
    rows = {
        "position_embedding": config.position_rows,
        "type_embedding": config.type_vocab_size,
        "task_embedding": config.task_type_vocab_size,
    }
    words = f"{own.words}.weight"
    yield Leaf(("word_embedding",), None, (words,), (config.vocab_size, width))
    for table, count in rows.items():
        if count:
            yield Leaf((table,), None, (_TABLES[table],), (count, width))
    if config.relative_buckets:
        shape = config.relative_buckets, config.num_heads
        yield Leaf(("relative_embedding",), None, (_TABLES["relative_embedding"],), shape)
    if config.distances:
        yield from _distances(config.distances, config.hidden_size)
    normed = config.hidden_size if config.projected_first else width
    yield from _norm(("embedding_norm",), None, own.embedding_norm, normed, config.norm_bias)
    if width != config.hidden_size:
        shape, bias = (config.hidden_size, width), not config.projected_first
        yield from _dense(("embedding_projection",), None, (own.projection,), shape, bias)
    for layer in range(config.num_layers):
        yield from _of_layer(config, layer)


def _distances(of: Distances, width: int) -> Iterator[Leaf]:
    name = "distance_embedding"
    yield Leaf((name,), None, (_TABLES[name],), (2 * of.side, width))
    if of.norm:
        yield from _norm(("distance_norm",), None, _DISTANCE_NORM, width, True)


def _of_layer(config: EncoderConfig, layer: int) -> Iterator[Leaf]:
    own = NAMES[config.family]
    by_layer: dict[str, tuple[str, ...]] = dict(zip(DENSE, own.dense, strict=True))
    if config.distances:
        by_layer["distance"] = tuple(_DISTANCE[term] for term in config.distances.terms)
    for name, (inputs, outputs) in config.dense_shapes.items():
        names = tuple(own.layer.format(layer) + each for each in by_layer[name])
        shape, bias = (outputs // len(names), inputs), name in (*config.biases, "distance")
        yield from _dense(("layers", name), layer, names, shape, bias)
    norms = {
        "attention_norm": own.layer.format(layer) + own.attention_norm,
        "mlp_norm": own.layer.format(layer + config.prenorm) + own.mlp_norm,
    }
    if config.prenorm and layer + 1 == config.num_layers:  # see models/layer.py
        norms["mlp_norm"] = "final_norm"
    for name, theirs in norms.items():
        path = "layers", name
        yield from _norm(path, layer, theirs, config.hidden_size, config.norm_bias)


def _dense(
    path: tuple[str, ...],
    layer: int | None,
    names: tuple[str, ...],
    shape: tuple[int, int],
    bias: bool,
) -> Iterator[Leaf]:
    yield Leaf((*path, "kernel"), layer, tuple(f"{name}.weight" for name in names), shape)
    if bias:
        yield Leaf((*path, "bias"), layer, tuple(f"{name}.bias" for name in names), shape[:1])


def _norm(
    path: tuple[str, ...], layer: int | None, name: str, width: int, bias: bool
) -> Iterator[Leaf]:
    yield Leaf((*path, "scale"), layer, (f"{name}.weight",), (width,))
    if bias:
        yield Leaf((*path, "bias"), layer, (f"{name}.bias",), (width,))
