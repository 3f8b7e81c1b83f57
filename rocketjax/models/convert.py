"""Tensors by transformers' names <-> parameters: the encoder's and a cross-encoder's head."""

import re
from collections.abc import Mapping

import numpy as np

from rocketjax.models.encoder import EncoderConfig, Params, family
from rocketjax.models.pretrained import _MOST_LISTED, FLOATS, Tensors
from rocketjax.runtime.errors import InputError

# Our names and those of transformers; the encoder's one `qkv` is three matrices there.
_TABLES = {
    "word_embedding": "embeddings.word_embeddings.weight",
    "position_embedding": "embeddings.position_embeddings.weight",
    "type_embedding": "embeddings.token_type_embeddings.weight",
    "task_embedding": "embeddings.task_type_embeddings.weight",
}


_QKV = ("attention.self.query", "attention.self.key", "attention.self.value")


_DENSE = {
    "attention_out": "attention.output.dense",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}


_NORMS = {"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}


def encoder_params(tensors: Mapping[str, np.ndarray], config: EncoderConfig, source: str) -> Params:
    """The "params" of an `Encoder` from tensors named as transformers names them.

    Args:
        tensors: with or without the prefix of a model with a head (`bert.`); what the encoder has
            no use for, such as a pooler, is left alone.
        config: of the same checkpoint.
        source: what the tensors were read from, for the error message.

    Returns:
        A tree of float32 arrays, those of the layers stacked [num_layers, ...].

    Raises:
        InputError: tensors are missing, or not of the shape that `config` gives them.
    """
    shapes = _shapes(config)
    found: Tensors = {}
    for name, tensor in tensors.items():
        if found.setdefault(_plain(name), tensor) is not tensor and _plain(name) in shapes:
            raise InputError(f"{source}: two tensors are {_plain(name)}, one of them {name}")
    if missing := [name for name in shapes if name not in found]:
        raise InputError(
            f"{source}: {len(missing)} of {len(shapes)} tensors are missing: {_listed(missing)} "
            f"(found {len(found)}: {', '.join(sorted(found)[:3])} ..)"
        )
    wrong = [
        f"{name} is {found[name].dtype} {list(found[name].shape)}, not float32 {list(shape)}"
        for name, shape in shapes.items()
        if found[name].shape != shape or found[name].dtype not in FLOATS
    ]
    if wrong:
        raise InputError(f"{source}: tensors that do not fit config.json: {_listed(wrong)}")

    # Copied: what is mapped changes, or is gone, as the file is written anew.
    def copy(name: str) -> np.ndarray:
        return np.array(found[name], np.float32)

    tables = {ours: copy(theirs) for ours, theirs in _TABLES.items() if theirs in shapes}
    norm = {
        "scale": copy("embeddings.LayerNorm.weight"),
        "bias": copy("embeddings.LayerNorm.bias"),
    }
    return {**tables, "embedding_norm": norm, "layers": _stacked(found, config.num_layers)}


def _listed(names: list[str]) -> str:
    """All of them, unless an absurd config.json wants thousands."""
    return "; ".join(names[:_MOST_LISTED]) + (" .." if len(names) > _MOST_LISTED else "")


def _plain(name: str) -> str:
    """A tensor's name without its model's prefix, LayerNorm in its present spelling."""
    name = re.sub(r"^(bert|ernie|roberta)\.", "", name)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of an encoder, by its name in transformers."""
    d, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, d),
        "embeddings.position_embeddings.weight": (config.max_positions, d),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, d),
    }
    if config.task_type_vocab_size:
        shapes["embeddings.task_type_embeddings.weight"] = (config.task_type_vocab_size, d)
    norms = ["embeddings.LayerNorm"]
    for i in range(config.num_layers):
        layer = f"encoder.layer.{i}."
        for dense in (*_QKV, *_DENSE.values()):
            outputs = inner if dense == "intermediate.dense" else d
            inputs = inner if dense == "output.dense" else d
            shapes[f"{layer}{dense}.weight"] = (outputs, inputs)
            shapes[f"{layer}{dense}.bias"] = (outputs,)
        norms += [layer + norm for norm in _NORMS.values()]
    return shapes | {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}


def _stacked(found: Mapping[str, np.ndarray], num_layers: int) -> Params:
    """The parameters of the layers, stacked over them. Torch keeps matrices as [out, in]."""

    def stack(name: str) -> np.ndarray:
        layers = [found[f"encoder.layer.{i}.{name}"] for i in range(num_layers)]
        return np.stack([layer.T for layer in layers]).astype(np.float32, copy=False)

    qkv = {
        "kernel": np.concatenate([stack(f"{name}.weight") for name in _QKV], axis=-1),
        "bias": np.concatenate([stack(f"{name}.bias") for name in _QKV], axis=-1),
    }
    dense = {
        ours: {"kernel": stack(f"{theirs}.weight"), "bias": stack(f"{theirs}.bias")}
        for ours, theirs in _DENSE.items()
    }
    norms = {
        ours: {"scale": stack(f"{theirs}.weight"), "bias": stack(f"{theirs}.bias")}
        for ours, theirs in _NORMS.items()
    }
    return {"qkv": qkv, **dense, **norms}


def encoder_tensors(params: Params, config: EncoderConfig, prefix: str = "") -> Tensors:
    """The exact inverse of `encoder_params`; `prefix` goes before every name ("bert.")."""
    tensors = {theirs: params[ours] for ours, theirs in _TABLES.items() if ours in params}
    tensors["embeddings.LayerNorm.weight"] = params["embedding_norm"]["scale"]
    tensors["embeddings.LayerNorm.bias"] = params["embedding_norm"]["bias"]
    layers = params["layers"]
    kernels: Tensors = {}
    biases: Tensors = {}
    for part, theirs in enumerate(_QKV):
        kernels[theirs] = np.split(np.asarray(layers["qkv"]["kernel"]), 3, axis=-1)[part]
        biases[theirs] = np.split(np.asarray(layers["qkv"]["bias"]), 3, axis=-1)[part]
    for ours, theirs in _DENSE.items():
        kernels[theirs] = np.asarray(layers[ours]["kernel"])
        biases[theirs] = np.asarray(layers[ours]["bias"])
    for i in range(config.num_layers):
        layer = f"encoder.layer.{i}."
        for name in kernels:
            tensors[f"{layer}{name}.weight"] = kernels[name][i].T
            tensors[f"{layer}{name}.bias"] = biases[name][i]
        for ours, theirs in _NORMS.items():
            tensors[f"{layer}{theirs}.weight"] = layers[ours]["scale"][i]
            tensors[f"{layer}{theirs}.bias"] = layers[ours]["bias"][i]
    # Contiguous, as safetensors writes the memory of an array and not its elements.
    return {
        prefix + name: np.ascontiguousarray(tensor, dtype=np.float32)
        for name, tensor in tensors.items()
    }


# Cross-encoders of transformers have a pooler, tanh(W h + b), between [CLS] and the linear unit;
# RocketQAv2's has none. One without is written with W = 2^-12 I and a unit 2^12 times as large:
# tanh(x) is x but for a share of x^2 / 3, here under 1e-6, and powers of two lose no bit.
_SCALE = np.float32(2.0**-12)


_BERT = ("{}pooler.dense", "classifier")


_ROBERTA = ("classifier.dense", "classifier.out_proj")


def head_params(
    tensors: Mapping[str, np.ndarray], config: EncoderConfig, source: str
) -> Params | None:
    """The head of a cross-encoder: {"head": ..} and, where it has one, {"pooler": ..}.

    Args:
        tensors: named as transformers names them, of BERT's kind (pooler.dense, classifier) or
            RoBERTa's (classifier.dense, classifier.out_proj).
        config: of the same checkpoint.
        source: what the tensors were read from, for the error message.

    Returns:
        Kernels [D, 1] and [D, D] with their biases; None: an encoder without a head.

    Raises:
        InputError: the head gives several labels, or does not fit the encoder.
    """
    pooler, unit = _names(tensors, config)
    if f"{unit}.weight" not in tensors:
        return None
    shape = tensors[f"{unit}.weight"].shape
    labels = shape[0] if shape else "no"
    if labels != 1:
        raise InputError(
            f"{source}: {unit}.weight gives {labels} labels; a re-ranker gives one score: "
            "num_labels must be 1"
        )
    size = config.hidden_size
    head = _dense(tensors, unit, (1, size), source)
    if f"{pooler}.weight" not in tensors:
        return {"head": head}
    pooled = _dense(tensors, pooler, (size, size), source)
    if not pooled["bias"].any() and np.array_equal(pooled["kernel"], _SCALE * np.eye(size)):
        return {"head": {"kernel": head["kernel"] * _SCALE, "bias": head["bias"]}}
    return {"head": head, "pooler": pooled}


def head_tensors(params: Params, config: EncoderConfig) -> Tensors:
    """The inverse of `head_params`, with a pooler in every case: transformers expects one."""
    size = config.hidden_size
    prefix = f"{family(config)}."
    pooler, unit = _ROBERTA if family(config) == "roberta" else (_BERT[0].format(prefix), _BERT[1])
    if "pooler" in params:
        inner, factor = params["pooler"], np.float32(1)
    else:
        kernel = _SCALE * np.eye(size, dtype=np.float32)
        inner, factor = {"kernel": kernel, "bias": np.zeros(size, np.float32)}, 1 / _SCALE
    return {
        f"{pooler}.weight": np.ascontiguousarray(inner["kernel"].T),
        f"{pooler}.bias": np.asarray(inner["bias"]),
        f"{unit}.weight": np.ascontiguousarray(params["head"]["kernel"].T) * factor,
        f"{unit}.bias": np.asarray(params["head"]["bias"]),
    }


def _names(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> tuple[str, str]:
    """Where pooler and linear unit are. A RoBERTa checkpoint may hold an unused BERT pooler."""
    if f"{_ROBERTA[1]}.weight" in tensors:
        return _ROBERTA
    return _BERT[0].format(f"{family(config)}."), _BERT[1]


def _dense(
    tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, int], source: str
) -> Params:
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    fits = bias is not None and (weight.shape, bias.shape) == (shape, shape[:1])
    if bias is None or not fits or not {weight.dtype, bias.dtype} <= FLOATS:
        shown = "missing" if bias is None else f"{bias.dtype} {list(bias.shape)}"
        raise InputError(
            f"{source}: {name}.weight is {weight.dtype} {list(weight.shape)} and {name}.bias "
            f"{shown}; wanted: float32 {list(shape)} and {list(shape[:1])}"
        )
    kernel, bias = (np.array(x, np.float32, order="C") for x in (weight.T, bias))
    return {"kernel": kernel, "bias": bias}
