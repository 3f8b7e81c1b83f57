"""What the arms are judged beside: the starting models, BM25, sentence-transformers' recipe."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rocketjax.ablation.ranks import DEPTH, Ranks, first_hits
from rocketjax.config.schema import Config, StageConfig
from rocketjax.data.collection import Collection, Split
from rocketjax.data.lists import TrainingList
from rocketjax.data.runs import read_run
from rocketjax.models.pretrained import resolve_weights
from rocketjax.pipeline import run as run_module
from rocketjax.retrieval.bm25 import bm25_run
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, sweep, write_text
from rocketjax.runtime.progress import Say, Watch


def read_judged(arm: str, seed: int, folder: Path, split: Split) -> Ranks:
    """Both models' ranks, of the runs in a folder."""
    return {
        (arm, seed, model): first_hits(split.qrels, read_run(folder / f"{name}.trec"))
        for model, name in (("retriever", "retriever"), ("re-ranker", "reranker"))
    }


def judge_bm25(seed: int, collection: Collection, split: Split) -> Ranks:
    """BM25's ranks, in the retriever's place; the same with every seed."""
    run = bm25_run(collection, split.queries, DEPTH)
    return {("bm25", seed, "retriever"): first_hits(split.qrels, run)}


def judge_recipe(
    config: Config,
    lists: Sequence[TrainingList],
    warm: Sequence[TrainingList],
    collection: Collection,
    folder: Path,
    say: Say,
    watch: Watch,
) -> Ranks:
    """Trains by the recipe on lists like the base's, and judges as its models were judged.

    Args:
        config: the base's, settled.
        lists: what the retriever sees; the re-ranker sees `warm`, if there are, and these.
        folder: for the trained models, each of which stays once it is done, and their run.

    Raises:
        InputError: sentence-transformers or what its trainers need is missing; its last words.
    """
    models = folder / "models"
    sweep(models)
    missing = [name for name in ("retriever", "reranker") if not (models / name).is_dir()]
    work = _work(config, lists, warm, collection) if missing else {}
    for name in missing:
        say(f"recipe: sentence-transformers trains the {name}; stopped, it starts this anew")
        with new_folder(models / name) as aside:
            _train(name, work[name], aside, watch)
    judged = dataclasses.replace(
        config,
        retriever=dataclasses.replace(config.retriever, weights=str(models / "retriever")),
        reranker=dataclasses.replace(config.reranker, weights=str(models / "reranker")),
        evaluate=dataclasses.replace(config.evaluate, start=True),
        run_dir=str(folder / "run"),
        stages=("start",),
    )
    run_module.run(judged, say, watch)
    return read_judged("recipe", config.seed, folder / "run" / "start", collection.split("dev"))


def _train(name: str, work: dict[str, Any], folder: Path, watch: Watch) -> None:
    """Trains one of the two models in a process of its own and leaves it in a folder."""
    asked = folder / "work.json"
    write_text(asked, json.dumps(work))
    command = [sys.executable, "-m", "rocketjax.ablation.recipe", name, str(folder)]
    last = ""
    with (
        watch(f"recipe {name}", -(-len(work["data"]) // work["batch"]), "steps") as advance,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                if line == "step\n":
                    advance(1)
                elif line.strip():
                    last = line.strip()
            status = process.wait()
        finally:
            process.kill()  # or a command that is stopped would wait for its end
    if status:
        raise InputError(f"the recipe stopped: {last}; pip install 'rocketjax[ablation]'")
    asked.unlink()


def _work(
    config: Config,
    lists: Sequence[TrainingList],
    warm: Sequence[TrainingList],
    collection: Collection,
) -> dict[str, dict[str, Any]]:
    """Texts and settings for the other process, which knows nothing of rocketjax; by model."""
    queries, passages = collection.split("train").queries, collection.by_id
    seen = _as_seen(lists, config.joint)
    full = max(len(item.negatives) for item in lists)  # its loss wants equally many for all
    rows = [
        {"query": queries[item.query], "positive": passages[item.positive].whole}
        | {f"negative_{i}": passages[pid].whole for i, pid in enumerate(item.negatives, 1)}
        for item in seen
        if len(item.negatives) == full
    ]
    pairs = [
        {"query": queries[item.query], "passage": passages[pid].whole, "label": float(not i)}
        for item in [*_as_seen(warm, config.reranker_warmup), *seen]
        for i, pid in enumerate([item.positive, *item.negatives])
    ]
    retriever = {
        "weights": str(resolve_weights(config.retriever.weights)),
        "data": rows,
        "batch": config.joint.batch,
        "rate": config.joint.optimizer.retriever_lr,
        "tokens": config.text.passage_length,
    }
    reranker = {
        "weights": str(resolve_weights(config.reranker.weights)),
        "data": pairs,
        "batch": config.joint.batch * config.lists.length,
        "rate": config.reranker_warmup.optimizer.reranker_lr,
        "tokens": config.text.pair_length,
        "positive": config.lists.length - 1.0,
    }
    seed = {"seed": config.seed}
    return {"retriever": retriever | seed, "reranker": reranker | seed}


def _as_seen(lists: Sequence[TrainingList], stage: StageConfig) -> list[TrainingList]:
    """As many lists as the stage's steps take, round again where there are fewer."""
    return list(islice(cycle(lists), stage.steps * stage.batch))
