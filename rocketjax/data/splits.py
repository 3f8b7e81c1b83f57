"""Which queries of a split are judged on, and which are trained on."""

import hashlib

import numpy as np

from rocketjax.data.collection import Split


def sample_queries(split: Split, most: int, seed: int = 1) -> Split:
    """At most `most` judged queries of a split (0: all), drawn by seed.

    A run's seed is not asked: runs, and their own beginning, are judged on the same queries.
    """
    names = sorted(split.qrels)
    if most and most < len(names):
        drawn = np.random.default_rng(seed).choice(len(names), size=most, replace=False)
        names = [names[i] for i in sorted(drawn)]
    return split.only(names)


def hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """What stays of a split, and this share of its queries.

    By each query's own hash: other queries, or an order, do not change which are held out.
    """
    stays = [query for query in split.queries if _place(query) >= share]
    out = [query for query in split.queries if _place(query) < share]
    return split.only(stays), split.only(out)


def _place(query: str) -> float:
    """A number from 0 to 1 that the query's id decides."""
    return int.from_bytes(hashlib.blake2b(query.encode(), digest_size=4).digest()) / 2**32
