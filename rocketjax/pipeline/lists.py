"""Which queries a stage trains on, and their lists: mined by the models as they are, or given.

The re-ranker's warm-up takes the first queries of the run's order, the joint stage those that
follow (or those behind `lists.after`), and every refresh round those after them: queries are mined
for only if they are trained on.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from rocketjax.config.composition import UNRULED
from rocketjax.config.schema import Config
from rocketjax.data.collection import Split, relevant
from rocketjax.data.lists import TrainingList, read_lists, write_lists
from rocketjax.mining.augment import easy_lists, given_lists, lists_per_positive
from rocketjax.mining.known import known_answers
from rocketjax.mining.mine import mine
from rocketjax.mining.report import describe, reach
from rocketjax.mining.teacher import (
    Teacher,
    Texts,
    check_scored,
    is_run,
    keep_scores,
    with_teacher,
)
from rocketjax.pipeline.context import Run
from rocketjax.pipeline.models import (
    encode_into,
    open_warmed,
    teacher_of,
    warmed_reranker,
    warmed_retriever,
)
from rocketjax.retrieval.model import Corpus, Model
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError


def warm_up_lists(run: Run, model: Model) -> list[TrainingList]:
    """The lists of the re-ranker's warm-up, all undenoised: mined by `model` unless given."""
    queries = warm_queries(run)
    if run.config.lists.source == "given":
        return _given(run, queries)[0]
    lists, report = mine(
        model,
        open_warmed(run, model.retriever),
        judged_split(run, [query for query in queries if query in run.train.qrels]),
        dataclasses.replace(run.config.lists, denoised=0.0, unlabelled="pseudo", **UNRULED),
        run.config.seed,
        run.folder / "warmup" / "lists",
        run.watch,
    )
    if line := reach(report):
        run.say(f"warm-up: {line}")
    return lists


def easy_first(
    run: Run, lists: Sequence[TrainingList]
) -> tuple[list[TrainingList], list[TrainingList]]:
    """The warm-up's lists in two parts: with easy negatives (`lists.easy`), and as they are."""
    config = run.config.lists
    cut = max(1, round(config.easy * len(lists)))
    easy = easy_lists(lists[:cut], run.collection.passages, config.length, run.config.seed)
    return easy, [*lists[cut:]] or [*lists]  # a part is never empty, however few there are


def make_first_lists(run: Run) -> None:
    """The joint stage's (first) lists, mined by the warmed models unless they are given."""
    folder = run.folder / "lists"
    if run.config.lists.source == "given":
        lists, copies = _given(run, joint_queries(run, 0))
        processes.from_main(lambda: _write_given(folder, lists))
        _keep_scores(run, folder, teacher_of(run))
        left_out = f"; {copies:,} that say what a positive says are left out" if copies else ""
        run.say(f"{len(lists):,} lists with the negatives that the rows came with{left_out}")
        return
    model = Model(warmed_retriever(run), warmed_reranker(run))
    _mine_round(run, 0, model, open_warmed(run, model.retriever), folder)


def lists_of_round(run: Run, number: int, model: Model, fresh: bool) -> list[TrainingList]:
    """The lists of a round of joint training; from the second on, mined by `model` as it is now.

    `fresh`: the round has not begun, so `model` is the one to mine with.
    """
    if number == 0:
        return _read(run, run.folder / "lists")
    folder = run.folder / "rounds" / str(number)
    if not processes.from_main((folder / "lists" / "lists.jsonl").is_file):
        if not fresh:
            raise InputError(
                f"{folder / 'lists'}: the lists that this round was training on are gone; bring "
                "them back, or train the stage again: --from joint"
            )
        run.say(f"refresh {number}: encode and mine with both models as they are")
        corpus = encode_into(run, model.retriever, f"refresh {number}", folder / "index")
        _mine_round(run, number, model, corpus, folder / "lists")
    elif fresh:  # it may have been stopped before all were scored
        _keep_scores(run, folder / "lists", teacher_of(run))
    # Large, and never needed again; where NFS keeps what is mapped, it stays.
    processes.from_main(lambda: shutil.rmtree(folder / "index", ignore_errors=True))
    return _read(run, folder / "lists")


def _read(run: Run, folder: Path) -> list[TrainingList]:
    """A round's lists, which have scores where those are to teach."""
    path, loss = folder / "lists.jsonl", run.config.loss
    lists = read_lists(path)
    if loss.teacher != "live":
        check_scored(path, lists, loss.teacher)
    return lists


def check_teacher(run: Run) -> None:
    """Refuses, before hours of work, a teacher that cannot be opened or that has no scores.

    Raises:
        InputError: what opening it raises, or there are no scores though `loss.teacher` needs them.
    """
    config = run.config
    name, who = config.lists.teacher, config.loss.teacher
    if not config.joint.steps:
        return
    if who != "live" and not name and not run.train.scores:
        raise InputError(
            f"{config.data.collection}: its split {config.data.train_split!r} has no scores "
            "(pos_scores and neg_scores, scores, label ..; docs/data.md), and loss.teacher is "
            f"{who}; give --lists.teacher, a cross-encoder or a run, or --loss.teacher live"
        )
    if who != "live" and config.lists.refresh and is_run(name):
        raise InputError(
            f"lists.refresh: {name} has no scores of what later rounds find, and loss.teacher is "
            f"{who}; give --lists.refresh 0, or a cross-encoder as --lists.teacher"
        )
    teacher_of(run)
    if name and who == "live":
        run.say(
            f"lists keep the scores of {name}, but the re-ranker alone teaches: loss.teacher is "
            "live (stored or both distil from them)"
        )


def round_length(config: Config) -> int:
    """Joint steps from one mining to the next."""
    return config.lists.refresh or config.joint.steps


def _given(run: Run, queries: Sequence[str]) -> tuple[list[TrainingList], int]:
    """Lists of the negatives that the queries came with, and how many were left out."""
    known = known_answers(judged_split(run, queries), run.collection.by_id, run.watch)
    return given_lists(known, run.config.lists, run.config.seed)


def judged_split(run: Run, queries: Sequence[str]) -> Split:
    """These queries, with all that is known of them."""
    return dataclasses.replace(run.judged, queries={name: run.queries[name] for name in queries})


def _write_given(folder: Path, lists: Sequence[TrainingList]) -> None:
    folder.mkdir(exist_ok=True)
    write_lists(folder / "lists.jsonl", lists)


def _mine_round(run: Run, number: int, model: Model, corpus: Corpus, folder: Path) -> None:
    teacher = teacher_of(run)
    _, report = mine(
        with_teacher(model, teacher),
        corpus,
        judged_split(run, joint_queries(run, number)),
        run.config.lists,
        run.config.seed + number,
        folder,
        run.watch,
    )
    run.say(describe(report, run.queries.__getitem__, lambda pid: corpus.passages[pid].whole))
    _keep_scores(run, folder, teacher)


def _keep_scores(run: Run, folder: Path, teacher: Teacher | None) -> None:
    texts = Texts(run.queries, run.collection.by_id)
    if line := keep_scores(folder, teacher, texts, run.watch):
        run.say(line)


def warm_queries(run: Run) -> list[str]:
    """The first queries in the order, as many as the re-ranker's warm-up trains on."""
    stage = run.config.reranker_warmup
    return _take(run, 0, stage.steps * stage.batch)


def joint_queries(run: Run, number: int) -> list[str]:
    """The queries that follow in the order, only as many as the round trains on."""
    config = run.config
    given = config.lists.source == "given"
    per_positive = 1 if given else sum(lists_per_positive(config.lists))
    # A list without a label is one list, and a positive has `per_positive` of them.
    unlabelled = 1 / per_positive if config.lists.unlabelled == "distill" else 0.0
    passed = _take(run, 0, config.lists.after) if config.lists.after else warm_queries(run)
    start, queries = len(passed), []
    for earlier in range(number + 1):
        length = min(round_length(config), config.joint.steps - earlier * round_length(config))
        queries = _take(run, start, length * config.joint.batch / per_positive, unlabelled)
        start += len(queries)
    return queries


def _take(run: Run, start: int, wanted: float, unlabelled: float = 0.0) -> list[str]:
    """Queries from `start` in the order, wrapping around, until `wanted` positives have lists.

    A query without a positive counts as `unlabelled` of them. Where lists are given, only queries
    that came with negatives count.
    """
    order = run.order
    if run.config.lists.source == "given":
        order = [query for query in order if run.train.negatives.get(query)]
    queries: list[str] = []
    for i in range(len(order)):
        if wanted <= 0:
            break
        query = order[(start + i) % len(order)]
        queries.append(query)
        positives = len(relevant(run.train.qrels.get(query, {})))
        wanted -= min(positives, run.config.lists.positives or positives) or unlabelled
    return queries
