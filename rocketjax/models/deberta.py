"""config.json of DeBERTa, versions 2 and 3: how distances add to attention's scores."""

from typing import Any

from rocketjax.models.architecture import Distances, EncoderConfig, Head
from rocketjax.models.fields import Fields, activation_name


def read_deberta(fields: Fields) -> dict[str, Any]:
    """The fields of ours that only DeBERTa has.

    Raises:
        InputError: a field asks for what the encoder does not compute; it is named.
    """
    fields.one_of("relative_attention", (True,), False)
    fields.one_of("conv_kernel_size", (0,), 0)
    hidden, positions = fields.size("hidden_size"), fields.size("max_position_embeddings")
    size = hidden // fields.size("num_attention_heads")
    fields.one_of("attention_head_size", (size,), size)
    fields.one_of("pooler_hidden_size", (hidden,), hidden)
    reach = fields.size("max_relative_positions", -1, least=-1)
    distances = Distances(
        reach if reach > 0 else positions,
        max(0, fields.size("position_buckets", -1, least=-1)),
        _terms(fields),
        fields.flag("share_att_key", False),
        fields.one_of("norm_rel_ebd", ("none", "layer_norm"), "none") == "layer_norm",
    )
    half, last = distances.buckets // 2, distances.reach - 1
    # Where no text is long enough for a second bucket, transformers takes any number of them.
    if distances.buckets and (half < 1 or last <= half < positions - 1):
        raise fields.wrong("position_buckets", f"it must be -1, or from 2 to {2 * last - 1}")
    narrow = fields.size("embedding_size", hidden)
    return {
        "distances": distances,
        "embedding_size": 0 if narrow == hidden else narrow,
        "projected_first": narrow != hidden,
        "positions": fields.flag("position_biased_input", True),
        "head": Head(activation=fields.activation("pooler_hidden_act", "gelu", "tanh")),
    }


def _terms(fields: Fields) -> tuple[str, ...]:
    """Which scores distances add, in our order; given as a list, or with bars between them."""
    given = fields.values.get("pos_att_type")
    if isinstance(given, str):
        given = [name.strip() for name in given.lower().split("|")]
    terms = tuple(name for name in ("p2c", "c2p") if isinstance(given, list) and name in given)
    if not isinstance(given, list) or not given or any(name not in terms for name in given):
        raise fields.wrong("pos_att_type", "supported: c2p, p2c, c2p|p2c")
    return terms


def write_deberta(config: EncoderConfig) -> dict[str, Any]:
    """And the keys that `read_deberta` reads them from."""
    of = config.distances or Distances(config.max_positions)
    return {
        "relative_attention": True,
        "max_relative_positions": of.reach,
        "position_buckets": of.buckets or -1,
        "pos_att_type": "|".join(of.terms),
        "share_att_key": of.shared,
        "norm_rel_ebd": "layer_norm" if of.norm else "none",
        "position_biased_input": config.positions,
        "embedding_size": config.table_width,
        "pooler_hidden_act": activation_name(config.head.activation),
        "pooler_hidden_size": config.hidden_size,
    }
