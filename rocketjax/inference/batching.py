"""How texts are dealt out to devices: packed into rows, and these into units of few shapes."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np

from rocketjax.text.batch import Rows, Text
from rocketjax.text.rows import NARROW, best_width, fill, fitting, lay_out


class Batching(NamedTuple):
    """How texts are given to a device."""

    size: int = 16  # texts of full length at once, or as many tokens of shorter ones
    widths: tuple[int, ...] = NARROW  # that rows may have
    coarse: bool = False  # fewer shapes, for when compiling one costs more than empty slots
    slots: int = 0  # tokens at once at most; 0: as many as `size` gives


BATCHING = Batching(slots=1_024)  # on a CPU, whose caches do not hold what a layer makes of more
ON_ACCELERATORS = 256  # `Batching.size` unless the config sets it
SHORTEST = 4  # tokens: a text takes this many slots of a row at least


class Unit(NamedTuple):
    """The rows that one device takes at once, and the shape that they are laid out in."""

    rows: list[list[int]]  # the indices of each row's texts
    shape: tuple[int, int, int]  # R, S, N, see text/batch.py; of all units that run together

    @property
    def texts(self) -> list[int]:
        """The indices of all its texts, row by row: at most N."""
        return list(chain(*self.rows))


def plan(lengths: Sequence[int], limit: int, batching: Batching, steady: bool) -> list[Unit]:
    """Packs texts into units, the widest rows first: too little memory fails at once.

    Args:
        lengths: of the texts, in tokens.
        limit: tokens in the longest text there may be.
        batching: the size of units, and the widths of rows.
        steady: units of one size for each width; otherwise few texts get smaller units.
    """
    if not lengths:
        return []
    lengths = [max(length, SHORTEST) for length in lengths]  # so that no row has too many texts
    width = best_width(lengths, _widths(limit, batching))
    packed = fill(lengths, width, batching.widths)
    units: list[Unit] = []
    for wide, some in groupby(packed, key=lambda each: each[0]):
        rows = [row for _, row in some]
        while rows:
            count = _fitting(len(rows), _sizes(wide, limit, batching, steady))
            few, many = _texts(count, wide)
            total = np.cumsum([len(row) for row in rows[:count]])
            taken = max(1, int(np.searchsorted(total, many, side="right")))
            number = few if total[taken - 1] <= few else many
            units.append(Unit(rows[:taken], (count, wide, number)))
            rows = rows[taken:]
    return units


def groups(units: Sequence[Unit], devices: int) -> Iterator[list[Unit]]:
    """Groups of up to `devices` consecutive units of one shape, which run at the same time."""
    for _, run in groupby(units, key=lambda unit: unit.shape):
        alike = list(run)
        yield from (alike[i : i + devices] for i in range(0, len(alike), devices))


def filling(
    lengths: Sequence[int], limit: int, batching: Batching, devices: int, at_once: int
) -> int:
    """How many of the texts, from the first on, fill `at_once` groups of steady units."""
    # No more texts than there are slots need to be tried.
    slots = max(unit.shape[0] * unit.shape[1] for unit in of_every_shape(limit, batching))
    total = np.cumsum([max(length, SHORTEST) for length in lengths])
    most = int(np.searchsorted(total, at_once * devices * slots, side="right"))

    def needed(count: int) -> int:
        units = plan(lengths[:count], limit, batching, steady=True)
        return sum(1 for _ in groups(units, devices))

    return bisect_right(range(1, most + 1), at_once, key=needed)


def lay_out_units(group: Sequence[Unit], texts: Sequence[Text], pad_id: int, devices: int) -> Rows:
    """The batch of one group [devices, ...]: a unit for each device; those beyond get no texts."""
    idle = Unit([], group[0].shape)
    parts: list[Rows] = []
    for unit in (*group, *[idle] * (devices - len(group))):
        numbers = iter(range(len(unit.texts)))
        rows = [[next(numbers) for _ in row] for row in unit.rows]
        parts.append(lay_out(rows, [texts[i] for i in unit.texts], unit.shape, pad_id))
    return Rows(*map(np.stack, zip(*parts, strict=True)))


def of_every_shape(limit: int, batching: Batching, steady: bool = True) -> Iterator[Unit]:
    """Empty units of every shape that `plan` ever gives."""
    for width in _widths(limit, batching):
        for count in _sizes(width, limit, batching, steady):
            yield from (Unit([], (count, width, texts)) for texts in _texts(count, width))


def _widths(limit: int, batching: Batching) -> list[int]:
    """Widths of rows for texts of up to `limit` tokens: up to twice as wide, for fuller rows."""
    longest = fitting(limit, batching.widths)
    return sorted({longest, *(w for w in batching.widths if w <= 2 * longest)})


def _sizes(width: int, limit: int, batching: Batching, steady: bool) -> list[int]:
    """The numbers of rows that a unit may have, ascending."""
    slots = batching.size * limit
    full = max(1, min(slots, batching.slots or slots) // width)
    if steady:
        return [full]
    smaller = (16,) if batching.coarse else (4, 16)
    return sorted({full, *(max(1, full // part) for part in smaller)})


def _texts(rows: int, width: int) -> tuple[int, int]:
    """N of a unit: for texts of 32 tokens or more, and for shorter ones."""
    return rows * max(1, width // 32), rows * (width // SHORTEST)


def _fitting(rows: int, sizes: Sequence[int]) -> int:
    """The size of the next unit if this many rows are left: the largest that they fill.

    Or the next larger one, if they fill two thirds of it or there is no other.
    """
    above = next((size for size in sizes if size >= rows), sizes[-1])
    if 3 * rows >= 2 * above:
        return above
    return max((size for size in sizes if size <= rows), default=above)
