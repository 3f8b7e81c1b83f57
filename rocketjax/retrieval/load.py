"""Opens a finished run: the pair of models, and its index and collection to search."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from rocketjax.config.options import load_own
from rocketjax.config.schema import ComputeConfig, IndexConfig
from rocketjax.data.collection import Collection
from rocketjax.data.lines import Policy
from rocketjax.data.load import load_collection
from rocketjax.inference.folder import SETTINGS, load_reranker, load_retriever
from rocketjax.inference.retriever import Retriever
from rocketjax.retrieval.encode import origin_of
from rocketjax.retrieval.model import Corpus, Model
from rocketjax.retrieval.open import open_index
from rocketjax.runtime.copies import local
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, unsaid

Made = TypeVar("Made")


def load(
    folder: str | Path,
    compute: ComputeConfig = ComputeConfig(),  # noqa: B008
    collection: str = "",
    index: str = "",
) -> Model:
    """Opens the folder of a finished run; its index and collection at the first search.

    Args:
        compute: in which type and how it computes.
        collection: what is searched, where it lies now; empty: what the run was trained on.
        index: folder of that collection's vectors by this model; empty: the run's own.

    Raises:
        InputError: the folder holds no finished run, or a file in it is damaged; it is named. Or
            there is a collection to search and no index.
    """
    folder = local(folder)
    pair = load_pair(folder, compute)
    if not index and not (folder / "index").is_dir():
        if collection:
            raise InputError(
                f"{folder}: no index/ here, so {collection} cannot be searched; give index=, or "
                "encode it (python -m rocketjax.encode)"
            )
        return pair

    corpus = partial(_own_corpus, folder, pair.retriever, collection, index)
    return Model(pair.retriever, pair.reranker, Once(corpus))


def _own_corpus(folder: Path, retriever: Retriever, collection: str, index: str) -> Corpus:
    found = collection_for(folder, collection, "fail", unsaid)
    return open_corpus(folder, retriever, found, index)


class Once(Generic[Made]):
    """Makes it at the first call, once for all threads: a corpus is large."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: list[Made] = []

    def __call__(self) -> Made:
        """What was made."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as not made yet."""
        return Once, (self._make,)


def open_corpus(
    folder: Path,
    retriever: Retriever,
    collection: Collection,
    index: str = "",
    say: Say = unsaid,
) -> Corpus:
    """The index of a run, or another given instead, and the collection it is of.

    Args:
        folder: the run's.
        retriever: of that run.
        collection: see `collection_for`.
        index: instead of the run's own. What the run asks of its own index says nothing of this
            one: ScaNN searches it where it was built there and is installed.
        say: prints how that one is searched.

    Raises:
        InputError: an index of another model or collection; both are named.
    """
    folder = local(folder)
    path = folder / "config.yaml"
    own = not index and path.is_file()
    opened = open_index(
        local(index) if index else folder / "index",
        load_own(path).index if own else IndexConfig(),
        origin_of(retriever, str(folder), collection),
        say if index else unsaid,
    )
    return Corpus(opened, collection.by_id)


def collection_for(folder: Path, name: str, policy: Policy, say: Say) -> Collection:
    """The collection of that name; without one, what a run was trained on, read as it was then.

    Raises:
        InputError: no name, and no run; or what `load_collection` raises.
    """
    if name:
        return load_collection(name, policy, say)
    path = local(folder) / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: no config.yaml that names a collection; give --collection")
    data = load_own(path).data
    try:
        return load_collection(data.collection, data.on_bad_rows, say)
    except InputError as error:
        raise InputError(
            f"{error} (so {path} names it; where it lies elsewhere now, give --collection, or "
            "collection= to rocketjax.load)"
        ) from error


def load_pair(folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Model:  # noqa: B008
    """Opens a trained pair: a run's folder, which holds retriever/ and reranker/.

    Raises:
        InputError: the folder holds no finished run, or a file in it is damaged; it is named.
    """
    folder = local(folder)
    for name in ("retriever", "reranker"):
        if not (folder / name / SETTINGS).is_file():
            raise InputError(
                f"{folder}: no trained model here ({name}/{SETTINGS} is missing); give the folder "
                "of a finished run, such as runs/demo"
            )
    return Model(
        load_retriever(folder / "retriever", compute),
        load_reranker(folder / "reranker", compute),
    )
