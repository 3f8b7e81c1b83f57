"""The stages of a run, each from files to files: what is in the run folder is all they share.

start            start/{index, retriever.trec, reranker.trec}     judge the starting models
warm-retriever   warmup/retriever                 in-batch negatives from all devices
encode           warmup/index, or start/index     the corpus by the warmed retriever
warm-reranker    warmup/{lists, reranker}         listwise, on undenoised lists
mine             lists                            undenoised and denoised lists
joint            rounds, retriever, reranker      dynamic listwise distillation (and refresh)
                 judged.jsonl, scores             both models on the way (judge.py)
index            index                            the corpus by the trained retriever
evaluate         runs, report.{json,html}         both models on held-out queries
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rocketjax import distributed, model_folder, page, report, steps
from rocketjax.augment import (
    MiningReport,
    TrainingList,
    describe,
    given_lists,
    lists_per_positive,
    read_lists,
    write_lists,
)
from rocketjax.config import Config, ListConfig, StageConfig, resolve_loss
from rocketjax.corpus import encode_corpus
from rocketjax.data.collection import Collection, Split
from rocketjax.data.loader import Collator, list_batches, lists_of_step
from rocketjax.data.runs import read_run, write_run
from rocketjax.errors import InputError
from rocketjax.files import write_text
from rocketjax.inference import Model, Reranker, Retriever
from rocketjax.judge import Scores, judge, pool_of, score_lists
from rocketjax.losses import joint_weights
from rocketjax.mining import mine
from rocketjax.models.encoder import Params
from rocketjax.progress import Say, Watch
from rocketjax.ranking import Judged, rank_both
from rocketjax.retrieval.index import Index
from rocketjax.retrieval.open import build_index, open_index
from rocketjax.training import Feed, Feeds, Judge, train_stage

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
        names = set(self.train.queries) | set(self.unlabelled)
        ordered = sorted(names)
        return [ordered[i] for i in np.random.default_rng(self.config.seed).permutation(len(names))]

    @cached_property
    def unlabelled(self) -> dict[str, str]:
        """Queries nobody judged; mined for pseudo-positives."""
        split = self.collection.splits.get("unlabelled")
        wanted = split is not None and self.config.lists.pseudo_positives
        return dict(split.queries) if split and wanted else {}

    @cached_property
    def queries(self) -> dict[str, str]:
        """All that may be trained on, by id."""
        return self.unlabelled | dict(self.train.queries)


def judge_start(run: Run) -> None:
    """Judges both starting models, so that the report can say what training brought."""
    if not run.config.evaluate.start:
        return
    retriever, reranker = _start_retriever(run), _start_reranker(run)
    index = _index(run, retriever, run.config.retriever.weights, run.folder / "start" / "index")
    _judge(run, Model(retriever, reranker), index, run.folder / "start")


def warm_retriever(run: Run) -> None:
    """The retriever alone, in-batch."""
    stage, name = run.config.retriever_warmup, "warm-retriever"
    if stage.steps == 0:
        return
    start = _start_retriever(run)
    lists = [
        TrainingList(query, pid, ()) for query in run.order for pid in _positives(run.train, query)
    ]
    params = train_stage(
        name,
        run.config,
        stage,
        {"retriever": start.params},
        steps.retriever_terms_of(
            start.module, run.config.loss.retriever_temperature, run.config.compute.chunk
        ),
        {"retriever": 1.0},
        _feeds(run, lists, stage, 1, start, _start_reranker(run)),
        run.folder,
        run.say,
        run.watch,
    )
    warm = dataclasses.replace(start, params=params["retriever"])
    _save(model_folder.save_retriever, run.folder / "warmup" / "retriever", warm)


def encode(run: Run) -> None:
    """The corpus by the warmed retriever; the start's index serves where there was no warm-up."""
    if run.config.lists.source == "given":
        return  # nothing is mined
    retriever, name = _warm_retriever(run)
    _index(run, retriever, name, _warm_index_folder(run))


def warm_reranker(run: Run) -> None:
    """The re-ranker alone, listwise."""
    stage, name = run.config.reranker_warmup, "warm-reranker"
    if stage.steps == 0:
        return
    model = Model(_warm_retriever(run)[0], _start_reranker(run))
    config = dataclasses.replace(run.config.lists, denoised=0.0)
    lists = _given(run, _warm_queries(run)) or _mined_for_warm_up(run, model, config)
    params = train_stage(
        name,
        run.config,
        stage,
        {"reranker": model.reranker.params},
        steps.reranker_terms_of(
            model.reranker.module, resolve_loss(run.config.loss), run.config.compute.chunk
        ),
        {"reranker": 1.0},
        _feeds(run, lists, stage, config.length, model.retriever, model.reranker),
        run.folder,
        run.say,
        run.watch,
    )
    warm = dataclasses.replace(model.reranker, params=params["reranker"])
    _save(model_folder.save_reranker, run.folder / "warmup" / "reranker", warm)


def mine_lists(run: Run) -> None:
    """The joint stage's (first) lists, by the warmed models."""
    if run.config.joint.steps == 0:
        return
    if given := _given(run, _joint_queries(run, 0)):
        _write_given(run.folder / "lists", given)
        run.say(f"{len(given):,} lists of the negatives that the rows came with")
        return
    model = Model(_warm_retriever(run)[0], _warm_reranker(run))
    index = _open(run, model.retriever, _warm_index_folder(run))
    _, mined = _mine_round(run, 0, model, index, run.folder / "lists")
    run.say(_described(run, mined))


def train_jointly(run: Run) -> None:
    """Both models on the same lists: the heart of rocketjax. Mines anew at every refresh."""
    config = run.config
    start = Model(_warm_retriever(run)[0], _warm_reranker(run))
    loss = resolve_loss(config.loss)
    terms_of = steps.joint_terms_of(
        start.retriever.module, start.reranker.module, loss, config.compute.chunk
    )

    collate = _collator(run, config.lists.length, start.retriever, start.reranker)

    def feeds(step: int, params: Params) -> Feed:
        number = step // _round_length(config)
        first = number * _round_length(config)
        lists = _lists_of_round(run, number, _with(start, params), fresh=step == first)
        return _feed(run, lists, collate, config.joint.batch, config.seed + number, first, step)

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
        config.lists.refresh,
        _judge_on_the_way(run, start),
    )
    model = _with(start, params)
    _save(model_folder.save_retriever, run.folder / "retriever", _averaged(run, model.retriever))
    _save(model_folder.save_reranker, run.folder / "reranker", model.reranker)


def index_corpus(run: Run) -> None:
    """The corpus by the trained retriever."""
    retriever = model_folder.load_retriever(run.folder / "retriever", run.config.compute)
    _index(run, retriever, str(run.folder / "retriever"), run.folder / "index")


def evaluate(run: Run) -> None:
    """Both trained models on the held-out queries, beside the starting ones."""
    model = model_folder.load_pair(run.folder, run.config.compute)
    index = _open(run, model.retriever, run.folder / "index")
    after = _judge(run, model, index, run.folder / "runs")
    before = None
    if run.config.evaluate.start:
        paths = (run.folder / "start" / f"{name}.trec" for name in ("retriever", "reranker"))
        before = Judged(*map(read_run, paths))

    def write() -> None:
        report.write(run.folder, run.held_out, run.collection, before, after, run.config.evaluate)
        page.write(run.folder)

    distributed.from_main(write)


def _given(run: Run, queries: Sequence[str]) -> list[TrainingList]:
    """Lists of the negatives that the queries came with; none where they are to be mined."""
    if run.config.lists.source == "mined":
        return []
    train = run.train
    return given_lists(queries, train.qrels, train.negatives, run.config.lists, run.config.seed)


def _write_given(folder: Path, lists: Sequence[TrainingList]) -> None:
    def write() -> None:
        folder.mkdir(exist_ok=True)
        write_lists(folder / "lists.jsonl", lists)

    distributed.from_main(write)


def _mined_for_warm_up(run: Run, model: Model, config: ListConfig) -> list[TrainingList]:
    queries = _warm_queries(run)
    lists, _ = mine(
        model,
        _open(run, model.retriever, _warm_index_folder(run)),
        {query: run.train.queries[query] for query in queries if query in run.train.qrels},
        run.train.qrels,
        run.collection.by_id,
        config,
        run.config.seed,
        run.folder / "warmup" / "lists",
        run.watch,
    )
    return lists


def _mine_round(
    run: Run, number: int, model: Model, index: Index, folder: Path
) -> tuple[list[TrainingList], MiningReport]:
    return mine(
        model,
        index,
        {query: run.queries[query] for query in _joint_queries(run, number)},
        run.train.qrels,
        run.collection.by_id,
        run.config.lists,
        run.config.seed + number,
        folder,
        run.watch,
    )


def _lists_of_round(run: Run, number: int, model: Model, fresh: bool) -> list[TrainingList]:
    """The lists of a round of joint training; from the second on, mined by `model` as it is now.

    `fresh`: the round has not begun, so that `model` is the one to mine with.
    """
    if number == 0:
        return read_lists(run.folder / "lists" / "lists.jsonl")
    folder = run.folder / "rounds" / str(number)
    if not distributed.from_main((folder / "lists" / "lists.jsonl").is_file):
        if not fresh:
            raise InputError(
                f"{folder / 'lists'}: the lists that this round was training on are gone; bring "
                "them back, or train the stage anew: --from joint"
            )
        run.say(f"refresh {number}: encode and mine with both models as they are")
        index = _index(run, model.retriever, f"refresh {number}", folder / "index")
        _, mined = _mine_round(run, number, model, index, folder / "lists")
        run.say(_described(run, mined))
    _remove(folder / "index")  # large, and never needed again
    return read_lists(folder / "lists" / "lists.jsonl")


def _warm_queries(run: Run) -> list[str]:
    stage = run.config.reranker_warmup
    return _take(run, 0, stage.steps * stage.batch)


def _joint_queries(run: Run, number: int) -> list[str]:
    """The queries that follow in the order, and only as many as the round sees."""
    config = run.config
    per_positive = sum(lists_per_positive(config.lists))
    start, taken = len(_warm_queries(run)), []
    for earlier in range(number + 1):
        length = min(_round_length(config), config.joint.steps - earlier * _round_length(config))
        taken = _take(run, start, length * config.joint.batch / per_positive)
        start += len(taken)
    return taken


def _take(run: Run, start: int, positives: float) -> list[str]:
    """Queries from `start` in the order, and round again, until they have so many positives."""
    taken: list[str] = []
    for i in range(len(run.order)):
        if positives <= 0:
            break
        query = run.order[(start + i) % len(run.order)]
        taken.append(query)
        positives -= len(_positives(run.train, query))
    return taken


def _round_length(config: Config) -> int:
    return config.lists.refresh or config.joint.steps


def _positives(split: Split, query: str) -> list[str]:
    return sorted(pid for pid, grade in split.qrels.get(query, {}).items() if grade > 0)


def _feeds(
    run: Run,
    lists: Sequence[TrainingList],
    stage: StageConfig,
    slots: int,
    retriever: Retriever,
    reranker: Reranker,
) -> Feeds:
    """Feeds of lists that stay the same for a whole stage."""
    collate = _collator(run, slots, retriever, reranker)
    return lambda step, _: _feed(run, lists, collate, stage.batch, run.config.seed, 0, step)


def _feed(
    run: Run,
    lists: Sequence[TrainingList],
    collate: Collator,
    batch: int,
    seed: int,
    first: int,
    step: int,
) -> Feed:
    """Batches from `step` on, of a round that began at `first`."""

    def queries_of(number: int) -> list[str]:
        return [item.query for item in lists_of_step(lists, batch, seed, number - first)]

    batches = list_batches(lists, collate.fitted(lists, batch), batch, seed, start=step - first)
    return Feed(batches, queries_of, _hash(run, lists, collate.queries))


def _hash(run: Run, lists: Sequence[TrainingList], queries: Mapping[str, str]) -> str:
    """Of all that batches are made of, but the tokenizers."""
    digest = hashlib.blake2b(run.collection.fingerprint.encode(), digest_size=16)
    for item in lists:
        digest.update("\t".join((item.query, item.positive, *item.negatives)).encode())
        digest.update(f"\n{queries[item.query]}\n".encode())
    return digest.hexdigest()


def _collator(run: Run, slots: int, retriever: Retriever, reranker: Reranker) -> Collator:
    retriever.tokenizer.remember()
    reranker.tokenizer.remember(retriever.tokenizer)  # both read the same passages
    return Collator(
        run.queries,
        run.collection.by_id,
        retriever.tokenizer,
        reranker.tokenizer,
        slots,
        model_folder.laid_out(run.config.compute) and jax.device_count(),
        run.config.compute.chunk,
    )


def _start_retriever(run: Run) -> Retriever:
    config = run.config
    return model_folder.start_retriever(config.retriever, config.text, config.compute)


def _averaged(run: Run, trained: Retriever) -> Retriever:
    """With the share of the starting weights that it is to keep."""
    keep = run.config.retriever.keep
    if keep == 0:
        return trained

    def mean(start: np.ndarray, end: jax.Array) -> np.ndarray:
        return (keep * np.asarray(start) + (1 - keep) * np.asarray(end)).astype(start.dtype)

    params = jax.tree.map(mean, _start_retriever(run).params, trained.params)
    return dataclasses.replace(trained, params=params)


def _start_reranker(run: Run) -> Reranker:
    config = run.config
    return model_folder.start_reranker(config.reranker, config.text, config.compute, config.seed)


def _warm_retriever(run: Run) -> tuple[Retriever, str]:
    """The retriever that mines, with the dropout it trains with, and its name."""
    start = _start_retriever(run)
    if run.config.retriever_warmup.steps == 0:
        return start, run.config.retriever.weights
    folder = run.folder / "warmup" / "retriever"
    warm = model_folder.load_retriever(folder, run.config.compute)
    return dataclasses.replace(start, params=warm.params), str(folder)


def _warm_reranker(run: Run) -> Reranker:
    start = _start_reranker(run)
    if run.config.reranker_warmup.steps == 0:
        return start
    folder = run.folder / "warmup" / "reranker"
    warm = model_folder.load_reranker(folder, run.config.compute)
    return dataclasses.replace(start, params=warm.params)


def _with(model: Model, params: Params) -> Model:
    return Model(
        dataclasses.replace(model.retriever, params=params["retriever"]),
        dataclasses.replace(model.reranker, params=params["reranker"]),
    )


def _warm_index_folder(run: Run) -> Path:
    as_at_start = run.config.evaluate.start and run.config.retriever_warmup.steps == 0
    return run.folder / ("start" if as_at_start else "warmup") / "index"


def _index(run: Run, retriever: Retriever, name: str, folder: Path) -> Index:
    """Encodes the corpus into `folder` and builds the index over it; what is there stays."""
    vectors = encode_corpus(retriever, name, run.collection, run.config.index, folder, run.watch)
    assert vectors is not None  # all processes have done their part
    if distributed.from_main((folder / "scann").is_dir):
        return _open(run, retriever, folder)
    sample = sorted(run.train.queries)[:SAMPLE]
    queries = retriever.encode_query([run.train.queries[query] for query in sample], steady=True)
    return build_index(vectors, run.config.index, queries, min(100, len(vectors)), run.say)


def _open(run: Run, retriever: Retriever, folder: Path) -> Index:
    return open_index(
        folder,
        run.config.index,
        retriever.fingerprint,
        "the retriever of this run",
        run.collection.fingerprint,
        run.collection.name,
    )


def _judge(run: Run, model: Model, index: Index, folder: Path) -> Judged:
    config = run.config.evaluate
    judged = rank_both(
        model,
        index,
        run.held_out.queries,
        run.collection.by_id,
        config.top_k,
        config.rerank_depth,
        run.watch,
    )

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, ranked in (("retriever", judged.retriever), ("reranker", judged.reranker)):
            write_run(folder / f"{name}.trec", ranked, f"rocketjax-{name}-{folder.name}")

    distributed.from_main(write)
    return judged


def _judge_on_the_way(run: Run, start: Model) -> Judge | None:
    """Looks at both models as joint training goes, and scores some lists before and after it."""
    config = run.config
    if not config.evaluate.every:
        return None
    if not config.evaluate.start:
        run.say(
            "joint: not judged on the way: evaluate.start is off, so there is no pool of passages"
        )
        return None
    found = read_run(run.folder / "start" / "retriever.trec")
    depth, most = config.evaluate.rerank_depth, config.evaluate.every_queries
    pool = pool_of(run.held_out, found, depth, most, config.seed)

    def look(step: int, params: Params) -> dict[str, float]:
        model = _with(start, params)
        if step in (0, config.joint.steps):
            lists = read_lists(run.folder / "lists" / "lists.jsonl")
            scores = score_lists(model, lists, run.queries, run.collection.by_id, config.seed)
            distributed.from_main(lambda: _write_scores(run.folder / "scores", step, scores))
        return judge(model, pool, run.collection.by_id)

    return look


def _write_scores(folder: Path, step: int, scores: Scores) -> None:
    folder.mkdir(exist_ok=True)
    write_text(folder / f"{step}.json", json.dumps(scores) + "\n")


def _described(run: Run, mined: MiningReport) -> str:
    return describe(
        mined, run.queries.__getitem__, lambda pid: " ".join(run.collection.by_id[pid][1:])
    )


def _save(save: Callable[[Path, Any], None], folder: Path, model: Retriever | Reranker) -> None:
    distributed.from_main(lambda: save(folder, model))


def _remove(folder: Path) -> None:
    distributed.from_main(lambda: shutil.rmtree(folder, ignore_errors=True))
