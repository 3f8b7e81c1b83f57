"""What the arms are judged beside: the starting models, BM25, sentence-transformers' recipe."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rocketjax import pipeline
from rocketjax.ablation.bm25 import bm25_run
from rocketjax.ablation.ranks import DEPTH, Ranks, first_hits
from rocketjax.augment import TrainingList
from rocketjax.config import Config, StageConfig
from rocketjax.data.collection import Collection, Passage, Split
from rocketjax.data.runs import read_run
from rocketjax.errors import InputError
from rocketjax.files import new_folder, write_text
from rocketjax.models.pretrained import resolve_weights
from rocketjax.progress import Say, Watch


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
    """Trains by the recipe on the lists that the base's models saw, and judges as they were judged.

    Args:
        config: the base's, settled.
        lists: what the retriever sees; the re-ranker sees `warm` and these.
        folder: for the trained models and their run.

    Raises:
        InputError: sentence-transformers or what its trainers need is missing; its last words.
    """
    models = folder / "models"
    if not models.is_dir():
        with new_folder(models) as aside:
            work = _work(config, lists, warm, collection)
            write_text(aside / "work.json", json.dumps(work))
            say(
                f"recipe: sentence-transformers trains on {len(work['rows']):,} lists and "
                f"{len(work['pairs']):,} pairs, and shows no progress"
            )
            command = [sys.executable, "-m", "rocketjax.ablation.recipe", str(aside)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = done.stderr.strip().rpartition("\n")[2]
                raise InputError(f"the recipe stopped: {said}; pip install 'rocketjax[ablation]'")
    judged = dataclasses.replace(
        config,
        retriever=dataclasses.replace(config.retriever, weights=str(models / "retriever")),
        reranker=dataclasses.replace(config.reranker, weights=str(models / "reranker")),
        evaluate=dataclasses.replace(config.evaluate, start=True),
        run_dir=str(folder / "run"),
        stages=("start",),
    )
    pipeline.run(judged, say, watch)
    return read_judged("recipe", config.seed, folder / "run" / "start", collection.split("dev"))


def _work(
    config: Config,
    lists: Sequence[TrainingList],
    warm: Sequence[TrainingList],
    collection: Collection,
) -> dict[str, Any]:
    """Texts and settings for the other process, which knows nothing of rocketjax."""
    queries, passages = collection.split("train").queries, collection.by_id
    seen = _as_seen(lists, config.joint)
    full = max(len(item.negatives) for item in lists)  # its loss wants equally many for all
    rows = [
        {"query": queries[item.query], "positive": _text(passages[item.positive])}
        | {f"negative_{i}": _text(passages[pid]) for i, pid in enumerate(item.negatives, 1)}
        for item in seen
        if len(item.negatives) == full
    ]
    pairs = [
        {"query": queries[item.query], "passage": _text(passages[pid]), "label": float(not i)}
        for item in [*_as_seen(warm, config.reranker_warmup), *seen]
        for i, pid in enumerate([item.positive, *item.negatives])
    ]
    return {
        "weights": str(resolve_weights(config.retriever.weights)),
        "rows": rows,
        "pairs": pairs,
        "lists": config.joint.batch,
        "length": config.lists.length,
        "passage_length": config.text.passage_length,
        "pair_length": config.text.pair_length,
        "retriever_lr": config.joint.optimizer.retriever_lr,
        "reranker_lr": config.reranker_warmup.optimizer.reranker_lr,
        "seed": config.seed,
    }


def _as_seen(lists: Sequence[TrainingList], stage: StageConfig) -> list[TrainingList]:
    """As many lists as the stage's steps take, round again where there are fewer."""
    return [lists[i % len(lists)] for i in range(stage.steps * stage.batch)]


def _text(passage: Passage) -> str:
    return f"{passage.title} {passage.text}".strip()
