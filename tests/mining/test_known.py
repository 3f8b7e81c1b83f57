"""What says what a positive says is nobody's negative: not mined, not calibrated on, counted."""

import dataclasses
import unicodedata

import numpy as np
import pytest
from on_disk import untrained_pair
from tiny import vectors_folder

from rocketjax.config.schema import ListConfig, TextConfig
from rocketjax.data.collection import Split
from rocketjax.data.copies import shared_positives
from rocketjax.data.lists import read_candidates
from rocketjax.data.passages import InMemory, Passage
from rocketjax.mining import mine as mining
from rocketjax.mining.augment import given_lists
from rocketjax.mining.known import known_answers
from rocketjax.mining.report import describe
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.model import Corpus
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

WORDS = ["cat", "dog", "sun", "sea", "tree", "leaf", "bark", "wave", "warm", "root"]
TEXTS = [f"{a} {b} {a} {WORDS[-1]}" for a in WORDS[:6] for b in WORDS[4:]]  # 36, all different
CONFIG = ListConfig(length=4, top_n=8, scored=6, depth=12, denoised=0.5, calibration="sigmoid")
SPELLINGS = (
    lambda text: text.replace(" ", "  ", 1),
    lambda text: text.replace(" ", "\n", 1),
    lambda text: text.replace(" ", "\u00a0"),
    lambda text: text.replace("a", "\uff41"),
    str.upper,
    str,
)


def plain(text):
    return " ".join(unicodedata.normalize("NFKC", text).split()).lower()


@pytest.fixture(scope="module")
def model(weights):
    return untrained_pair(weights, TextConfig(query_length=10, passage_length=10, pair_length=18))


class Asked:
    """An index that notes how many passages it was asked for, of how many queries."""

    def __init__(self, index):
        self.index, self.vectors, self.asked = index, index.vectors, []

    def search(self, queries, top_k):
        self.asked.append((len(queries), top_k))
        return self.index.search(queries, top_k)


@pytest.fixture
def corpus_of(model, tmp_path):
    def make(passages):
        vectors = model.retriever.encode_passage([p.text for p in passages])
        ids = [p.id for p in passages]
        stored = vectors_folder(tmp_path / "vectors", vectors, ids, shard=1_000)
        return Corpus(Asked(ExactIndex(stored)), InMemory(passages).by_id)

    return make


def ranked(model, corpus, text):
    """Ids of the whole corpus, best first."""
    vector = model.retriever.encode_query([text], steady=True)
    return corpus.index.index.search(vector, len(corpus.passages))[0][0].tolist()


def mined(model, corpus, split, folder, config=CONFIG):
    lists, report = mining.mine(model, corpus, split, config, 1, folder, unwatched)
    return read_candidates(folder / "candidates-00000.jsonl"), lists, report


def check(model, corpus, split, rows, config=CONFIG):
    """That every query has the best passages which answer no query of its text; the copies."""
    copies = 0
    for row in rows:
        same = [
            q for q, text in split.queries.items() if plain(text) == plain(query_of(split, row))
        ]
        answers = {plain(corpus.passages[pid].text) for q in same for pid in split.qrels[q]}
        order = ranked(model, corpus, query_of(split, row))
        fine = [pid for pid in order if plain(corpus.passages[pid].text) not in answers]
        assert list(row.passages) == fine[: config.depth]
        assert len(row.passages) == config.depth and len(row.scores) == config.scored
        left_out = {*order[: order.index(row.passages[-1])]} - {*row.passages}
        copies += len(left_out - {*split.qrels[row.query]})
    return copies


def query_of(split, row):
    return split.queries[row.query]


def test_copies_of_positives_are_not_mined_and_deeper_ranks_follow(model, corpus_of, tmp_path):
    """Sixteen of each answer, more than `depth`; also of a query's second positive."""
    passages = [Passage(f"p{i}", "", text) for i, text in enumerate(TEXTS)]
    passages += [
        Passage(f"c{i}-{j}", "", SPELLINGS[j % len(SPELLINGS)](TEXTS[i]))
        for j in range(16)
        for i in range(6)
    ]
    corpus = corpus_of(passages)
    queries = {f"q{i}": TEXTS[i] for i in range(5)}
    qrels = {f"q{i}": {f"p{i}": 1} for i in range(5)} | {"q0": {"p0": 1, "p5": 1}}
    split = Split(queries, qrels)
    rows, lists, report = mined(model, corpus, split, tmp_path / "lists")
    assert report.copies == check(model, corpus, split, rows) > 5 * 8
    assert len(lists) == 12 and (report.short, report.alone) == (0, 0)
    said = describe(report, queries.__getitem__, lambda pid: corpus.passages[pid].text)
    assert f"\n{report.copies} candidates left out: they say what a positive says" in said


def test_without_copies_nothing_is_said_of_them(model, corpus_of, tmp_path):
    corpus = corpus_of([Passage(f"p{i}", "", text) for i, text in enumerate(TEXTS)])
    split = Split({"q": TEXTS[0]}, {"q": {"p0": 1}})
    rows, _, report = mined(model, corpus, split, tmp_path / "lists")
    assert check(model, corpus, split, rows) == report.copies == 0
    assert "left out" not in describe(report, str, str)


@pytest.mark.parametrize("far", [1, 3])
def test_positives_behind_all_negatives_are_counted(model, corpus_of, tmp_path, far):
    """Of four queries, `far` have the passage least like them for a positive."""
    corpus = corpus_of([Passage(f"p{i}", "", text) for i, text in enumerate(TEXTS)])
    queries = {f"q{i}": TEXTS[i] for i in range(4)}
    qrels = {
        f"q{i}": {ranked(model, corpus, TEXTS[i])[-1] if i < far else f"p{i}": 1} for i in range(4)
    }
    config = dataclasses.replace(CONFIG, top_n=3, length=3)
    _, _, report = mined(model, corpus, Split(queries, qrels), tmp_path / "lists", config)
    assert (report.found, report.positives) == (4 - far, 4)
    said = describe(report, str, lambda pid: corpus.passages[pid].text)
    assert f"\n{4 - far} of 4 positives" in said
    assert ("raise lists.top_n" in said) == (far > 2)


def test_queries_of_one_text_have_each_others_positives_as_no_negatives(model, corpus_of, tmp_path):
    """Though only one of them is mined for, and lists are of its own positives alone."""
    passages = [Passage(f"p{i}", "", text) for i, text in enumerate(TEXTS)]
    corpus = corpus_of([*passages, Passage("copy", "", TEXTS[1].upper())])
    whole = Split(
        {"q": TEXTS[0], "r": f" {TEXTS[0].title()}", "s": TEXTS[2]},
        {"q": {"p0": 1}, "r": {"p1": 1, "p9": 1}, "s": {"p2": 1}},
    )
    shared = shared_positives(whole.queries, whole.qrels)
    some = Split({"q": TEXTS[0], "s": TEXTS[2]}, whole.qrels, shared=shared)
    rows, lists, report = mined(model, corpus, some, tmp_path / "lists")
    assert check(model, corpus, whole, rows) == report.copies > 0
    assert {(item.query, item.positive) for item in lists} == {("q", "p0"), ("s", "p2")}
    with pytest.raises(InputError, match="holds lists mined with other queries"):
        mined(model, corpus, dataclasses.replace(some, shared={}), tmp_path / "lists")


def test_many_positives_deepen_the_search_of_their_own_query_alone(model, corpus_of, tmp_path):
    rng = np.random.default_rng(0)
    passages = [Passage(f"p{i}", "", " ".join(rng.choice(WORDS, 6)) + f" {i}") for i in range(200)]
    corpus = corpus_of(passages)
    queries = {f"q{i}": passages[i].text for i in range(50)}
    qrels = {query: {f"p{i}": 1} for i, query in enumerate(queries)}
    split = Split(queries, qrels)
    plain_rows, *_ = mined(model, corpus, split, tmp_path / "few")
    few = sum(count * top_k for count, top_k in corpus.index.asked)
    assert corpus.index.asked == [(50, 13)]
    corpus.index.asked.clear()
    best = ranked(model, corpus, queries["q7"])[:90]
    many = Split(queries, qrels | {"q7": dict.fromkeys(best, 1)})
    rows, *_ = mined(model, corpus, many, tmp_path / "many")
    assert check(model, corpus, many, rows[7:8]) == 0
    for row, plain in zip(rows[:7] + rows[8:], plain_rows[:7] + plain_rows[8:], strict=True):
        scores = {"scores": plain.scores, "positive_scores": plain.positive_scores}
        for name, wanted in scores.items():  # of other batches: but for the last digits
            assert getattr(row, name) == pytest.approx(wanted, abs=1e-5)
        assert dataclasses.replace(row, **scores) == plain
    first, *others = corpus.index.asked
    assert first == (50, CONFIG.depth + mining.ROOM)
    assert {count for count, _ in others} == {1} and others[-1][1] < 2 * (90 + CONFIG.depth)
    assert (
        sum(count * top_k for count, top_k in corpus.index.asked) < 3 * few
    )  # and not for 102 passages of all


def test_deeper_searches_are_for_fewer_queries_at_once(model, corpus_of, tmp_path, monkeypatch):
    """So that their results take no more memory than those of the first."""
    copies = [Passage(f"c{i}", "", TEXTS[0]) for i in range(90)]
    corpus = corpus_of([*copies, *(Passage(f"p{i}", "", text) for i, text in enumerate(TEXTS))])
    queries = {f"q{i}": TEXTS[0] for i in range(8)}
    split = Split(queries, {query: {"p0": 1} for query in queries})
    monkeypatch.setattr(mining, "QUERIES_AT_ONCE", 8)
    rows, *_ = mined(model, corpus, split, tmp_path / "lists")
    assert check(model, corpus, split, rows) == 8 * 90
    deep = CONFIG.depth + mining.ROOM
    assert corpus.index.asked == [(8, deep), (4, 2 * deep), (4, 2 * deep), *[(2, 4 * deep)] * 4]


def test_lists_without_any_negative_are_counted_or_stop_the_run(model, corpus_of, tmp_path):
    copies = [Passage(f"c{i}", "", f"{SPELLINGS[i % 5](TEXTS[0])} ") for i in range(30)]
    corpus = corpus_of([*copies, Passage("other", "", TEXTS[1])])
    positives = {"c0": 1, "c1": 1, "other": 1}
    for denoised in (0.0, 0.5):
        with pytest.raises(
            InputError,
            match=r"no list would have a negative.* 1 queries.*\(28 copies of positives were left",
        ):
            config = dataclasses.replace(CONFIG, denoised=denoised, calibration="platt")
            everything = Split({"q": TEXTS[0]}, {"q": positives})
            mined(model, corpus, everything, tmp_path / f"none {denoised}", config)
    split = Split({"q": TEXTS[0], "r": TEXTS[1]}, {"q": {"c0": 1, "other": 1}, "r": {"other": 1}})
    plain_config = dataclasses.replace(CONFIG, denoised=0.0)
    _, lists, report = mined(model, corpus, split, tmp_path / "some", plain_config)
    assert [len(item.negatives) for item in lists] == [0, 0, 3]
    assert (report.short, report.alone) == (2, 2)
    assert "2 of them short and 2 without any negative" in describe(report, str, str)


def test_given_negatives_that_answer_the_query_are_left_out():
    passages = InMemory(
        [Passage(f"p{i}", "", text) for i, text in enumerate(TEXTS[:6])]
        + [Passage(f"c{i}", "", SPELLINGS[i](TEXTS[i])) for i in range(3)]
    ).by_id
    queries = {"q": "who?", "r": "Who?", "s": "what?"}
    qrels = {"q": {"p0": 1}, "r": {"p1": 1}, "s": {"p2": 1}}
    negatives = {"q": ["c0", "p1", "p3", "c1", "p0", "q"], "r": ["p4"], "s": ["c2"]}
    split = Split(queries, qrels, {}, negatives, shared_positives(queries, qrels))
    lists, left_out = given_lists(known_answers(split, passages, unwatched), CONFIG, 1)
    assert [(x.query, x.positive, x.negatives) for x in lists] == [
        ("q", "p0", ("p3",)),
        ("r", "p1", ("p4",)),
    ]
    assert left_out == 5
    only = known_answers(split.only(["s"]), passages, unwatched)
    with pytest.raises(InputError, match=r"hard negative \(1 say what a positive says\)"):
        given_lists(only, CONFIG, 1)


def test_lists_whose_candidates_are_all_too_likely_stop_the_run(model, corpus_of, tmp_path):
    corpus = corpus_of([Passage(f"p{i}", "", text) for i, text in enumerate(TEXTS[:7])])
    split = Split({"q": TEXTS[0]}, {"q": {"p0": 1}})
    strict = dataclasses.replace(CONFIG, denoised=1.0, low=0.0)  # six are scored, none is deeper
    with pytest.raises(InputError, match="none of 1 lists has a negative: the re-ranker finds all"):
        mined(model, corpus, split, tmp_path / "lists", strict)
