"""Opens what a run left behind: the pair of models, and its index and collection to search."""

from pathlib import Path

from rocketjax.config import ComputeConfig, Config, IndexConfig
from rocketjax.config import load as load_config
from rocketjax.data.collections import load_collection
from rocketjax.errors import InputError
from rocketjax.inference import Corpus, Model, Retriever
from rocketjax.model_folder import load_pair, load_retriever
from rocketjax.retrieval.open import open_index


def load(folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Model:  # noqa: B008
    """Opens the folder of a finished run; its index and collection at the first search.

    Raises:
        InputError: the folder holds no finished run, or a file in it is damaged; it is named.
    """
    folder = Path(folder).expanduser()
    pair = load_pair(folder, compute)
    if not (folder / "index").is_dir():
        return pair
    return Model(pair.retriever, pair.reranker, lambda: open_corpus(folder, pair.retriever))


def open_corpus(
    folder: Path,
    retriever: Retriever,
    collection: str = "",
    index: str = "",
    config: IndexConfig | None = None,
) -> Corpus:
    """The index and the collection of a run, or others given instead.

    Args:
        folder: the run's.
        retriever: of that run.
        collection, index: instead of the run's own.

    Raises:
        InputError: an index of another model or collection; both are named.
    """
    path = folder / "config.yaml"
    run = load_config(path) if path.is_file() else Config()
    config = config or (run.index if path.is_file() else IndexConfig())
    loaded = load_collection(collection or run_collection(folder), run.data.on_bad_rows)
    opened = open_index(
        Path(index) if index else folder / "index",
        config,
        retriever.fingerprint,
        str(folder),
        loaded.fingerprint,
        loaded.name,
    )
    return Corpus(opened, loaded.by_id)


def run_collection(folder: Path) -> str:
    """The collection a run was trained on. Raises InputError where the folder does not say."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: no config.yaml that names a collection; give --collection")
    return load_config(path).data.collection


def open_retriever(folder: str | Path, compute: ComputeConfig) -> Retriever:
    """The retriever of a run's folder, or of its own folder."""
    folder = Path(folder).expanduser()
    inside = folder / "retriever"
    return load_retriever(inside if inside.is_dir() else folder, compute)
