"""A run at work: what every stage is given, and the models and indexes that earlier ones left."""

import dataclasses
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from rocketjax.config.schema import Config, DataConfig
from rocketjax.data.collection import Collection, Split, hold_out, relevant, sample_queries
from rocketjax.data.load import load_collection
from rocketjax.inference.folder import load_reranker, load_retriever
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.start import pretrained_reranker, pretrained_retriever
from rocketjax.retrieval.encode import encode_corpus
from rocketjax.retrieval.index import Index
from rocketjax.retrieval.open import build_index, open_index
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, Watch

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
    start = pretrained_retriever(config.retriever, config.text, config.compute)
    _check_same("retriever.weights", start)
    return start


def start_reranker(run: Run) -> Reranker:
    """As the run begins, its head fresh unless the weights bring one."""
    config = run.config
    start = pretrained_reranker(config.reranker, config.text, config.compute, config.seed)
    _check_same("reranker.weights", start)
    return start


def _check_same(option: str, model: Retriever | Reranker) -> None:
    """Each host has read its own copy; of other weights, replicas would stay apart for good."""
    if jax.process_count() > 1:
        processes.check_same(f"the weights of {option}", model.fingerprint)


def warmed_retriever(run: Run) -> tuple[Retriever, str]:
    """The retriever that mines, with the dropout it trains with, and its name."""
    start = start_retriever(run)
    if run.config.retriever_warmup.steps == 0:
        return start, run.config.retriever.weights
    folder = run.folder / "warmup" / "retriever"
    warm = load_retriever(folder, run.config.compute)
    return dataclasses.replace(start, params=warm.params), str(folder)


def warmed_reranker(run: Run) -> Reranker:
    """The re-ranker that denoises, with the dropout it trains with."""
    start = start_reranker(run)
    if run.config.reranker_warmup.steps == 0:
        return start
    folder = run.folder / "warmup" / "reranker"
    warm = load_reranker(folder, run.config.compute)
    return dataclasses.replace(start, params=warm.params)


def warm_index_folder(run: Run) -> Path:
    """Where the index is that is mined with: the start's, where nothing was warmed up.

    It is there, too, where the start was judged and is left out of the report since (--from).
    """
    start = run.folder / "start" / "index"
    judged = run.config.evaluate.start or processes.from_main(start.is_dir)
    warmed = run.config.retriever_warmup.steps > 0
    return start if judged and not warmed else run.folder / "warmup" / "index"


def index_into(run: Run, retriever: Retriever, name: str, folder: Path) -> Index:
    """Encodes the corpus into `folder` and builds the index over it; what is there stays."""
    vectors = encode_corpus(retriever, name, run.collection, run.config.index, folder, run.watch)
    assert vectors is not None  # all processes have done their part
    if processes.from_main((folder / "scann").is_dir):
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


WITH_STEPS = ("retriever_warmup", "reranker_warmup", "joint")


def open_run(config: Config, folder: Path, say: Say, watch: Watch) -> Run:
    """Loads the collection and its splits; what every stage is given."""
    collection = processes.main_first(
        lambda: load_collection(config.data.collection, config.data.on_bad_rows, say)
    )
    processes.check_same("data.collection", collection.fingerprint)
    train, judged = splits_of(collection, config.data, say)
    held_out = sample_queries(judged, config.data.max_eval_queries)
    if config.lists.source == "given":
        len(train.negatives)  # read late otherwise: bad rows are told before hours of work
    trains = any(getattr(config, name).steps for name in WITH_STEPS)
    for split, name, wanted in ((train, "train", trains), (held_out, "eval", True)):
        if wanted and not any(relevant(judged) for judged in split.qrels.values()):
            raise InputError(
                f"{collection.name}: no query of data.{name}_split has a relevant passage (a grade "
                "above 0); choose another split, or see to its judgements"
            )
    say(
        f"{collection.name}: {len(collection.passages):,} passages, {len(train.queries):,} "
        f"training queries, {len(held_out.queries):,} held-out queries"
    )
    return Run(config, folder, collection, train, held_out, say, watch)


def splits_of(collection: Collection, config: DataConfig, say: Say) -> tuple[Split, Split]:
    """What to train on and what to judge on, which is no part of it."""
    train = collection.split(config.train_split)
    if not config.hold_out:
        if config.eval_split == config.train_split:
            raise InputError(
                f"data.eval_split and data.train_split are both {config.train_split!r}, and models "
                "are not judged on what they were trained on; give --data.eval-split an unused "
                "name and --data.hold-out 0.1 to judge on a tenth and train on the others"
            )
        if config.eval_split not in collection.splits:
            raise InputError(
                f"{collection.name} has no split {config.eval_split!r} to judge on (it has "
                f"{', '.join(collection.splits)}); give --data.eval-split, or --data.hold-out 0.1 "
                "to judge on a tenth of the training queries and train on the others"
            )
        judged = collection.split(config.eval_split)
        if both := train.queries.keys() & judged.queries.keys():
            say(
                f"{collection.name}: {len(both):,} queries of {config.train_split} are in "
                f"{config.eval_split} too, and are not trained on"
            )
            train = train.only(query for query in train.queries if query not in both)
        return train, judged
    if config.eval_split in collection.splits:
        raise InputError(
            f"--data.hold-out is for collections without split {config.eval_split!r}, which "
            f"{collection.name} has; leave it out"
        )
    return hold_out(train, config.hold_out)
