"""Batches of tokenised texts, padded on the right, and the one legend of shapes.

    B  queries (= lists) in a batch      L  slots of a list, slot 0 holds the positive
    S  padded length of a text, tokens   D  width of an embedding
    N  texts, where lists don't matter   V  vocabulary
    T  unpadded tokens of many texts (text/unpadded.py)

A list with fewer than L passages has trailing slots whose `valid` is False. A row whose slot 0 is
not valid is no list at all and only fills up the batch. Losses and metrics exclude both exactly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rocketjax.text.unpadded import Array, Spots


class Text(NamedTuple):
    """One tokenised text with its special tokens, not yet padded."""

    ids: np.ndarray  # [S] int32
    types: np.ndarray  # [S] int32, the segment: 0 or 1


class Tokens(NamedTuple):
    """Padded token ids, for texts of any leading shape.

    Texts that only fill up a batch hold one token, so that no attention row and no mean is empty.
    Where padding is skipped they may hold none, and then come last.
    """

    ids: Array  # [..., S] int32
    types: Array  # [..., S] int32, the segment: 0 or 1
    length: Array  # [...] int32, 0 <= length <= S


class ListBatch(NamedTuple):
    """B queries, each with a list of L passages that both models score."""

    query: Tokens  # [B, S]: each query once, however long its list
    passage: Tokens  # [B, L, S]: what the retriever's passage tower reads
    pair: Tokens  # [B, L, S]: what the re-ranker reads
    valid: Array  # [B, L] bool
    relevant: Array  # [B, B * L] bool: the passages of all lists that answer a query, and so are
    # none of its in-batch negatives
    spots: Spots = Spots()


def pad(texts: Sequence[Text], rows: int, length: int, pad_id: int) -> Tokens:
    """Pads texts to [rows, length]; rows beyond the texts hold a single `pad_id`."""
    ids = np.full((rows, length), pad_id, np.int32)
    types = np.zeros((rows, length), np.int32)
    lengths = np.ones(rows, np.int32)
    for row, text in enumerate(texts):
        size = len(text.ids)
        ids[row, :size], types[row, :size], lengths[row] = text.ids, text.types, size
    return Tokens(ids, types, lengths)


def bucket(longest: int, limit: int) -> int:
    """The padded length S of texts of at most `longest` tokens: a multiple of 32, or `limit`.

    Each length is compiled once, so there are few of them.
    """
    return min(-(-longest // 32) * 32, limit)


def chunk_count(texts: int, chunk: int) -> int:
    """The number of chunks of `chunk` texts that a device processes in turn; chunk 0 means one."""
    return -(-texts // chunk) if 0 < chunk < texts else 1
