"""Opens what a run left behind: the pair of models, and its index and collection to search."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rocketjax.config import (
    ComputeConfig,
    IndexConfig,
    RerankerConfig,
    RetrieverConfig,
    TextConfig,
)
from rocketjax.data.collection import Collection
from rocketjax.data.collections import load_collection
from rocketjax.data.lines import Policy
from rocketjax.errors import InputError
from rocketjax.inference import Corpus, Model, Reranker, Retriever
from rocketjax.model_folder import (
    SETTINGS,
    load_pair,
    load_reranker,
    load_retriever,
    start_reranker,
    start_retriever,
)
from rocketjax.options import load as load_config
from rocketjax.progress import Say, unsaid
from rocketjax.retrieval.open import open_index

Made = TypeVar("Made")
AS_WEIGHTS = TextConfig(query_length=0, passage_length=0, pair_length=0)


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
        InputError: the folder holds no finished run, or a file in it is damaged; it is named.
    """
    folder = Path(folder).expanduser()
    pair = load_pair(folder, compute)
    if not index and not (folder / "index").is_dir():
        return pair

    def corpus() -> Corpus:
        found = collection_for(folder, collection, "fail", unsaid)
        return open_corpus(folder, pair.retriever, found, index)

    return Model(pair.retriever, pair.reranker, once(corpus))


def once(make: Callable[[], Made]) -> Callable[[], Made]:
    """Makes it when first asked, for all threads that ask: a corpus is large."""
    lock, made = threading.Lock(), []

    def get() -> Made:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


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
        say: is told how that one is searched.

    Raises:
        InputError: an index of another model or collection; both are named.
    """
    path = folder / "config.yaml"
    own = not index and path.is_file()
    opened = open_index(
        Path(index) if index else folder / "index",
        load_config(path).index if own else IndexConfig(),
        retriever.fingerprint,
        str(folder),
        collection.fingerprint,
        collection.name,
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
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: no config.yaml that names a collection; give --collection")
    data = load_config(path).data
    try:
        return load_collection(data.collection, data.on_bad_rows, say)
    except InputError as error:
        raise InputError(
            f"{error} (so {path} names it; where it lies elsewhere now, give --collection, or "
            "collection= to rocketjax.load)"
        ) from error


def open_retriever(folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Retriever:  # noqa: B008
    """A retriever: of a run, of its own folder, or plain weights by folder or hub name.

    Weights from sentence-transformers keep its pooling, prompts and lengths; of others the first
    token is taken, as many tokens as they have positions for.

    Raises:
        InputError: nothing of that kind is there, or a file is damaged; it is named.
    """
    inside = _inside(folder, "retriever")
    if (inside / SETTINGS).is_file():
        return load_retriever(inside, compute)
    with _unless_missing(folder):
        return start_retriever(RetrieverConfig(str(folder)), AS_WEIGHTS, compute)


def open_reranker(folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Reranker:  # noqa: B008
    """A re-ranker: of a run, of its own folder, or a cross-encoder by folder or hub name.

    Raises:
        InputError: nothing of that kind is there, weights without a head that gives one score, or
            a file is damaged; it is named.
    """
    inside = _inside(folder, "reranker")
    if (inside / SETTINGS).is_file():
        return load_reranker(inside, compute)
    with _unless_missing(folder):
        return start_reranker(RerankerConfig(str(folder)), AS_WEIGHTS, compute, None)


@contextmanager
def _unless_missing(folder: str | Path) -> Iterator[None]:
    """runs/demo is a folder to most, and could be a hub name: where it is neither, say so."""
    try:
        yield
    except InputError as error:
        if Path(folder).expanduser().is_dir():
            raise
        raise InputError(
            f"{folder}: no such folder (of a finished run, or of a model); as a hub name: {error}"
        ) from error


def _inside(folder: str | Path, kind: str) -> Path:
    """A run holds its models in subfolders."""
    folder = Path(folder).expanduser()
    if (folder / kind).is_dir():
        return folder / kind
    if (folder / "retriever").is_dir() or (folder / "reranker").is_dir():
        raise InputError(f"{folder}: a run that has no {kind}/ (yet); let it finish")
    return folder
