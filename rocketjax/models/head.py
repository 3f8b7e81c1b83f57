"""A cross-encoder's head: from the tensors of transformers to parameters and back, exactly."""

from collections.abc import Mapping

import numpy as np

from rocketjax.errors import InputError
from rocketjax.models.encoder import EncoderConfig, Params
from rocketjax.models.pretrained import FLOATS, Tensors, family

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
