"""Mined lists: their negatives are none of the positives, and fall the same in every order."""

import dataclasses
import re
from collections import Counter

import pytest
from mined import hybrid_lists

from rocketjax.config.schema import ListConfig
from rocketjax.data.lists import (
    Candidates,
    TrainingList,
    read_candidates,
    read_lists,
    write_candidates,
    write_lists,
)
from rocketjax.data.passages import Passage
from rocketjax.mining.augment import (
    easy_lists,
    lists_per_positive,
    undenoised_lists,
)
from rocketjax.mining.calibrate import Calibration
from rocketjax.mining.report import describe
from rocketjax.runtime.errors import InputError

RANKED = [f"p{i}" for i in range(30)]
CONFIG = ListConfig(length=6, top_n=20)


def candidates_of(ranked, qrels):
    positives = {
        query: tuple(sorted(pid for pid, grade in qrels.get(query, {}).items() if grade > 0))
        for query in ranked
    }
    return [
        Candidates(query, positives[query], tuple(p for p in pids if p not in positives[query]))
        for query, pids in ranked.items()
    ]


def mined(ranked, qrels, config=CONFIG, seed=1):
    return {
        (item.query, item.positive): item.negatives
        for item in undenoised_lists(candidates_of(ranked, qrels), config, seed)
    }


def test_a_query_with_several_positives_has_a_list_for_each():
    positives = {"p3", "p5", "p7", "elsewhere"}
    qrels = {"q": dict.fromkeys(positives, 1) | {"p9": 0}}
    # As many negatives as are left: whatever may be drawn is drawn.
    lists = mined({"q": RANKED}, qrels, ListConfig(length=18, top_n=20))
    assert set(lists) == {("q", pid) for pid in positives}
    for negatives in lists.values():
        assert set(negatives) <= set(RANKED[:23]) - positives  # 20 are left of them
        assert len(set(negatives)) == 17


def test_of_many_positives_some_are_drawn():
    qrels = {f"q{i}": dict.fromkeys(RANKED[:4], 1) for i in range(300)}
    qrels["one"] = {"p9": 1}
    rows = candidates_of(dict.fromkeys(qrels, RANKED), qrels)
    config = ListConfig(length=6, top_n=20, positives=1)
    rows = [dataclasses.replace(row, scores=(-9.0,) * 10) for row in rows]
    lists, _ = hybrid_lists(rows, Calibration(1.0, 0.0), config, 1)
    kinds = {kind: [x for x in lists if x.kind == kind] for kind in ("undenoised", "denoised")}
    drawn = {x.query: x.positive for x in kinds["undenoised"]}
    assert {x.query: x.positive for x in kinds["denoised"]} == drawn  # of both kinds the same
    assert len(kinds["undenoised"]) == len(kinds["denoised"]) == len(drawn) == 301
    counts = Counter(drawn.values())
    assert counts.pop("p9") == 1 and len(counts) == 4 and min(counts.values()) > 50
    assert not any({*x.negatives} & {*RANKED[:4]} for x in lists if x.query != "one")
    others, _ = hybrid_lists(rows, Calibration(1.0, 0.0), config, 2)
    assert {x.query: x.positive for x in others} != drawn
    two = undenoised_lists(rows, dataclasses.replace(config, positives=2), 1)
    assert len(two) == 601 and len({(x.query, x.positive) for x in two}) == 601


def test_easy_negatives_are_of_the_whole_corpus():
    corpus = [Passage(f"c{i}", "", "text") for i in range(50)]
    lists = [TrainingList(f"q{i}", f"c{i % 50}", ("p1", "p2")) for i in range(300)]
    easy = easy_lists(lists, corpus, 8, seed=1)
    assert [(x.query, x.positive) for x in easy] == [(x.query, x.positive) for x in lists]
    for item in easy:
        assert len({item.positive, *item.negatives}) == 8
    assert {pid for item in easy for pid in item.negatives} == {passage.id for passage in corpus}
    assert easy_lists(lists[7:8], corpus, 8, seed=1) == easy[7:8]
    assert easy_lists(lists[7:8], corpus, 8, seed=2) != easy[7:8]
    (short,) = easy_lists(lists[:1], corpus[:3], 8, seed=1)
    assert sorted(short.passages) == ["c0", "c1", "c2"]


def test_negatives_are_distinct_and_only_the_best_are_drawn():
    queries = {f"q{i}": RANKED for i in range(200)}
    lists = mined(queries, {query: {"p4": 2} for query in queries})
    assert len(lists) == 200
    for negatives in lists.values():
        assert len(set(negatives)) == len(negatives) == 5
    drawn = {pid for negatives in lists.values() for pid in negatives}
    assert drawn == set(RANKED[:21]) - {"p4"}


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
def test_a_query_without_a_positive_has_no_undenoised_list(qrels):
    assert mined({"lost": RANKED}, qrels) == {}


def test_lists_are_read_as_they_were_written(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lists = [
        TrainingList('q "1"', "päß\u2028x", ("n1", "n\n2"), "denoised", True),
        TrainingList("q2", "p", ()),
    ]
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
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: .*; expected an object with"):
        read_lists(path)


@pytest.mark.parametrize("positive", ["null", '""'])
def test_a_list_without_a_positive_is_refused(tmp_path, positive):
    path = tmp_path / "lists.jsonl"
    path.write_text(f'{GOOD}\n{{"query": "q7", "positive": {positive}, "negatives": ["n"]}}\n')
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: positive: "):
        read_lists(path)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"query": "\xff"}\n')
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: "):
        read_lists(path)


PLAIN = Calibration(1.0, 0.0)
LOGIT = {0.02: -3.9, 0.05: -2.9, 0.5: 0.0, 0.95: 2.9, 0.99: 4.6}


def scored(query="q", positives=("gold",), p=(), deeper=0):
    """Candidates c0, c1, .. of these probabilities (before calibration by PLAIN), then unscored."""
    passages = tuple(f"c{i}" for i in range(len(p) + deeper))
    return Candidates(
        query, positives, passages, tuple(LOGIT[x] for x in p), (3.0,) * len(positives)
    )


def denoised(*rows, **options):
    settings = {"length": 4, "top_n": 20, "denoised": 1.0} | options
    return hybrid_lists(rows, PLAIN, ListConfig(**settings), 1)[0]


def test_denoised_negatives_are_improbable_ones():
    row = scored(p=(0.99, 0.05, 0.5, 0.02, 0.95, 0.05, 0.02))
    (item,) = denoised(row, length=5)
    assert (item.query, item.positive, item.kind, item.pseudo) == ("q", "gold", "denoised", False)
    assert sorted(item.negatives) == ["c1", "c3", "c5", "c6"]
    (item,) = denoised(row, length=5, low=0.03)  # only c3 and c6, and nothing deeper
    assert sorted(item.negatives) == ["c3", "c6"]
    (item,) = denoised(row, length=8, low=0.6)  # 0.5 is below: c2 too
    assert sorted(item.negatives) == ["c1", "c2", "c3", "c5", "c6"]


def test_too_few_are_topped_up_from_deeper_ranks_in_order():
    row = scored(p=(0.99, 0.02, 0.95), deeper=10)
    (item,) = denoised(row, length=6)
    assert item.negatives == ("c1", "c3", "c4", "c5", "c6")
    assert denoised(scored(p=(0.99, 0.5), deeper=2), length=6)[0].negatives == ("c2", "c3")


def test_denoised_negatives_are_drawn_uniformly():
    rows = [scored(f"q{i}", p=(0.05,) * 20) for i in range(4000)]
    lists = denoised(*rows, length=6)
    counts = Counter(pid for item in lists for pid in item.negatives)
    assert sum((counts[f"c{i}"] - 1000) ** 2 / 1000 for i in range(20)) < 45
    assert denoised(rows[7], length=6) == lists[7:8]


def test_pseudo_positives_are_the_likeliest_and_nobodys_negatives():
    row = scored(p=(0.95, 0.05, 0.99, 0.02, 0.5, 0.05))
    assert len(denoised(row)) == 1  # none unless asked for
    gold, first = denoised(row, pseudo_positives=1)
    assert (first.positive, first.pseudo, gold.pseudo) == ("c2", True, False)
    lists = denoised(row, pseudo_positives=9, length=7)
    assert [item.positive for item in lists] == ["gold", "c2", "c0"]  # 0.5 is not likely enough
    for item in lists:
        assert sorted(item.negatives) == ["c1", "c3", "c5"]


def test_unlabelled_queries_live_by_their_pseudo_positives():
    rows = [
        scored("found", (), p=(0.99, 0.05, 0.05, 0.05)),
        scored("lost", (), p=(0.5, 0.05, 0.05, 0.05)),
        scored("judged", p=(0.05, 0.05, 0.05, 0.05)),
    ]
    config = ListConfig(length=4, top_n=20, pseudo_positives=1)
    lists, report = hybrid_lists(rows, PLAIN, config, 1)
    assert [(item.query, item.kind, item.pseudo) for item in lists] == [
        ("found", "denoised", True),
        ("judged", "undenoised", False),
        ("judged", "denoised", False),
    ]
    assert (report.unlabelled, report.lost, report.pseudo_positives) == (2, 1, 1)


def test_the_share_that_is_dropped_is_of_the_candidates_of_labelled_queries():
    """Of the others nothing is dropped, though they too are scored to be drawn by score."""
    rows = [scored("judged", p=(0.99, 0.05, 0.05, 0.05)), scored("u", (), p=(0.99,) * 4)]
    config = ListConfig(length=4, top_n=4, unlabelled="distill", sampling="stratified")
    report = hybrid_lists(rows, PLAIN, config, 1)[1]
    assert (report.scored, report.dropped) == (4, 1)


def test_unlabelled_queries_may_have_lists_without_a_label(tmp_path):
    """The best passage and a sample; pseudo-positives are for labelled queries then."""
    rows = [
        scored("judged", p=(0.99, 0.05, 0.05, 0.05, 0.05)),
        *(Candidates(f"u{i}", (), tuple(RANKED)) for i in range(200)),
        Candidates("alone", (), ("p1",)),
    ]
    config = ListConfig(length=4, top_n=10, pseudo_positives=1, unlabelled="distill")
    lists, report = hybrid_lists(rows, PLAIN, config, 1)
    kinds = Counter(item.kind for item in lists)
    assert kinds == {"undenoised": 1, "denoised": 2, "unlabelled": 200}
    others = Counter()
    for item in lists[3:]:
        assert item.positive == "" and item.passages[0] == "p0" and len(set(item.passages)) == 4
        others.update(item.passages[1:])
    assert set(others) == set(RANKED[1:10]) and min(others.values()) > 40  # of 67 on average
    assert (report.unlabelled, report.lost, report.distilled) == (201, 1, 200)
    assert (report.undenoised, report.denoised, report.short) == (1, 2, 0)
    assert "\n200 lists without a label, for distillation alone" in describe(report, str, str)
    write_lists(tmp_path / "lists.jsonl", lists)
    assert read_lists(tmp_path / "lists.jsonl") == lists
    for wrong, said in (
        (
            TrainingList("q", "p", ("a",), "unlabelled"),
            r"jsonl:1: positive: given in an unlabelled",
        ),
        (TrainingList("q", "", (), "unlabelled"), r"jsonl:1: no passage in the list of query 'q'"),
        (TrainingList("q", "", ("a",)), r"jsonl:1: positive: missing in the list of query 'q'"),
    ):
        write_lists(tmp_path / "wrong.jsonl", [wrong])
        with pytest.raises(InputError, match=said):
            read_lists(tmp_path / "wrong.jsonl")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.75, 1.0])
def test_the_share_of_denoised_lists_is_as_asked(share):
    rows = [scored(f"q{i}", p=(0.05,) * 5) for i in range(5000)]
    config = ListConfig(length=4, top_n=20, denoised=share)
    lists, report = hybrid_lists(rows, PLAIN, config, 1)
    kinds = Counter(item.kind for item in lists)
    assert kinds["denoised"] / len(lists) == pytest.approx(share, abs=0.015)
    assert max(kinds.values()) == 5000  # the more frequent kind has a list for every positive
    assert len(lists) / 5000 == pytest.approx(sum(lists_per_positive(config)), abs=0.02)
    assert (report.denoised, report.undenoised) == (kinds["denoised"], kinds["undenoised"])
    alone, _ = hybrid_lists(rows[100:101], PLAIN, config, 1)
    assert alone == [item for item in lists if item.query == "q100"]


def test_the_report_counts_what_happened():
    rows = [
        scored("a", p=(0.99, 0.5, 0.05), deeper=1),  # two dropped, one topped up, still short
        scored("b", p=(0.95, 0.05, 0.05, 0.05)),
    ]
    config = ListConfig(length=4, top_n=20, denoised=1.0)
    _, report = hybrid_lists(rows, Calibration(1.0, 0.0), config, 1)
    assert (report.queries, report.scored, report.dropped, report.likely_positives) == (2, 7, 3, 2)
    assert (report.topped_up, report.short, report.denoised, report.undenoised) == (1, 1, 2, 0)
    assert report.examples == [("a", "c0", 0.99), ("b", "c0", 0.9478)]  # the likeliest of each
    text = describe(report, lambda query: f"<{query}>", lambda pid: f"text  of\n{pid}")
    assert "7 candidates scored: 3 too likely" in text and "0.99  <a>" in text
    assert "c0: text of c0" in text
    none, report = hybrid_lists(rows, None, ListConfig(length=4, top_n=20, denoised=0.0), 1)
    assert {item.kind for item in none} == {"undenoised"} and report.dropped == 0


def test_float_noise_does_not_change_lists():
    config = ListConfig(length=4, top_n=20, low=0.1)
    noisy = [0.0, -2.1972251, 1.5, -3.0, -3.5]  # the second a hair above and below p = 0.1
    rows = [
        Candidates("q", ("gold",), tuple("abcde"), tuple(x + e for x in noisy), (3.0,))
        for e in (0.0, 3e-7, -3e-7)
    ]
    lists = [hybrid_lists([row], PLAIN, config, 1)[0] for row in rows]
    assert lists[0] == lists[1] == lists[2]


def test_candidates_are_read_as_they_were_written(tmp_path):
    rows = [scored(p=(0.99, 0.02), deeper=2), Candidates("q2", (), ("a",))]
    write_candidates(tmp_path / "c.jsonl", rows)
    assert read_candidates(tmp_path / "c.jsonl") == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('"scores": [1, 2, 3]', "scores: 3 for 2 passages"),
        ('"positive_scores": [1, 2]', "positive_scores: 2 for 1 positives"),
        ('"passages": ["a", "a"]', "one is a duplicate or a known positive"),
        ('"passages": ["p", "a"]', "one is a duplicate or a known positive"),
        ('"scores": [NaN]', "scores"),
        ('"scores": ["1"]', r"scores\.0: Input should be a valid number"),
        ('"more": 1', "more: Unexpected"),
    ],
)
def test_damaged_candidates_are_named(tmp_path, change, message):
    row = '{"query": "q", "positives": ["p"], "passages": ["a", "b"]'
    path = tmp_path / "c.jsonl"
    path.write_text(f"{row}}}\n{row}, {change}}}\n")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: .*{message}"):
        read_candidates(path)
