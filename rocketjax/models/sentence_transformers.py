"""What the files of a sentence-transformers folder say: how to pool, text lengths, prompts."""

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, read_object

_POOLING_FLAGS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # in the order the library tries them
_UNLIMITED = 1_000_000  # tokens; where transformers knows no limit it writes 1e30


class Pooled(NamedTuple):
    """How a text's hidden states become its vector."""

    pooling: Literal["cls", "mean"]
    normalize: bool


class Conventions(NamedTuple):
    """How the model was trained to read texts."""

    longest: int | None  # tokens; None: limited by the number of positions only
    query_prompt: str
    passage_prompt: str


def read_pooling(folder: Path) -> Pooled | None:
    """Reads modules.json and the pooling it names; None if the folder has no modules.json.

    Raises:
        InputError: a file is damaged, or names something that the bi-encoder does not compute.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = read_json(path)
    if not isinstance(modules, list):
        raise InputError(f"{path}: expected a list of modules, got {type(modules).__name__}")
    # Only the class names count, whatever package they are said to be in: nothing is imported.
    types = [str(module.get("type")) if isinstance(module, dict) else "" for module in modules]
    names = [type_name.rpartition(".")[2] for type_name in types]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{path}: the modules are {', '.join(names) or 'none'}; supported: Transformer, "
            "Pooling and, optionally, Normalize"
        )
    subfolder = str(modules[1].get("path"))
    if subfolder not in ("1_Pooling", "1_pooling"):  # never a path that leads out of the folder
        raise InputError(f"{path}: path of Pooling is {subfolder!r}, not '1_Pooling'")
    pooling = _pooling_mode(folder / subfolder / "config.json", folder)
    return Pooled(pooling, "Normalize" in names)


def read_conventions(folder: Path) -> Conventions:
    """Reads sentence_bert_config.json, tokenizer_config.json, config_sentence_transformers.json.

    Raises:
        InputError: a file is damaged, or it excludes prompts from pooling (the bi-encoder pools
            all tokens).
    """
    path = folder / "config_sentence_transformers.json"
    settings = _optional_object(folder, path.name)
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(map(_is_text, prompts.values())):
        raise InputError(f"{path}: prompts: expected texts")
    default = str(settings.get("default_prompt_name"))
    query_prompt, passage_prompt = (
        next((prompts[name] for name in (*names, default) if name in prompts), "")
        for names in (("query",), _PASSAGE_PROMPTS)
    )
    if query_prompt or passage_prompt:
        pooling = _optional_object(folder, "1_Pooling/config.json")
        if pooling.get("include_prompt") is False:
            raise InputError(
                f"{folder}/1_Pooling/config.json: include_prompt is false; supported: true"
            )
    return Conventions(_max_length(folder), query_prompt, passage_prompt)


def _pooling_mode(path: Path, root: Path) -> Literal["cls", "mean"]:
    """The one pooling mode that a config.json of Pooling sets."""
    fields = read_object(path, root)
    flags = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value]
    for mode, flag in _POOLING_FLAGS.items():
        # Older versions of the library write one flag per mode, newer ones a single field.
        if flags == [flag] or (not flags and fields.get("pooling_mode") in (mode, [mode])):
            return "cls" if mode == "cls" else "mean"
    modes = ", ".join(flags) or f"pooling_mode {fields.get('pooling_mode')!r}"
    raise InputError(f"{path}: {modes}; supported: one of cls and mean")


def _max_length(folder: Path) -> int | None:
    """Tokens; written to the library's own file before its version 6, to the tokenizer's since."""
    for name, field in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        value = _optional_object(folder, name).get(field)
        if isinstance(value, int | float) and 0 < value < _UNLIMITED:
            return int(value)
    return None


def _is_text(value: Any) -> bool:
    """Whether this is valid Unicode: JSON can hold half of a surrogate pair."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _optional_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder; empty if there is no such file."""
    path = folder / name
    return read_object(path, folder) if path.is_file() else {}
