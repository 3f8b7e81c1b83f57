"""The batches that flow through rocketjax, and the one legend of shapes.

    B  queries (= lists) in a batch      L  slots of a list, slot 0 holds the positive
    S  tokens of a text                  D  width of an embedding
    N  texts, where lists don't matter   V  vocabulary

Texts are padded on the right to S; `length` says how much of it is text. A list shorter than L
ends in slots whose `valid` is False; a row whose slot 0 is not valid is no list at all, it only
fills the batch. Every loss and metric leaves both out exactly.
"""

from typing import NamedTuple, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray


class Tokens(NamedTuple):
    """Padded token ids, for texts of any leading shape.

    Padding texts hold at least one token, so that no attention row and no mean is empty.
    """

    ids: Array  # [..., S] int32
    types: Array  # [..., S] int32, the segment: 0 or 1
    length: Array  # [...] int32, 1 <= length <= S


class ListBatch(NamedTuple):
    """B queries, each with a list of L passages that both models score."""

    query: Tokens  # [B, S]: each query stands once, however long its list
    passage: Tokens  # [B, L, S]: what the retriever's passage tower reads
    pair: Tokens  # [B, L, S]: what the re-ranker reads
    valid: Array  # [B, L] bool
    passage_id: Array  # [B, L] int32, equal for equal passages: tells in-batch negatives apart
