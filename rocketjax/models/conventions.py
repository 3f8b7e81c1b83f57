"""How long a text a model folder takes, and which prompts go before it: what its files say."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from rocketjax.errors import InputError
from rocketjax.files import read_object

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
