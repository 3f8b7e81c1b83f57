"""How a corpus is stored as vectors and searched, and which of these options go together."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rocketjax.config.fields import Count, Size, Whole, at
from rocketjax.runtime.errors import InputError

# Options that only ScaNN reads.
OF_SCANN = ("target_recall", "leaves", "leaves_to_search", "reorder")


@dataclass(frozen=True)
class IndexConfig:
    """The corpus as vectors, and how they are searched."""

    kind: Literal["auto", "scann", "exact"] = at("start", "auto")
    """auto: ScaNN where it is installed, else exact search on the devices."""
    dtype: Literal["float32", "float16", "bfloat16", "int8", "binary"] = at("start", "float32")
    """Of the stored vectors. int8 (a quarter of float32) and binary (a bit a number) are searched
    exactly on the devices; what that costs in recall is measured and said (docs/speed.md)."""
    rescore: Size = at("start", 2)
    """Candidates for each passage asked for that int8 and binary vectors score again, with the
    query in float32. The index keeps it: `search` and `serve` heed it."""
    shard: Count = at("start", 0)
    """Passages in a file; a stopped encode resumes at the file it was at. 0: a 64th of the corpus,
    but at least 4,096 and at most 65,536."""
    target_recall: Whole = at("start", 0.99)
    """ScaNN searches as widely as it takes to find this share of what exact search finds."""
    leaves: Count = at("start", 0)
    """ScaNN's partitions; 0: none under 100,000 passages, then about the square root."""
    leaves_to_search: Count = at("start", 0)
    """Partitions that a query searches; 0: by `target_recall`."""
    reorder: Count = at("start", 0)
    """Passages that ScaNN scores exactly for a query; 0: by `target_recall`."""


def check_index(index: IndexConfig, place: Callable[[str], str]) -> None:
    """Refuses ScaNN over vectors of few bits, and what the kind or the type does not read.

    Raises:
        InputError: an option is refused; it is named, by `place`.
    """
    check_kind(index, place)
    for name, why in _unread(index).items():
        if getattr(index, name) != (default := getattr(IndexConfig(), name)):
            raise InputError(
                f"{place(f'index.{name}')}: {why}, and this is index.kind {index.kind} of "
                f"{index.dtype}; leave it out (where a recipe sets it: {default})"
            )


def check_kind(index: IndexConfig, place: Callable[[str], str]) -> None:
    """Refuses ScaNN over vectors of few bits. Raises InputError."""
    if index.kind == "scann" and _has_few_bits(index):
        raise InputError(
            f"{place('index.kind')}: ScaNN reads vectors in float32 and quantises them itself, and "
            f"these are {index.dtype}; take index.kind auto or exact, or index.dtype bfloat16"
        )


def as_read(index: IndexConfig) -> IndexConfig:
    """The same index, and what nothing reads as if it were left out."""
    return dataclasses.replace(index, **{x: getattr(IndexConfig(), x) for x in _unread(index)})


def _unread(index: IndexConfig) -> dict[str, str]:
    """Options that change nothing about such an index, and why."""
    few_bits = _has_few_bits(index)
    unread = {} if few_bits else {"rescore": "only int8 and binary vectors are scored again"}
    if few_bits or index.kind == "exact":
        unread |= dict.fromkeys(OF_SCANN, "only ScaNN reads it")
    return unread


def _has_few_bits(index: IndexConfig) -> bool:
    return index.dtype in ("int8", "binary")
