"""Mined lists: their negatives are none of the positives, and fall the same in every order."""

import re
from collections import Counter

import pytest

from rocketjax.augment import TrainingList, read_lists, undenoised_lists, write_lists
from rocketjax.config import ListConfig
from rocketjax.errors import InputError

RANKED = [f"p{i}" for i in range(30)]
CONFIG = ListConfig(length=6, top_n=20)


def mined(candidates, qrels, config=CONFIG, seed=1):
    return {
        (item.query, item.positive): item.negatives
        for item in undenoised_lists(candidates, qrels, config, seed)
    }


def test_a_query_with_several_positives_has_a_list_for_each():
    positives = {"p3", "p5", "p7", "elsewhere"}
    qrels = {"q": dict.fromkeys(positives, 1) | {"p9": 0}}
    # As many negatives as are left: whatever may be drawn is drawn.
    lists = mined({"q": RANKED}, qrels, ListConfig(length=18, top_n=20))
    assert set(lists) == {("q", pid) for pid in positives}
    for negatives in lists.values():
        assert sorted(negatives) == sorted(set(RANKED[:20]) - positives)


def test_negatives_are_distinct_and_only_the_best_are_drawn():
    queries = {f"q{i}": RANKED for i in range(200)}
    lists = mined(queries, {query: {"p4": 2} for query in queries})
    assert len(lists) == 200
    for negatives in lists.values():
        assert len(set(negatives)) == len(negatives) == 5
    drawn = {pid for negatives in lists.values() for pid in negatives}
    assert drawn == set(RANKED[:20]) - {"p4"}


def test_too_few_candidates_make_a_shorter_list():
    lists = mined({"q": ["p1", "p2", "p3"], "r": ["p1"]}, {"q": {"p2": 1}, "r": {"p1": 1}})
    assert sorted(lists["q", "p2"]) == ["p1", "p3"]
    assert lists["r", "p1"] == ()
    assert mined({"q": RANKED}, {"q": {"p2": 1}}, ListConfig(length=1)) == {("q", "p2"): ()}


def test_the_draw_hangs_on_seed_query_and_positive_alone():
    queries = {f"q{i}": RANKED for i in range(20)}
    qrels = {query: {"p1": 1, "p2": 1} for query in queries}
    lists = mined(queries, qrels)
    assert mined(queries, qrels) == lists
    assert mined(dict(reversed(queries.items())), qrels) == lists
    alone = mined({"q7": RANKED}, {"q7": {"p2": 1, "p1": 1}})
    assert alone == {key: value for key, value in lists.items() if key[0] == "q7"}
    other = mined(queries, qrels, seed=2)
    assert sum(other[key] != lists[key] for key in lists) >= 38  # of 40
    assert len(set(lists.values())) >= 38  # neither query nor positive is forgotten


def test_the_draw_is_uniform():
    queries = {f"query {i}": RANKED for i in range(4000)}
    lists = mined(queries, {query: {"other": 1} for query in queries})
    counts = Counter(pid for negatives in lists.values() for pid in negatives)
    firsts = Counter(negatives[0] for negatives in lists.values())
    # Expected: 5 of 20 for each of 4000; one of 20 for the first. Chi-square, 19 degrees: mean 19.
    assert sum((counts[pid] - 1000) ** 2 / 1000 for pid in RANKED[:20]) < 45
    assert sum((firsts[pid] - 200) ** 2 / 200 for pid in RANKED[:20]) < 45


@pytest.mark.parametrize("qrels", [{}, {"lost": {}}, {"lost": {"p1": 0, "p2": -1}}])
def test_a_query_without_a_positive_is_named(qrels):
    with pytest.raises(InputError, match="'lost' has no positive"):
        mined({"lost": RANKED}, qrels)


def test_lists_are_read_as_they_were_written(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lists = [TrainingList('q "1"', "päß\u2028x", ("n1", "n\n2")), TrainingList("q2", "p", ())]
    write_lists(first, lists)
    assert len(first.read_text().splitlines()) == 2
    assert read_lists(first) == lists
    write_lists(second, read_lists(first))
    assert second.read_bytes() == first.read_bytes()


GOOD = '{"query": "q", "positive": "p", "negatives": ["n"]}'


@pytest.mark.parametrize(
    "line",
    [
        GOOD[:-5],
        "",
        "[1, 2]",
        "3",
        '{"query": "q", "positive": "p"}',
        '{"query": "q", "negatives": []}',
        '{"query": "q", "positive": "p", "negatives": 3}',
        '{"query": "q", "positive": "p", "negatives": "n12"}',
        '{"query": "q", "positive": "p", "negatives": [1]}',
        '{"query": 1, "positive": "p", "negatives": []}',
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "lists.jsonl"
    path.write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: not a list"):
        read_lists(path)


@pytest.mark.parametrize("positive", ["null", '""'])
def test_a_list_without_a_positive_is_refused(tmp_path, positive):
    path = tmp_path / "lists.jsonl"
    path.write_text(f'{GOOD}\n{{"query": "q7", "positive": {positive}, "negatives": ["n"]}}\n')
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: positive: .*'q7' has none"):
        read_lists(path)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"query": "\xff"}\n')
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: "):
        read_lists(path)
