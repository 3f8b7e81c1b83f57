"""What the arms are compared with: the starting models, BM25, sentence-transformers' recipes."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from rocketjax.ablation.arms import RECIPES
from rocketjax.ablation.ranks import DEPTH, Ranks, hits
from rocketjax.config.schema import Config, StageConfig
from rocketjax.data.collection import Collection, Split
from rocketjax.data.lists import TrainingList
from rocketjax.data.runs import read_run
from rocketjax.inference.folder import open_reranker
from rocketjax.inference.reranker import Reranker
from rocketjax.models.pretrained import resolve_weights
from rocketjax.pipeline import run as pipeline
from rocketjax.retrieval.bm25 import bm25_run
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, sweep, write_text
from rocketjax.runtime.progress import Say, Watch
from rocketjax.training.matryoshka import COSINE_TEMPERATURE

Work = dict[str, Any]  # texts and settings for the recipe's process, as JSON


class Given(NamedTuple):
    """What a recipe trains on: what the base's models saw."""

    collection: Collection
    lists: Sequence[TrainingList]  # what the retriever sees
    warm_up: Sequence[TrainingList]  # what the re-ranker sees before them; may be empty
    teacher: Path  # the base's re-ranker as it ended, whose scores are distilled


def ranks_of_runs(arm: str, seed: int, folder: Path, split: Split) -> Ranks:
    """The ranks of both models, from the runs in a folder."""
    return {
        (arm, seed, model): hits(split.qrels, read_run(folder / f"{name}.trec"))
        for model, name in (("retriever", "retriever"), ("re-ranker", "reranker"))
    }


def run_bm25(seed: int, collection: Collection, split: Split) -> Ranks:
    """BM25's ranks, in the retriever's place; the same with every seed."""
    run = bm25_run(collection, split.queries, DEPTH)
    return {("bm25", seed, "retriever"): hits(split.qrels, run)}


def run_recipe(
    name: str, config: Config, given: Given, folder: Path, say: Say, watch: Watch
) -> Ranks:
    """Trains by a recipe on lists like the base's, and evaluates its models as the base's are.

    Args:
        name: of the recipe.
        config: the base's, with the trial's collection, seed and folder.
        given: what it trains on.
        folder: for the trained models, each of which stays once it is done, and their run.

    Raises:
        InputError: sentence-transformers or what its trainers need is missing; the message is the
            process's last line.
    """
    models = folder / "models"
    sweep(models)
    missing = [model for model in ("retriever", "reranker") if not (models / model).is_dir()]
    work = _work(name, config, given) if missing else {}
    for model in missing:
        say(f"{name}: sentence-transformers trains the {model}; if stopped, it starts over")
        with new_folder(models / model) as aside:
            _train(model, work[model], aside, watch)
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
    split = given.collection.split("dev")
    return ranks_of_runs(name, config.seed, folder / "run" / "start", split)


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


def _work(name: str, config: Config, given: Given) -> dict[str, Work]:
    """The work for each of the two models; the other process knows nothing of rocketjax.

    Lists without a label are left out: no recipe has a use for them.
    """
    retriever_loss, reranker_loss = RECIPES[name]
    labelled = [item for item in given.lists if item.positive]
    seen = _as_seen(labelled, config.joint)
    before = _as_seen(given.warm_up, config.reranker_warmup)
    # The retriever's losses need the same number of negatives in all rows.
    most = max(len(item.negatives) for item in labelled)
    whole = [item for item in labelled if len(item.negatives) == most]
    rows = list(_rows(_as_seen(whole, config.joint), given.collection))
    if retriever_loss != "negatives":
        rows = _with_scores(rows, open_reranker(given.teacher))
    pairs = reranker_loss == "pairs"
    retriever = {
        "loss": retriever_loss,
        "weights": str(resolve_weights(config.retriever.weights)),
        "data": rows,
        "batch": config.joint.batch,
        "rate": config.joint.optimizer.retriever_lr,
        "tokens": config.text.passage_length,
        "temperature": config.loss.retriever_temperature or COSINE_TEMPERATURE,
        "seed": config.seed,
    }
    reranker = {
        "loss": reranker_loss,
        "weights": str(resolve_weights(config.reranker.weights)),
        "data": list((_pairs if pairs else _lists)([*before, *seen], given.collection)),
        "batch": config.joint.batch * (config.lists.length if pairs else 1),
        "rate": config.reranker_warmup.optimizer.reranker_lr,
        "tokens": config.text.pair_length,
        "positive": config.lists.length - 1.0,
        "seed": config.seed,
    }
    return {"retriever": retriever, "reranker": reranker}


def _as_seen(lists: Sequence[TrainingList], stage: StageConfig) -> list[TrainingList]:
    """As many lists as the stage's steps take, starting over where there are fewer."""
    return list(islice(cycle(lists), stage.steps * stage.batch))


def _rows(lists: Sequence[TrainingList], collection: Collection) -> Iterator[dict[str, Any]]:
    """A row for each list."""
    queries, passages = collection.split("train").queries, collection.by_id
    for item in lists:
        yield {"query": queries[item.query], "positive": passages[item.positive].whole} | {
            f"negative_{i}": passages[pid].whole for i, pid in enumerate(item.negatives, 1)
        }


def _with_scores(rows: Sequence[dict[str, Any]], teacher: Reranker) -> list[dict[str, Any]]:
    """The rows with the teacher's score of every passage, as sentence-transformers' labels."""
    texts = [(row["query"], text) for row in rows for name, text in row.items() if name != "query"]
    pairs = list(dict.fromkeys(texts))  # lists that are seen again are scored once
    scores = teacher.score([query for query, _ in pairs], [text for _, text in pairs])
    by_pair = dict(zip(pairs, scores.tolist(), strict=True))
    return [
        row | {"label": [by_pair[row["query"], text] for n, text in row.items() if n != "query"]}
        for row in rows
    ]


def _lists(lists: Sequence[TrainingList], collection: Collection) -> Iterator[dict[str, Any]]:
    """A row for each list, the positive first."""
    queries, passages = collection.split("train").queries, collection.by_id
    for item in lists:
        yield {
            "query": queries[item.query],
            "passages": [passages[pid].whole for pid in (item.positive, *item.negatives)],
            "labels": [1.0, *(0.0 for _ in item.negatives)],
        }


def _pairs(lists: Sequence[TrainingList], collection: Collection) -> Iterator[dict[str, Any]]:
    """A row for each passage of each list, the positive first."""
    queries, passages = collection.split("train").queries, collection.by_id
    for item in lists:
        for pid, label in [(item.positive, 1.0), *((pid, 0.0) for pid in item.negatives)]:
            yield {"query": queries[item.query], "passage": passages[pid].whole, "label": label}
