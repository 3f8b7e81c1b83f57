"""What the arms are compared with: the starting models, BM25, sentence-transformers' recipe."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rocketjax.ablation.ranks import DEPTH, Ranks, first_hits
from rocketjax.config.schema import Config, StageConfig
from rocketjax.data.collection import Collection, Split
from rocketjax.data.lists import TrainingList
from rocketjax.data.runs import read_run
from rocketjax.models.pretrained import resolve_weights
from rocketjax.pipeline import run as pipeline
from rocketjax.retrieval.bm25 import bm25_run
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, sweep, write_text
from rocketjax.runtime.progress import Say, Watch

Work = dict[str, Any]  # texts and settings for the recipe's process, as JSON


def ranks_of_runs(arm: str, seed: int, folder: Path, split: Split) -> Ranks:
    """The ranks of both models, from the runs in a folder."""
    return {
        (arm, seed, model): first_hits(split.qrels, read_run(folder / f"{name}.trec"))
        for model, name in (("retriever", "retriever"), ("re-ranker", "reranker"))
    }


def run_bm25(seed: int, collection: Collection, split: Split) -> Ranks:
    """BM25's ranks, in the retriever's place; the same with every seed."""
    run = bm25_run(collection, split.queries, DEPTH)
    return {("bm25", seed, "retriever"): first_hits(split.qrels, run)}


def run_recipe(
    config: Config,
    lists: Sequence[TrainingList],
    warm_up: Sequence[TrainingList],
    collection: Collection,
    folder: Path,
    say: Say,
    watch: Watch,
) -> Ranks:
    """Trains by the recipe on lists like the base's, and evaluates its models as the base's are.

    Args:
        config: the base's, with the trial's collection, seed and folder.
        lists: what the retriever sees; the re-ranker sees `warm_up`, which may be empty, and these.
        folder: for the trained models, each of which stays once it is done, and their run.

    Raises:
        InputError: sentence-transformers or what its trainers need is missing; the message is the
            process's last line.
    """
    models = folder / "models"
    sweep(models)
    missing = [name for name in ("retriever", "reranker") if not (models / name).is_dir()]
    work = _work(config, lists, warm_up, collection) if missing else {}
    for name in missing:
        say(f"recipe: sentence-transformers trains the {name}; if stopped, it starts over")
        with new_folder(models / name) as aside:
            _train(name, work[name], aside, watch)
    # The stage "start" evaluates the models that a run starts from.
    evaluation = dataclasses.replace(
        config,
        retriever=dataclasses.replace(config.retriever, weights=str(models / "retriever")),
        reranker=dataclasses.replace(config.reranker, weights=str(models / "reranker")),
        evaluate=dataclasses.replace(config.evaluate, start=True),
        run_dir=str(folder / "run"),
        stages=("start",),
    )
    pipeline.run(evaluation, say, watch)
    return ranks_of_runs("recipe", config.seed, folder / "run" / "start", collection.split("dev"))


def _train(name: str, work: Work, folder: Path, watch: Watch) -> None:
    """Trains one of the two models in a process of its own, which leaves it in `folder`."""
    work_file = folder / "work.json"
    write_text(work_file, json.dumps(work))
    command = [sys.executable, "-m", "rocketjax.ablation.recipe", name, str(folder)]
    last_line = ""
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
                    last_line = line.strip()
            status = process.wait()
        finally:
            process.kill()  # or a command that is stopped would wait for it to end
    if status:
        raise InputError(f"the recipe stopped: {last_line}; pip install 'rocketjax[ablation]'")
    work_file.unlink()


def _work(
    config: Config,
    lists: Sequence[TrainingList],
    warm_up: Sequence[TrainingList],
    collection: Collection,
) -> dict[str, Work]:
    """The work for each of the two models; the other process knows nothing of rocketjax."""
    seen = _as_seen(lists, config.joint)
    full = max(len(item.negatives) for item in lists)
    retriever = {
        "weights": str(resolve_weights(config.retriever.weights)),
        "data": list(_rows(seen, full, collection)),
        "batch": config.joint.batch,
        "rate": config.joint.optimizer.retriever_lr,
        "tokens": config.text.passage_length,
        "seed": config.seed,
    }
    reranker = {
        "weights": str(resolve_weights(config.reranker.weights)),
        "data": list(_pairs([*_as_seen(warm_up, config.reranker_warmup), *seen], collection)),
        "batch": config.joint.batch * config.lists.length,
        "rate": config.reranker_warmup.optimizer.reranker_lr,
        "tokens": config.text.pair_length,
        "positive": config.lists.length - 1.0,
        "seed": config.seed,
    }
    return {"retriever": retriever, "reranker": reranker}


def _as_seen(lists: Sequence[TrainingList], stage: StageConfig) -> list[TrainingList]:
    """As many lists as the stage's steps take, starting over where there are fewer."""
    return list(islice(cycle(lists), stage.steps * stage.batch))


def _rows(
    lists: Sequence[TrainingList], negatives: int, collection: Collection
) -> Iterator[dict[str, str]]:
    """A row for each list with `negatives` of them: the loss needs the same number in all rows."""
    queries, passages = collection.split("train").queries, collection.by_id
    for item in lists:
        if item.positive and len(item.negatives) == negatives:
            yield {"query": queries[item.query], "positive": passages[item.positive].whole} | {
                f"negative_{i}": passages[pid].whole for i, pid in enumerate(item.negatives, 1)
            }


def _pairs(lists: Sequence[TrainingList], collection: Collection) -> Iterator[dict[str, Any]]:
    """A row for each passage of each labelled list, the positive first."""
    queries, passages = collection.split("train").queries, collection.by_id
    for item in (item for item in lists if item.positive):
        for pid, label in [(item.positive, 1.0), *((pid, 0.0) for pid in item.negatives)]:
            yield {"query": queries[item.query], "passage": passages[pid].whole, "label": label}
