"""Parameters <-> tensors under transformers' names (models/names.py): an encoder's.

Torch stores a dense layer's matrix as [out, in], jax as [in, out].
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from rocketjax.models.architecture import EncoderConfig
from rocketjax.models.layer import Params
from rocketjax.models.names import NAMES, Leaf, leaves
from rocketjax.models.pretrained import FLOATS, Tensors
from rocketjax.runtime.errors import InputError

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
    all_leaves = list(leaves(config))
    shapes = {name: leaf.shape for leaf in all_leaves for name in leaf.names}
    by_name = _by_name(tensors, config, shapes, source)
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
    params: Params = {}
    by_path: dict[tuple[str, ...], list[Leaf]] = {}
    for leaf in all_leaves:
        by_path.setdefault(leaf.path, []).append(leaf)
    for path, some in by_path.items():
        values = [_joined(leaf, by_name) for leaf in some]
        inner = params
        for step in path[:-1]:
            inner = inner.setdefault(step, {})
        # Copied, as a mapped array changes or vanishes when its file is overwritten.
        value = values[0] if some[0].layer is None else np.stack(values)
        inner[path[-1]] = np.ascontiguousarray(value, np.float32)
    return params


def encoder_tensors(params: Params, config: EncoderConfig, prefix: str = "") -> Tensors:
    """The exact inverse of `encoder_params`; `prefix` ("bert.") goes before every name."""
    tensors: Tensors = {}
    for leaf in leaves(config):
        value = params
        for step in leaf.path:
            value = value[step]
        value = np.asarray(value if leaf.layer is None else value[leaf.layer])
        for name, part in zip(leaf.names, np.split(value, len(leaf.names), axis=-1), strict=True):
            # Contiguous, as safetensors writes an array's memory whatever its strides.
            theirs = part.T if leaf.path[-1] == "kernel" else part
            tensors[prefix + name] = np.ascontiguousarray(theirs, dtype=np.float32)
    return tensors


def _by_name(
    tensors: Mapping[str, np.ndarray],
    config: EncoderConfig,
    wanted: Mapping[str, tuple[int, ...]],
    source: str,
) -> Tensors:
    """The tensors without their model's prefix, LayerNorm's parts as they are called now."""
    prefix = re.compile(rf"^({'|'.join(NAMES[config.family].prefixes)})\.")
    by_name: Tensors = {}
    for full_name, tensor in tensors.items():
        name = prefix.sub("", full_name)
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if by_name.setdefault(name, tensor) is not tensor and name in wanted:
            raise InputError(
                f"{source}: duplicate tensor {name} (as {full_name}); fetch the weights again"
            )
    return by_name


def _joined(leaf: Leaf, by_name: Mapping[str, np.ndarray]) -> np.ndarray:
    """The matrix or vector of ours that some tensors of theirs make side by side."""
    value = np.concatenate([by_name[name] for name in leaf.names])
    return value.T if leaf.path[-1] == "kernel" else value


def _listed(lines: Sequence[str]) -> str:
    """All of them, unless an absurd config.json asks for thousands of tensors."""
    return "; ".join(lines[:_MOST_LISTED]) + (" .." if len(lines) > _MOST_LISTED else "")
