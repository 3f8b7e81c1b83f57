"""Texts to token ids."""

import dataclasses
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rocketjax.config.schema import TextConfig
from rocketjax.runtime.errors import InputError
from rocketjax.text.backend import open_backend
from rocketjax.text.batch import Text
from rocketjax.text.beginning import MARGIN, beginning, splits_at_blanks
from rocketjax.text.files import check_files, name_missing_library
from rocketjax.text.texts import as_texts, refuse_empty, titled, with_title

REMEMBERED = 2**24  # characters of texts in each of the two generations of a _Memory
_ALL = 2**62  # tokens


class _Memory:
    """A cache of recent texts' token ids.

    In training the same passages come back as negatives of many queries. Texts live in two
    generations: a full new one replaces the old one, and a text found in the old one moves to the
    new. Threads may share a cache: the worst a race can do is to drop a text early.

    Attributes:
        read: how many of a text's tokens it holds at least; of a longer text, it may hold no more.
    """

    def __init__(self, read: int) -> None:
        self.read = read
        self._new: dict[str, np.ndarray] = {}
        self._old: dict[str, np.ndarray] = {}
        self._size = 0

    def get(self, text: str) -> np.ndarray | None:
        """The text's token ids, or None if they are not cached."""
        ids = self._new.get(text)
        if ids is not None:
            return ids
        ids = self._old.get(text)
        if ids is not None:
            self.put(text, ids)
        return ids

    def put(self, text: str, ids: np.ndarray) -> None:
        """Caches the text's token ids."""
        if self._size > REMEMBERED:
            self._old, self._new, self._size = self._new, {}, 0
        self._new[text] = ids
        self._size += len(text)


class Template(NamedTuple):
    """The special tokens that a tokenizer puts around one text or a pair."""

    pieces: tuple[list[int], ...]  # ids before the first text, after it, and after the second
    types: tuple[int, ...]  # the segment of the first text, and of the second
    piece_types: tuple[list[int], ...]  # the segments of `pieces`


class Tokenizer:
    """Tokenises queries, passages and pairs, each truncated to its own length.

    Safe to share between threads.
    """

    def __init__(self, folder: Path, config: TextConfig) -> None:
        """Loads the tokenizer of a model folder, without running any code that comes with it.

        Raises:
            InputError: the folder has no usable tokenizer.
        """
        files = check_files(folder)
        try:
            self._source = open_backend(folder, files)
            self._backend = self._source.rules
            if config.lower_case:
                self._lower_case()
            self.config = config
            self._cuts_left = self._source.cuts_left
            self._begins_alike = not self._cuts_left and splits_at_blanks(self._backend)
            self.pad_id = self._source.pad_id
            self._memory: _Memory | None = None
            self._single = self._template("a")
            self._double = self._template("a", "a")
            self._raw(_PROBES)
        except BaseException as error:  # a damaged file can make these libraries raise anything
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise  # an interrupt; but a panic in Rust is a BaseException, too
            name_missing_library(folder, error)
            raise InputError(
                f"{folder}: no usable tokenizer ({str(error)[:300]}); the folder needs "
                "tokenizer.json, or the files transformers can build it from (vocab.txt and "
                "tokenizer_config.json)"
            ) from error
        self._check_templates(folder)

    def _lower_case(self) -> None:
        """Lower-cases texts before everything else, as sentence-transformers does.

        In a copy: what is saved keeps the tokenizer's own rules, beside the option that adds this.
        """
        from tokenizers.normalizers import Lowercase, Sequence

        own = self._source.rules
        self._backend = type(own).from_str(own.to_str())
        self._backend.encode_special_tokens = own.encode_special_tokens  # not in the string
        parts = [Lowercase(), *([own.normalizer] if own.normalizer else [])]
        self._backend.normalizer = Sequence(parts)

    @property
    def has_segments(self) -> bool:
        """Whether the model is told which text of a pair a token is from.

        A list `model_input_names` in the folder decides, else the tokenizer's class.
        """
        return self._source.has_segments

    @property
    def drops_segments(self) -> bool:
        """Whether the tokenizer's own rules give segments that the model is not told."""
        return not self.has_segments and any(self._backend.encode("a", "a").type_ids)

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token id."""
        special = [*chain(*self._single.pieces, *self._double.pieces), self.pad_id]
        return max(*self._source.rules.get_vocab().values(), *special) + 1

    @property
    def segments(self) -> int:
        """One more than the largest segment of a text."""
        both = (self._single, self._double)
        return max(chain(*(t.types for t in both), *chain(*(t.piece_types for t in both)))) + 1

    @property
    def description(self) -> str:
        """Everything that determines a text's token ids, as a string for fingerprints.

        The rules are described by their output on a few probes, since the way the tokenizers
        library serialises them changes between versions.
        """
        vocabulary = sorted(self._source.rules.get_vocab().items())
        probes = [ids.tolist() for ids in self._raw(_PROBES)]
        left = " left" if self._cuts_left else ""
        return (
            f"{vocabulary} {probes} {self._single} {self._double} {_described(self.config)}{left}"
        )

    def remember(self, other: "Tokenizer | None" = None) -> None:
        """Caches the token ids of recent texts from now on, in about 60 MB.

        Args:
            other: a tokenizer to share the cache with, if both have the same rules.
        """
        self._memory = self._memory or _Memory(self._read)
        if other and other._memory and self._backend.to_str() == other._backend.to_str():
            self._memory = other._memory = _Memory(max(self._read, other._memory.read))

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: all but the cached texts."""
        return self.__dict__ | {"_memory": self._memory and _Memory(self._read)}

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files beside a model's weights, without what `config` adds."""
        self._source.save(folder)

    def query(self, texts: Sequence[str]) -> list[Text]:
        """CLS query SEP, at most `query_length` tokens.

        Raises:
            InputError: `texts` is a single string, or an item, which is named by its index, is
                empty or not a string.
        """
        texts = as_texts(texts, "queries")
        longest, prompt = self.config.query_length, self.config.query_prompt or ""
        return [self._one(ids, longest) for ids in self._ids(texts, "queries", prompt)]

    def passage(self, titles: Sequence[str] | None, texts: Sequence[str]) -> list[Text]:
        """A passage for the retriever, at most `passage_length` tokens; see TextConfig.title.

        Titles may be empty.

        Raises:
            InputError: as for `query`; an item is empty if its title and text both are.
        """
        titles, texts = titled(titles, texts)
        longest, prompt = self.config.passage_length, self.config.passage_prompt or ""
        whole = [with_title(title, text) for title, text in zip(titles, texts, strict=True)]
        if self.config.title != "segment":
            return [self._one(ids, longest) for ids in self._ids(whole, "passages", prompt)]
        refuse_empty(whole, "passages")
        # The prompt precedes the title, or the text where there is no title.
        has_title = [bool(title.strip()) for title in titles]
        rows = list(zip(has_title, titles, texts, strict=True))
        heads = self._raw([prompt + title if has else "" for has, title, _ in rows])
        bodies = self._raw([text if has else prompt + text for has, _, text in rows])
        return [
            self._two(head, body, longest)
            if len(head) and len(body)
            else self._one(head if len(head) else body, longest)
            for head, body in zip(heads, bodies, strict=True)
        ]

    def pair(
        self, queries: Sequence[str], titles: Sequence[str] | None, texts: Sequence[str]
    ) -> list[Text]:
        """CLS query SEP title text SEP, at most `pair_length` tokens; see `pair_truncation`.

        With "passage" the query is truncated as in `query`, so that both models read the same words
        of it unless a prompt takes up part of the length, and the passage is truncated to fit.

        Raises:
            InputError: as for `passage`, or the numbers of queries and passages differ.
        """
        queries, (titles, texts) = as_texts(queries, "queries"), titled(titles, texts)
        if len(queries) != len(texts):
            raise InputError(
                f"score pairs queries[i] with passages[i], but got {len(queries)} queries and "
                f"{len(texts)} passages"
            )
        first = self._ids(queries, "queries")
        whole = [with_title(title, text) for title, text in zip(titles, texts, strict=True)]
        second = self._ids(whole, "passages")
        room = self.config.pair_length - _special_count(self._double)
        if self.config.pair_truncation == "longest":
            sizes = [
                _longest_first(len(a), len(b), room) for a, b in zip(first, second, strict=True)
            ]
        else:
            longest = self.config.query_length - _special_count(self._single)
            sizes = [(longest, room)] * len(first)
        return [
            self._two(self._cut(a, for_a), self._cut(b, for_b), self.config.pair_length)
            for a, b, (for_a, for_b) in zip(first, second, sizes, strict=True)
        ]

    def _ids(self, texts: Sequence[str], what: str, prompt: str = "") -> list[np.ndarray]:
        refuse_empty(texts, what)
        return self._raw([prompt + text for text in texts] if prompt else texts)

    @property
    def _read(self) -> int:
        """How many of a text's tokens are looked at, at most."""
        config = self.config
        # Which text is cut first depends on the lengths of both.
        if not self._begins_alike or config.pair_truncation == "longest":
            return _ALL
        return max(config.query_length, config.passage_length, config.pair_length)

    def _raw(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text's int32 token ids, without special tokens. Equal texts are tokenised once.

        Of a text with more tokens than anyone looks at, those may be all.
        """
        memory = self._memory
        read = max(self._read, memory.read if memory else 0)
        try:
            ids_of = {text: memory.get(text) if memory else None for text in texts}
            fresh = [text for text, ids in ids_of.items() if ids is None]
            encoded = self._beginnings(fresh, read)
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(f"a text is not a string, or not valid Unicode: {error}") from error
        for text, ids in zip(fresh, encoded, strict=True):
            ids_of[text] = ids
            if memory:
                memory.put(text, ids)
        return [ids_of[text] for text in texts]  # pyright: ignore[reportReturnType]

    def _beginnings(self, texts: Sequence[str], read: int) -> list[np.ndarray]:
        """Each text's token ids, or the first `read` and some more of them."""
        starts = texts if read == _ALL else [beginning(text, read) for text in texts]
        ids = self._encoded(starts)
        # Those whose beginning holds fewer tokens than was expected.
        few = [
            i
            for i, (start, text) in enumerate(zip(starts, texts, strict=True))
            if len(start) < len(text) and len(ids[i]) < read + MARGIN
        ]
        for i, whole in zip(few, self._encoded([texts[i] for i in few]), strict=True):
            ids[i] = whole
        return ids

    def _encoded(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def _one(self, ids: np.ndarray, longest: int) -> Text:
        before, after = self._single.pieces
        ids = _joined(before, self._cut(ids, longest - _special_count(self._single)), after)
        return Text(ids, np.full(len(ids), self._single.types[0], np.int32))

    def _two(self, a: np.ndarray, b: np.ndarray, longest: int) -> Text:
        before, between, after = self._double.pieces
        # Truncate the first text so that at least one token of the second fits.
        a = self._cut(a, longest - _special_count(self._double) - 1)
        b = self._cut(b, longest - _special_count(self._double) - len(a))
        types_before, types_between, types_after = self._double.piece_types
        types_a, types_b = map(np.full, (len(a), len(b)), self._double.types)
        return Text(
            _joined(before, a, between, b, after),
            _joined(types_before, types_a, types_between, types_b, types_after),
        )

    def _cut(self, ids: np.ndarray, room: int) -> np.ndarray:
        """At most `room` of a text's tokens, from the side that the tokenizer keeps."""
        return ids[max(0, len(ids) - room) :] if self._cuts_left else ids[:room]

    def _check_templates(self, folder: Path) -> None:
        if (len(self._single.pieces), len(self._double.pieces)) != (2, 3):
            raise InputError(f"{folder}: no usable tokenizer: the letter a gives no token")
        lengths = (self.config.query_length, self.config.passage_length, self.config.pair_length)
        special = _special_count(self._double)
        if special + 2 > min(lengths):
            raise InputError(
                f"{folder}: the tokenizer adds {special} special tokens to a pair of texts, which "
                f"leaves no room for the texts within a length of {min(lengths)}"
            )

    def _template(self, text: str, pair: str | None = None) -> Template:
        """Encodes one-letter texts and records which tokens do not belong to them."""
        encoding = self._backend.encode(text, pair)
        pieces: list[list[int]] = [[]]
        piece_types: list[list[int]] = [[]]
        types: list[int] = []
        kinds = encoding.type_ids if self.has_segments else [0] * len(encoding.ids)
        for token, kind, sequence in zip(encoding.ids, kinds, encoding.sequence_ids, strict=True):
            if sequence is None:
                pieces[-1].append(token)
                piece_types[-1].append(kind)
            elif len(types) == sequence:  # a text's first token
                types.append(kind)
                pieces.append([])
                piece_types.append([])
        return Template(tuple(pieces), tuple(types), tuple(piece_types))


_PROBES = (
    "Héllo, WORLD!  naïve\tco-op 3.14",
    "東京タワー Ω ﬁn",
    "a\u0301 don't #1 <b>",
    "unaffable",
)


def _joined(*parts: np.ndarray | list[int]) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def _special_count(template: Template) -> int:
    return sum(map(len, template.pieces))


def _longest_first(a: int, b: int, room: int) -> tuple[int, int]:
    """What two texts of `a` and `b` tokens keep within `room`: the longer one is cut first.

    Where both are longer than half of it, the shorter has half, and the first is the shorter of
    equals: transformers' longest_first.
    """
    if a + b <= room:
        return a, b
    shorter = min(a, b, room // 2)
    return (shorter, room - shorter) if a <= b else (room - shorter, shorter)


def _described(config: TextConfig) -> str:
    """The config for fingerprints; later options count only where they change something.

    So the vectors that earlier versions left stay those of the same model.
    """
    off = {"pair_truncation": ("auto", "passage"), "lower_case": (None, False)}
    values = dataclasses.asdict(config).items()
    kept = [f"{name}={value!r}" for name, value in values if value not in off.get(name, ())]
    return f"TextConfig({', '.join(kept)})"
