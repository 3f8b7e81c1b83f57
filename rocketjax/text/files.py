"""A tokenizer's files in a model folder, checked before transformers opens them."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import MAX_SETTINGS_BYTES, checked_file, read_object

# Files that transformers may open for a tokenizer: settings by name, vocabularies by suffix.
_SETTINGS = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_READ = {".json", ".txt", ".model", ".spm", ".codes", ".jinja"}
_NAMES = ("tokenizer", "vocab", "merges", "dict")  # what a tokenizer's .json or .txt begins with
_MOST_OF_TOKENIZER = 64 * 2**20  # bytes a file; Gemma's 256,000 tokens take 34 million


def check_files(folder: Path) -> list[Path]:
    """All that transformers may open in a folder for its tokenizer.

    A large file that is no tokenizer's, such as trainer_state.json, is not among them.

    Raises:
        InputError: a file lies outside the folder or is far too large; none has been opened.
    """
    paths = sorted([*folder.glob("*"), *folder.glob("additional_chat_templates/*")])
    read = []
    for path in (path for path in paths if path.suffix in _READ and not path.is_dir()):
        is_own = path.suffix not in (".json", ".txt") or path.name.startswith(_NAMES)
        limit = _MOST_OF_TOKENIZER if is_own else None
        checked_file(path, MAX_SETTINGS_BYTES if path.name in _SETTINGS else limit, folder)
        if is_own or path.stat().st_size <= _MOST_OF_TOKENIZER:
            read.append(path)
    path = folder / "tokenizer_config.json"
    settings = read_object(path) if path.is_file() else {}
    names = settings.get("fast_tokenizer_files") or []
    if not isinstance(names, list) or not all(map(_is_plain, names)):
        raise InputError(f"{path}: fast_tokenizer_files: expected plain names of files")
    return read


def name_missing_library(folder: Path, error: BaseException) -> None:
    """Raises InputError if the tokenizer is sentencepiece's, which is not installed."""
    models = [path for suffix in (".model", ".spm") for path in folder.glob(f"*{suffix}")]
    if (folder / "tokenizer.json").is_file() or not models:
        return
    if importlib.util.find_spec("sentencepiece") is None:
        raise InputError(
            f"{models[0]}: a tokenizer of sentencepiece, which is not installed: pip install "
            "sentencepiece protobuf (or save the folder again where they are: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes tokenizer.json)"
        ) from error


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) is not None
