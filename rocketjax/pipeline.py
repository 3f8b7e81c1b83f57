"""From two pretrained encoders to a jointly trained pair: warm-up, mining, joint training."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np

from rocketjax import metrics, model_folder, steps
from rocketjax.augment import undenoised_lists, write_lists
from rocketjax.batch import ListBatch
from rocketjax.config import Config, StageConfig, dump, resolve_loss, run_folder
from rocketjax.data.collection import Collection, Split
from rocketjax.data.collections import load_collection
from rocketjax.data.formats import write_run
from rocketjax.data.loader import Collator, list_batches
from rocketjax.errors import InputError
from rocketjax.evaluate import Judged, Watch, encode_corpus, judge, retrieve
from rocketjax.files import write_text
from rocketjax.fit import fit
from rocketjax.inference import Model
from rocketjax.losses import joint_weights
from rocketjax.metrics import Qrels
from rocketjax.models.encoder import Params
from rocketjax.optim import make_optimizer
from rocketjax.parallel import check_divisible, data_parallel, replicate
from rocketjax.state import init_state

Say: TypeAlias = Callable[[str], None]
Batches: TypeAlias = Callable[..., Iterator[ListBatch]]  # of batch (and start)


@dataclasses.dataclass(frozen=True)
class Row:
    """One measure of one model, on the held-out queries."""

    model: str
    measure: str
    before: float
    after: float
    p: float  # two-sided, paired over queries


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run ends with."""

    folder: Path
    queries: int
    rows: list[Row]
    seconds: float


def run(config: Config, say: Say, watch: Watch) -> Report:
    """Trains a retriever and a re-ranker jointly and judges both before and after.

    Writes into the run folder: config.yaml, lists.jsonl, train.jsonl (metrics by step), before/
    and after/ (TREC runs), report.json, retriever/ and reranker/.

    Raises:
        InputError: anything given that does not fit; nothing trained is lost.
        NonFiniteError: training diverged.
    """
    started = time.monotonic()
    for name, stage in (
        ("reranker_warmup.batch", config.reranker_warmup),
        ("joint.batch", config.joint),
    ):
        check_divisible(stage.batch, jax.device_count(), name)
    _refuse_to_lose(run_folder(config), config.overwrite)
    collection = load_collection(config.data.collection)
    train = _split(collection, config.data.train_split)
    held_out = sample_queries(
        _split(collection, config.data.eval_split), config.data.max_eval_queries, config.seed
    )
    say(
        f"{collection.name}: {len(collection.passages):,} passages, {len(train.queries):,} "
        f"training queries, {len(held_out.queries):,} held-out queries"
    )
    start = Model(
        model_folder.start_retriever(config.retriever, config.text, config.compute),
        model_folder.start_reranker(config.reranker, config.text, config.compute, config.seed),
    )

    folder = _fresh_folder(config)

    say("judge the starting models")
    vectors = encode_corpus(start.retriever, collection.passages, watch)
    before = judge(start, collection, held_out, config.evaluate, vectors, watch)
    _write_runs(folder / "before", before)

    say("mine training lists")
    depth = config.lists.top_n + _most_positives(train.qrels)
    found = retrieve(start.retriever, collection.passages, vectors, train.queries, depth)
    candidates = {query: [pid for pid, _ in ranked] for query, ranked in found.items()}
    lists = undenoised_lists(candidates, train.qrels, config.lists, config.seed)
    write_lists(folder / "lists.jsonl", lists)

    collate = Collator(
        train.queries,
        {p.id: p for p in collection.passages},
        start.retriever.tokenizer,
        start.reranker.tokenizer,
        config.lists.length,
    )
    batches = partial(list_batches, lists, collate, seed=config.seed)
    say(f"warm the re-ranker up: {config.reranker_warmup.steps} steps on {len(lists):,} lists")
    warm = warm_up_reranker(config, start, batches, folder, watch)
    say(f"train both models jointly: {config.joint.steps} steps")
    model = train_jointly(config, warm, batches, folder, watch)
    model_folder.save_model(folder, model)

    say("judge the trained models")
    vectors = encode_corpus(model.retriever, collection.passages, watch)
    after = judge(model, collection, held_out, config.evaluate, vectors, watch)
    _write_runs(folder / "after", after)
    rows = compare(held_out.qrels, before, after)
    report = Report(folder, len(held_out.queries), rows, time.monotonic() - started)
    _write_report(report)
    return report


def warm_up_reranker(
    config: Config, model: Model, batches: Batches, folder: Path, watch: Watch
) -> Model:
    """The re-ranker alone, listwise."""
    params = train_stage(
        "warmup",
        config,
        config.reranker_warmup,
        {"reranker": model.reranker.params},
        steps.reranker_terms_of(model.reranker.module),
        {"reranker": 1.0},
        batches(batch=config.reranker_warmup.batch),
        folder,
        watch,
    )
    return dataclasses.replace(
        model, reranker=dataclasses.replace(model.reranker, params=params["reranker"])
    )


def train_jointly(
    config: Config, model: Model, batches: Batches, folder: Path, watch: Watch
) -> Model:
    """Both models on the same lists: the heart of rocketjax."""
    loss = resolve_loss(config.loss)
    seen = (
        config.reranker_warmup.steps * config.reranker_warmup.batch
    )  # go on with lists the warm-up did not have
    params = train_stage(
        "joint",
        config,
        config.joint,
        {"retriever": model.retriever.params, "reranker": model.reranker.params},
        steps.joint_terms_of(model.retriever.module, model.reranker.module, loss),
        joint_weights(loss),
        batches(batch=config.joint.batch, start=-(-seen // config.joint.batch)),
        folder,
        watch,
    )
    return Model(
        dataclasses.replace(model.retriever, params=params["retriever"]),
        dataclasses.replace(model.reranker, params=params["reranker"]),
    )


def train_stage(
    name: str,
    config: Config,
    stage: StageConfig,
    params: Params,
    terms_of: steps.TermsOf,
    weights: Mapping[str, float],
    batches: Iterator[ListBatch],
    folder: Path,
    watch: Watch,
) -> Params:
    """Trains `params` on `batches`; every step's metrics go to train.jsonl."""
    if stage.steps == 0:
        return params
    optimizer = make_optimizer(stage.optimizer, stage.steps)
    step = partial(steps.train_step, terms_of=terms_of, weights=weights, optimizer=optimizer)
    program = data_parallel(step, backend=config.compute.parallel)
    state = replicate(init_state(params, optimizer, config.seed))
    with (folder / "train.jsonl").open("a", encoding="utf-8") as log:

        def report(values: dict[str, float]) -> None:
            log.write(json.dumps({"stage": name} | values) + "\n")
            log.flush()

        return fit(state, program, batches, watch(range(stage.steps), name), report).params


def sample_queries(split: Split, most: int, seed: int) -> Split:
    """At most `most` queries of a split (0: all), drawn by seed; the same for every model."""
    names = sorted(split.queries)
    if most and most < len(names):
        drawn = np.random.default_rng(seed).choice(len(names), size=most, replace=False)
        names = [names[i] for i in sorted(drawn)]
    return Split(
        {name: split.queries[name] for name in names}, {name: split.qrels[name] for name in names}
    )


def compare(qrels: Qrels, before: Judged, after: Judged) -> list[Row]:
    """Every measure of both models, before and after, with its paired test."""
    rows = []
    for model in ("retriever", "reranker"):
        old, new = (
            metrics.per_query(qrels, {q: [pid for pid, _ in r] for q, r in run.items()})
            for run in (getattr(before, model), getattr(after, model))
        )
        rows += [
            Row(
                model,
                measure,
                metrics.mean(old[measure]),
                metrics.mean(new[measure]),
                metrics.p_value(old[measure], new[measure]),
            )
            for measure in old
        ]
    return rows


def _refuse_to_lose(folder: Path, overwrite: bool) -> None:
    """Refuses a folder whose contents starting anew would destroy."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: holds other files and no run; choose another --run-dir")
    if (folder / "retriever").exists() and not overwrite:
        raise InputError(
            f"{folder}: holds trained models; keep them and choose another --name, or replace them "
            "with --overwrite"
        )


def _fresh_folder(config: Config) -> Path:
    """An empty run folder but for the config; what an unfinished run left is removed."""
    folder = run_folder(config)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", dump(config))
    return folder


def _split(collection: Collection, name: str) -> Split:
    if name not in collection.splits:
        known = ", ".join(collection.splits)
        raise InputError(f"{collection.name} has no split {name!r}; it has {known}")
    return collection.splits[name]


def _most_positives(qrels: Qrels) -> int:
    """How far beyond top_n to search, so that top_n are left once positives are taken out."""
    return max(sum(grade > 0 for grade in grades.values()) for grades in qrels.values())


def _write_runs(folder: Path, judged: Judged) -> None:
    folder.mkdir(exist_ok=True)
    for name, run in (("retriever", judged.retriever), ("reranker", judged.reranker)):
        write_run(folder / f"{name}.trec", run, f"rocketjax-{name}-{folder.name}")


def _write_report(report: Report) -> None:
    values = dataclasses.asdict(report) | {"folder": str(report.folder)}
    write_text(report.folder / "report.json", json.dumps(values, indent=2) + "\n")
