"""A folder's tokenizer as transformers reads it. The only module that imports its tokenizers.

Importing transformers takes seconds. So what it makes of a folder is kept in the cache folder, and
read from there as long as neither the folder's files nor the libraries change.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pydantic
import tokenizers

from rocketjax.runtime.kept import code_hash, keep, kept, kept_path

_RULES = "tokenizer.json"


class _Kept(NamedTuple):
    """A backend as it is kept."""

    rules: str
    splits_special: bool
    pad_id: int
    cuts_left: bool
    has_segments: bool
    files: dict[str, str]


class Backend(NamedTuple):
    """What is used of a tokenizer."""

    rules: tokenizers.Tokenizer
    pad_id: int
    cuts_left: bool  # a text that is too long loses its beginning
    has_segments: bool  # the model is told which text of a pair a token is from
    files: Mapping[str, str]  # what transformers saves of it besides tokenizer.json
    theirs: Any = None  # transformers' own, where that cannot be kept

    def save(self, folder: Path) -> None:
        """Writes the files that transformers writes."""
        if self.theirs is not None:
            self.theirs.save_pretrained(str(folder))
            return
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", newline="")
        self.rules.save(str(folder / _RULES))


def open_backend(folder: Path, files: Sequence[Path]) -> Backend:
    """What transformers makes of a folder, without running any code that comes with it.

    Raises whatever transformers does where the folder has no usable tokenizer.

    Args:
        folder: the model's.
        files: all that transformers may open in it.
    """
    # The name, too: transformers knows some models by it.
    digests = {str(path): hashlib.blake2b(path.read_bytes()).hexdigest() for path in files}
    libraries = [version("transformers"), version("tokenizers"), code_hash(Path(__file__))]
    path = kept_path("tokenizers", [str(folder), digests, libraries])
    return _read(kept(path)) or _made(folder, path)


def _made(folder: Path, path: Path) -> Backend:
    """By transformers, and kept at `path`."""
    # Without torch, transformers warns on import that models will not work; ours do.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer  # slow to import

    theirs = AutoTokenizer.from_pretrained(
        str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
    )
    # Used directly: transformers' wrapper sets truncation on it for each call, which is not
    # thread-safe.
    rules = theirs.backend_tokenizer
    rules.no_truncation()
    rules.no_padding()
    backend = Backend(
        rules,
        theirs.pad_token_id or 0,
        theirs.truncation_side == "left",
        "token_type_ids" in theirs.model_input_names,
        {},
        theirs,
    )
    with suppress(Exception):  # some rules cannot be written, nor files that are no text
        text = _text(backend)
        again = _read(text)
        if again and _text(again) == text and again.rules.get_vocab() == theirs.get_vocab():
            keep(path, text)
            return again
    return backend


def _text(backend: Backend) -> str:
    """All of a backend."""
    with TemporaryDirectory() as name:
        backend.save(Path(name))
        saved = {
            str(path.relative_to(name)): path.read_bytes().decode()
            for path in sorted(Path(name).rglob("*"))
            if path.is_file()
        }
    rules = backend.rules.to_str()
    if json.loads(saved.pop(_RULES)) != json.loads(rules):
        raise ValueError("transformers saves other rules")
    special = backend.rules.encode_special_tokens
    return json.dumps(_Kept(rules, special, *backend[1:4], saved))


def _read(text: str | None) -> Backend | None:
    """The backend; None if the text is none of ours."""
    if text is None:
        return None
    try:
        found = pydantic.TypeAdapter(_Kept).validate_json(text)
        rules = tokenizers.Tokenizer.from_str(found.rules)
    except Exception:  # tokenizers raises nothing narrower
        return None
    rules.encode_special_tokens = found.splits_special
    return Backend(rules, *found[2:])
