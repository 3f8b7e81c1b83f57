"""How texts are dealt out to devices: sorted by length, in batches of few shapes."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from rocketjax.text.batch import Text, Tokens, bucket, pad
from rocketjax.text.unpadded import lay_end_to_end


class Batching(NamedTuple):
    """How texts are given to a device."""

    size: int = 16  # texts of full length at once, or as many tokens of shorter ones
    skip_padding: bool = True  # lay tokens end to end
    coarse: bool = False  # fewer shapes, for when compiling one costs more than computing padding


BATCHING = Batching()
ON_ACCELERATORS = 256  # `Batching.size` unless the config sets it


class Unit(NamedTuple):
    """The texts that one device takes at once, and the shape they are padded to."""

    rows: np.ndarray  # indices of the texts
    texts: int  # N, at least len(rows)
    width: int  # S
    room: int  # T, at least the number of tokens

    @property
    def shape(self) -> tuple[int, int, int]:
        """Units that run at the same time on several devices must agree in this."""
        return self.texts, self.width, self.room


def plan(lengths: Sequence[int], limit: int, batching: Batching, steady: bool) -> list[Unit]:
    """Cuts texts into units, by padded length, the longest first: too little memory fails at once.

    Args:
        lengths: of the texts, in tokens.
        limit: tokens in the longest text there may be.
        batching: the size of units, and what a text costs.
        steady: units of one size for each padded length; otherwise few texts get smaller units.
    """
    length = np.array(lengths, np.int64)
    padded = np.array([_width(n, limit, batching) for n in lengths], np.int64)
    units: list[Unit] = []
    for width in map(int, np.unique(padded)[::-1]):
        full = max(batching.size * limit, width)
        smaller = (full // 16,) if batching.coarse else (full // 16, full // 4)
        rooms = sorted({max(width, room) for room in (() if steady else smaller)} | {full})
        rows = np.flatnonzero(padded == width)
        shortest = max(width - 31, width // 2) if batching.skip_padding else width
        cost = length if batching.skip_padding else padded
        while len(rows):
            total = np.cumsum(cost[rows])
            room = _fitting(int(total[-1]), rooms)
            # N for texts of full length; more if that many would leave over a tenth of T empty.
            texts = room // width
            if batching.coarse or total[min(texts, len(rows)) - 1] < 0.9 * room:
                texts = room // shortest
            count = min(int(np.searchsorted(total, room, side="right")), texts)
            units.append(Unit(rows[:count], texts, width, room))
            rows = rows[count:]
    return units


def groups(units: Sequence[Unit], devices: int) -> Iterator[list[Unit]]:
    """Groups of up to `devices` consecutive units of one shape, which run at the same time."""
    for _, run in groupby(units, key=lambda unit: unit.shape):
        alike = list(run)
        yield from (alike[i : i + devices] for i in range(0, len(alike), devices))


def lay_out(
    group: Sequence[Unit], texts: Sequence[Text], pad_id: int, devices: int, skip_padding: bool
) -> tuple[Tokens, np.ndarray | None]:
    """The batch of one group: a unit per device; devices beyond the units get no texts.

    Returns:
        Tokens [devices * N, S] and, with `skip_padding`, spots [devices, T] (unpadded.Spots).
    """
    count, width, room = group[0].shape
    parts = [pad([texts[row] for row in unit.rows], count, width, pad_id) for unit in group]
    parts += [pad([], count, width, pad_id)] * (devices - len(group))
    tokens = Tokens(*map(np.concatenate, zip(*parts, strict=True)))
    if not skip_padding:
        return tokens, None
    # Rows that only fill up a unit get no tokens.
    used = np.array([len(unit.rows) for unit in group] + [0] * (devices - len(group)))
    length = np.where(np.arange(count) < used[:, None], tokens.length.reshape(devices, count), 0)
    tokens = tokens._replace(length=length.reshape(-1))
    return tokens, lay_end_to_end(length, width, room)


def of_every_shape(limit: int, batching: Batching) -> Iterator[list[Text]]:
    """Texts for which `plan`, if steady, gives units of every shape that it ever gives.

    Each padded length has two shapes: for texts that fill it, and for shorter ones.
    """
    shortest = {_width(n, limit, batching): n for n in range(limit, 0, -1)}
    for width, least in shortest.items():
        fitting = max(batching.size * limit, width) // width
        for length, count in ((width, fitting), (least, 1)):
            yield [Text(*np.zeros((2, length), np.int32))] * count


def _width(tokens: int, limit: int, batching: Batching) -> int:
    """The padded length of a text; coarsely, `limit` or about half of it.

    A GPU's compiler takes 3 to 6 s per program; an H200 encodes about 20 million tokens meanwhile.
    """
    half = bucket(limit // 2, limit)
    if not batching.coarse:
        return bucket(tokens, limit)
    return half if tokens <= half else limit


def _fitting(tokens: int, rooms: Sequence[int]) -> int:
    """T of the next unit if this many tokens are left: the largest room that they fill.

    Or the next larger room, if they fill two thirds of it or there is no other.
    """
    above = next((room for room in rooms if room >= tokens), rooms[-1])
    if 3 * tokens >= 2 * above:
        return above
    return max((room for room in rooms if room <= tokens), default=above)
