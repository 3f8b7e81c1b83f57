"""The stages of a run, each from files to files: the run folder is all that they share.

start            start/{index, retriever.trec, reranker.trec}     judge the starting models
warm-retriever   warmup/retriever                 in-batch negatives from all devices
encode           warmup/index, or start/index     the corpus by the warmed retriever
warm-reranker    warmup/{lists, reranker}         by its own loss, on undenoised lists
mine             lists                            undenoised and denoised lists
joint            rounds, retriever, reranker      dynamic listwise distillation (and refresh)
                 judged.jsonl, scores             both models during training (pool.py)
index            index                            the corpus by the trained retriever
evaluate         runs, report.{json,html}         both models on held-out queries
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rocketjax.config.fields import Stage
from rocketjax.config.loss import resolve_loss
from rocketjax.data.collection import relevant
from rocketjax.data.lists import TrainingList
from rocketjax.data.runs import read_run, write_run
from rocketjax.evaluation import results
from rocketjax.evaluation.results import PerQuery
from rocketjax.inference.folder import load_retriever, save_reranker, save_retriever
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.start import pretrained_tokenizer
from rocketjax.pipeline.batches import EasyFirst, OneRound, Rounds, make_collator
from rocketjax.pipeline.context import Run
from rocketjax.pipeline.lists import easy_first, make_first_lists, warm_up_lists
from rocketjax.pipeline.models import (
    encode_into,
    encode_warmed,
    open_encoded,
    start_reranker,
    start_retriever,
    warmed_reranker,
    warmed_retriever,
)
from rocketjax.pipeline.pool import pool_judge
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.load import load_pair
from rocketjax.retrieval.model import Corpus, Model
from rocketjax.retrieval.ranking import Runs, retrieve_and_rerank, retrieve_judged
from rocketjax.retrieval.vectors import Shortened, Vectors
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.training.loader import Collator
from rocketjax.training.matryoshka import narrower
from rocketjax.training.step import joint_objective, reranker_objective, retriever_objective
from rocketjax.training.trainer import Feeds, train_stage


class PipelineStage(NamedTuple):
    """A stage: what it does, and what it leaves behind, relative to the run folder."""

    name: Stage
    run: Callable[[Run], None]
    leaves: tuple[str, ...]


def judge_start(run: Run) -> None:
    """Judges both starting models, so that the report can say what training brought."""
    if not run.config.evaluate.start:
        return
    model = Model(start_retriever(run), start_reranker(run))
    folder, name = run.folder / "start", run.config.retriever.weights
    corpus = encode_into(run, model.retriever, name, folder / "index")
    _judge(run, model, corpus, folder)


def warm_retriever(run: Run) -> None:
    """The retriever alone, with in-batch negatives."""
    config, stage = run.config, run.config.retriever_warmup
    if stage.steps == 0:
        return
    start = start_retriever(run)
    lists = [
        TrainingList(query, pid, ())
        for query in run.order
        for pid in relevant(run.train.qrels.get(query, {}))
    ]
    reranker_tokenizer = pretrained_tokenizer(config.reranker.weights, config.text)
    collator = make_collator(run, 1, start.tokenizer, reranker_tokenizer)
    trained = train_stage(
        run,
        "warm-retriever",
        stage,
        {"retriever": start.params},
        retriever_objective(start.module, config.loss),
        OneRound(run, lists, collator, stage.batch),
    )
    warm = dataclasses.replace(start, params=trained["retriever"])
    _save(save_retriever, run.folder / "warmup" / "retriever", warm)


def encode(run: Run) -> None:
    """The corpus by the warmed retriever; the start's vectors serve if there was no warm-up."""
    if run.config.lists.source == "mined":
        encode_warmed(run, warmed_retriever(run))


def warm_reranker(run: Run) -> None:
    """The re-ranker alone, by its own loss (listwise unless the config says otherwise)."""
    config, stage = run.config, run.config.reranker_warmup
    if stage.steps == 0:
        return
    model = Model(warmed_retriever(run), start_reranker(run))
    lists, reranker = warm_up_lists(run, model), model.reranker
    collator = make_collator(
        run, config.lists.length, model.retriever.tokenizer, reranker.tokenizer
    )
    trained = train_stage(
        run,
        "warm-reranker",
        stage,
        {"reranker": reranker.params},
        reranker_objective(reranker.module, resolve_loss(config.loss)),
        _warm_up_feeds(run, lists, collator),
    )
    warm = dataclasses.replace(reranker, params=trained["reranker"])
    _save(save_reranker, run.folder / "warmup" / "reranker", warm)


def _warm_up_feeds(run: Run, lists: list[TrainingList], collator: Collator) -> Feeds:
    share, stage = run.config.lists.easy, run.config.reranker_warmup
    if share == 0:
        return OneRound(run, lists, collator, stage.batch)
    length = max(1, round(share * stage.steps))
    return EasyFirst(run, *easy_first(run, lists), collator, stage.batch, length)


def mine_lists(run: Run) -> None:
    """The joint stage's (first) lists, by the warmed models."""
    if run.config.joint.steps:
        make_first_lists(run)


def train_jointly(run: Run) -> None:
    """Both models on the same lists: the heart of rocketjax. A refresh mines lists again."""
    config = run.config
    start = Model(warmed_retriever(run), warmed_reranker(run))
    retriever, reranker = start.retriever, start.reranker
    loss = resolve_loss(config.loss)
    tokenizers = (retriever.tokenizer, reranker.tokenizer)
    collator = dataclasses.replace(
        make_collator(run, config.lists.length, *tokenizers, stored=loss.teacher != "live"),
        unlabelled=config.lists.unlabelled == "distill",
    )
    trained = train_stage(
        run,
        "joint",
        config.joint,
        {"retriever": retriever.params, "reranker": reranker.params},
        joint_objective(retriever.module, reranker.module, loss),
        Rounds(run, start, collator),
        pool_judge(run, start),
    )
    model = start.with_params(trained)
    _save(save_retriever, run.folder / "retriever", _averaged(run, model.retriever))
    _save(save_reranker, run.folder / "reranker", model.reranker)


def index_corpus(run: Run) -> None:
    """The corpus by the trained retriever."""
    folder = run.folder / "retriever"
    retriever = load_retriever(folder, run.config.compute)
    encode_into(run, retriever, run.name_of(folder), run.folder / "index")


def evaluate(run: Run) -> None:
    """Both trained models on the held-out queries, beside the starting ones."""
    model = load_pair(run.folder, run.config.compute)
    corpus = open_encoded(run, model.retriever, run.folder / "index")
    after, before = _judge(run, model, corpus, run.folder / "runs"), None
    if run.config.evaluate.start:
        paths = (run.folder / "start" / f"{name}.trec" for name in ("retriever", "reranker"))
        before = Runs(*map(read_run, paths))
        if missing := run.held_out.qrels.keys() - before.retriever.keys():
            raise InputError(
                f"{run.folder / 'start'}: the starting models were not judged on {min(missing)!r} "
                f"and {len(missing) - 1:,} more of these queries; --from start judges them again"
            )

    vectors = corpus.index.vectors
    del corpus  # the devices may have no room for its vectors and for shorter ones
    shorter = _at_widths(run, model, vectors)

    def write() -> None:
        depths, split = run.config.evaluate, run.held_out
        name = run.name_of(run.folder)
        report = results.write(run.folder, split, run.collection, before, after, depths, name)
        if shorter:
            results.add_widths(run.folder, report, shorter)

    processes.from_main(write)


STAGES = (
    PipelineStage("start", judge_start, ("start",)),
    PipelineStage("warm-retriever", warm_retriever, ("warmup/retriever",)),
    PipelineStage("encode", encode, ("warmup/index",)),
    PipelineStage("warm-reranker", warm_reranker, ("warmup/lists", "warmup/reranker")),
    PipelineStage("mine", mine_lists, ("lists",)),
    PipelineStage(
        "joint", train_jointly, ("rounds", "judged.jsonl", "scores", "retriever", "reranker")
    ),
    PipelineStage("index", index_corpus, ("index",)),
    PipelineStage("evaluate", evaluate, ("runs", "report.json", "report.html")),
)


def _averaged(run: Run, trained: Retriever) -> Retriever:
    """With the share of the starting weights that it is to keep."""
    keep = run.config.retriever.keep
    if keep == 0:
        return trained

    def mean(start: np.ndarray, end: jax.Array) -> np.ndarray:
        return (keep * np.asarray(start) + (1 - keep) * np.asarray(end)).astype(start.dtype)

    params = jax.tree.map(mean, start_retriever(run).params, trained.params)
    return dataclasses.replace(trained, params=params)


def _judge(run: Run, model: Model, corpus: Corpus, folder: Path) -> Runs:
    """Both models' runs on the held-out queries, written into `folder`."""
    queries, depths = run.held_out.queries, run.config.evaluate
    runs = retrieve_and_rerank(model, corpus, queries, depths, run.watch)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rankings in runs._asdict().items():
            scored = depths.rerank_depth if name == "reranker" else None
            write_run(folder / f"{name}.trec", rankings, f"rocketjax-{name}-{folder.name}", scored)

    processes.from_main(write)
    return runs


def _at_widths(run: Run, model: Model, whole: Vectors) -> dict[int, PerQuery]:
    """What the retriever finds by the first numbers of its vectors, of each width it was trained
    at. The corpus is not encoded again; search is exact."""
    depths, found = run.config.evaluate, {}
    for width in narrower(run.config.loss, model.retriever.module):
        short = model.retriever.truncated(width)
        index = ExactIndex(Shortened(whole, width, short.module.normalize))
        ranked = retrieve_judged(short, index, run.held_out.queries, depths, run.watch)
        found[width] = results.measure_run(
            run.held_out, run.collection, ranked, depths.top_k, depths.relevant
        )
    return found


def _save(save: Callable[[Path, Any], None], folder: Path, model: Retriever | Reranker) -> None:
    processes.from_main(lambda: save(folder, model))
