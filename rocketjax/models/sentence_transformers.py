"""What a sentence-transformers folder says: pooling, lengths, prompts."""

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, read_object

_MODES = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}


class Pooled(NamedTuple):
    """What follows the encoder: how a text's hidden states become its vector."""

    pooling: Literal["cls", "mean"]
    normalize: bool


def read_pooling(folder: Path) -> Pooled | None:
    """Reads modules.json and the pooling it names; None where the folder has no modules.json.

    Raises:
        InputError: a file is damaged, or says something that the bi-encoder does not compute.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = read_json(path)
    kinds = [str(m.get("type")) if isinstance(m, dict) else "" for m in _list(modules, path)]
    names = [kind.rpartition(".")[2] for kind in kinds]
    # From version 6 on, of the library's modules; whoever wrote the file, none of it is imported.
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{path}: the modules are {', '.join(names) or 'none'}; supported: Transformer, "
            "Pooling and, where wanted, Normalize"
        )
    place = str(modules[1].get("path"))
    if place not in ("1_Pooling", "1_pooling"):  # never a path out of the folder
        raise InputError(f"{path}: path of Pooling is {place!r}, not '1_Pooling'")
    return Pooled(_mode(folder / place / "config.json", folder), "Normalize" in names)


def _mode(path: Path, root: Path) -> Literal["cls", "mean"]:
    fields = read_object(path, root)
    flags = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value]
    for mode, flag in _MODES.items():
        if flags == [flag] or (not flags and fields.get("pooling_mode") in (mode, [mode])):
            return "cls" if mode == "cls" else "mean"
    shown = ", ".join(flags) or f"pooling_mode {fields.get('pooling_mode')!r}"
    raise InputError(f"{path}: {shown}; supported: one of cls and mean")


def _list(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list of modules, got {type(value).__name__}")
    return value


_PASSAGES = ("document", "passage", "corpus")  # names sentence-transformers looks for, in order


_ABSURD = 1_000_000  # transformers writes 1e30 where it knows no limit


class Conventions(NamedTuple):
    """Texts as the model was trained to read them."""

    longest: int | None  # tokens; None: nothing but the positions limits them
    query_prompt: str
    passage_prompt: str


def read_conventions(folder: Path) -> Conventions:
    """Reads sentence_bert_config.json, tokenizer_config.json, config_sentence_transformers.json.

    Raises:
        InputError: a file is damaged, or its prompts are not to be pooled (the bi-encoder pools
            all tokens).
    """
    prompts = _object(folder, "config_sentence_transformers.json")
    named = prompts.get("prompts") or {}
    default = str(prompts.get("default_prompt_name"))
    if not isinstance(named, dict) or not all(map(_is_text, named.values())):
        raise InputError(f"{folder}/config_sentence_transformers.json: prompts: expected texts")
    query, passage = (
        next((named[name] for name in (*names, default) if name in named), "")
        for names in (("query",), _PASSAGES)
    )
    if query or passage:
        pooling = _object(folder, "1_Pooling/config.json")
        if pooling.get("include_prompt") is False:
            raise InputError(
                f"{folder}/1_Pooling/config.json: include_prompt is false; supported: true"
            )
    return Conventions(_longest(folder), query, passage)


def _longest(folder: Path) -> int | None:
    """Before version 6 of the library its own file says it, from then on the tokenizer's."""
    for name, field in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        value = _object(folder, name).get(field)
        if isinstance(value, int | float) and 0 < value < _ABSURD:
            return int(value)
    return None


def _is_text(value: Any) -> bool:
    """JSON can spell half of a surrogate pair, which is no text."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _object(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    path = folder / name
    return read_object(path, folder) if path.is_file() else {}
