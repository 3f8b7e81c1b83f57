"""Evaluation during training: each model's own scores, and each kind of passage by its name."""

import math

import numpy as np
import pytest
from on_disk import untrained_pair

from rocketjax.config.schema import TextConfig
from rocketjax.data.collection import Split
from rocketjax.data.lists import TrainingList
from rocketjax.data.load import load_collection
from rocketjax.evaluation.pool import draw_queries, evaluate_pool, make_pool, score_lists

TEXT = TextConfig(query_length=10, passage_length=10, pair_length=18)


@pytest.fixture(scope="module")
def model(weights):
    return untrained_pair(weights, TEXT)


@pytest.fixture(scope="module")
def loaded(collection):
    return load_collection(str(collection))


def plain_scores(model, pairs, queries, passages):
    """Of every pair by both models, each text encoded as often as it stands there."""
    left = [queries[query] for query, _ in pairs]
    right = [passages[pid].text for _, pid in pairs]
    q = model.retriever.encode_query(left, steady=True)  # few programs are compiled so
    p = model.retriever.encode_passage(right, steady=True)
    scores = model.reranker.score(left, right, steady=True)
    return {
        "retriever": dict(zip(pairs, np.sum(q * p, axis=1), strict=True)),
        "reranker": dict(zip(pairs, scores, strict=True)),
    }


def test_a_look_measures_what_a_plain_sort_gives(model, loaded):
    whole = loaded.splits["dev"]
    # Half of each: of a whole query, its passage is a copy.
    dev = Split({name: text[: len(text) // 2] for name, text in whole.queries.items()}, whole.qrels)
    order = np.random.default_rng(0).permutation(60)
    found = {query: [(f"p{i}", 0.0) for i in order] for query in dev.queries}
    pool = make_pool(draw_queries(dev, 15, 1), found, 12)
    pairs = [(query, pid) for query, ids in pool.passages.items() for pid in ids]
    wanted = {}
    for name, scores in plain_scores(model, pairs, dev.queries, loaded.by_id).items():
        ranks = [
            1 + sorted(ids, key=lambda pid: -scores[query, pid]).index(f"p{query[1:]}")
            for query, ids in pool.passages.items()
        ]
        found_by_ten = [rank for rank in ranks if rank <= 10]
        wanted[f"{name} MRR@10"] = sum(1 / rank for rank in found_by_ten) / 15
        wanted[f"{name} nDCG@10"] = sum(1 / math.log2(1 + rank) for rank in found_by_ten) / 15
    assert len({round(value, 3) for value in wanted.values()}) == 4  # none could be another
    wanted["teacher lead MRR@10"] = wanted["reranker MRR@10"] - wanted["retriever MRR@10"]
    assert evaluate_pool(model, pool, loaded.by_id) == pytest.approx(wanted, abs=1e-6)


def test_scores_of_lists_stand_by_model_and_kind(model, loaded):
    lists = [
        TrainingList("q1", "p1", ("p2", "p3")),
        TrainingList("q1", "p1", ("p4", "p5", "p6"), "denoised"),
        TrainingList("q2", "p2", ("p7",)),
        TrainingList("q3", "p9", ("p10",), "denoised", pseudo=True),  # by a model's word: left out
    ]
    kinds = {
        "positive": [("q1", "p1"), ("q2", "p2")],
        "undenoised": [("q1", "p2"), ("q1", "p3"), ("q2", "p7")],
        "denoised": [("q1", "p4"), ("q1", "p5"), ("q1", "p6")],
    }
    queries = loaded.splits["train"].queries
    pairs = [pair for some in kinds.values() for pair in some]
    wanted = {
        name: {kind: [scores[pair] for pair in some] for kind, some in kinds.items()}
        for name, scores in plain_scores(model, pairs, queries, loaded.by_id).items()
    }
    found = score_lists(model, lists, queries, loaded.by_id, seed=1)
    assert found.keys() == wanted.keys()
    for name, some in wanted.items():
        assert found[name] == {
            kind: pytest.approx(scores, rel=1e-4, abs=1e-5) for kind, scores in some.items()
        }
