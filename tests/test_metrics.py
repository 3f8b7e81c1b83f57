"""Measures against hand-made cases and formulas; the test of significance against chance."""

import math

import numpy as np
import pytest

from rocketjax.metrics import mean, p_value, per_query

FILLER = [f"x{i}" for i in range(100)]


def ranked(*placed):
    """A run of 100 passages with some (passage, rank) put in."""
    order = list(FILLER)
    for pid, rank in placed:
        order.insert(rank - 1, pid)
    return order[:100]


@pytest.mark.parametrize(("rank", "value"), [(1, 1.0), (3, 1 / 3), (10, 0.1), (11, 0.0)])
def test_mrr_is_one_over_the_rank_of_the_first_relevant_passage(rank, value):
    run = {"q": ranked(("a", rank), ("b", rank + 1))}
    values = per_query({"q": {"a": 1, "b": 1}}, run)["MRR@10"]
    assert values == {"q": pytest.approx(value)}


def test_mrr_of_what_is_not_found_is_0():
    assert per_query({"q": {"a": 1, "x0": 0}}, {"q": FILLER})["MRR@10"] == {"q": 0.0}


def test_recall_counts_the_relevant_among_the_first_50():
    qrels = {"q": {"a": 1, "b": 2, "c": 1, "never": 1, "x0": 0, "x1": -1}}
    run = {"q": ranked(("a", 2), ("b", 50), ("c", 51))}
    assert per_query(qrels, run)["recall@50"] == {"q": pytest.approx(2 / 4)}


def test_ndcg_weighs_grades_by_rank():
    qrels = {"q": {"a": 3, "b": 2, "c": 1, "d": 3, "e": 0}}
    run = {"q": ranked(("e", 1), ("c", 2), ("a", 3), ("b", 10), ("d", 11))}
    got = 1 / math.log2(3) + 3 / math.log2(4) + 2 / math.log2(11)
    ideal = 3 / math.log2(2) + 3 / math.log2(3) + 2 / math.log2(4) + 1 / math.log2(5)
    assert per_query(qrels, run)["nDCG@10"] == {"q": pytest.approx(got / ideal)}
    best = per_query(qrels, {"q": ["a", "d", "b", "c"]})["nDCG@10"]
    assert best == {"q": pytest.approx(1.0)}


def test_every_judged_query_counts_and_no_other():
    qrels = {"found": {"a": 1}, "missing": {"a": 1}, "empty": {"a": 1}, "nothing": {"a": 0}}
    run = {"stranger": ["a"], "found": ["a", "b"], "empty": [], "nothing": ["a"]}
    for measure, values in per_query(qrels, run).items():
        assert values == {"found": 1.0, "missing": 0.0, "empty": 0.0, "nothing": 0.0}, measure
        assert mean(values) == 0.25


def test_a_run_without_queries_has_0_everywhere():
    want = {"q": 0.0}
    assert per_query({"q": {"a": 1}}, {}) == {
        "MRR@10": want,
        "recall@50": want,
        "nDCG@10": want,
    }


@pytest.mark.parametrize("order", [["10", "9", "a"], ["a", "9", "10"], ["9", "a", "10"]])
def test_the_order_of_the_run_is_judged_not_that_of_ids(order):
    values = per_query({"q": {"9": 1}}, {"q": order})["MRR@10"]
    assert values["q"] == pytest.approx(1 / (order.index("9") + 1))


def by_query(values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def test_equal_values_are_no_evidence():
    values = by_query(np.random.default_rng(0).random(50))
    assert p_value(values, dict(reversed(values.items()))) == 1.0


def test_one_query_is_no_evidence():
    assert p_value({"q": 0.0}, {"q": 1.0}) == 1.0


def test_a_clear_difference_is_seen_in_both_directions():
    rng = np.random.default_rng(0)
    before = rng.random(60)
    worse, better = by_query(before), by_query(before + rng.normal(0.2, 0.1, 60))
    assert p_value(worse, better) == pytest.approx(2e-4)
    assert p_value(better, worse) == pytest.approx(p_value(worse, better))


def test_swapping_changes_nothing():
    rng = np.random.default_rng(1)
    a, b = by_query(rng.random(40)), by_query(rng.random(40) + 0.1)
    assert 0.001 < p_value(a, b) < 0.9
    assert p_value(a, b) == pytest.approx(p_value(b, a))


def test_few_queries_are_counted_out_exactly():
    # 4 gains of one sign: of the 16 swaps only 2 are as extreme.
    before, after = by_query([0, 0, 0, 0]), by_query([1, 1, 1, 1])
    assert p_value(before, after) == pytest.approx(2 / 16)


def test_queries_are_paired():
    # A small gain for each query drowns in the spread between queries unless they are paired.
    spread = np.random.default_rng(2).random(30) * 100
    shuffled = dict(reversed(by_query(spread + 0.01).items()))
    assert p_value(by_query(spread), shuffled) < 0.001


def test_chance_is_rarely_called_significant():
    rng = np.random.default_rng(3)
    values = [p_value(by_query(rng.random(30)), by_query(rng.random(30))) for _ in range(60)]
    assert sum(value < 0.05 for value in values) <= 9  # expected: 3; 10 or more: 1 in 1,000
    assert 0.3 < np.median(values) < 0.7
