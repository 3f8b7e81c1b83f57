"""Packed rows: the tokens of many texts end to end in rows of one width, [R, S].

Nearly every slot of such rows holds a token, where texts padded to the longest leave half of the
slots empty. A layer sees one array of R * S tokens. Only attention has to know where a text ends: a
token attends to those of its row that have the same text. The host fills the rows; on a device
nothing is moved until each text's result is taken from its first token.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from rocketjax.text.batch import Rows, Text, Tokens

# Widths that rows may have. Where attention is one kernel, wide rows are fuller and cost no more: a
# TPU's takes whole tiles of 128 lanes. Otherwise every pair of slots in a row is paid for, on a CPU
# in time and on a GPU in memory traffic (docs/gpu.md).
NARROW = (32, 64, 128, 160, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048, 3_072, 4_096)
WIDE = (256, 384, 512, 768, 1_024, 1_536, 2_048, 3_072, 4_096)
SAMPLE = 512  # texts by which a width is chosen


def one_a_row(tokens: Tokens) -> Rows:
    """Padded texts [N, S] as rows: every text has its own. Pure, for use inside jit."""
    count, width = tokens.ids.shape
    place = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (count, width))
    number = jnp.arange(count, dtype=jnp.int32)
    inside = place < jnp.asarray(tokens.length)[:, None]
    text = jnp.where(inside, number[:, None], -1)
    ids, types = jnp.asarray(tokens.ids), jnp.asarray(tokens.types)
    return Rows(ids, types, text, place, number * width)


def fill(
    lengths: Iterable[int], width: int, widths: Sequence[int]
) -> Iterator[tuple[int, list[int]]]:
    """Deals texts out to rows: a row takes the longest text that still fits, again and again.

    Args:
        lengths: of the texts, in tokens.
        width: S. A text that is longer gets a row as wide as `fitting` says, which others fill up.
        widths: what wider rows may be, ascending.

    Yields:
        For each row its width and the indices of its texts, those with the longest texts first.
    """
    waiting: dict[int, deque[int]] = {}
    for index, length in enumerate(lengths):
        waiting.setdefault(length, deque()).append(index)
    left = sorted(waiting)  # the lengths of texts that wait
    while left:
        room = wide = max(width, fitting(left[-1], widths) if left[-1] > width else 0)
        row: list[int] = []
        while at := bisect_right(left, room):
            length = left[at - 1]
            row.append(waiting[length].popleft())
            room -= length
            if not waiting[length]:
                del waiting[length], left[at - 1]
        yield wide, row


def fitting(longest: int, widths: Sequence[int]) -> int:
    """The least of `widths` that holds a text; beyond them, a multiple of the last."""
    return next((w for w in widths if w >= longest), -(-longest // widths[-1]) * widths[-1])


def best_width(lengths: Sequence[int], widths: Sequence[int]) -> int:
    """The width of rows in which these texts cost least: wide rows are fuller, narrow ones cheaper.

    Attention costs a token in proportion to its row's width, and as much as all else at about a
    thousand slots; an estimate need not be better than that.
    """
    some = sorted(lengths)[:: -(-len(lengths) // SAMPLE)]
    longest = fitting(max(lengths), widths)

    def cost(width: int) -> float:
        return sum(wide * (1 + wide / 1_000) for wide, _ in fill(some, width, widths))

    fair = (w for w in sorted(widths, reverse=True) if w <= 2 * longest)
    return min(fair, key=cost, default=longest)


def width_for(lengths: Sequence[int], widths: Sequence[int]) -> int:
    """The best of the widths that hold every one of these texts."""
    longest = fitting(max(lengths), widths)
    return best_width(lengths, [longest, *(w for w in widths if w > longest)])


def pack(
    parts: Sequence[Sequence[Text]], width: int, rows: int, pad_id: int, texts: int = 0
) -> Rows:
    """Packs every part into rows of its own: [K, ...].

    Args:
        parts: K of them.
        width: S, at least that of the longest text.
        rows: R where that is enough; otherwise few more than are needed.
        pad_id: the id of slots without a token.
        texts: N, or more where the largest part has more.
    """
    packed = [list(fill(map(_size, part), width, ())) for part in parts]
    need = max(map(len, packed))
    shape = rows if need <= rows else rounded(need), width, max(texts, *map(len, parts))
    laid = (
        lay_out([row for _, row in some], part, shape, pad_id)
        for some, part in zip(packed, parts, strict=True)
    )
    return Rows(*map(np.stack, zip(*laid, strict=True)))


def lay_out(
    rows: Sequence[Sequence[int]], texts: Sequence[Text], shape: tuple[int, int, int], pad_id: int
) -> Rows:
    """Writes texts into rows.

    Args:
        rows: for each row the indices of its texts, which become their numbers in `Rows.text`.
        texts: N of them at most.
        shape: R, S and N; what is not used of them stays empty.
        pad_id: the id of slots without a token.
    """
    count, width, number = shape
    ids = np.full((count, width), pad_id, np.int32)
    types, position = np.zeros((2, count, width), np.int32)
    text = np.full((count, width), -1, np.int32)
    first, place = np.full(number, -1, np.int32), np.arange(width, dtype=np.int32)
    for row, some in enumerate(rows):
        start = 0
        for index in some:
            size = len(texts[index].ids)
            here = slice(start, start + size)
            ids[row, here], types[row, here] = texts[index]
            text[row, here], position[row, here] = index, place[:size]
            first[index] = row * width + start
            start += size
    return Rows(ids, types, text, position, first)


def _size(text: Text) -> int:
    return len(text.ids)


def rounded(rows: int) -> int:
    """Up to one of four numbers in each doubling: each is a program to compile."""
    step = 1 << max(0, (rows - 1).bit_length() - 3)
    return -(-rows // step) * step
