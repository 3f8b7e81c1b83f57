"""How transformers names an encoder's tensors, by family: data for models/convert.py and heads.py.

Several names for one matrix of ours: its outputs are theirs side by side.
"""

from collections.abc import Iterator
from typing import NamedTuple

from rocketjax.models.architecture import DENSE, EncoderConfig

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


_TABLES = {
    "position_embedding": "embeddings.position_embeddings.weight",
    "type_embedding": "embeddings.token_type_embeddings.weight",
    "task_embedding": "embeddings.task_type_embeddings.weight",
    "relative_embedding": "encoder.relative_attention_bias.weight",
}
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
        "position_embedding": 0 if config.rope_theta else config.max_positions,
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
    yield from _norm(("embedding_norm",), None, own.embedding_norm, width, config.norm_bias)
    if width != config.hidden_size:
        shape = config.hidden_size, width
        yield from _dense(("embedding_projection",), None, ("embeddings_project",), shape, True)
    for layer in range(config.num_layers):
        yield from _of_layer(config, layer)


def _of_layer(config: EncoderConfig, layer: int) -> Iterator[Leaf]:
    own = NAMES[config.family]
    for name, theirs in zip(DENSE, own.dense, strict=True):
        inputs, outputs = config.dense_shapes[name]
        names = tuple(own.layer.format(layer) + each for each in theirs)
        shape = outputs // len(names), inputs
        yield from _dense(("layers", name), layer, names, shape, name in config.biases)
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
