"""Families of encoders: transformers' config.json <-> the values that make an encoder.

A field that decides what is computed is read, or refused by name with the values that are
supported. models/keys.py knows which fields that are.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rocketjax.models.architecture import DENSE, Activation, EncoderConfig, Head
from rocketjax.runtime.errors import InputError

# More than any model has, so that an absurd config.json fails here and does not fill the memory.
_MOST = 10_000_000
_MOST_LAYERS = 1_000

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


class _Fields(NamedTuple):
    """A config.json; what is asked of it is checked, and its errors name file and field."""

    path: Path
    values: Mapping[str, Any]

    def one_of(self, name: str, supported: tuple[Any, ...], default: Any) -> Any:
        value = self.values.get(name, default)
        # Types are compared too, as 1 == True.
        if not any(type(value) is type(choice) and value == choice for choice in supported):
            raise self.wrong(name, f"supported: {', '.join(map(str, supported))}")
        return value

    def size(self, name: str, default: int | None = None, least: int = 1, most: int = _MOST) -> int:
        value = self.values.get(name, default)
        if type(value) is not int or not least <= value <= most:  # isinstance: a bool, too
            raise self.wrong(name, f"it must be an integer from {least} to {most}")
        return value

    def between(self, name: str, default: float, low: float, high: float) -> float:
        value = self.values.get(name, default)
        if type(value) not in (int, float) or not low < value < high:
            raise self.wrong(name, f"it must be between {low:g} and {high:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        return self.one_of(name, (True, False), default)

    def wrong(self, name: str, remedy: str) -> InputError:
        """The error of a field that is missing or not as it must be."""
        found = f"is {self.values[name]!r}" if name in self.values else "is missing"
        return InputError(f"{self.path}: {name} {found}; {remedy}")


class _Family(NamedTuple):
    """How a family's config.json differs from BERT's."""

    title: str  # how classes of transformers begin
    names: Mapping[str, str] = {}  # our field -> its key, where that is not BERT's
    fixed: Mapping[str, Any] = {}  # fields of ours that all of the family share
    pad: int = 0  # the default of pad_token_id
    epsilon: float = 1e-12
    read: Callable[[_Fields], dict[str, Any]] = lambda fields: {}  # further fields of ours
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


def _read_modernbert(fields: _Fields) -> dict[str, Any]:
    attention, mlp = fields.flag("attention_bias", False), fields.flag("mlp_bias", False)
    activations = tuple(_ACTIVATIONS)
    norm_bias = fields.flag("norm_bias", False)
    every = _global_every(fields)
    head = Head(
        fields.one_of("classifier_pooling", ("cls", "mean"), "cls"),
        _ACTIVATIONS[fields.one_of("classifier_activation", activations, "gelu")],
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
        "classifier_activation": _activation_name(head.activation),
        "classifier_bias": head.bias,
    }


_LAYER_TYPES = ("full_attention", "sliding_attention")


def _layer_types(layers: int, every: int) -> list[str]:
    return [_LAYER_TYPES[i % every > 0] for i in range(layers)]


def _global_every(fields: _Fields) -> int:
    """The n of which every nth layer, from the first on, is global."""
    layers = fields.size("num_hidden_layers", most=_MOST_LAYERS)
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


def _theta(fields: _Fields, name: str, default: float, kind: str = "") -> float:
    """The base of rotary positions, of layers of a kind; scaled ones are refused."""
    if fields.values.get("rope_scaling") is not None:
        raise fields.wrong("rope_scaling", "supported: none")
    plain = {"rope_type": "default", "partial_rotary_factor": 1.0}
    given = fields.values.get("rope_parameters") or {}
    own = given.get(kind) or {} if kind and isinstance(given, dict) else given
    if (
        not isinstance(own, dict)
        or not set(given) <= set(_LAYER_TYPES if kind else own)
        or not set(own) <= {"rope_theta", *plain}
        or any(own.get(key, value) != value for key, value in plain.items())
    ):
        raise fields.wrong(
            "rope_parameters", "supported: rope_theta, and rope_type where it is 'default'"
        )
    theta = {name: own["rope_theta"]} if "rope_theta" in own else fields.values
    return _Fields(fields.path, theta).between(name, default, 1, 1e12)


# ---- all


def _read_roberta(fields: _Fields) -> dict[str, Any]:
    pad, positions = fields.size("pad_token_id", 1, 0), fields.size("max_position_embeddings")
    if positions <= pad + 1:
        raise InputError(
            f"{fields.path}: max_position_embeddings {positions} leaves no position after the "
            f"first {pad + 1}, which {fields.values['model_type']} reserves for padding "
            f"(pad_token_id {pad})"
        )
    return {"position_offset": pad + 1}


def _read_ernie(fields: _Fields) -> dict[str, Any]:
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
        1e-5,
        _read_modernbert,
        _write_modernbert,
    ),
}
_ABSOLUTE = ("bert", "ernie", "roberta")  # transformers once had other positions for these
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
    fields = _Fields(path, values)
    model_type = fields.one_of("model_type", tuple(MODEL_TYPES), None)
    name = MODEL_TYPES[model_type]
    family = FAMILIES[name]
    if name in _ABSOLUTE:
        fields.one_of("position_embedding_type", ("absolute",), "absolute")
    fields.one_of("is_decoder", (False,), False)
    keys = _KEYS | family.names
    hidden, heads = fields.size(keys["hidden_size"]), fields.size(keys["num_heads"])
    if hidden % heads:
        raise InputError(
            f"{path}: {keys['hidden_size']} {hidden} is not divisible by {keys['num_heads']} "
            f"{heads}"
        )
    own = {
        "vocab_size": fields.size(keys["vocab_size"]),
        "hidden_size": hidden,
        "num_layers": fields.size(keys["num_layers"], most=_MOST_LAYERS),
        "num_heads": heads,
        "intermediate_size": fields.size(keys["intermediate_size"]),
        "max_positions": fields.size(keys["max_positions"]),
        "activation": _ACTIVATIONS[fields.one_of(keys["activation"], tuple(_ACTIVATIONS), "gelu")],
        # Older files leave out some fields; transformers' defaults apply.
        "pad_token_id": fields.size(keys["pad_token_id"], family.pad, least=0),
        "family": name,
        **family.fixed,
    }
    if "type_vocab_size" not in own:
        own["type_vocab_size"] = fields.size(keys["type_vocab_size"], 2)
    if "layer_norm_eps" not in own:
        own["layer_norm_eps"] = fields.between(keys["layer_norm_eps"], family.epsilon, 0, 1)
    config = EncoderConfig(**own | family.read(fields))
    if config.rope_theta and (hidden // heads) % 2:
        raise InputError(f"{path}: heads of {hidden // heads} numbers: rotary positions turn pairs")
    return config


def fields_of(config: EncoderConfig) -> dict[str, Any]:
    """The config.json of an encoder, without the classes and labels of a model."""
    family = FAMILIES[config.family]
    keys = _KEYS | family.names
    values = {key: getattr(config, ours) for ours, key in keys.items() if ours not in family.fixed}
    values[keys["activation"]] = _activation_name(config.activation)
    if config.family in _ABSOLUTE:
        values["position_embedding_type"] = "absolute"
    return {"model_type": config.family, **values, **family.written(config)}


def class_of(config: EncoderConfig, task: str) -> str:
    """A class of transformers: the family's, for "Model", "ForSequenceClassification" and so on."""
    return FAMILIES[config.family].title + task


def _activation_name(activation: str) -> str:
    return {"gelu_tanh": "gelu_pytorch_tanh"}.get(activation, activation)
