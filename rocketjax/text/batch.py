"""The batches that flow through rocketjax, and the one legend of shapes.

    B  queries (= lists) in a batch      L  slots of a list, slot 0 holds the positive
    S  tokens of a text                  D  width of an embedding
    N  texts, where lists don't matter   V  vocabulary
    T  tokens laid end to end

Texts are padded on the right to S; `length` says how much of it is text. What a model does with
each token by itself, nine tenths of its work, it need not do with padding: `spots` says where the
tokens are, so that they can be laid end to end (text/padding.py). A list shorter than L
ends in slots whose `valid` is False; a row whose slot 0 is not valid is no list at all, it only
fills the batch. Every loss and metric leaves both out exactly.
"""

from typing import NamedTuple, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray


class Tokens(NamedTuple):
    """Padded token ids, for texts of any leading shape.

    Texts that only fill a batch up hold one token, so that no attention row and no mean is empty;
    or none where tokens are laid end to end, and then come last.
    """

    ids: Array  # [..., S] int32
    types: Array  # [..., S] int32, the segment: 0 or 1
    length: Array  # [...] int32, 0 <= length <= S


class Spots(NamedTuple):
    """Where the tokens of a batch's texts are; None: padding is computed with, like text.

    Each [K, T] int32: K parts of equally many texts, each the part of a device or of one of its
    chunks. An entry is a token's place in its part's texts [N, S], row by row; those left over are
    N * S or more, and no multiple of S: no text begins there.
    """

    query: Array | None = None
    passage: Array | None = None
    pair: Array | None = None


class ListBatch(NamedTuple):
    """B queries, each with a list of L passages that both models score."""

    query: Tokens  # [B, S]: each query stands once, however long its list
    passage: Tokens  # [B, L, S]: what the retriever's passage tower reads
    pair: Tokens  # [B, L, S]: what the re-ranker reads
    valid: Array  # [B, L] bool
    passage_id: Array  # [B, L] int32, equal for equal texts: tells in-batch negatives apart
    query_id: Array  # [B] int32, equal for equal queries, likewise
    spots: Spots = Spots()


def chunk_count(texts: int, chunk: int) -> int:
    """Into how many chunks of `chunk` a device cuts its texts; 0: none."""
    return -(-texts // chunk) if 0 < chunk < texts else 1


class Text(NamedTuple):
    """A text as a model reads it, special tokens in place, not yet padded."""

    ids: np.ndarray  # [S] int32
    types: np.ndarray  # [S] int32
