"""A cross-encoder's head: parameters <-> tensors under transformers' names.

A head is a dense layer with an activation (the pooler), in some families a LayerNorm, and the
linear unit that gives the score.
"""

from collections.abc import Mapping

import numpy as np

from rocketjax.models.architecture import EncoderConfig
from rocketjax.models.layer import Params
from rocketjax.models.names import NAMES, Names
from rocketjax.models.pretrained import FLOATS, Tensors
from rocketjax.runtime.errors import InputError

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
    pooler, unit = head_names(tensors, config)
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
        if has_own_pooler(config):
            raise InputError(
                f"{source}: {pooler}.weight is missing, a part of {config.family}'s head"
            )
        return {"head": head}
    pooled = _dense_params(tensors, pooler, (width, width), source, config.head.bias)
    if _is_identity(pooled):
        return {"head": {"kernel": head["kernel"] * _SCALE, "bias": head["bias"]}}
    norm = norm_name(config)
    if config.head.norm:
        has_bias = config.norm_bias if config.head.norm_bias is None else config.head.norm_bias
        parts = {"weight": "scale"} | ({"bias": "bias"} if has_bias else {})
        pooled["norm"] = {
            ours: _vector(tensors, f"{norm}.{theirs}", width, source)
            for theirs, ours in parts.items()
        }
    return {"head": head, "pooler": pooled}


def is_lone(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> bool:
    """Whether tensors that have a head's linear unit have no pooler before it, written as none."""
    pooler, unit = head_names(tensors, config)
    return f"{unit}.weight" in tensors and f"{pooler}.weight" not in tensors


def has_own_pooler(config: EncoderConfig) -> bool:
    """Whether a head of this family always has a pooler: others' can be written as none."""
    return config.head.activation != "tanh" or config.head.norm


def _is_identity(pooled: Params) -> bool:
    kernel, bias = pooled["kernel"], pooled.get("bias")
    plain = bias is None or not bias.any()
    return plain and np.array_equal(kernel, _SCALE * np.eye(len(kernel)))


def head_tensors(params: Params, config: EncoderConfig) -> Tensors:
    """The exact inverse of `head_params`; always with a pooler, as transformers expects one."""
    pooler, unit = head_names({}, config)
    if "pooler" in params:
        pooled, factor = params["pooler"], np.float32(1)
    else:
        width = config.hidden_size
        kernel = _SCALE * np.eye(width, dtype=np.float32)
        pooled, factor = {"kernel": kernel, "bias": np.zeros(width, np.float32)}, 1 / _SCALE
    tensors = {
        f"{pooler}.weight": np.ascontiguousarray(pooled["kernel"].T),
        f"{unit}.weight": np.ascontiguousarray(params["head"]["kernel"].T) * factor,
        f"{unit}.bias": np.asarray(params["head"]["bias"]),
    }
    if "bias" in pooled:
        tensors[f"{pooler}.bias"] = np.asarray(pooled["bias"])
    for ours, theirs in (("scale", "weight"), ("bias", "bias")):
        if ours in pooled.get("norm", {}):
            norm = norm_name(config)
            tensors[f"{norm}.{theirs}"] = np.asarray(pooled["norm"][ours])
    return tensors


def norm_name(config: EncoderConfig) -> str:
    """The name of a head's LayerNorm, in families of which none is known, too."""
    return NAMES[config.family].pooler_norm or "head.norm"


def head_names(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> tuple[str, str]:
    """The names of pooler and linear unit in these tensors; of none, those that we write.

    The own family's are tried first: RoBERTa's checkpoints may hold an unused pooler named as
    BERT's, and a BERT may have been saved with a head named as RoBERTa's.
    """
    own = NAMES[config.family]
    families = [own, *(NAMES[name] for name in ("roberta", "bert") if own in _TRIO)]
    for names in families:
        if f"{names.unit}.weight" in tensors:
            prefixes = [f"{prefix}." for prefix in own.prefixes] if names.pooler_in_encoder else []
            poolers = [f"{prefix}{names.pooler}" for prefix in (*prefixes, "")]
            found = (pooler for pooler in poolers if f"{pooler}.weight" in tensors)
            return next(found, poolers[0]), names.unit
    return _in_full(own), own.unit


def _in_full(names: Names) -> str:
    """The pooler's name, with the encoder's prefix if it is a part of the encoder."""
    return f"{names.prefixes[0]}.{names.pooler}" if names.pooler_in_encoder else names.pooler


_TRIO = [NAMES[name] for name in ("bert", "ernie", "roberta")]  # their names have been mixed up


def _dense_params(
    tensors: Mapping[str, np.ndarray],
    name: str,
    shape: tuple[int, int],
    source: str,
    has_bias: bool = True,
) -> Params:
    """The kernel [in, out] and bias [out] of a dense layer, whose weight has `shape` [out, in]."""
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    if not has_bias and bias is None:
        bias = np.zeros(shape[0], np.float32)
    fits = bias is not None and (weight.shape, bias.shape) == (shape, shape[:1])
    if bias is None or not fits or not {weight.dtype, bias.dtype} <= FLOATS:
        actual = "missing" if bias is None else f"{bias.dtype} {list(bias.shape)}"
        raise InputError(
            f"{source}: {name}.weight is {weight.dtype} {list(weight.shape)}, {name}.bias "
            f"{actual}; expected float32 {list(shape)} and {list(shape[:1])}"
        )
    kernel, bias = (np.array(x, np.float32, order="C") for x in (weight.T, bias))
    return {"kernel": kernel, "bias": bias} if has_bias else {"kernel": kernel}


def _vector(tensors: Mapping[str, np.ndarray], name: str, width: int, source: str) -> np.ndarray:
    value = tensors.get(name)
    if value is None or value.shape != (width,) or value.dtype not in FLOATS:
        found = "missing" if value is None else f"{value.dtype} {list(value.shape)}"
        raise InputError(f"{source}: {name} is {found}; expected float32 [{width}]")
    return np.array(value, np.float32)
