"""Measures against hand-made cases and formulas; the test of significance against chance."""

import itertools
import math

import numpy as np
import pytest

from rocketjax.evaluation.metrics import (
    confidence_interval,
    mean,
    oracle,
    p_value,
    per_query,
    write_per_query,
)
from rocketjax.runtime.errors import InputError

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
    values = per_query({"q": {"a": 1}}, {})
    assert {"MRR@10", "nDCG@10", "recall@5", "recall@1000", "success@20"} < set(values)
    assert all(value == {"q": 0.0} for value in values.values())


@pytest.mark.parametrize("k", [5, 20, 50, 100, 1000])
def test_success_is_one_hit_and_recall_the_share(k):
    order = [f"y{i}" for i in range(1100)]
    order[k - 1], order[k] = "a", "b"
    values = per_query({"q": {"a": 1, "b": 1, "c": 1, "d": 2}}, {"q": order})
    assert values[f"success@{k}"] == {"q": 1.0}
    assert values[f"recall@{k}"] == {"q": 0.25}
    late = per_query({"q": {"b": 1}}, {"q": order})
    assert late[f"success@{k}"] == late[f"recall@{k}"] == {"q": 0.0}


def test_nothing_is_said_beyond_the_depth_of_a_run():
    names = set(per_query({"q": {"a": 1}}, {"q": ["a"]}, depth=50))
    assert names == {"MRR@10", "nDCG@10"} | {
        f"{m}@{k}" for m in ("recall", "success") for k in (5, 20, 50)
    }
    assert set(per_query({"q": {"a": 1}}, {"q": ["a"]}, depth=4)) == {"MRR@10", "nDCG@10"}


def test_only_grades_above_0_are_relevant():
    qrels = {"q": {"bad": -2, "worse": -3, "zero": 0, "a": 1}, "only bad": {"bad": -1}}
    run = {"q": ["bad", "zero", "worse", "a"], "only bad": ["bad"]}
    values = per_query(qrels, run)
    assert values["MRR@10"] == {"q": 0.25, "only bad": 0.0}
    assert values["nDCG@10"] == {"q": pytest.approx(1 / math.log2(5)), "only bad": 0.0}
    assert values["recall@5"] == values["success@5"] == {"q": 1.0, "only bad": 0.0}


def test_a_passage_that_stands_twice_is_refused():
    with pytest.raises(InputError, match="a duplicate passage in the ranking of query 'q'"):
        per_query({"q": {"a": 1}}, {"q": ["a", "b", "a"]})


def test_without_judgements_there_is_nothing_to_measure():
    with pytest.raises(InputError, match="no query is judged"):
        per_query({}, {"q": ["a"]})


def official_mrr_at_10(qrels, run):
    """As MS MARCO's evaluation says it: over all judged queries, 0 where none is in ten."""
    total = 0.0
    for query, grades in qrels.items():
        for rank, pid in enumerate(run.get(query, [])[:10], 1):
            if grades.get(pid, 0) > 0:
                total += 1 / rank
                break
    return total / len(qrels)


def test_mrr_is_the_official_one_on_random_runs():
    rng = np.random.default_rng(0)
    pids = [f"p{i}" for i in range(40)]
    qrels = {
        f"q{i}": {str(p): int(rng.integers(0, 3)) for p in rng.choice(pids, 4)} for i in range(99)
    }
    run = {f"q{i}": [str(p) for p in rng.permutation(pids)[:20]] for i in range(5, 120)}
    got = mean(per_query(qrels, run)["MRR@10"])
    assert got == pytest.approx(official_mrr_at_10(qrels, run)) and 0.1 < got < 0.9


def test_the_oracle_is_the_ceiling_of_re_ranking():
    qrels = {"q": {"a": 1, "b": 3, "late": 2}, "none": {"z": 1}}
    run = {"q": ["x", "a", "y", "b", "late"], "none": ["x"], "unjudged": ["x", "y"]}
    ideal = oracle(qrels, run, depth=4)
    assert ideal == {"q": ["b", "a", "x", "y", "late"], "none": ["x"], "unjudged": ["x", "y"]}
    assert per_query(qrels, ideal)["MRR@10"] == {"q": 1.0, "none": 0.0}


def test_no_order_of_the_candidates_beats_the_oracle():
    qrels = {"q": {"a": 1, "b": 3, "c": 2, "d": 0, "e": -1, "elsewhere": 3}}
    best = per_query(qrels, oracle(qrels, {"q": list("edxcba")}, depth=6))
    for order in itertools.permutations("edxcba"):
        for name, values in per_query(qrels, {"q": order}, depth=5).items():
            assert values["q"] <= best[name]["q"], (name, order)


def test_values_by_query_are_written(tmp_path):
    values = {"MRR@10": {"q1": 1 / 3, "q2": 0.0}, "answer@5": {"q2": 1.0, "q3": 0.0}}
    write_per_query(tmp_path / "v.tsv", values)
    want = "query\tMRR@10\tanswer@5\nq1\t0.333333\t\nq2\t0\t1\nq3\t\t0\n"
    assert (tmp_path / "v.tsv").read_text() == want
    with pytest.raises(InputError, match="tabs and line breaks"):
        write_per_query(tmp_path / "v.tsv", {"MRR@10": {"q\t1": 1.0}})
    assert "q1" in (tmp_path / "v.tsv").read_text()


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


def test_the_interval_is_that_of_paired_differences():
    # Normal theory: mean +- 1.96 s / sqrt(n); the spread between queries is of no account.
    rng = np.random.default_rng(4)
    before, gain = rng.random(400) * 100, rng.normal(0.1, 1.0, 400)
    low, high = confidence_interval(by_query(before), by_query(before + gain))
    half = 1.96 * gain.std() / 20
    assert low == pytest.approx(gain.mean() - half, abs=0.01)
    assert high == pytest.approx(gain.mean() + half, abs=0.01)
    reverse = confidence_interval(by_query(before + gain), by_query(before))
    assert reverse == pytest.approx((-high, -low), abs=0.01)


def test_the_interval_of_equal_differences_is_a_point_and_of_one_query_none():
    values = by_query([0.0, 0.25, 0.5])
    assert confidence_interval(values, by_query([0.5, 0.75, 1.0])) == (0.5, 0.5)
    assert np.isnan(confidence_interval({"q": 0.0}, {"q": 1.0})).all()
