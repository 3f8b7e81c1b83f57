"""The stages of a run, each from files to files: what is in the run folder is all they share.

start            start/{index, retriever.trec, reranker.trec}     judge the starting models
warm-retriever   warmup/retriever                 in-batch negatives from all devices
encode           warmup/index, or start/index     the corpus by the warmed retriever
warm-reranker    warmup/{lists, reranker}         by its own loss, on undenoised lists
mine             lists                            undenoised and denoised lists
joint            rounds, retriever, reranker      dynamic listwise distillation (and refresh)
                 judged.jsonl, scores             both models on the way (judge.py)
index            index                            the corpus by the trained retriever
evaluate         runs, report.{json,html}         both models on held-out queries
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rocketjax.config.fields import Stage
from rocketjax.config.loss import resolve_loss
from rocketjax.data.collection import Split, relevant
from rocketjax.data.lists import TrainingList, read_lists
from rocketjax.data.runs import read_run, write_run
from rocketjax.evaluation import results
from rocketjax.evaluation.pool import Scores, drawn, judge, pool_of, score_lists
from rocketjax.inference.folder import load_retriever, save_reranker, save_retriever
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.models.encoder import Params
from rocketjax.pipeline.batches import collator_of, feed_of, feeds_of
from rocketjax.pipeline.context import (
    Run,
    index_into,
    open_in,
    start_reranker,
    start_retriever,
    warm_index_folder,
    warmed_reranker,
    warmed_retriever,
)
from rocketjax.pipeline.lists import lists_of_round, make_first_lists, round_length, warm_up_lists
from rocketjax.retrieval.index import Index
from rocketjax.retrieval.load import load_pair
from rocketjax.retrieval.model import Model
from rocketjax.retrieval.ranking import Judged, Scored, rank_both, retrieve
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import write_text
from rocketjax.training.losses import joint_weights
from rocketjax.training.step import joint_terms_of, reranker_terms_of, retriever_terms_of
from rocketjax.training.trainer import Feed, Judge, train_stage


class Step(NamedTuple):
    """A stage: what it does, and what it leaves behind, relative to the run folder."""

    name: Stage
    run: Callable[[Run], None]
    leaves: tuple[str, ...]


def judge_start(run: Run) -> None:
    """Judges both starting models, so that the report can say what training brought."""
    if not run.config.evaluate.start:
        return
    retriever, reranker = start_retriever(run), start_reranker(run)
    index = index_into(run, retriever, run.config.retriever.weights, run.folder / "start" / "index")
    _judge(run, Model(retriever, reranker), index, run.folder / "start")


def warm_retriever(run: Run) -> None:
    """The retriever alone, in-batch."""
    stage, name = run.config.retriever_warmup, "warm-retriever"
    if stage.steps == 0:
        return
    start = start_retriever(run)
    lists = [
        TrainingList(query, pid, ())
        for query in run.order
        for pid in relevant(run.train.qrels.get(query, {}))
    ]
    params = train_stage(
        name,
        run.config,
        stage,
        {"retriever": start.params},
        retriever_terms_of(
            start.module, run.config.loss.retriever_temperature, run.config.compute.chunk
        ),
        {"retriever": 1.0},
        feeds_of(run, lists, stage, 1, start, start_reranker(run)),
        run.folder,
        run.say,
        run.watch,
    )
    warm = dataclasses.replace(start, params=params["retriever"])
    _save(save_retriever, run.folder / "warmup" / "retriever", warm)


def encode(run: Run) -> None:
    """The corpus by the warmed retriever; the start's index serves where there was no warm-up."""
    if run.config.lists.source == "given":
        return  # nothing is mined
    retriever, name = warmed_retriever(run)
    index_into(run, retriever, name, warm_index_folder(run))


def warm_reranker(run: Run) -> None:
    """The re-ranker alone, by its own loss (listwise unless told otherwise)."""
    stage, name = run.config.reranker_warmup, "warm-reranker"
    if stage.steps == 0:
        return
    model = Model(warmed_retriever(run)[0], start_reranker(run))
    lists = warm_up_lists(run, model)
    params = train_stage(
        name,
        run.config,
        stage,
        {"reranker": model.reranker.params},
        reranker_terms_of(
            model.reranker.module, resolve_loss(run.config.loss), run.config.compute.chunk
        ),
        {"reranker": 1.0},
        feeds_of(run, lists, stage, run.config.lists.length, model.retriever, model.reranker),
        run.folder,
        run.say,
        run.watch,
    )
    warm = dataclasses.replace(model.reranker, params=params["reranker"])
    _save(save_reranker, run.folder / "warmup" / "reranker", warm)


def mine_lists(run: Run) -> None:
    """The joint stage's (first) lists, by the warmed models."""
    if run.config.joint.steps:
        make_first_lists(run)


def train_jointly(run: Run) -> None:
    """Both models on the same lists: the heart of rocketjax. Mines anew at every refresh."""
    config = run.config
    start = Model(warmed_retriever(run)[0], warmed_reranker(run))
    loss = resolve_loss(config.loss)
    terms_of = joint_terms_of(
        start.retriever.module, start.reranker.module, loss, config.compute.chunk
    )

    collate = collator_of(run, config.lists.length, start.retriever, start.reranker)

    def feeds(step: int, params: Params) -> Feed:
        number = step // round_length(config)
        first = number * round_length(config)
        lists = lists_of_round(run, number, _with(start, params), fresh=step == first)
        return feed_of(run, lists, collate, config.joint.batch, config.seed + number, first, step)

    params = train_stage(
        "joint",
        config,
        config.joint,
        {"retriever": start.retriever.params, "reranker": start.reranker.params},
        terms_of,
        joint_weights(loss),
        feeds,
        run.folder,
        run.say,
        run.watch,
        round_length=config.lists.refresh,
        judge=_judge_on_the_way(run, start),
    )
    model = _with(start, params)
    _save(save_retriever, run.folder / "retriever", _averaged(run, model.retriever))
    _save(save_reranker, run.folder / "reranker", model.reranker)


def index_corpus(run: Run) -> None:
    """The corpus by the trained retriever."""
    retriever = load_retriever(run.folder / "retriever", run.config.compute)
    index_into(run, retriever, str(run.folder / "retriever"), run.folder / "index")


def evaluate(run: Run) -> None:
    """Both trained models on the held-out queries, beside the starting ones."""
    model = load_pair(run.folder, run.config.compute)
    index = open_in(run, model.retriever, run.folder / "index")
    after = _judge(run, model, index, run.folder / "runs")
    before = None
    if run.config.evaluate.start:
        paths = (run.folder / "start" / f"{name}.trec" for name in ("retriever", "reranker"))
        before = Judged(*map(read_run, paths))
        if missing := run.held_out.qrels.keys() - before.retriever.keys():
            raise InputError(
                f"{run.folder / 'start'}: the starting models were not judged on {min(missing)!r} "
                f"and {len(missing) - 1:,} more of these queries; --from start judges them again"
            )

    def write() -> None:
        results.write(run.folder, run.held_out, run.collection, before, after, run.config.evaluate)

    processes.from_main(write)


def _averaged(run: Run, trained: Retriever) -> Retriever:
    """With the share of the starting weights that it is to keep."""
    keep = run.config.retriever.keep
    if keep == 0:
        return trained

    def mean(start: np.ndarray, end: jax.Array) -> np.ndarray:
        return (keep * np.asarray(start) + (1 - keep) * np.asarray(end)).astype(start.dtype)

    params = jax.tree.map(mean, start_retriever(run).params, trained.params)
    return dataclasses.replace(trained, params=params)


def _with(model: Model, params: Params) -> Model:
    return Model(
        dataclasses.replace(model.retriever, params=params["retriever"]),
        dataclasses.replace(model.reranker, params=params["reranker"]),
    )


def _judge(run: Run, model: Model, index: Index, folder: Path) -> Judged:
    texts = run.collection.by_id
    judged = rank_both(model, index, run.held_out.queries, texts, run.config.evaluate, run.watch)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, ranked in judged._asdict().items():
            write_run(folder / f"{name}.trec", ranked, f"rocketjax-{name}-{folder.name}")

    processes.from_main(write)
    return judged


def _judge_on_the_way(run: Run, start: Model) -> Judge | None:
    """Looks at both models as joint training goes, and scores some lists before and after it."""
    config = run.config
    if not config.evaluate.every:
        return None
    if not config.evaluate.start and config.lists.source == "given":
        run.say(
            "joint: not judged on the way: nothing is encoded before it, so there is no pool of "
            "passages; --evaluate.start makes one"
        )
        return None
    some = drawn(run.held_out, config.evaluate.every_queries, config.seed)
    pool = pool_of(some, _found_before(run, start.retriever, some), config.evaluate.rerank_depth)

    def look(step: int, params: Params) -> dict[str, float]:
        model = _with(start, params)
        if step in (0, config.joint.steps):
            lists = read_lists(run.folder / "lists" / "lists.jsonl")
            scores = score_lists(model, lists, run.queries, run.collection.by_id, config.seed)
            processes.from_main(lambda: _write_scores(run.folder / "scores", step, scores))
        return judge(model, pool, run.collection.by_id)

    return look


def _found_before(run: Run, retriever: Retriever, some: Split) -> Scored:
    """What was ranked first before joint training: by the start, or if not judged, as it mines."""
    if run.config.evaluate.start:
        return read_run(run.folder / "start" / "retriever.trec")
    path = run.folder / "scores" / "pool.trec"  # a run that goes on need not open the index
    if not processes.from_main(path.is_file):
        folder = warm_index_folder(run)
        if not processes.from_main(folder.is_dir):
            raise InputError(
                f"{folder}: gone, and the looks on the way search it once more; bring it back, or "
                "leave them out: --evaluate.every 0"
            )
        index, depth = open_in(run, retriever, folder), run.config.evaluate.rerank_depth
        found = retrieve(retriever, index, some.queries, depth, run.watch)
        processes.from_main(lambda: _write_pool(path, found))
    return read_run(path)


def _write_pool(path: Path, found: Scored) -> None:
    path.parent.mkdir(exist_ok=True)
    write_run(path, found, "rocketjax-pool")


def _write_scores(folder: Path, step: int, scores: Scores) -> None:
    folder.mkdir(exist_ok=True)
    write_text(folder / f"{step}.json", json.dumps(scores) + "\n")


def _save(save: Callable[[Path, Any], None], folder: Path, model: Retriever | Reranker) -> None:
    processes.from_main(lambda: save(folder, model))


STAGES = (
    Step("start", judge_start, ("start",)),
    Step("warm-retriever", warm_retriever, ("warmup/retriever",)),
    Step("encode", encode, ("warmup/index",)),
    Step("warm-reranker", warm_reranker, ("warmup/lists", "warmup/reranker")),
    Step("mine", mine_lists, ("lists",)),
    Step("joint", train_jointly, ("rounds", "judged.jsonl", "scores", "retriever", "reranker")),
    Step("index", index_corpus, ("index",)),
    Step("evaluate", evaluate, ("runs", "report.json", "report.html")),
)
