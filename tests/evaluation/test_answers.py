"""Answer recall by DPR's definition, clause by clause, and on real questions."""

import json
import re
from pathlib import Path

import pytest

from rocketjax.evaluation.answers import answer_recall, has_answer, tokenize

SQUAD = Path(__file__).parents[3] / "shared" / "data" / "squad"


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("Paris", "It was in PARIS, then.", True),  # case
        ("paris", "parish and comparison", False),  # whole tokens only
        ("new york", "New\n York", True),  # white space divides, however much of it
        ("new york", "New, York", False),  # a comma is a token of its own
        ("york new", "New York", False),  # in order
        ("new city", "New York City", False),  # without a gap
        ("U.S.", "the u.s. army", True),
        ("US", "the u.s. army", False),
        ("caf\u00e9", "the CAFE\u0301 there", True),  # composed and decomposed are one
        ("cafe", "the caf\u00e9 there", False),  # an accent is part of its token
        ("3.14", "pi is 3.14159", False),
        ("$5", "costs $5 today", True),
        ("naïve", "a nai\u0308ve view", True),
        ("ΟΔΌΣ", "η οδός", True),  # case of the whole token: a final sigma is one
        ("a b c", "a b", False),
        ("東京", "東京 タワー", True),
        ("", "anything", False),
        (" \u200b", "any\u200bthing", False),  # control and format characters are no tokens
    ],
)
def test_an_answer_is_a_run_of_tokens(answer, text, found):
    assert has_answer([answer], text) is found
    assert has_answer(["nowhere to be seen", answer], text) is found


def test_tokens():
    assert tokenize("Don't  stop: x\u00b2!") == ("don", "'", "t", "stop", ":", "x\u00b2", "!")


TEXTS = {"a": "Lyon", "b": "Paris", "c": "Rome", "d": "paris again"}


def test_recall_at_k_is_whether_any_of_k_has_an_answer():
    answers = {"q1": ["Paris"], "q2": ["Oslo", "Rome"], "q3": ["Paris"], "q4": []}
    run = {"q1": ["a", "b", "d"], "q2": ["c"], "q4": ["a"], "unasked": ["a"]}
    values = answer_recall(answers, run, TEXTS.__getitem__, [1, 2])
    assert values == {
        "answer@1": {"q1": 0.0, "q2": 1.0, "q3": 0.0, "q4": 0.0},
        "answer@2": {"q1": 1.0, "q2": 1.0, "q3": 0.0, "q4": 0.0},
    }


def test_no_deeper_passage_is_looked_at():
    asked = []

    def text_of(pid):
        asked.append(pid)
        return TEXTS[pid]

    answer_recall(
        {"q": ["Oslo"], "r": ["Oslo"]}, {"q": list("abcd"), "r": list("ba")}, text_of, [2]
    )
    assert asked == ["a", "b"]  # and none twice


@pytest.mark.skipif(not SQUAD.is_dir(), reason="SQuAD is not part of a user's clone")
def test_gold_paragraphs_contain_their_answers():
    answers = {}
    for line in (SQUAD / "answers.jsonl").read_bytes().splitlines():
        row = json.loads(line)
        if row["_id"].startswith("dev"):
            answers[row["_id"]] = row["answers"]
    wanted = {}
    for line in (SQUAD / "qrels" / "dev.tsv").read_text().splitlines()[1:]:
        query, pid, _ = line.split("\t")
        wanted[query] = [pid]
    pids = {pid for (pid,) in wanted.values()}
    rows = map(json.loads, (SQUAD / "corpus.jsonl").read_bytes().splitlines())
    texts = {row["_id"]: row["text"] for row in rows if row["_id"] in pids}
    answers = {query: answers[query] for query in wanted if query in answers}
    assert len(answers) > 4000
    (values,) = answer_recall(answers, wanted, texts.__getitem__, [1]).values()
    missed = [query for query, value in values.items() if value == 0]
    # All nine were cut inside a token, as "ano" of "another": no run of whole tokens.
    assert len(missed) == 9
    for query in missed:
        (pid,), (answer,) = wanted[query], answers[query]
        assert re.search(rf"\w{re.escape(answer)}|{re.escape(answer)}\w", texts[pid]), query
