"""Runs whose lists keep a teacher's scores, which teach alone or beside the re-ranker."""

import dataclasses
import json

import pytest
from on_disk import untrained_pair
from small_run import config

from rocketjax.config.loss import LossConfig
from rocketjax.config.schema import DataConfig, EvaluateConfig, ListConfig, StageConfig
from rocketjax.data.lists import read_lists
from rocketjax.data.load import load_collection
from rocketjax.inference.folder import save_reranker
from rocketjax.mining.teacher import keep_scores
from rocketjax.pipeline import run as pipeline
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

STEPS = {
    "retriever_warmup": StageConfig(0),
    "reranker_warmup": StageConfig(0),
    "joint": StageConfig(2, 8),
    "evaluate": EvaluateConfig(top_k=20, rerank_depth=10, start=False, every=0),
}


def rows(collection, scored):
    """Rows of the collection's training queries; the first `scored` have all scores."""
    whole = load_collection(str(collection))
    texts = [passage.text for passage in whole.passages]
    train = whole.splits["train"]
    for i, (query, text) in enumerate(train.queries.items()):
        row = {
            "query": f"{text.rpartition(' ')[0]} {query}",
            "pos": [whole.by_id[next(iter(train.qrels[query]))].text],
            "neg": [texts[(i + 7 * j) % 60] for j in range(1, 6)],
        }
        scores = {"pos_scores": [0.9], "neg_scores": [0.1 * j for j in range(5)]}
        yield row | (scores if i < scored else {})


def given(weights, tmp_path, collection, scored, **loss):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(collection, scored)))
    return config(
        weights,
        path,
        tmp_path / "run",
        data=DataConfig(str(path), hold_out=0.25),
        lists=ListConfig(source="given", length=4),
        loss=LossConfig(stored_temperature=0.1 if loss else None, **loss),
        **STEPS,
    )


def logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_scores_of_rows_teach_and_gaps_are_said(weights, collection, tmp_path):
    options = given(weights, tmp_path, collection, 20, teacher="stored")
    said = []
    pipeline.run(options, said.append, unwatched)
    folder = tmp_path / "run"
    lists = read_lists(folder / "lists" / "lists.jsonl")
    scored = [item for item in lists if item.is_scored]
    assert 4 < len(scored) < len(lists)
    (line,) = [line for line in said if "have a teacher's scores" in line]
    assert line.startswith(f"{len(scored)} of {len(lists)} lists have a teacher's scores; the oth")
    assert {item.scores[0] for item in scored} == {0.9}
    steps = logged(folder)
    assert len(steps) == 2 and all(row["distill"] > 0 for row in steps)
    # With other scores, other gradients; another teacher needs no other lists.
    again = dataclasses.replace(options, loss=LossConfig(teacher="live"), from_stage="joint")
    pipeline.run(again, said.append, unwatched)
    assert logged(folder)[0]["distill"] != pytest.approx(steps[0]["distill"], rel=1e-3)
    assert logged(folder)[0]["retriever"] == pytest.approx(steps[0]["retriever"], rel=1e-5)
    assert read_lists(folder / "lists" / "lists.jsonl") == lists


def test_a_stored_teacher_without_scores_is_refused_before_any_work(weights, collection, tmp_path):
    options = given(weights, tmp_path, collection, 0, teacher="stored")
    path = tmp_path / "train.jsonl"
    with pytest.raises(
        InputError, match=rf"^{path}: its split 'train' has no scores \(pos_scores and neg_.*stored"
    ):
        pipeline.run(options, lambda _: None, unwatched)
    assert not (tmp_path / "run" / "lists").exists()


def test_a_run_of_scores_has_none_of_what_later_rounds_find(weights, collection, tmp_path):
    run = tmp_path / "reranked.trec"
    run.write_text("q1 Q0 p1 1 2.0 x\n")
    options = config(weights, collection, tmp_path / "run", **STEPS)
    options = dataclasses.replace(
        options,
        lists=dataclasses.replace(options.lists, teacher=str(run), refresh=1),
        loss=LossConfig(teacher="both"),
    )
    with pytest.raises(InputError, match=rf"^lists.refresh: {run} has no scores of what later"):
        pipeline.run(options, lambda _: None, unwatched)
    assert not (tmp_path / "run" / "lists").exists()


def test_scores_of_rows_are_not_kept_where_they_teach_nobody(weights, collection, tmp_path):
    """Else a change of the field would stop a run that has no use for it."""
    options = given(weights, tmp_path, collection, 20)
    stages = ("start", "warm-retriever", "encode", "warm-reranker", "mine")
    said = []
    pipeline.run(dataclasses.replace(options, stages=stages), said.append, unwatched)
    folder = tmp_path / "run" / "lists"
    assert [path.name for path in folder.iterdir()] == ["lists.jsonl"]
    assert not any(item.scores for item in read_lists(folder / "lists.jsonl"))
    assert not any("have a teacher's scores" in line for line in said)


def test_a_cross_encoder_scores_the_lists_it_helped_to_mine(
    weights, collection, tmp_path, monkeypatch
):
    teacher = tmp_path / "teacher"
    options = config(weights, collection, tmp_path / "run", **STEPS)
    save_reranker(teacher, untrained_pair(weights, options.text).reranker)
    options = dataclasses.replace(
        options,
        lists=dataclasses.replace(options.lists, teacher=str(teacher), sampling="stratified"),
        loss=LossConfig(teacher="stored"),
    )
    said = []
    pipeline.run(options, said.append, unwatched)
    lists = read_lists(tmp_path / "run" / "lists" / "lists.jsonl")
    assert lists and all(item.is_scored for item in lists)
    assert f"{len(lists)} of {len(lists)} lists have a teacher's scores" in said
    assert any("(stratified)" in line for line in said)
    # A teacher that stays does not follow the re-ranker, whatever is trained.
    assert all(row["distill"] > 0 for row in logged(tmp_path / "run"))
    # Stopped between mining and scoring of the second round.
    again = dataclasses.replace(
        options,
        run_dir=str(tmp_path / "rounds"),
        lists=dataclasses.replace(options.lists, refresh=1),
    )
    calls = []

    def dies(*args):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError
        return keep_scores(*args)

    with monkeypatch.context() as patch:
        patch.setattr("rocketjax.pipeline.lists.keep_scores", dies)
        with pytest.raises(RuntimeError):
            pipeline.run(again, said.append, unwatched)
    path = tmp_path / "rounds" / "rounds" / "1" / "lists" / "lists.jsonl"
    assert not any(item.scores for item in read_lists(path))
    pipeline.run(again, said.append, unwatched)
    assert all(item.is_scored for item in read_lists(path))
    lost = dataclasses.replace(
        options,
        run_dir=str(tmp_path / "other"),
        lists=dataclasses.replace(options.lists, teacher=str(tmp_path / "gone")),
    )
    with pytest.raises(InputError, match="gone: no such folder"):
        pipeline.run(lost, said.append, unwatched)
    assert not (tmp_path / "other" / "warmup").exists()
