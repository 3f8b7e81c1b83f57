"""Judges both models during joint training, on a small pool of passages, and scores some lists.

A pool is made of what was ranked first before joint training; see rocketjax/evaluation/pool.py.
"""

import dataclasses
import json
from pathlib import Path

from rocketjax.data.collection import Split
from rocketjax.data.lists import read_lists
from rocketjax.data.runs import read_run, write_run
from rocketjax.evaluation.pool import (
    Scores,
    draw_queries,
    evaluate_pool,
    make_pool,
    score_lists,
)
from rocketjax.inference.retriever import Retriever
from rocketjax.models.encoder import Params
from rocketjax.pipeline.context import Run
from rocketjax.pipeline.models import open_warmed, warmed_corpus_folder
from rocketjax.retrieval.model import Model
from rocketjax.retrieval.ranking import Rankings, retrieve_judged
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import write_text
from rocketjax.training.trainer import Judge


def pool_judge(run: Run, start: Model) -> Judge | None:
    """Measures both models on a pool, and scores some lists before and after joint training.

    Nothing, if `evaluate.every` is 0 or there is no pool to be had.
    """
    config = run.config
    if not config.evaluate.every:
        return None
    if not config.evaluate.start and config.lists.source == "given":
        run.say(
            "joint: no evaluation during training: nothing is encoded before it, so there is no "
            "pool of passages; --evaluate.start makes one"
        )
        return None
    queries = draw_queries(run.held_out, config.evaluate.every_queries, config.seed)
    first_ranked = _ranked_before(run, start.retriever, queries)
    depths = config.evaluate
    pool = make_pool(queries, first_ranked, depths.rerank_depth, depths.relevant)
    passages = run.collection.by_id

    def judge(step: int, params: Params) -> dict[str, float]:
        model = start.with_params(params)
        if step in (0, config.joint.steps):
            lists = read_lists(run.folder / "lists" / "lists.jsonl")
            scores = score_lists(model, lists, run.queries, passages, config.seed)
            processes.from_main(lambda: _write_scores(run.folder / "scores", step, scores))
        return evaluate_pool(model, pool, passages)

    return judge


def _ranked_before(run: Run, retriever: Retriever, queries: Split) -> Rankings:
    """What was ranked first before joint training: by the start, or else by what mines."""
    if run.config.evaluate.start:
        return read_run(run.folder / "start" / "retriever.trec")
    path = run.folder / "scores" / "pool.trec"  # a run that resumes need not open the index
    if not processes.from_main(path.is_file):
        folder = warmed_corpus_folder(run)
        if not processes.from_main(folder.is_dir):
            raise InputError(
                f"{folder}: gone, and evaluation during training searches it once more; bring it "
                "back, or turn that evaluation off: --evaluate.every 0"
            )
        corpus, depths = open_warmed(run, retriever), run.config.evaluate
        depths = dataclasses.replace(depths, top_k=depths.rerank_depth)
        rankings = retrieve_judged(retriever, corpus.index, queries.queries, depths, run.watch)
        processes.from_main(lambda: _write_pool(path, rankings))
    return read_run(path)


def _write_pool(path: Path, rankings: Rankings) -> None:
    path.parent.mkdir(exist_ok=True)
    write_run(path, rankings, "rocketjax-pool")


def _write_scores(folder: Path, step: int, scores: Scores) -> None:
    folder.mkdir(exist_ok=True)
    write_text(folder / f"{step}.json", json.dumps(scores) + "\n")
