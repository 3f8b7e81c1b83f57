"""A cross-encoder's head in modules of sentence-transformers behind its transformer, in and out.

Pooling, perhaps a Dense with an activation and a LayerNorm, and the Dense that scores: so it can
hold heads that no class of transformers computes, such as a mean of BERT's states.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from rocketjax.models.architecture import EncoderConfig, Head
from rocketjax.models.heads import head_names, norm_name
from rocketjax.models.layer import Params
from rocketjax.models.pretrained import Tensors, load_tensors, save_tensors
from rocketjax.models.sentence_transformers import TORCH_ACTIVATIONS, HeadModules
from rocketjax.runtime.files import write_json

MODULES = "sentence_transformers.models."  # their package since version 2; later ones read it
IDENTITY = "torch.nn.modules.linear.Identity"  # no activation: scores stay as they are
_EPSILON = 1e-5  # of a module LayerNorm, which cannot be set


def head_of_modules(modules: HeadModules, config: EncoderConfig) -> tuple[EncoderConfig, Tensors]:
    """The head under the names that `head_params` reads, and the config that has this head.

    Args:
        modules: as they lie on the disk.
        config: of the encoder.

    Raises:
        InputError: weights that are missing or damaged.
    """
    head, tensors = Head(modules.pooling), {}
    pooler, unit = head_names({}, config)
    if modules.pooler:
        own = load_tensors(modules.pooler)
        has_bias = config.head.bias or "linear.bias" in own
        head = Head(modules.pooling, modules.activation, has_bias)
        tensors |= _dense(pooler, own)
    if modules.norm:
        own, name = load_tensors(modules.norm), norm_name(config)
        tensors |= {full.replace("norm", name, 1): tensor for full, tensor in own.items()}
        has_bias = config.norm_bias or bool(np.any(own.get("norm.bias", 0)))
        head = dataclasses.replace(
            head,
            norm=True,
            norm_bias=None if has_bias == config.norm_bias else has_bias,
            norm_eps=None if config.layer_norm_eps == _EPSILON else _EPSILON,
        )
    tensors |= _dense(unit, load_tensors(modules.unit))
    return dataclasses.replace(config, head=head), tensors


def write_head(folder: Path, config: EncoderConfig, params: Params) -> None:
    """Writes what makes a CrossEncoder of the encoder in `folder`; `read_head` reads the same.

    Args:
        folder: of the encoder, whose own files are there.
        config: of the encoder, with the head.
        params: of the cross-encoder.
    """
    width, head = config.hidden_size, config.head
    pooling = {"word_embedding_dimension": width, "pooling_mode": head.pooling}
    modules: list[tuple[str, dict[str, Any], Tensors]] = [("Pooling", pooling, {})]
    if "pooler" in params:
        named = {ours: theirs for theirs, ours in TORCH_ACTIVATIONS.items()}
        activation = f"torch.nn.modules.activation.{named[head.activation]}"
        modules.append(_module(params["pooler"], activation, "sentence_embedding"))
        if norm := params["pooler"].get("norm"):
            bias = norm.get("bias", np.zeros(width, np.float32))
            own = {"norm.weight": np.asarray(norm["scale"]), "norm.bias": np.asarray(bias)}
            modules.append(("LayerNorm", {"dimension": width}, own))
    modules.append(_module(params["head"], IDENTITY, "scores"))
    entries = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULES}Transformer"}]
    for i, (kind, fields, own) in enumerate(modules, 1):
        path = f"{i}_{kind}"
        entries.append({"idx": i, "name": str(i), "path": path, "type": MODULES + kind})
        (folder / path).mkdir()
        write_json(folder / path / "config.json", fields)
        if own:
            save_tensors(folder / path, own)
    write_json(folder / "modules.json", entries)
    settings = {"model_type": "CrossEncoder", "activation_fn": IDENTITY, "prompts": {}}
    write_json(folder / "config_sentence_transformers.json", settings)


def _module(params: Params, activation: str, output: str) -> tuple[str, dict[str, Any], Tensors]:
    """A Dense module: its kind, its config.json and its tensors."""
    inputs, outputs = params["kernel"].shape
    fields = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": "bias" in params,
        "activation_function": activation,
        "module_input_name": "sentence_embedding",
        "module_output_name": output,
    }
    tensors = {"linear.weight": np.ascontiguousarray(params["kernel"].T)}
    if "bias" in params:
        tensors["linear.bias"] = np.asarray(params["bias"])
    return "Dense", fields, tensors


def _dense(name: str, own: Tensors) -> Tensors:
    """A Dense module's weight and bias under other names; a bias that is not there is 0."""
    weight = own.get("linear.weight", np.zeros(0, np.float32))
    bias = own.get("linear.bias", np.zeros(weight.shape[:1], np.float32))
    return {f"{name}.weight": weight, f"{name}.bias": bias}
