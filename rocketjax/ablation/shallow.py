"""Weights with fewer layers: a start that is cheaper, and knows less of what it is to learn.

all-MiniLM-L6-v2 was tuned on SQuAD's own questions. With half of its layers taken out it no longer
finds their passages as well, and a small experiment has something to see.
"""

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rocketjax.config.schema import Config
from rocketjax.models.pretrained import (
    load_tensors,
    read_encoder_config,
    resolve_weights,
    save_model,
)
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder

_LAYER = re.compile(r"(?<=\.layer\.)\d+(?=\.)")
_OTHER_FORMATS = shutil.ignore_patterns("*.bin", "*.h5", "*.msgpack", "onnx", "openvino")


def with_layers(
    configs: Mapping[str, Config], layers: Sequence[int], folder: Path
) -> dict[str, Config]:
    """Configs whose models start from only these layers of their weights.

    Args:
        configs: by arm.
        layers: which are kept, counted from 0, in this order; empty: all.
        folder: where the weights are written, once each.

    Raises:
        InputError: there is no such layer, or weights whose layers are named in another way.
    """
    if not layers:
        return dict(configs)

    def cut(weights: str) -> str:
        name = hashlib.blake2b(f"{weights} {layers}".encode(), digest_size=4).hexdigest()
        if not (folder / name).is_dir():
            _write(weights, layers, folder / name)
        return str(folder / name)

    return {
        arm: dataclasses.replace(
            config,
            retriever=dataclasses.replace(config.retriever, weights=cut(config.retriever.weights)),
            reranker=dataclasses.replace(config.reranker, weights=cut(config.reranker.weights)),
        )
        for arm, config in configs.items()
    }


def _write(weights: str, layers: Sequence[int], target: Path) -> None:
    """A copy of the folder, whose transformer has these layers alone."""
    source = resolve_weights(weights)
    config, tensors = read_encoder_config(source), load_tensors(source)
    there = {int(found[0]) for name in tensors if (found := _LAYER.search(name))}
    if missing := {*layers} - there:
        known = ", ".join(map(str, sorted(there))) or "named in a way that is not read here"
        raise InputError(f"--layers {min(missing)}: the layers of {source} are {known}")
    kept = {name: tensor for name, tensor in tensors.items() if not _LAYER.search(name)}
    for number, layer in enumerate(layers):
        of_layer = re.compile(rf"(?<=\.layer\.){layer}(?=\.)")
        kept |= {of_layer.sub(str(number), n): t for n, t in tensors.items() if of_layer.search(n)}
    with new_folder(target) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True, ignore=_OTHER_FORMATS)
        save_model(aside, dataclasses.replace(config, num_layers=len(layers)), kept, "Model")
