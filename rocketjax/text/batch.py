"""Tokenised texts as arrays, padded or in packed rows, and the one legend of shapes.

    B  queries (= lists) in a batch      L  slots of a list, slot 0 holds the positive
    R  rows of packed texts              S  width of a row, or padded length of a text, in tokens
    N  texts, where lists don't matter   T  R * S, the slots of rows
    K  parts of a batch: for each device its chunks, of equally many texts
    D  width of an embedding             V  vocabulary

A list with fewer than L passages has trailing slots whose `valid` is False. A row whose slot 0 is
not valid is no list at all and only fills up the batch. Losses and metrics exclude both exactly.
A list without a label has any passage in slot 0; only the distillation sees it.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray


class Text(NamedTuple):
    """One tokenised text with its special tokens."""

    ids: np.ndarray  # [S] int32
    types: np.ndarray  # [S] int32, the segment: 0 or 1


class Tokens(NamedTuple):
    """Padded token ids, for texts of any leading shape: what functions of plain arrays take.

    Texts that only fill up a batch hold one token, so that no attention row and no mean is empty.
    """

    ids: Array  # [..., S] int32
    types: Array  # [..., S] int32, the segment: 0 or 1
    length: Array  # [...] int32, 1 <= length <= S


class Rows(NamedTuple):
    """Texts in packed rows (text/rows.py), for any leading shape, such as [K].

    Slots without a token have the text -1. They attend to one another, and nothing reads them.
    """

    ids: Array  # [..., R, S] int32
    types: Array  # [..., R, S] int32
    text: Array  # [..., R, S] int32, the number of each token's text, below N
    position: Array  # [..., R, S] int32, of each token in its text
    first: Array  # [..., N] int32, where in R * S each text begins; -1 for one that is not there

    def one_per_text(self, x: jax.Array) -> jax.Array:
        """[R * S, ...] -> [N, ...], of each text's first token."""
        text, position = (jnp.asarray(a).reshape(-1) for a in (self.text, self.position))
        begins = (position == 0) & (text >= 0)
        return _take(x, jnp.asarray(self.first), jnp.where(begins, text, self.first.shape[-1]))

    def per_token(self, values: jax.Array) -> jax.Array:
        """[N, ...] -> [R * S, ...], of each token's text; of the first where there is no token."""
        return values[jnp.maximum(jnp.asarray(self.text).reshape(-1), 0)]


class TeacherScores(NamedTuple):
    """A teacher's scores that B lists keep; what they lack is masked, and finite."""

    scores: Array  # [B, L] float32; 0 where there is none
    there: Array  # [B, L] bool


class ListBatch(NamedTuple):
    """B queries, each with a list of L passages that both models score."""

    query: Rows  # [K, ...] of B texts: each query once, however long its list
    passage: Rows  # [K, ...] of B * L texts, list by list: what the retriever's passage tower reads
    pair: Rows  # [K, ...] of B * L texts: what the re-ranker reads
    valid: Array  # [B, L] bool
    relevant: Array  # [B, B * L] bool: the passages of all lists that answer a query, and so are
    # none of its in-batch negatives
    labelled: Array | None = None  # [B] bool: the lists whose slot 0 is a positive; None: all
    stored: TeacherScores | None = None  # where a stored teacher teaches
    place: Array | None = None  # [B] int32: each list's place before lists were dealt to devices;
    # None: they were not. Dropout is drawn by it, so it does not depend on the devices


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


@jax.custom_vjp
def _take(x: jax.Array, there: jax.Array, back: jax.Array) -> jax.Array:
    """x[there]; `back` are the indices of the inverse, so that the gradient is no scatter."""
    del back
    return x[there]


def _take_forward(x: jax.Array, there: jax.Array, back: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x[there], back


def _take_backward(back: jax.Array, grad: jax.Array) -> tuple[jax.Array, None, None]:
    return jnp.take(grad, back, axis=0, mode="fill", fill_value=0), None, None


_take.defvjp(_take_forward, _take_backward)
