"""The demo's collection with its hidden positives: the same function in several libraries.

`jax.numpy.mean` is `numpy.mean` written again, and answers what that answers; the demo labels the
one whose docstring the query was taken from. Names tell which they are.
"""

import dataclasses
import re
from collections import defaultdict

from rocketjax.data.collection import Collection, relevant

# What one library calls as another does. Rules, in their order, on the qualified name.
_SAME = (
    (re.compile(r"^jax\.(numpy|scipy)\."), r"\1."),
    (re.compile(r"^jax\.lax\."), "numpy."),
    (re.compile(r"^numpy\.ma\."), "numpy."),
    (re.compile(r"^numpy\.char\."), "numpy.strings."),
    (re.compile(r"^scipy\.stats\.mstats\."), "scipy.stats."),
    (re.compile(r"^(numpy|scipy)\.(fft|linalg)\."), r"\2."),
    (re.compile(r"^scipy\.fftpack\."), "fft."),
)


def with_namesakes(demo: Collection) -> Collection:
    """The demo, every query judged by all passages that are named as a labelled one is."""
    groups: dict[str, list[str]] = defaultdict(list)
    for passage in demo.passages:
        groups[_shared(passage.id)].append(passage.id)
    splits = {
        name: dataclasses.replace(
            split,
            qrels={
                query: {other: 1 for pid in relevant(grades) for other in groups[_shared(pid)]}
                for query, grades in split.qrels.items()
            },
        )
        for name, split in demo.splits.items()
    }
    return Collection(demo.name, demo.passages, splits)


def _shared(name: str) -> str:
    """The name that a function has in common with its namesakes."""
    for rule, common in _SAME:
        name = rule.sub(common, name)
    return name
