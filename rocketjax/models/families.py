"""Families of encoders: transformers' config.json <-> the values that make an encoder.

A field that decides what is computed is read, or refused by name with the values that are
supported. models/keys.py knows which fields that are.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rocketjax.models.architecture import DENSE, EncoderConfig, Head
from rocketjax.models.deberta import read_deberta, write_deberta
from rocketjax.models.fields import MOST_LAYERS, Fields, activation_name
from rocketjax.models.keys import refuse_strange
from rocketjax.models.remote import translated
from rocketjax.runtime.errors import InputError


class _Family(NamedTuple):
    """How a family's config.json differs from BERT's."""

    title: str  # how classes of transformers begin
    names: Mapping[str, str] = {}  # our field -> its key, where that is not BERT's
    fixed: Mapping[str, Any] = {}  # fields of ours that all of the family share
    pad: int = 0  # the default of pad_token_id
    types: int = 2  # the default of type_vocab_size; of families where it is below, it may be 0
    epsilon: float = 1e-12
    activation: str = "gelu"
    read: Callable[[Fields], dict[str, Any]] = lambda fields: {}  # further fields of ours
    written: Callable[[EncoderConfig], dict[str, Any]] = lambda config: {}  # and their keys


_KEYS = {  # our field -> its key in BERT's config.json
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
    "pad_token_id": "pad_token_id",
}


# ---- ModernBERT


def _read_modernbert(fields: Fields) -> dict[str, Any]:
    attention, mlp = fields.flag("attention_bias", False), fields.flag("mlp_bias", False)
    norm_bias = fields.flag("norm_bias", False)
    every = _global_every(fields)
    head = Head(
        fields.one_of("classifier_pooling", ("cls", "mean"), "cls"),
        fields.activation("classifier_activation", "gelu", "tanh"),
        fields.flag("classifier_bias", False),
        norm=True,
    )
    return {
        "rope_theta": _theta(fields, "global_rope_theta", 160_000.0, "full_attention"),
        "local_rope_theta": _theta(fields, "local_rope_theta", 10_000.0, "sliding_attention"),
        "window": fields.size("local_attention", 128) if every > 1 else 0,
        "global_every": every,
        "biases": DENSE[:2] * attention + DENSE[2:] * mlp,
        "norm_bias": norm_bias,
        "head": head,
    }


def _write_modernbert(config: EncoderConfig) -> dict[str, Any]:
    every, head = config.global_every, config.head
    thetas = config.rope_theta, config.local_rope_theta or config.rope_theta
    return {
        # Version 5 of transformers reads layer_types and rope_parameters, version 4 the others.
        "layer_types": _layer_types(config.num_layers, every),
        "global_attn_every_n_layers": every,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta}
            for kind, theta in zip(_LAYER_TYPES, thetas, strict=True)
        },
        "global_rope_theta": thetas[0],
        "local_rope_theta": thetas[1],
        "local_attention": config.window or 128,
        "attention_bias": "qkv" in config.biases,
        "mlp_bias": "mlp_in" in config.biases,
        "norm_bias": config.norm_bias,
        "classifier_pooling": head.pooling,
        "classifier_activation": activation_name(head.activation),
        "classifier_bias": head.bias,
    }


_LAYER_TYPES = ("full_attention", "sliding_attention")


def _layer_types(layers: int, every: int) -> list[str]:
    return [_LAYER_TYPES[i % every > 0] for i in range(layers)]


def _global_every(fields: Fields) -> int:
    """The n of which every nth layer, from the first on, is global."""
    layers = fields.size("num_hidden_layers", most=MOST_LAYERS)
    types = fields.values.get("layer_types")
    if types is None:
        return min(fields.size("global_attn_every_n_layers", 3), layers)
    fitting = (n for n in range(1, layers + 1) if types == _layer_types(layers, n))
    every = next(fitting, None)
    if every is None:
        raise fields.wrong(
            "layer_types",
            f"supported: one of {' and '.join(_LAYER_TYPES)} for each of {layers} layers, of which "
            "every nth, from the first on, is the former",
        )
    return every


def _theta(fields: Fields, name: str, default: float, kind: str) -> float:
    """The base of rotary positions of a kind of layers; scaled ones are refused."""
    _refuse_scaling(fields)
    given = fields.values.get("rope_parameters") or {}
    own = given.get(kind) or {} if isinstance(given, dict) else None
    if (
        not isinstance(own, dict)
        or not set(given) <= set(_LAYER_TYPES)
        or not set(own) <= {"rope_theta", "rope_type"}
        or own.get("rope_type", "default") != "default"
    ):
        raise fields.wrong(
            "rope_parameters",
            f"supported: rope_theta and rope_type 'default' of {' and '.join(_LAYER_TYPES)}",
        )
    theta = {name: own["rope_theta"]} if "rope_theta" in own else fields.values
    return Fields(fields.path, theta).between(name, default, 1, 1e12)


def _refuse_scaling(fields: Fields) -> None:
    """The older name of what is now in rope_parameters."""
    if fields.values.get("rope_scaling") is not None:
        raise fields.wrong("rope_scaling", "supported: none")


# ---- NomicBERT and GTE


def _read_nomic(fields: Fields) -> dict[str, Any]:
    _check_head_dim(fields)
    return _rope(fields, 1_000.0)


def _read_gte(fields: Fields) -> dict[str, Any]:
    return _rope(fields, 160_000.0)


def _rope(fields: Fields, default: float) -> dict[str, Any]:
    """Rotary positions, the same in all layers."""
    _refuse_scaling(fields)
    given = fields.values.get("rope_parameters") or {}
    known = {"rope_theta", "rope_type", "factor"}
    kind = given.get("rope_type", "default") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not set(given) <= known or kind not in ("default", "linear"):
        raise fields.wrong(
            "rope_parameters", "supported: rope_theta, rope_type 'default' or 'linear', factor"
        )
    own = Fields(fields.path, {"rope_theta": default} | dict(given))
    factor = own.between("factor", 1.0, 0, 1e6) if kind == "linear" else 1.0
    return {"rope_theta": own.between("rope_theta", default, 1, 1e12), "rope_factor": factor}


def _check_head_dim(fields: Fields) -> None:
    size = fields.size("hidden_size") // fields.size("num_attention_heads")
    fields.one_of("head_dim", (size, None), None)


def _write_rope(config: EncoderConfig) -> dict[str, Any]:
    scaled = {"factor": config.rope_factor} if config.rope_factor != 1 else {}
    kind = "linear" if scaled else "default"
    return {"rope_parameters": {"rope_type": kind, "rope_theta": config.rope_theta, **scaled}}


# ---- all


def _read_electra(fields: Fields) -> dict[str, Any]:
    narrow = fields.size("embedding_size", 128)
    return {"embedding_size": 0 if narrow == fields.values["hidden_size"] else narrow}


def _write_electra(config: EncoderConfig) -> dict[str, Any]:
    return {"embedding_size": config.table_width}


def _read_mpnet(fields: Fields) -> dict[str, Any]:
    # transformers reads both fields and computes with these values all the same.
    fields.one_of("pad_token_id", (1,), 1)
    return {"relative_buckets": fields.one_of("relative_attention_num_buckets", (32,), 32)}


def _write_mpnet(config: EncoderConfig) -> dict[str, Any]:
    return {"relative_attention_num_buckets": config.relative_buckets}


def _read_roberta(fields: Fields) -> dict[str, Any]:
    pad, positions = fields.size("pad_token_id", 1, 0), fields.size("max_position_embeddings")
    if positions <= pad + 1:
        raise InputError(
            f"{fields.path}: max_position_embeddings {positions} leaves no position after the "
            f"first {pad + 1}, which {fields.values['model_type']} reserves for padding "
            f"(pad_token_id {pad})"
        )
    return {"position_offset": pad + 1}


def _read_ernie(fields: Fields) -> dict[str, Any]:
    if not fields.flag("use_task_id", False):
        return {"family": "bert"}  # which computes the same
    return {"task_type_vocab_size": fields.size("task_type_vocab_size", 3)}


def _write_ernie(config: EncoderConfig) -> dict[str, Any]:
    return {"use_task_id": True, "task_type_vocab_size": config.task_type_vocab_size}


FAMILIES = {
    "bert": _Family("Bert"),
    "ernie": _Family("Ernie", read=_read_ernie, written=_write_ernie),
    "roberta": _Family("Roberta", pad=1, read=_read_roberta),
    "modernbert": _Family(
        "ModernBert",
        {"layer_norm_eps": "norm_eps", "activation": "hidden_activation"},
        {"type_vocab_size": 0, "prenorm": True, "gated": True},
        50_283,
        epsilon=1e-5,
        read=_read_modernbert,
        written=_write_modernbert,
    ),
    "distilbert": _Family(
        "DistilBert",
        {
            "hidden_size": "dim",
            "num_layers": "n_layers",
            "num_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "activation": "activation",
        },
        {"type_vocab_size": 0, "layer_norm_eps": 1e-12, "head": Head(activation="relu")},
    ),
    "electra": _Family(
        "Electra",
        fixed={"head": Head(activation="gelu")},
        read=_read_electra,
        written=_write_electra,
    ),
    "mpnet": _Family(
        "MPNet",
        fixed={"type_vocab_size": 0, "position_offset": 2},
        pad=1,
        read=_read_mpnet,
        written=_write_mpnet,
    ),
    "nomic_bert": _Family(
        "NomicBert",
        fixed={"gated": True, "gate_last": True, "biases": ()},
        activation="silu",
        read=_read_nomic,
        written=_write_rope,
    ),
    "gte": _Family(
        "Gte",
        fixed={
            "gated": True,
            "gate_last": True,
            "biases": ("qkv", "attention_out", "mlp_out"),
        },
        pad=1,
        types=1,
        read=_read_gte,
        written=_write_rope,
    ),
    "deberta-v2": _Family(
        "DebertaV2",
        types=0,
        epsilon=1e-7,
        read=read_deberta,
        written=write_deberta,
    ),
}
_ABSOLUTE = (
    "bert",
    "ernie",
    "roberta",
    "electra",
)  # transformers once had other positions for these
# What model_type may be, and the family that computes the same.
MODEL_TYPES = {name: name for name in FAMILIES} | {
    "xlm-roberta": "roberta",
    "camembert": "roberta",
}


def config_of(path: Path, values: Mapping[str, Any]) -> EncoderConfig:
    """The encoder that a config.json describes.

    Args:
        path: of the file, for errors.
        values: what it holds.

    Raises:
        InputError: a field is missing, out of range, or asks for what the encoder does not compute.
    """
    Fields(path, values).one_of("model_type", (*MODEL_TYPES, "new"), None)
    refuse_strange(path, values)
    fields = translated(Fields(path, values))
    model_type = fields.values["model_type"]
    name = MODEL_TYPES[model_type]
    family = FAMILIES[name]
    if name in _ABSOLUTE:
        fields.one_of("position_embedding_type", ("absolute",), "absolute")
    fields.one_of("is_decoder", (False,), False)
    keys = {**_KEYS, **family.names}
    hidden, heads = fields.size(keys["hidden_size"]), fields.size(keys["num_heads"])
    if hidden % heads:
        raise InputError(
            f"{path}: {keys['hidden_size']} {hidden} is not divisible by {keys['num_heads']} "
            f"{heads}"
        )
    own = {
        "vocab_size": fields.size(keys["vocab_size"]),
        "hidden_size": hidden,
        "num_layers": fields.size(keys["num_layers"], most=MOST_LAYERS),
        "num_heads": heads,
        "intermediate_size": fields.size(keys["intermediate_size"]),
        "max_positions": fields.size(keys["max_positions"]),
        "activation": fields.activation(keys["activation"], family.activation),
        # Older files leave out some fields; transformers' defaults apply.
        "pad_token_id": fields.size(keys["pad_token_id"], family.pad, least=0),
        "family": name,
        **family.fixed,
    }
    if "type_vocab_size" not in own:
        least = 1 if family.types > 1 else 0
        own["type_vocab_size"] = fields.size(keys["type_vocab_size"], family.types, least)
    if "layer_norm_eps" not in own:
        own["layer_norm_eps"] = fields.between(keys["layer_norm_eps"], family.epsilon, 0, 1)
    config = EncoderConfig(**own | family.read(fields))
    if config.rope_theta and (hidden // heads) % 2:
        raise InputError(f"{path}: heads of {hidden // heads} numbers: rotary positions turn pairs")
    return config


def fields_of(config: EncoderConfig) -> dict[str, Any]:
    """The config.json of an encoder, without the classes and labels of a model."""
    family = FAMILIES[config.family]
    keys = {**_KEYS, **family.names}
    values = {key: getattr(config, ours) for ours, key in keys.items() if ours not in family.fixed}
    values[keys["activation"]] = activation_name(config.activation)
    if config.family in _ABSOLUTE:
        values["position_embedding_type"] = "absolute"
    return {"model_type": config.family, **values, **family.written(config)}


def holds_head(config: EncoderConfig) -> bool:
    """Whether the family's class for sequence classification computes this head."""
    return config_of(Path("config.json"), fields_of(config)).head == config.head


def class_of(config: EncoderConfig, task: str) -> str:
    """A class of transformers: the family's, for "Model", "ForSequenceClassification" and so on."""
    return FAMILIES[config.family].title + task
