"""A device's texts in chunks of equally many packed rows, which a train step goes through in turn.

All chunks have one shape, and what a row does not use of it is computed all the same. Chunks of
equally many texts would need as many rows as the longest of them do: at MS MARCO's lengths a fifth
more than the texts fill. So a chunk takes as many texts as its rows hold.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from rocketjax.text.batch import Rows, Text, chunk_count
from rocketjax.text.rows import fill, fitting, pack, rounded, width_for

SAMPLE = 4  # steps by which a shape is chosen
TRIED = 4  # smaller numbers of rows, beside a larger one: that with the fewest slots is taken


class Shape(NamedTuple):
    """The packed rows that a device is given of one kind of texts."""

    chunks: int = 0
    rows: int = 0  # R of a chunk
    width: int = 0  # S
    texts: int = 0  # N, a chunk has no more


def shape_for(
    steps: Sequence[Sequence[int]], chunk: int, widths: Sequence[int], dealt_to: int = 1
) -> Shape:
    """The shape that nearly all steps fit, by some of them.

    There is room for sqrt(n) / 2 texts more than those of the fullest step, which has n: by about
    so much do sums of n lengths differ.

    Args:
        steps: for each, the lengths of the texts that a device is given, equally many.
        chunk: texts whose rows a device takes at once, on average; 0: all.
        widths: that rows may have, ascending.
        dealt_to: devices that texts were dealt to (see `dealt`): what one has more than in other
            steps, all have, so n is that of all of them, and each gets its part of the room.
    """
    count = len(steps[0])
    width = width_for(list(chain(*steps)), widths)
    spare = math.isqrt(count * dealt_to) // (2 * dealt_to)
    steps = [[*lengths, *lengths[:spare]] for lengths in steps]
    rows = max(_needed(lengths, width) for lengths in steps)
    chunks = chunk_count(count, chunk)
    if chunks == 1:
        return Shape(1, rows, width, count)
    most = min(count, 2 * chunk)  # a longer list of results costs nothing beside the rows

    def shape(rows: int) -> Shape:
        return Shape(max(len(_cut(each, rows, width, most)) for each in steps), rows, width, most)

    rows = -(-rows // chunks)
    tried = map(shape, range(rows + 1, max(0, rows - TRIED), -1))
    return min(tried, key=lambda shape: shape.chunks * shape.rows)


def in_chunks(devices: Sequence[Sequence[Text]], shape: Shape, pad_id: int) -> Rows:
    """Packs a step's texts: [devices * chunks, ...], in order.

    Args:
        devices: the texts of each.
        shape: of a device's rows. Where it is not enough there are more chunks or, of a single one,
            more rows.
        pad_id: the id of slots without a token.
    """
    cut = [_parts(texts, shape) for texts in devices]
    chunks = _enough(shape.chunks, max(map(len, cut)))
    parts = [part for some in cut for part in (*some, *[()] * (chunks - len(some)))]
    return pack(parts, shape.width, shape.rows, pad_id, shape.texts)


def dealt(sizes: Sequence[int], devices: int) -> list[int]:
    """Deals lists out to devices, equally many to each, so that all have about as much to do.

    The largest first, each to the device that has least so far: all compute as many slots as the
    fullest needs.

    Args:
        sizes: of the lists, in tokens.
        devices: share them evenly.

    Returns:
        The lists' indices, device by device, a device's in their order.
    """
    own = len(sizes) // devices
    parts: list[list[int]] = [[] for _ in range(devices)]
    totals = [0] * devices
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        open_ones = (device for device in range(devices) if len(parts[device]) < own)
        device = min(open_ones, key=lambda device: totals[device])
        parts[device].append(index)
        totals[device] += sizes[index]
    return [index for part in parts for index in sorted(part)]


def wider(shape: Shape, longest: int, widths: Sequence[int]) -> Shape:
    """The shape with rows that hold a text of `longest` tokens, and so fewer of them."""
    width = max(shape.width, fitting(longest, widths))
    return shape._replace(rows=-(-shape.rows * shape.width // width), width=width)


def _parts(texts: Sequence[Text], shape: Shape) -> list[Sequence[Text]]:
    """A device's texts by chunk."""
    if shape.chunks == 1:
        return [texts]
    lengths = [len(text.ids) for text in texts]
    ends = _cut(lengths, shape.rows, shape.width, shape.texts)
    return [texts[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _cut(lengths: Sequence[int], rows: int, width: int, most: int) -> list[int]:
    """Where chunks end that take, in order, as many texts as `rows` rows hold, and `most`."""
    total = np.cumsum([0, *lengths])
    ends = [0]
    while (start := ends[-1]) < len(lengths):
        full = np.searchsorted(total, total[start] + rows * width, side="right") - 1
        end = min(start + most, int(full))
        while _needed(lengths[start:end], width) > rows:
            end -= 1
        ends.append(end)
    return ends[1:]


def _needed(lengths: Sequence[int], width: int) -> int:
    """Rows that these texts fill."""
    return sum(1 for _ in fill(lengths, width, ()))


def _enough(planned: int, needed: int) -> int:
    """As many as planned, or few different numbers of more: each is a program to compile."""
    return planned if needed <= planned else rounded(needed)
