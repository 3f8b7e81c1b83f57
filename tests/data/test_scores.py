"""A teacher's scores: read from rows and runs, refused by name, kept in files of lists."""

import json

import pytest

from rocketjax.data.lists import TrainingList, read_lists, write_lists
from rocketjax.data.load import load_collection
from rocketjax.data.runs import read_run, read_scores, write_rankings
from rocketjax.runtime.errors import InputError


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scores_of(path):
    """By query and passage, as texts."""
    collection = load_collection(str(path))
    (split,) = collection.splits.values()
    return {
        split.queries[query]: {collection.by_id[pid].text: score for pid, score in some.items()}
        for query, some in split.scores.items()
    }


def passage(pid, score=None):
    return {"docid": pid, "title": "", "text": pid} | ({} if score is None else {"score": score})


ALL = {"q": {"p": 0.9, "a": 0.5, "b": -2.0}}


@pytest.mark.parametrize(
    ("row", "expected", "fields"),
    [
        (  # FlagEmbedding
            {"query": "q", "pos": ["p"], "neg": ["a", "b"], "pos_scores": [0.9]}
            | {"neg_scores": [0.5, -2], "prompt": "Represent this: "},
            ALL,
            "pos_scores, neg_scores",
        ),
        (
            {"query": "q", "pos": ["p"], "neg": ["a", "b"], "neg_scores": [0.5, None]},
            {"q": {"a": 0.5}},
            "neg_scores",
        ),
        (  # sentence-transformers, as mine_hard_negatives(output_scores=True) writes it
            {"anchor": "q", "positive": "p", "negative_1": "a", "negative_2": "b"}
            | {"scores": [0.9, 0.5, -2.0]},
            ALL,
            "scores",
        ),
        (  # its labels: of DistillKLDivLoss
            {"anchor": "q", "positive": "p", "negative_1": "a", "negative_2": "b"}
            | {"label": [0.9, 0.5, -2.0]},
            ALL,
            "label",
        ),
        (  # .. and of MarginMSELoss
            {"query": "q", "positive": "p", "negative": "a", "label": 0.4},
            {"q": {"p": 0.0, "a": -0.4}},
            "label",
        ),
        (  # .. where 0 and 1 are margins like others
            {"query": "q", "positive": "p", "negative": "a", "label": 0.0},
            {"q": {"p": 0.0, "a": 0.0}},
            "label",
        ),
        (
            {"query": "q", "positive": "p", "negatives": ["a", "b"], "label": [1.0, 0]},
            {"q": {"p": 0.0, "a": -1.0, "b": 0.0}},
            "label",
        ),
        (
            {"query": "q", "positive": "p", "negatives": ["a", "b"], "label": [0.4, 2.9]},
            {"q": {"p": 0.0, "a": -0.4, "b": -2.9}},
            "label",
        ),
        (  # which it reads from score and scores just as well
            {"query": "q", "positive": "p", "negative": "a", "score": 5.2},
            {"q": {"p": 0.0, "a": -5.2}},
            "score",
        ),
        (
            {"query": "q", "positive": "p", "negative_1": "a", "negative_2": "b"}
            | {"score": [5.2, 3.1]},
            {"q": {"p": 0.0, "a": -5.2, "b": -3.1}},
            "score",
        ),
        ({"query": "q", "positive": "p", "label": 0.9}, {"q": {"p": 0.9}}, "label"),
        (
            {"query": "q", "docs": ["a", "p", "b"], "labels": [0, 1, 0], "scores": [0.5, 0.9, -2]},
            ALL,
            "scores",
        ),
        ({"query": "q", "passage": "p", "label": 1, "score": 0.9}, {"q": {"p": 0.9}}, "score"),
        (  # Tevatron
            {"query_id": "1", "query": "q", "positive_passages": [passage("p", 0.9)]}
            | {"negative_passages": [passage("a", 0.5), passage("b", -2)]},
            ALL,
            "positive_passages.score, negative_passages.score",
        ),
        (
            {"query_id": "1", "query": "q", "positive_passages": [passage("p", 0.9)]}
            | {"negative_passages": [passage("a")]},
            {"q": {"p": 0.9}},
            "positive_passages.score, negative_passages.score",
        ),
    ],
)
def test_scores_are_read_with_their_passages(tmp_path, row, expected, fields):
    path = written(tmp_path / "train.jsonl", row)
    assert scores_of(path) == expected
    notes = load_collection(str(path)).notes
    assert f"{path}: a teacher's scores in {fields}; --loss.teacher stored or both " in notes[0]
    assert ("prompt" in row) == any(note.endswith("so far: prompt") for note in notes)


def test_scores_of_a_table_are_read(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("query,positive,negative,label\nq,p,a,2.5\nr,p,a,-1e-1\n")
    assert scores_of(path) == {"q": {"p": 0, "a": -2.5}, "r": {"p": 0, "a": 0.1}}


def test_a_judgement_is_no_score(tmp_path):
    row = {"query": "q", "positive": "p", "label": 1}
    path = written(tmp_path / "train.jsonl", row)
    assert scores_of(path) == {}
    assert load_collection(str(path)).notes == [f"{path}: not used in training so far: label"]


Q = {"query": "q", "pos": ["p"], "neg": ["a", "b"]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Q | {"neg_scores": [0.5]}, r"neg_scores: 1 scores for 2 passages"),
        (Q | {"pos_scores": [0.5, 0.6]}, r"pos_scores: 2 scores for 1 passages"),
        (Q | {"pos_scores": [float("nan")]}, r"pos_scores: expected finite numbers, got nan"),
        (Q | {"pos_scores": ["high"]}, r"pos_scores: expected finite numbers, got 'high'"),
        (Q | {"pos_scores": [True]}, r"pos_scores: expected finite numbers, got True"),
        (Q | {"scores": [0.1]}, r"scores: 1 scores for 1 positives and 2 negatives"),
        (Q | {"label": [0.1, 0.2, 0.3, 0.4]}, r"label: 4 scores for 1 positives and 2 negatives"),
        (Q | {"pos": ["p", "x"], "label": [0.3, 0.2]}, r"label: 2 scores for 2 positives"),
        (  # of one text in one row, which of the two?
            Q | {"neg": ["b", "b"], "neg_scores": [1, 5]},
            r"neg_scores: 5, but query and passage had 1 before",
        ),
        (
            {"query": "q", "positive": "p", "negative": "p", "label": 2.5},
            r"label: -2\.5, but query and passage had 0 before",
        ),
        (
            {"query": "q", "docs": ["p", "a"], "scores": [2.0, 1.0]},
            r"labels: 0 for 2 docs; scores alone do not say which docs are relevant",
        ),
        (
            {"query": "q", "passage": "p", "label": 0.7},
            r"label: expected 0 or 1, got 0.7; a teacher's scores go beside the labels",
        ),
        (
            {"query": "q", "positive_passages": [passage("p", "x")], "negative_passages": []},
            r"positive_passages.score: expected finite numbers, got 'x'",
        ),
    ],
)
def test_scores_that_do_not_fit_are_refused_by_name(tmp_path, row, said):
    good = {"query": "other", "pos": ["p"], "neg": ["a"]}
    path = written(tmp_path / "train.jsonl", good, row)
    with pytest.raises(InputError, match=rf"train\.jsonl:2: {said}"):
        load_collection(str(path))
    assert load_collection(str(path), "skip").splits["train"].queries.keys() == {
        *load_collection(str(written(tmp_path / "other.jsonl", good))).splits["other"].queries
    }


def test_rows_of_one_query_are_merged_unless_their_scores_contradict(tmp_path):
    first = {"query": "q", "positive": "p", "negative": "a", "scores": [3.0, 1.0]}
    path = tmp_path / "train.jsonl"
    written(path, first, first | {"negative": "b", "scores": [3.01, 0.5]})  # half precision
    assert scores_of(path) == {"q": {"p": 3.0, "a": 1.0, "b": 0.5}}
    written(path, first, first | {"negative": "b", "scores": [4.0, 0.5]})
    with pytest.raises(InputError, match=r":2: scores: 4, but query and passage had 3 before"):
        load_collection(str(path))
    margin = {"query": "q", "positive": "p", "negative": "a", "label": 2.5}
    written(path, margin, margin | {"negative": "b", "label": 3.5})
    assert scores_of(path) == {"q": {"p": 0, "a": -2.5, "b": -3.5}}
    for other in (margin | {"positive": "r"}, first):
        written(path, margin, other)
        with pytest.raises(InputError, match=r":2: \w+: the query's scores are relative to"):
            load_collection(str(path))


def test_scores_follow_their_queries_into_parts_of_a_split(tmp_path):
    rows = [Q | {"query": f"q{i}", "pos_scores": [float(i)]} for i in range(4)]
    split = load_collection(str(written(tmp_path / "train.jsonl", *rows))).splits["train"]
    some = list(split.queries)[1:3]
    assert split.only(some).scores == {query: split.scores[query] for query in some}


# ---- runs


def test_a_re_ranked_run_comes_back_as_scores_without_what_was_not_scored(tmp_path):
    path, said = tmp_path / "reranked.trec", []
    ranked = [("q", [("a", 1 / 3), ("b", -2.0), ("c", -3.0)]), ("r", [("b", 7.0)])]
    write_rankings(path, ranked, "a model", scored=2)
    scores = read_scores(path, said.append)
    assert scores == {"q": {"a": pytest.approx(1 / 3, rel=1e-8), "b": -2.0}, "r": {"b": 7.0}}
    assert said == [f"{path}: 1 passages are ranked but not scored, and left out"]
    assert [pid for pid, _ in read_run(path)["q"]] == ["a", "b", "c"]  # the order is whole
    write_rankings(path, ranked, "a model")
    assert len(read_scores(path)["q"]) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q Q0 a 1 2.0 x\nq Q0 a 2 1.0 x\n", r"run\.trec:2: passage: duplicate 'a'"),
        ("q\ta\ttext\ttext\n", r"run\.trec:1: score: a line of four columns has none"),
        ("q Q0 a 1 nan x\n", r"run\.trec:1: score: expected a finite number"),
        ("q Q0 a 1\n", r"run\.trec:1: expected query Q0 passage rank score tag"),
        ("q Q0 a 1 2.0 x-unscored\n", r"run\.trec: contains no scores"),
    ],
)
def test_a_run_without_scores_is_refused(tmp_path, text, said):
    path = tmp_path / "run.trec"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_scores(path)


# ---- files of lists


def test_lists_keep_scores_and_older_files_are_still_read(tmp_path):
    path = tmp_path / "lists.jsonl"
    lists = [
        TrainingList("q", "p", ("a", "b"), "denoised", True, (1 / 3, None, -2.0)),
        TrainingList("r", "p", ()),
    ]
    write_lists(path, lists)
    assert read_lists(path) == lists
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["version"] == 2
    # What has no scores is written as it was before there were any, and read, too.
    assert second == {
        "query": "r",
        "positive": "p",
        "negatives": [],
        "kind": "undenoised",
        "pseudo": False,
    }
    assert [item.is_scored for item in lists] == [False, False]
    assert TrainingList("q", "p", ("a",), scores=(1.0, 0.0)).is_scored


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('"version": 3', "version: Input should be 1 or 2"),
        ('"version": 2, "scores": [1.0]', "scores: 1 for 2 passages"),
        ('"version": 2, "scores": [1.0, NaN]', "scores"),
        ('"version": 2, "scores": [1.0, "x"]', "scores"),
    ],
)
def test_damaged_scores_in_lists_are_named(tmp_path, more, said):
    path = tmp_path / "lists.jsonl"
    path.write_text('{"query": "q", "positive": "p", "negatives": ["n"], ' + more + "}\n")
    with pytest.raises(InputError, match=rf"lists\.jsonl:1: {said}"):
        read_lists(path)
