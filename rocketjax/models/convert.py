"""Parameters <-> tensors under transformers' names: an encoder's, and a cross-encoder's head.

Torch stores a dense layer's matrix as [out, in], jax as [in, out].
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from rocketjax.models.encoder import EncoderConfig, Params, family
from rocketjax.models.pretrained import FLOATS, Tensors
from rocketjax.runtime.errors import InputError

# ---- the encoder

# Our names and those of transformers, which has three matrices where the encoder has one `qkv`.
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
_MOST_LISTED = 1_000  # names in one message


def encoder_params(tensors: Mapping[str, np.ndarray], config: EncoderConfig, source: str) -> Params:
    """Builds the "params" of an `Encoder` from tensors named as in transformers.

    Args:
        tensors: with or without the prefix of a model with a head (`bert.`); tensors that the
            encoder does not use, such as a pooler's, are ignored.
        config: of the same checkpoint.
        source: where the tensors were read from, for error messages.

    Returns:
        A tree of float32 arrays, those of the layers stacked [num_layers, ...].

    Raises:
        InputError: tensors are missing or duplicate, or do not have the shape `config` implies.
    """
    shapes = _encoder_shapes(config)
    by_name: Tensors = {}
    for full_name, tensor in tensors.items():
        name = _canonical(full_name)
        if by_name.setdefault(name, tensor) is not tensor and name in shapes:
            raise InputError(
                f"{source}: duplicate tensor {name} (as {full_name}); fetch the weights again"
            )
    if missing := [name for name in shapes if name not in by_name]:
        raise InputError(
            f"{source}: {len(missing)} of {len(shapes)} tensors are missing: {_listed(missing)} "
            f"(found {len(by_name)}: {', '.join(sorted(by_name)[:3])} ..)"
        )
    misfits = [
        f"{name} is {by_name[name].dtype} {list(by_name[name].shape)}, not float32 {list(shape)}"
        for name, shape in shapes.items()
        if by_name[name].shape != shape or by_name[name].dtype not in FLOATS
    ]
    if misfits:
        raise InputError(f"{source}: tensors that do not fit config.json: {_listed(misfits)}")

    # Copied, as a mapped array changes or vanishes when its file is overwritten.
    def copy(name: str) -> np.ndarray:
        return np.array(by_name[name], np.float32)

    tables = {ours: copy(theirs) for ours, theirs in _TABLES.items() if theirs in shapes}
    norm = {
        "scale": copy("embeddings.LayerNorm.weight"),
        "bias": copy("embeddings.LayerNorm.bias"),
    }
    return {**tables, "embedding_norm": norm, "layers": _stacked(by_name, config.num_layers)}


def encoder_tensors(params: Params, config: EncoderConfig, prefix: str = "") -> Tensors:
    """The exact inverse of `encoder_params`; `prefix` ("bert.") goes before every name."""
    tensors = {theirs: params[ours] for ours, theirs in _TABLES.items() if ours in params}
    tensors["embeddings.LayerNorm.weight"] = params["embedding_norm"]["scale"]
    tensors["embeddings.LayerNorm.bias"] = params["embedding_norm"]["bias"]
    layers = params["layers"]
    kernels: Tensors = dict(zip(_QKV, _split_qkv(layers["qkv"]["kernel"]), strict=True))
    biases: Tensors = dict(zip(_QKV, _split_qkv(layers["qkv"]["bias"]), strict=True))
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
    # Contiguous, as safetensors writes an array's memory whatever its strides.
    return {
        prefix + name: np.ascontiguousarray(tensor, dtype=np.float32)
        for name, tensor in tensors.items()
    }


def _encoder_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each of an encoder's tensors, by its name in transformers."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_positions, width),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, width),
    }
    if config.task_type_vocab_size:
        shapes["embeddings.task_type_embeddings.weight"] = (config.task_type_vocab_size, width)
    norms = ["embeddings.LayerNorm"]
    for i in range(config.num_layers):
        layer = f"encoder.layer.{i}."
        for dense in (*_QKV, *_DENSE.values()):
            outputs = inner if dense == "intermediate.dense" else width
            inputs = inner if dense == "output.dense" else width
            shapes[f"{layer}{dense}.weight"] = (outputs, inputs)
            shapes[f"{layer}{dense}.bias"] = (outputs,)
        norms += [layer + norm for norm in _NORMS.values()]
    return shapes | {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}


def _canonical(name: str) -> str:
    """A tensor's name without its model's prefix, with LayerNorm's parts as they are called now."""
    name = re.sub(r"^(bert|ernie|roberta)\.", "", name)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _listed(lines: Sequence[str]) -> str:
    """All of them, unless an absurd config.json asks for thousands of tensors."""
    return "; ".join(lines[:_MOST_LISTED]) + (" .." if len(lines) > _MOST_LISTED else "")


def _stacked(by_name: Mapping[str, np.ndarray], num_layers: int) -> Params:
    """The parameters of all layers, stacked [num_layers, ...]."""

    def stack(name: str) -> np.ndarray:
        layers = [by_name[f"encoder.layer.{i}.{name}"] for i in range(num_layers)]
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


def _split_qkv(joined: np.ndarray) -> list[np.ndarray]:
    """[..., 3 D] -> three [..., D]: queries', keys' and values'."""
    return np.split(np.asarray(joined), 3, axis=-1)


# ---- a cross-encoder's head

# Where the head's two dense layers are: the pooler and the linear unit that gives the score.
_BERT_POOLER, _BERT_UNIT = "pooler.dense", "classifier"  # the pooler's after the model's prefix
_ROBERTA_POOLER, _ROBERTA_UNIT = "classifier.dense", "classifier.out_proj"

# Cross-encoders of transformers have a pooler, tanh(W h + b), between [CLS] and the linear unit;
# RocketQAv2's has none. A head without a pooler is written with W = 2^-12 I and a unit scaled by
# 2^12. As tanh(x) differs from x by a relative x^2 / 3, the error is below 1e-6 here, and scaling
# by a power of two loses no bits.
_SCALE = np.float32(2.0**-12)


def head_params(
    tensors: Mapping[str, np.ndarray], config: EncoderConfig, source: str
) -> Params | None:
    """Builds a cross-encoder's head: {"head": ..} and, if it has one, {"pooler": ..}.

    Args:
        tensors: named as in transformers, either by BERT (pooler.dense, classifier) or by RoBERTa
            (classifier.dense, classifier.out_proj).
        config: of the same checkpoint.
        source: where the tensors were read from, for error messages.

    Returns:
        Float32 kernels [D, 1] and [D, D] with their biases [1] and [D]; None if the checkpoint has
        no head. Of two labels, the score is the second's logit less the first's: the log-odds of
        the probability that a softmax gives the second.

    Raises:
        InputError: the head has more labels, or does not fit the encoder.
    """
    pooler, unit = _head_names(tensors, config)
    if f"{unit}.weight" not in tensors:
        return None
    shape = tensors[f"{unit}.weight"].shape
    labels = shape[0] if shape else 0
    if labels not in (1, 2):
        raise InputError(
            f"{source}: {unit}.weight has {labels} labels, but a re-ranker gives one score: "
            "num_labels must be 1, or 2 of which the second is the positive one"
        )
    width = config.hidden_size
    head = _dense_params(tensors, unit, (labels, width), source)
    if labels == 2:
        head = {name: values[..., 1:] - values[..., :1] for name, values in head.items()}
    if f"{pooler}.weight" not in tensors:
        return {"head": head}
    pooled = _dense_params(tensors, pooler, (width, width), source)
    if not pooled["bias"].any() and np.array_equal(pooled["kernel"], _SCALE * np.eye(width)):
        return {"head": {"kernel": head["kernel"] * _SCALE, "bias": head["bias"]}}
    return {"head": head, "pooler": pooled}


def head_of_modules(denses: Sequence[Tensors]) -> Tensors:
    """The head of a cross-encoder made of modules, under the names that `head_params` reads.

    Args:
        denses: the tensors of one Dense module, which scores, or of two, the first a pooler.
    """
    names = [_ROBERTA_POOLER, _ROBERTA_UNIT][-len(denses) :]
    tensors: Tensors = {}
    for name, dense in zip(names, denses, strict=True):
        weight = dense.get("linear.weight", np.zeros(0, np.float32))
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.bias"] = dense.get("linear.bias", np.zeros(weight.shape[:1], np.float32))
    return tensors


def head_tensors(params: Params, config: EncoderConfig) -> Tensors:
    """The exact inverse of `head_params`; always with a pooler, as transformers expects one."""
    if family(config) == "roberta":
        pooler, unit = _ROBERTA_POOLER, _ROBERTA_UNIT
    else:
        pooler, unit = f"{family(config)}.{_BERT_POOLER}", _BERT_UNIT
    if "pooler" in params:
        pooled, factor = params["pooler"], np.float32(1)
    else:
        width = config.hidden_size
        kernel = _SCALE * np.eye(width, dtype=np.float32)
        pooled, factor = {"kernel": kernel, "bias": np.zeros(width, np.float32)}, 1 / _SCALE
    return {
        f"{pooler}.weight": np.ascontiguousarray(pooled["kernel"].T),
        f"{pooler}.bias": np.asarray(pooled["bias"]),
        f"{unit}.weight": np.ascontiguousarray(params["head"]["kernel"].T) * factor,
        f"{unit}.bias": np.asarray(params["head"]["bias"]),
    }


def _head_names(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> tuple[str, str]:
    """The names of pooler and linear unit in these tensors.

    RoBERTa's are tried first: its checkpoints may hold an unused pooler named as BERT's.
    """
    if f"{_ROBERTA_UNIT}.weight" in tensors:
        return _ROBERTA_POOLER, _ROBERTA_UNIT
    # An ERNIE without task embeddings is of BERT's family, but its tensors are named "ernie.".
    prefixes = (f"{family(config)}.", "bert.", "ernie.", "")
    poolers = [f"{prefix}{_BERT_POOLER}" for prefix in prefixes]
    return next((name for name in poolers if f"{name}.weight" in tensors), poolers[0]), _BERT_UNIT


def _dense_params(
    tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, int], source: str
) -> Params:
    """The kernel [in, out] and bias [out] of a dense layer, whose weight has `shape` [out, in]."""
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    fits = bias is not None and (weight.shape, bias.shape) == (shape, shape[:1])
    if bias is None or not fits or not {weight.dtype, bias.dtype} <= FLOATS:
        actual = "missing" if bias is None else f"{bias.dtype} {list(bias.shape)}"
        raise InputError(
            f"{source}: {name}.weight is {weight.dtype} {list(weight.shape)}, {name}.bias "
            f"{actual}; expected float32 {list(shape)} and {list(shape[:1])}"
        )
    kernel, bias = (np.array(x, np.float32, order="C") for x in (weight.T, bias))
    return {"kernel": kernel, "bias": bias}
