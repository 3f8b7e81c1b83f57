"""Texts as callers give them: lists checked, titles put before passages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rocketjax.runtime.errors import InputError, shown


def as_texts(texts: Sequence[str], what: str) -> list[str]:
    """The texts as a list, none of them converted from another type.

    Any ordered run of strings will do: list, tuple, generator, numpy array, pandas Series, column
    of Arrow or of datasets.

    Raises:
        InputError: `texts` is a single string or no list of texts (a table, a dict, a set, a file),
            or an item, which is named by its index, is not a string.
    """
    if isinstance(texts, str | bytes):
        raise InputError(f"{what}: a single text where a list is expected; pass [text]")
    if wrong := _why_no_list(texts):
        raise InputError(f"{what}: {type(texts).__name__} is {wrong}")
    of_arrow = getattr(texts, "to_pylist", None)  # whose items are scalars of its own
    listed: list[str] = of_arrow() if of_arrow else list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputError(f"{what}[{index}] is {shown(text)}, not a string")
    return listed


def _why_no_list(texts: Any) -> str:
    """What it is instead, and what to pass; empty for a list.

    Iterated, a table gives its columns' names, a dict its keys, and a file its lines' ends, too.
    """
    if isinstance(texts, Mapping):
        return "no list of texts: iterated, it gives its keys; pass list(it.values())"
    if isinstance(texts, set | frozenset):
        return "in no order, so that no result could be told from another; pass a list"
    if hasattr(texts, "readline"):
        return "a file; pass its lines, file.read().splitlines()"
    if (dimensions := getattr(texts, "ndim", 1)) != 1:
        return f"{dimensions}-dimensional, no list of texts; pass one column of it"
    if hasattr(texts, "column_names") or not isinstance(texts, Iterable):
        return "no list of texts; pass a list or a single column"
    return ""


def titled(titles: Sequence[str] | None, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Titles, empty where there are none, and texts, equally many of both."""
    texts = as_texts(texts, "passages")
    titles = [""] * len(texts) if titles is None else as_texts(titles, "titles")
    if len(titles) != len(texts):
        raise InputError(f"got {len(titles)} titles for {len(texts)} passages; pass '' for none")
    return titles, texts


def with_title(title: str, text: str) -> str:
    """A passage's title and text as one; a text without a title stays as it is, blanks included."""
    return f"{title} {text}".strip() if title.strip() else text


def refuse_empty(texts: Sequence[str], what: str) -> None:
    """Raises InputError for a text without a character; its index is named."""
    for index, text in enumerate(texts):
        if not text or not text.strip():
            raise InputError(f"{what}[{index}] is empty; give it some text or leave it out")
