"""A run at work: what every stage is given, and the models and indexes that earlier ones left."""

import dataclasses
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from rocketjax import distributed, model_folder
from rocketjax.config import Config
from rocketjax.corpus import encode_corpus
from rocketjax.data.collection import Collection, Split
from rocketjax.inference import Reranker, Retriever
from rocketjax.progress import Say, Watch
from rocketjax.retrieval.index import Index
from rocketjax.retrieval.open import build_index, open_index

SAMPLE = 200  # training queries on which an index's recall is measured


@dataclasses.dataclass(frozen=True)
class Run:
    """What every stage is given."""

    config: Config
    folder: Path
    collection: Collection
    train: Split
    held_out: Split
    say: Say
    watch: Watch

    @cached_property
    def order(self) -> list[str]:
        """Training queries (unlabelled ones too, where wanted) in the order they are drawn."""
        names = sorted(self.queries)
        return [names[i] for i in np.random.default_rng(self.config.seed).permutation(len(names))]

    @cached_property
    def unlabelled(self) -> dict[str, str]:
        """Queries nobody judged; mined for pseudo-positives."""
        if not self.config.lists.pseudo_positives:
            return {}  # some collections would fetch them now
        split = self.collection.splits.get("unlabelled")
        return dict(split.queries) if split else {}

    @cached_property
    def queries(self) -> dict[str, str]:
        """All that may be trained on, by id."""
        return self.unlabelled | dict(self.train.queries)


def start_retriever(run: Run) -> Retriever:
    """As the run begins."""
    config = run.config
    start = model_folder.start_retriever(config.retriever, config.text, config.compute)
    _check_same("retriever.weights", start)
    return start


def start_reranker(run: Run) -> Reranker:
    """As the run begins, its head fresh unless the weights bring one."""
    config = run.config
    start = model_folder.start_reranker(config.reranker, config.text, config.compute, config.seed)
    _check_same("reranker.weights", start)
    return start


def _check_same(option: str, model: Retriever | Reranker) -> None:
    """Each host has read its own copy; of other weights, replicas would stay apart for good."""
    if jax.process_count() > 1:
        distributed.check_same(f"the weights of {option}", model.fingerprint)


def warmed_retriever(run: Run) -> tuple[Retriever, str]:
    """The retriever that mines, with the dropout it trains with, and its name."""
    start = start_retriever(run)
    if run.config.retriever_warmup.steps == 0:
        return start, run.config.retriever.weights
    folder = run.folder / "warmup" / "retriever"
    warm = model_folder.load_retriever(folder, run.config.compute)
    return dataclasses.replace(start, params=warm.params), str(folder)


def warmed_reranker(run: Run) -> Reranker:
    """The re-ranker that denoises, with the dropout it trains with."""
    start = start_reranker(run)
    if run.config.reranker_warmup.steps == 0:
        return start
    folder = run.folder / "warmup" / "reranker"
    warm = model_folder.load_reranker(folder, run.config.compute)
    return dataclasses.replace(start, params=warm.params)


def warm_index_folder(run: Run) -> Path:
    """Where the index is that is mined with: the start's, where nothing was warmed up.

    It is there, too, where the start was judged and is left out of the report since (--from).
    """
    start = run.folder / "start" / "index"
    judged = run.config.evaluate.start or distributed.from_main(start.is_dir)
    warmed = run.config.retriever_warmup.steps > 0
    return start if judged and not warmed else run.folder / "warmup" / "index"


def index_into(run: Run, retriever: Retriever, name: str, folder: Path) -> Index:
    """Encodes the corpus into `folder` and builds the index over it; what is there stays."""
    vectors = encode_corpus(retriever, name, run.collection, run.config.index, folder, run.watch)
    assert vectors is not None  # all processes have done their part
    if distributed.from_main((folder / "scann").is_dir):
        return open_in(run, retriever, folder)
    sample = sorted(run.train.queries)[:SAMPLE]
    queries = retriever.encode_query([run.train.queries[query] for query in sample], steady=True)
    return build_index(vectors, run.config.index, queries, min(100, len(vectors)), run.say)


def open_in(run: Run, retriever: Retriever, folder: Path) -> Index:
    """The index in `folder`; refused unless this retriever made it, of this collection."""
    return open_index(
        folder,
        run.config.index,
        retriever.fingerprint,
        "the retriever of this run",
        run.collection.fingerprint,
        run.collection.name,
    )
