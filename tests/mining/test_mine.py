"""Mining by a real pair of models: whose scores are kept, how deep it looks, whom it asks for."""

import json
import shutil
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from on_disk import untrained_pair
from scipy.special import expit, logit

import rocketjax
from rocketjax import mine
from rocketjax.config.loss import LossConfig
from rocketjax.config.options import dump
from rocketjax.config.schema import (
    Config,
    DataConfig,
    EvaluateConfig,
    IndexConfig,
    ListConfig,
    RerankerConfig,
    RetrieverConfig,
    StageConfig,
    TextConfig,
)
from rocketjax.data.collection import Split, hold_out
from rocketjax.data.lists import read_candidates, read_lists
from rocketjax.data.load import load_collection
from rocketjax.inference import folder as model_folder
from rocketjax.mining import mine as mining
from rocketjax.mining.calibrate import Calibration
from rocketjax.pipeline import context
from rocketjax.pipeline import lists as rounds
from rocketjax.pipeline import run as pipeline
from rocketjax.pipeline.batches import make_collator
from rocketjax.retrieval import load
from rocketjax.retrieval.encode import encode_corpus
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

TEXT = TextConfig(query_length=10, passage_length=10, pair_length=18)
MIDDLE = 0.55  # about half of what this re-ranker scores lies above it


def say(_):
    """Nothing."""


@pytest.fixture(scope="module")
def run(weights, collection, tmp_path_factory):
    """A run's folder, its models untrained."""
    folder, pair = tmp_path_factory.mktemp("runs"), untrained_pair(weights, TEXT)
    model_folder.save_retriever(folder / "retriever", pair.retriever)
    model_folder.save_reranker(folder / "reranker", pair.reranker)
    (folder / "config.yaml").write_text(dump(Config(data=DataConfig(str(collection)))))
    saved, loaded = load.load_pair(folder).retriever, load_collection(str(collection))
    encode_corpus(saved, "tiny", loaded, IndexConfig(), folder / "index", unwatched)
    return folder


@pytest.fixture(scope="module")
def model(run):
    return rocketjax.load(run)


@pytest.fixture(scope="module")
def train(collection):
    return load_collection(str(collection)).splits["train"]


def mined(model, queries, qrels, folder, **options):
    """The rows of candidates, the lists and the report."""
    base = {"length": 4, "top_n": 20, "low": MIDDLE, "calibration": "sigmoid"}
    config = ListConfig(**base | options)
    split = Split(queries, qrels)
    lists, report = mining.mine(model, model.corpus, split, config, 1, folder, unwatched)
    return read_candidates(folder / "candidates-00000.jsonl"), lists, report


def test_scores_are_of_the_very_passages(model, train, tmp_path):
    qrels = {**train.qrels, "q3": {"p3": 1, "p8": 1}, "q4": {}}  # one positive, or two, or none
    rows, lists, report = mined(model, train.queries, qrels, tmp_path / "l", scored=5, depth=30)
    assert [row.query for row in rows] == list(train.queries)
    assert {len(row.positives) for row in rows} == {0, 1, 2}
    pairs = [(row.query, pid) for row in rows for pid in (*row.passages[:5], *row.positives)]
    texts = [model.corpus.passages[pid].text for _, pid in pairs]
    asked = [train.queries[query] for query, _ in pairs]
    found = model.reranker.score(asked, texts, steady=True)  # by programs that are compiled
    scores = dict(zip(pairs, found, strict=True))
    for row in rows:
        for ids, kept in (
            (row.passages[:5], row.scores),
            (row.positives, row.positive_scores),
        ):
            np.testing.assert_allclose(kept, [scores[row.query, p] for p in ids], atol=1e-5)
        assert len(row.passages) == 30 and not {*row.passages} & {*row.positives}
    drawn = [
        scores[item.query, pid]
        for item in lists
        for pid in item.negatives
        if item.kind == "denoised" and (item.query, pid) in scores
    ]
    assert len(drawn) > 20 and max(expit(drawn)) < MIDDLE + 1e-4
    assert report.dropped == sum(
        scores[row.query, pid] >= logit(MIDDLE) for row in rows for pid in row.passages[:5]
    )
    assert 20 < report.dropped < report.scored == 5 * 40


def test_a_query_that_is_a_passage_is_not_its_own_negative(model, train, tmp_path):
    """As in ArguAna; without that, the passage that is the query would be ranked first."""
    texts = [model.corpus.passages[f"p{i}"].text for i in range(40)]
    queries = {f"p{i}": text for i, text in enumerate(texts)}
    qrels = {query: {f"p{i + 20}": 1} for i, query in enumerate(queries)}
    rows, lists, _ = mined(model, queries, qrels, tmp_path / "lists")
    assert len(rows) == len(queries) and min(len(row.passages) for row in rows) >= 20
    assert not any(row.query in row.passages for row in rows)
    assert lists and not any(item.query in item.negatives for item in lists)


def test_what_is_mined_is_not_mined_again(model, train, tmp_path):
    """A run that goes on need not read its candidates; lists are made of whole files alone."""
    lists, report = mined(model, train.queries, train.qrels, tmp_path / "lists")[1:]
    path = tmp_path / "lists" / "candidates-00000.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    config = ListConfig(length=4, top_n=20, low=MIDDLE, calibration="sigmoid")
    given = (model.corpus, train, config, 1, tmp_path / "lists", unwatched)
    assert mining.mine(model, *given) == (lists, report)
    (tmp_path / "lists" / "lists.jsonl").unlink()
    with pytest.raises(
        InputError, match=r"00000.jsonl: not the candidates of the 40 queries .*del"
    ):
        mining.mine(model, *given)
    path.unlink()
    assert mining.mine(model, *given) == (lists, report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no query to mine for has a positive; choose another split"),
        (
            {"denoised": 1.0, "pseudo_positives": 1, "low": 0.9, "high": 1.0},
            "no list: 2 of 2 queries have no positive, nor a pseudo-positive; lower --lists.high",
        ),
    ],
)
def test_no_list_at_all_is_refused(model, train, tmp_path, options, message):
    some = {query: train.queries[query] for query in ("q1", "q2")}
    with pytest.raises(InputError, match=message):
        mined(model, some, {"q1": {"p1": 0}}, tmp_path / "lists", **{"denoised": 0.0} | options)
    assert not (tmp_path / "lists" / "lists.jsonl").exists()


def test_files_of_few_queries_are_searched_for_together(model, train, tmp_path, monkeypatch):
    """For as many passages of each, whichever they are: ScaNN looks the wider for more."""
    qrels = {**train.qrels, "q3": {"p3": 1, "p8": 1}}
    whole = mined(model, train.queries, qrels, tmp_path / "whole")
    asked, retrieve = [], mining.retrieve

    def noted(retriever, index, queries, top_k, watch):
        asked.append((len(queries), top_k))
        return retrieve(retriever, index, queries, top_k, watch)

    monkeypatch.setattr(mining, "retrieve", noted)
    monkeypatch.setattr(mining, "PAIRS_AT_ONCE", 60)  # three queries a file
    monkeypatch.setattr(mining, "QUERIES_AT_ONCE", 13)
    parts = mined(model, train.queries, qrels, tmp_path / "parts")
    assert asked == [(12, 42), (12, 42), (12, 42), (4, 42)]
    files = sorted((tmp_path / "parts").glob("candidates-*.jsonl"))
    assert len(files) == 14
    rows = [row for file in files for row in read_candidates(file)]
    assert [(row.query, row.passages) for row in rows] == [
        (row.query, row.passages) for row in whole[0]
    ]
    assert parts[1:] == whole[1:]


@pytest.mark.parametrize("calibration", ["sigmoid", "platt"])
def test_no_more_candidates_are_held_than_one_file_has(
    model, train, tmp_path, monkeypatch, calibration
):
    """Those of millions of queries do not fit into the memory."""
    held, most = weakref.WeakSet(), []

    def read(path):
        most.append(len(held))  # what is still held of the files before
        rows = read_candidates(path)
        held.update(rows)
        return rows

    monkeypatch.setattr(mining, "read_candidates", read)
    monkeypatch.setattr(mining, "PAIRS_AT_ONCE", 60)  # three queries a file
    # An untrained re-ranker need not tell positives from others.
    monkeypatch.setattr(mining, "platt", lambda positives, others: Calibration(1.0, 0.0))
    mined(model, train.queries, train.qrels, tmp_path / "lists", calibration=calibration)
    assert len(most) >= 14 and max(most) <= 3


@pytest.mark.parametrize(
    ("options", "depth", "scored"),
    [
        ({}, 40, 20),
        ({"scored": 0}, 40, 20),  # all of top_n
        ({"scored": 3, "depth": 10}, 20, 3),  # at least top_n
        ({"scored": 3, "range_min": 9}, 40, 12),  # else none of a denoised list's would be
        ({"scored": 9, "range_min": 16}, 40, 20),
        ({"depth": 25}, 25, 20),
        ({"denoised": 0.0, "depth": 25}, 20, 0),  # what nobody would draw from
    ],
)
def test_it_looks_as_deep_and_scores_as_many_as_asked(
    model, train, tmp_path, options, depth, scored
):
    some = {query: train.queries[query] for query in ("q1", "q2")}
    rows, _, report = mined(model, some, train.qrels, tmp_path / "lists", **options)
    assert {(len(row.passages), len(row.scores)) for row in rows} == {(depth, scored)}
    assert report.scored == 2 * scored


@pytest.mark.parametrize(
    ("lists", "count"),
    [
        ({}, 4),  # 24 lists, two for each of three positives
        ({"positives": 9}, 4),
        ({"positives": 2}, 6),
        ({"positives": 1}, 12),
        ({"positives": 1, "denoised": 0.0}, 24),
    ],
)
def test_as_many_queries_are_mined_for_as_have_enough_lists(lists, count):
    order = [f"q{i}" for i in range(50)]
    qrels = {query: {"a": 1, "b": 2, "c": 1, "d": 0} for query in order}
    settings = Config(
        lists=ListConfig(**lists), reranker_warmup=StageConfig(0), joint=StageConfig(4, 6)
    )
    train = SimpleNamespace(qrels=qrels, negatives={})
    work = SimpleNamespace(order=order, train=train, config=settings)
    assert rounds.joint_queries(work, 0) == order[:count]


def test_a_query_without_a_label_counts_as_its_one_list():
    """24 lists: 12 of positives, which have two each, or 24 of unlabelled queries."""
    order = [f"q{i}" for i in range(60)]
    train = SimpleNamespace(qrels={q: {"a": 1} for q in order[::3]}, negatives={})
    lists = {
        kind: rounds.joint_queries(
            SimpleNamespace(
                order=order,
                train=train,
                config=Config(
                    lists=ListConfig(unlabelled=kind),
                    reranker_warmup=StageConfig(0),
                    joint=StageConfig(4, 6),
                ),
            ),
            0,
        )
        for kind in ("pseudo", "distill")
    }
    assert lists["pseudo"] == order[:34]  # 12 positives
    assert lists["distill"] == order[:18]  # 6 positives and 12 others


@pytest.mark.parametrize(("after", "first"), [(0, 6), (6, 3), (7, 4), (200, 0)])
def test_the_joint_stage_asks_the_same_whatever_the_warm_up_takes(after, first):
    order = [f"q{i}" for i in range(50)]
    train = SimpleNamespace(qrels={query: {"a": 1, "b": 1} for query in order}, negatives={})

    def asked(warm_up, number):
        settings = Config(
            lists=ListConfig(after=after, refresh=2),
            reranker_warmup=StageConfig(warm_up, 2),
            joint=StageConfig(4, 6),
        )
        return rounds.joint_queries(
            SimpleNamespace(order=order, train=train, config=settings), number
        )

    # The warm-up of 6 steps of 2 lists takes 6 queries; a round of 2 steps of 6 lists, 3.
    assert asked(6, 0) == order[first : first + 3]
    assert asked(6, 1) == order[first + 3 : first + 6]
    assert (asked(9, 1) == asked(6, 1)) is bool(after)


def test_lists_without_a_label_hide_no_rule_that_leaves_nothing(model, train, tmp_path):
    some = {query: train.queries[query] for query in ("q1", "q2", "q3")}
    qrels = {query: train.qrels[query] for query in ("q1", "q2")}
    options = {"denoised": 0.0, "unlabelled": "distill", "max_score": 0.0}
    with pytest.raises(
        InputError, match=r"none of 2 lists has a negative: .*max_score; loosen"
    ) as caught:
        mined(model, some, qrels, tmp_path / "lists", **options)
    assert "lists.low" not in str(caught.value)  # no list is denoised


@pytest.fixture
def topics(collection, tmp_path):
    """The collection, and five queries more that nobody judged."""
    folder = shutil.copytree(collection, tmp_path / "topics")
    asked = [{"_id": f"u{i}", "text": f"sun wave {i}"} for i in range(5)]
    with (folder / "queries.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in asked))
    return folder


PSEUDO = {"length": 4, "top_n": 20, "low": MIDDLE, "high": MIDDLE, "pseudo_positives": 1}


def check_unlabelled(folder):
    """That all five have a list, by the re-ranker's word, and no other; the lists."""
    report = json.loads((folder / "report.json").read_text())
    assert (report["queries"], report["unlabelled"], report["lost"]) == (45, 5, 0)
    lists = read_lists(folder / "lists.jsonl")
    own = sorted((item for item in lists if item.query[0] == "u"), key=lambda item: item.query)
    assert [item.query for item in own] == [f"u{i}" for i in range(5)]
    assert all(item.pseudo and item.kind == "denoised" for item in own)
    assert report["pseudo_positives"] == sum(item.pseudo for item in lists) > 5
    return own


def test_the_command_mines_for_queries_that_nobody_judged(run, topics, tmp_path, capsys):
    args = ["--model", str(run), "--collection", str(topics), "--lists.calibration", "sigmoid"]
    args += [x for k, v in PSEUDO.items() for x in (f"--lists.{k.replace('_', '-')}", str(v))]
    assert mine.main([*args, "--output", str(tmp_path / "lists")]) == 0
    check_unlabelled(tmp_path / "lists")
    assert "45 queries (5 unlabelled, 0 of them" in capsys.readouterr().out
    args[-1] = "0"  # unless they are asked for
    assert mine.main([*args, "--output", str(tmp_path / "others")]) == 0
    assert "40 queries (0 unlabelled" in capsys.readouterr().out


def test_the_command_holds_out_unlabelled_queries_too(run, topics, tmp_path, capsys):
    train = load_collection(str(topics)).split("train")
    _, judged = hold_out(train, 0.3)
    with (topics / "queries.jsonl").open("a") as file:
        for i, text in enumerate(judged.queries.values()):
            file.write(json.dumps({"_id": f"leak{i}", "text": text.upper()}) + "\n")
    args = ["--model", str(run), "--collection", str(topics), "--hold-out", "0.3"]
    args += ["--lists.unlabelled", "distill", "--lists.denoised", "0", "--lists.top-n", "20"]
    assert mine.main([*args, "--output", str(tmp_path / "lists")]) == 0
    mined = {item.query for item in read_lists(tmp_path / "lists" / "lists.jsonl")}
    assert {f"u{i}" for i in range(5)} <= mined
    assert not any(query.startswith("leak") for query in mined)
    assert f"{len(judged.queries)} queries say what a held-out" in capsys.readouterr().out


def test_the_command_knows_what_queries_of_one_text_share(run, collection, tmp_path, capsys):
    """Though the other one is not among the first that are mined for."""
    folder = shutil.copytree(collection, tmp_path / "again")
    text = json.loads((folder / "queries.jsonl").read_text().splitlines()[1])["text"]
    with (folder / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "again", "text": f" {text.upper()}"}) + "\n")
    args = ["--model", str(run), "--collection", str(folder), "--max-queries", "2"]
    args += ["--lists.denoised", "0", "--lists.top-n", "20"]
    assert mine.main([*args, "--output", str(tmp_path / "before")]) == 0
    best = read_candidates(tmp_path / "before" / "candidates-00000.jsonl")[1].passages
    with (folder / "qrels" / "train.tsv").open("a") as file:
        file.write(f"again\t{best[0]}\t1\n")
    capsys.readouterr()
    assert mine.main([*args, "--output", str(tmp_path / "after")]) == 0
    row = read_candidates(tmp_path / "after" / "candidates-00000.jsonl")[1]
    assert (row.query, row.positives) == ("q1", ("p1",)) and row.copies >= 1
    assert best[0] not in row.passages and len(row.passages) == 20
    assert "candidates left out: they say what a positive says" in capsys.readouterr().out


def test_a_run_takes_in_queries_that_nobody_judged(weights, model, topics, tmp_path):
    folder = tmp_path / "run"
    settings = Config(
        run_dir=str(folder),
        data=DataConfig(str(topics)),
        text=TEXT,
        retriever=RetrieverConfig(str(weights)),
        reranker=RerankerConfig(str(weights)),
        lists=ListConfig(calibration="sigmoid", **PSEUDO),
        reranker_warmup=StageConfig(0),
        joint=StageConfig(steps=12),  # 96 lists: more than the judged queries have
        evaluate=EvaluateConfig(start=False),
        stages=("start", "warm-retriever", "encode", "warm-reranker", "mine"),
    )
    pipeline.run(settings, say, unwatched)
    own = check_unlabelled(folder / "lists")
    work = context.open_run(settings, folder, context.Watching(say, unwatched))
    judged = [item for item in read_lists(folder / "lists" / "lists.jsonl") if not item.pseudo]
    tokenizers = (model.retriever.tokenizer, model.reranker.tokenizer)
    batch = make_collator(work, 4, *tokenizers)([*own, *judged[:3]])
    wanted = model.retriever.tokenizer.query([f"sun wave {i}" for i in range(5)])
    first, ids = batch.query.first.reshape(-1), batch.query.ids
    place = batch.place.tolist()  # lists are dealt out to the devices
    for number, text in ((place.index(row), text) for row, text in enumerate(wanted)):
        own = ids[number // batch.query.first.shape[1]].reshape(-1)  # its device's
        start = first[number]
        assert own[start : start + len(text.ids)].tolist() == list(text.ids)


def test_a_run_distils_queries_that_nobody_judged(weights, topics, tmp_path):
    """They have no label anywhere: each one list, scored by the re-ranker only when trained on."""
    folder, said = tmp_path / "run", []
    settings = Config(
        run_dir=str(folder),
        data=DataConfig(str(topics)),
        text=TEXT,
        retriever=RetrieverConfig(str(weights)),
        reranker=RerankerConfig(str(weights)),
        lists=ListConfig(
            length=4, top_n=20, calibration="sigmoid", unlabelled="distill", max_score=1.0
        ),
        reranker_warmup=StageConfig(0),
        joint=StageConfig(steps=12),
        loss=LossConfig(mask_by_reranker=0.0),
        evaluate=EvaluateConfig(start=False, every=0),
        stages=("start", "warm-retriever", "encode", "warm-reranker", "mine", "joint"),
    )
    pipeline.run(settings, said.append, unwatched)
    lists = read_lists(folder / "lists" / "lists.jsonl")
    own = [item for item in lists if item.query[0] == "u"]
    assert len(own) == 5 and all(item.kind == "unlabelled" for item in own)
    assert not any(item.kind == "unlabelled" for item in lists if item.query[0] != "u")
    path = folder / "lists" / "candidates-00000.jsonl"
    scores = {row.query: row.scores for row in read_candidates(path)}
    assert scores["u0"] == () and scores["q1"]
    assert any("5 lists without a label, for distillation alone" in line for line in said)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len(log) == 12 and not any("bad" in row for row in log)
    shares = [row["labelled"] for row in log]
    assert 0 < min(shares) < 1 and sum(shares) / 12 == pytest.approx(1 - 5 / len(lists), abs=0.03)
    assert all(0 <= row["masked_negatives"] < 1 for row in log)
