"""Texts to token ids: the only importer of transformers' tokenizers."""

import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rocketjax.config.schema import TextConfig
from rocketjax.runtime.errors import InputError, shown
from rocketjax.runtime.files import MOST, checked_file, read_object
from rocketjax.text.batch import Text

REMEMBERED = 2**24  # characters of texts whose tokens are kept, and as many again until they go


class _Memory:
    """What became of the last texts, so that one that comes again is not tokenised again.

    Passages do in training, as negatives of many queries. Texts stay until `REMEMBERED` characters
    of others have come, and once more as long if they were asked for since. Threads may share it:
    the worst that comes of it is a text forgotten early.
    """

    def __init__(self) -> None:
        self._new: dict[str, np.ndarray] = {}
        self._old: dict[str, np.ndarray] = {}
        self._size = 0

    def get(self, text: str) -> np.ndarray | None:
        """Its token ids, or None."""
        ids = self._new.get(text)
        if ids is None and (ids := self._old.get(text)) is not None:
            self.put(text, ids)
        return ids

    def put(self, text: str, ids: np.ndarray) -> None:
        """Keeps them."""
        if self._size > REMEMBERED:
            self._old, self._new, self._size = self._new, {}, 0
        self._new[text] = ids
        self._size += len(text)


class Template(NamedTuple):
    """Which special tokens a tokenizer puts around one text or two, read off the tokenizer."""

    pieces: tuple[list[int], ...]  # before the first text, after it, (after the second)
    types: tuple[int, ...]  # the segment of the first text, (of the second)
    piece_types: tuple[list[int], ...]


class Tokenizer:
    """Queries, passages and pairs, each cut to its length. Safe to share between threads."""

    def __init__(self, folder: Path, config: TextConfig) -> None:
        """Loads the tokenizer of a model folder; never runs code that comes with it.

        Raises:
            InputError: no usable tokenizer in the folder.
        """
        # Without torch, transformers says at its import that models won't work: ours do.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import AutoTokenizer  # slow to import, and not all need it

        _check_files(folder)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
            )
            # Used directly: transformers' wrapper keeps truncation in it between calls, which
            # threads would trip over.
            self._backend = self._tokenizer.backend_tokenizer
            self._backend.no_truncation()
            self._backend.no_padding()
            self.config = config
            self.pad_id: int = self._tokenizer.pad_token_id or 0
            self._memory: _Memory | None = None
            self._single = self._template("a")
            self._double = self._template("a", "a")
            self._raw(_PROBES)
        except BaseException as error:  # whatever transformers and tokenizers meet in their files
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise  # Rust's panics are no Exception
            raise InputError(
                f"{folder}: no usable tokenizer ({str(error)[:300]}); the folder needs "
                "tokenizer.json, or what transformers makes one of (vocab.txt and "
                "tokenizer_config.json)"
            ) from error
        self._check_templates(folder)

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token id."""
        special = [*chain(*self._single.pieces, *self._double.pieces), self.pad_id]
        return max(*self._tokenizer.get_vocab().values(), *special) + 1

    @property
    def segments(self) -> int:
        """One more than the largest segment of a text."""
        both = (self._single, self._double)
        return max(chain(*(t.types for t in both), *chain(*(t.piece_types for t in both)))) + 1

    @property
    def description(self) -> str:
        """What decides what becomes of a text: vocabulary, lengths, and its rules at work.

        The rules by what they do, not as tokenizers writes them down, which changes by version.
        """
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        probes = [ids.tolist() for ids in self._raw(_PROBES)]
        return f"{vocabulary} {probes} {self._single} {self._double} {self.config}"

    def remember(self, other: "Tokenizer | None" = None) -> None:
        """From now on the last texts' tokens are kept, some 60 MB of them.

        Args:
            other: shares what it keeps, where both have the same rules.
        """
        self._memory = self._memory or _Memory()
        if other and other._memory and self._backend.to_str() == other._backend.to_str():
            self._memory = other._memory

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files beside a model's weights."""
        self._tokenizer.save_pretrained(str(folder))

    def query(self, texts: Sequence[str]) -> list[Text]:
        """CLS query SEP, at most `query_length` tokens.

        Raises:
            InputError: one text alone, or one that is empty or no text; its place is named.
        """
        texts = as_texts(texts, "queries")
        longest, prompt = self.config.query_length, self.config.query_prompt or ""
        return [self._one(ids, longest) for ids in self._ids(texts, "queries", prompt)]

    def passage(self, titles: Sequence[str] | None, texts: Sequence[str]) -> list[Text]:
        """A passage for the retriever, at most `passage_length` tokens; see TextConfig.title.

        Titles may be empty. Raises InputError where title and text both are, and as `query` does.
        """
        titles, texts = _titled(titles, texts)
        longest, prompt = self.config.passage_length, self.config.passage_prompt or ""
        whole = [_join(title, text) for title, text in zip(titles, texts, strict=True)]
        if self.config.title == "joined":
            return [self._one(ids, longest) for ids in self._ids(whole, "passages", prompt)]
        _refuse_empty(whole, "passages")
        headed = [
            bool(title.strip()) for title in titles
        ]  # the prompt goes before what comes first
        both = list(zip(headed, titles, texts, strict=True))
        heads = self._raw([prompt + title if has else "" for has, title, _ in both])
        bodies = self._raw([text if has else prompt + text for has, _, text in both])
        return [
            self._two(head, body, longest)
            if len(head) and len(body)
            else self._one(head if len(head) else body, longest)
            for head, body in zip(heads, bodies, strict=True)
        ]

    def pair(
        self, queries: Sequence[str], titles: Sequence[str] | None, texts: Sequence[str]
    ) -> list[Text]:
        """CLS query SEP title text SEP, at most `pair_length` tokens; the passage is cut.

        The query is cut to the room that it has in `query`: where no prompt takes a part of it,
        both models read the same words. Raises what `passage` raises, and where there are not as
        many queries as passages.
        """
        queries, (titles, texts) = as_texts(queries, "queries"), _titled(titles, texts)
        if len(queries) != len(texts):
            raise InputError(
                f"score pairs queries[i] with passages[i], but got {len(queries)} queries and "
                f"{len(texts)} passages"
            )
        room = self.config.query_length - _special_count(self._single)
        first = [ids[:room] for ids in self._ids(queries, "queries")]
        whole = [_join(title, text) for title, text in zip(titles, texts, strict=True)]
        second = self._ids(whole, "passages")
        return [
            self._two(a, b, self.config.pair_length) for a, b in zip(first, second, strict=True)
        ]

    def _ids(self, texts: Sequence[str], what: str, prompt: str = "") -> list[np.ndarray]:
        _refuse_empty(texts, what)
        return self._raw([prompt + text for text in texts] if prompt else texts)

    def _raw(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text's token ids, without special ones, int32; equal texts are tokenised once."""
        memory = self._memory
        try:
            found = {text: memory.get(text) if memory else None for text in texts}
            fresh = [text for text, ids in found.items() if ids is None]
            encodings = self._backend.encode_batch_fast(fresh, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(f"a text is not Unicode, or no text at all: {error}") from error
        for text, encoding in zip(fresh, encodings, strict=True):
            found[text] = ids = np.array(encoding.ids, np.int32)
            if memory:
                memory.put(text, ids)
        return [found[text] for text in texts]  # pyright: ignore[reportReturnType]

    def _one(self, ids: np.ndarray, longest: int) -> Text:
        before, after = self._single.pieces
        ids = _joined(before, ids[: longest - _special_count(self._single)], after)
        return Text(ids, np.full(len(ids), self._single.types[0], np.int32))

    def _two(self, a: np.ndarray, b: np.ndarray, longest: int) -> Text:
        before, between, after = self._double.pieces
        # The first text keeps room for one token of the second.
        a = a[: longest - _special_count(self._double) - 1]
        b = b[: longest - _special_count(self._double) - len(a)]
        types_before, types_between, types_after = self._double.piece_types
        types_a, types_b = map(np.full, (len(a), len(b)), self._double.types)
        return Text(
            _joined(before, a, between, b, after),
            _joined(types_before, types_a, types_between, types_b, types_after),
        )

    def _check_templates(self, folder: Path) -> None:
        if (len(self._single.pieces), len(self._double.pieces)) != (2, 3):
            raise InputError(f"{folder}: no usable tokenizer: it makes no token of the letter a")
        lengths = (self.config.query_length, self.config.passage_length, self.config.pair_length)
        special = _special_count(self._double)
        if special + 2 > min(lengths):
            raise InputError(
                f"{folder}: its tokenizer puts {special} special tokens around two texts, which "
                f"leaves no room for them within text lengths of {min(lengths)}"
            )

    def _template(self, *texts: str) -> Template:
        """Encodes one-letter texts and looks which tokens are not theirs."""
        encoding = self._backend.encode(*texts)
        pieces: list[list[int]] = [[]]
        piece_types: list[list[int]] = [[]]
        types: list[int] = []
        for token, kind, sequence in zip(
            encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True
        ):
            if sequence is None:
                pieces[-1].append(token)
                piece_types[-1].append(kind)
            elif len(types) == sequence:  # a text's first token
                types.append(kind)
                pieces.append([])
                piece_types.append([])
        return Template(tuple(pieces), tuple(types), tuple(piece_types))


# What transformers may open for a tokenizer: settings by their names, vocabularies by any.
_SETTINGS = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


_READ = {".json", ".txt", ".model", ".spm", ".codes", ".jinja"}


_MOST_OF_TOKENIZER = 32 * 2**20  # bytes of a file of it; 17 million hold 250,000 tokens


def _check_files(folder: Path) -> None:
    """Refuses, before transformers opens any of it, what leads out of the folder or is absurd."""
    for path in sorted([*folder.glob("*"), *folder.glob("additional_chat_templates/*")]):
        if path.suffix in _READ and not path.is_dir():
            checked_file(path, MOST if path.name in _SETTINGS else _MOST_OF_TOKENIZER, folder)
    path = folder / "tokenizer_config.json"
    settings = read_object(path) if path.is_file() else {}
    names = settings.get("fast_tokenizer_files") or []
    if not isinstance(names, list) or not all(map(_is_plain, names)):
        raise InputError(f"{path}: fast_tokenizer_files: expected plain names of files")


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) is not None


_PROBES = (
    "Héllo, WORLD!  naïve\tco-op 3.14",
    "東京タワー Ω ﬁn",
    "a\u0301 don't #1 <b>",
    "unaffable",
)


def as_texts(texts: Sequence[str], what: str) -> list[str]:
    """A list of them. Raises InputError for one text alone, and names what is no text.

    A text is a sequence of letters, and None or a number has a form as text: neither is meant.
    """
    if isinstance(texts, str | bytes):
        raise InputError(f"{what}: a single text, where a list of texts is wanted; give [text]")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{what}[{index}] is {shown(text)}, which is no text")
    return texts


def _titled(titles: Sequence[str] | None, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Titles, empty ones where there are none, and texts: as many of both."""
    texts = as_texts(texts, "passages")
    titles = [""] * len(texts) if titles is None else as_texts(titles, "titles")
    if len(titles) != len(texts):
        raise InputError(f"got {len(titles)} titles for {len(texts)} passages; give '' for none")
    return titles, texts


def _join(title: str, text: str) -> str:
    return f"{title} {text}".strip()


def _joined(*parts: np.ndarray | list[int]) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def _special_count(template: Template) -> int:
    return sum(map(len, template.pieces))


def _refuse_empty(texts: Sequence[str], what: str) -> None:
    for index, text in enumerate(texts):
        if not text or not text.strip():
            raise InputError(f"{what}[{index}] is empty; give it a text or leave it out")
