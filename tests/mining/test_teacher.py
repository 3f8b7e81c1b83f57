"""A teacher's scores in mined lists: a cross-encoder's, a run's, or those that rows brought."""

import dataclasses
import json

import numpy as np
import pytest
from on_disk import WORDS, untrained_pair

from rocketjax.config.schema import ComputeConfig, TextConfig
from rocketjax.data.collection import Split
from rocketjax.data.lists import TrainingList, read_lists, write_lists
from rocketjax.data.passages import Passage
from rocketjax.data.runs import write_rankings
from rocketjax.inference.folder import save_reranker
from rocketjax.mining import teacher as module
from rocketjax.mining.teacher import (
    Texts,
    check_scored,
    keep_scores,
    open_teacher,
    with_teacher,
)
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

TEXT = TextConfig(query_length=10, passage_length=10, pair_length=18)
QUERIES = {f"q{i}": WORDS[i] for i in range(6)}
PASSAGES = {f"p{i}": Passage(f"p{i}", "", f"{WORDS[i]} {WORDS[-i]}") for i in range(10)}
TEXTS = Texts(QUERIES, PASSAGES)
SPLIT = Split(QUERIES, {})
LISTS = [
    TrainingList(query, f"p{i}", ("p7", "p8", f"p{i + 1}")[: 3 - i % 2], kind)
    for i, query in enumerate(QUERIES)
    for kind in ("undenoised", "denoised")
]


@pytest.fixture(scope="module")
def pair(weights):
    return untrained_pair(weights, TEXT)


@pytest.fixture(scope="module")
def saved(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "teacher"
    save_reranker(folder, pair.reranker)
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    write_lists(tmp_path / "lists.jsonl", LISTS)
    return tmp_path


def opened(name, split=SPLIT):
    said = []
    return open_teacher(str(name), ComputeConfig(), split, said.append), said


def test_a_cross_encoder_scores_every_list_once(pair, saved, folder, monkeypatch):
    """In the re-ranker's place; scores are those of the very passages."""
    teacher, _ = opened(saved)
    assert with_teacher(pair, teacher).reranker is teacher
    line = keep_scores(folder, teacher, TEXTS, unwatched)
    assert line == "12 of 12 lists have a teacher's scores"
    lists = read_lists(folder / "lists.jsonl")
    assert [dataclasses.replace(item, scores=()) for item in lists] == LISTS
    for item in lists:
        texts = [PASSAGES[pid].text for pid in (item.positive, *item.negatives)]
        want = pair.reranker.score([QUERIES[item.query]] * len(texts), texts)
        np.testing.assert_allclose(item.scores, want, atol=1e-4)
    assert {path.name for path in folder.iterdir()} == {"lists.jsonl", "teacher.json"}
    before = (folder / "lists.jsonl").read_bytes()
    monkeypatch.setattr(module, "score_pairs", None)
    assert keep_scores(folder, teacher, TEXTS, unwatched) == line
    assert (folder / "lists.jsonl").read_bytes() == before


def test_scoring_that_was_stopped_resumes_where_it_was(saved, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 8)  # two lists a file
    teacher, _ = opened(saved)
    whole = tmp_path / "whole"
    whole.mkdir()
    write_lists(whole / "lists.jsonl", LISTS)
    keep_scores(whole, teacher, TEXTS, unwatched)
    score, scored = module.score_pairs, []

    def dies(*args):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(args)
        return score(*args)

    monkeypatch.setattr(module, "score_pairs", dies)
    with pytest.raises(KeyboardInterrupt):
        keep_scores(folder, teacher, TEXTS, unwatched)
    assert read_lists(folder / "lists.jsonl") == LISTS
    monkeypatch.setattr(module, "score_pairs", lambda *args: scored.append(args) or score(*args))
    keep_scores(folder, teacher, TEXTS, unwatched)
    assert len(scored) == 2 + 4
    assert (folder / "lists.jsonl").read_bytes() == (whole / "lists.jsonl").read_bytes()


def test_parts_that_a_kill_has_left_behind_are_removed(saved, folder):
    teacher, _ = opened(saved)
    keep_scores(folder, teacher, TEXTS, unwatched)
    write_lists(folder / "scored-00001.jsonl", read_lists(folder / "lists.jsonl")[:2])
    keep_scores(folder, teacher, TEXTS, unwatched)
    assert {path.name for path in folder.iterdir()} == {"lists.jsonl", "teacher.json"}


def test_a_part_that_lacks_lists_is_named(saved, folder):
    write_lists(folder / "scored-00000.jsonl", LISTS[1:])
    with pytest.raises(InputError, match=r"00000.jsonl: not the 12 lists .*; delete it"):
        keep_scores(folder, opened(saved)[0], TEXTS, unwatched)
    assert read_lists(folder / "lists.jsonl") == LISTS


def test_a_float32_comes_back_as_it_was(saved, folder, monkeypatch):
    numbers = np.random.default_rng(0).normal(0, 10, 99).astype(np.float32)
    monkeypatch.setattr(module, "score_pairs", lambda _, pairs, *rest: numbers[: len(pairs)])
    keep_scores(folder, opened(saved)[0], TEXTS, unwatched)
    found = {score for item in read_lists(folder / "lists.jsonl") for score in item.scores}
    assert {np.float32(score) for score in found} <= {*numbers}


def test_another_teachers_scores_are_refused(pair, saved, folder):
    keep_scores(folder, opened(saved)[0], TEXTS, unwatched)
    with pytest.raises(InputError, match="keep the scores of another teacher; choose another"):
        keep_scores(folder, {"q0": {"p0": 1.0}}, TEXTS, unwatched)


def test_a_run_brings_scores_and_gaps_are_counted(folder):
    """q0 and q1 have all of theirs, q2 lacks its positive; p8 was ranked, but not scored."""
    run = folder / "reranked.trec"
    ranked = [(f"q{i}", [(f"p{j}", 9.0 - j) for j in (0, 1, 2, 7)]) for i in (0, 1)]
    ranked += [("q2", [("p7", 1.0), ("p8", 0.5), ("p3", 0.25)])]
    for query, some in ranked[:2]:
        some.insert(0, ("p8", 20.0 if query == "q0" else 30.0))
    write_rankings(run, [*ranked, ("elsewhere", [("p0", 1.0)])], "x", scored=5)
    teacher, _ = opened(run)
    assert teacher.keys() == {"q0", "q1", "q2"}  # a run may be of millions of others
    line = keep_scores(folder, teacher, TEXTS, unwatched)
    assert line.startswith(
        # q2's lists lack one each, those of q3, q4, q5 two of three, four and three passages.
        "4 of 12 lists have a teacher's scores; the others lack those of 22 passages"
    )
    lists = {(x.query, x.kind): x for x in read_lists(folder / "lists.jsonl")}
    assert lists["q0", "denoised"].scores == (9.0, 2.0, 20.0, 8.0)
    assert lists["q1", "undenoised"].scores == (8.0, 2.0, 30.0)
    assert lists["q2", "denoised"].scores == (None, 1.0, 0.5, 0.25)
    assert lists["q3", "denoised"].scores == ()
    check_scored(folder / "lists.jsonl", list(lists.values()), "stored")


def test_what_was_ranked_but_not_scored_does_not_teach(folder):
    run = folder / "reranked.trec"
    write_rankings(run, [("q0", [("p0", 2.0), ("p7", 1.0), ("p8", 0.0), ("p1", -1.0)])], "x", 3)
    teacher, said = opened(run)
    assert said == [f"{run}: 1 passages are ranked but not scored, and left out"]
    keep_scores(folder, teacher, TEXTS, unwatched)
    lists = read_lists(folder / "lists.jsonl")
    assert lists[0].scores == (2.0, 1.0, 0.0, None)
    path = folder / "lists.jsonl"
    with pytest.raises(InputError, match=rf"^{path}: scores: none of 12 lists has a teacher's sco"):
        check_scored(path, lists, "stored")


def test_rows_scores_are_kept_unless_a_teacher_is_named(folder, tmp_path):
    split = dataclasses.replace(SPLIT, scores={"q0": {"p0": 1.5, "p7": 0.5}})
    teacher, _ = opened("", split)
    keep_scores(folder, teacher, TEXTS, unwatched)
    assert read_lists(folder / "lists.jsonl")[0].scores == (1.5, 0.5, None, None)
    assert opened("")[0] is None and keep_scores(folder, None, TEXTS, unwatched) == ""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "other.trec",
            "x Q0 p0 1 2.0 t\n",
            r"other\.trec: has none of the 6 queries .*'x'\)",
        ),
        ("gone.trec", None, r"gone\.trec: no such file"),
        ("gone", None, r"gone: no such folder"),
    ],
)
def test_a_teacher_that_is_none_is_refused(tmp_path, name, text, said):
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        opened(tmp_path / name)


def test_a_file_says_whose_scores_the_lists_keep(saved, folder):
    teacher, _ = opened(saved)
    keep_scores(folder, teacher, TEXTS, unwatched)
    kept = json.loads((folder / "teacher.json").read_text())
    assert kept == {"teacher": f"model {teacher.fingerprint}"}
