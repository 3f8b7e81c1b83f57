"""The demo collection, made once and then read from the cache folder.

Making it imports and inspects five packages and half the standard library, for some seconds.
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pydantic

from rocketjax.data.collection import Collection, Split
from rocketjax.data.passages import InMemory, Passage
from rocketjax.runtime.kept import code_hash, keep, kept, kept_path

# Objects of jax may be jaxlib's.
_PACKAGES = ("numpy", "scipy", "jax", "jaxlib", "flax", "optax")
_CODE = ("demo.py", "docstrings.py", "kept_demo.py")


class _Split(NamedTuple):
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


class _Demo(NamedTuple):
    """What is kept."""

    passages: list[Passage]
    splits: dict[str, _Split]
    notes: list[str]


def kept_demo() -> Collection:
    """The same as `load_demo`, from the cache folder if it is there.

    Raises:
        InputError: as `load_demo` does.
    """
    path = kept_path("demo", _depends_on())
    if sys.flags.optimize < 2 and (found := _read(kept(path))):  # else docstrings are gone
        return found
    from rocketjax.data.formats.demo import load_demo  # imports scipy

    demo = load_demo()
    splits = {name: _Split(dict(s.queries), _plain(s)) for name, s in demo.splits.items()}
    keep(path, json.dumps(_Demo(list(demo.passages), splits, list(demo.notes))))
    return demo


def _depends_on() -> list[str]:
    here = Path(__file__).parent
    return [
        sys.version,  # with the build: some functions are not in all
        sys.platform,
        platform.machine(),
        *map(version, _PACKAGES),
        code_hash(*(here / name for name in _CODE)),
    ]


def _plain(split: Split) -> dict[str, dict[str, int]]:
    return {query: dict(grades) for query, grades in split.qrels.items()}


def _read(text: str | None) -> Collection | None:
    """The collection; None if the text is none of ours."""
    if text is None:
        return None
    try:
        demo = pydantic.TypeAdapter(_Demo).validate_json(text)
    except pydantic.ValidationError:
        return None
    splits = {name: Split(split.queries, split.qrels) for name, split in demo.splits.items()}
    return Collection("demo", InMemory(demo.passages), splits, demo.notes)
