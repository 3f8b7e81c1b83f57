"""BEIR folders in, each of their faults named by file and line; TREC runs out."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocketjax.data.formats.beir import read_beir
from rocketjax.data.load import load_collection, read_queries
from rocketjax.data.passages import Passage
from rocketjax.data.runs import read_run, write_run
from rocketjax.runtime.errors import InputError

SQUAD = Path(__file__).parents[3] / "shared/data/squad"
CORPUS = [
    {"_id": "p1", "title": "Katze", "text": "Sie schläft\u2028viel."},
    {"_id": "p2", "text": "Ein Hund."},
    {"_id": "p3", "title": "Nur ein Titel", "text": None},
]
QUERIES = [{"_id": "q1", "text": "Wer schläft?"}, {"_id": "q2", "text": "Was?"}]
TRAIN = "query-id\tcorpus-id\tscore\nq1\tp1\t2\nq1\tp3\t0\nq2\tp2\t-1\n"


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    """A good BEIR folder."""
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(jsonl(CORPUS), encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text(jsonl(QUERIES), encoding="utf-8")
    (tmp_path / "qrels/train.tsv").write_text(TRAIN)
    (tmp_path / "qrels/dev.tsv").write_text("query-id\tcorpus-id\tscore\r\nq2\tp2\t1\r\n\r\n\n")
    return tmp_path


def test_a_good_folder_is_read(folder):
    read = read_beir(folder)
    assert read.name == folder.name
    assert list(read.passages) == [
        Passage("p1", "Katze", "Sie schläft\u2028viel."),
        Passage("p2", "", "Ein Hund."),
        Passage("p3", "Nur ein Titel", ""),
    ]
    assert set(read.splits) == {"dev", "train"}
    train, dev = read.splits["train"], read.splits["dev"]
    assert train.qrels == {"q1": {"p1": 2, "p3": 0}, "q2": {"p2": -1}}
    assert train.queries == {"q1": "Wer schläft?", "q2": "Was?"}
    assert (dev.queries, dev.qrels) == ({"q2": "Was?"}, {"q2": {"p2": 1}})


def test_packed_files_are_read(folder):
    (folder / "answers.jsonl").write_text(jsonl([{"_id": "q2", "answers": ["Hund"]}]))
    plain = read_beir(folder)
    for path in [*folder.glob("*.jsonl"), *folder.glob("qrels/*.tsv")]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = load_collection(str(folder))
    assert list(packed.passages) == list(plain.passages) and packed.splits == plain.splits


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("corpus.jsonl", "{", "not JSON"),
        ("corpus.jsonl", '["p9", "a"]', "expected an object"),
        ("corpus.jsonl", '{"_id": "p9", "title": "", "text": " "}', "text: .*'p9' is empty"),
        ("corpus.jsonl", '{"_id": "p9", "text": 5}', "text: .*5"),
        ("corpus.jsonl", '{"_id": "p9", "title": ["a"], "text": "a"}', "title: .*'a'"),
        ("corpus.jsonl", '{"text": "a"}', "_id: .*None"),
        ("corpus.jsonl", '{"_id": 9.5, "text": "a"}', "_id: .*9.5"),
        ("corpus.jsonl", '{"_id": true, "text": "a"}', "_id: .*True"),
        ("corpus.jsonl", '{"_id": "p1", "text": "a"}', "id: duplicate 'p1'"),
        ("queries.jsonl", "text", "not JSON"),
        ("queries.jsonl", "5", "expected an object"),
        ("queries.jsonl", '{"_id": "q9", "text": " "}', "text: "),
        ("queries.jsonl", '{"_id": "q9"}', "text: .*None"),
        ("queries.jsonl", '{"_id": "q2", "text": "a"}', "_id: duplicate 'q2'"),
        ("qrels/train.tsv", "q9\tp1\t1", "query: 'q9' is not among"),
        ("qrels/train.tsv", "q1\tp9\t1", "passage: 'p9' is not in the corpus"),
        ("qrels/train.tsv", "q1 p1", "expected query-id, corpus-id, score"),
        ("qrels/train.tsv", "q1\t0\tp1\t1", "expected query-id, corpus-id, score"),
        ("qrels/train.tsv", "q1\tp1\t0.5", "grade: expected a whole number"),
        ("qrels/train.tsv", "q1\tp1\t²", "grade: expected a whole number"),
        ("qrels/train.tsv", "q1\tp1\t--1", "grade: expected a whole number"),
        ("qrels/train.tsv", "q1\tp1\t1", "grade: 1, but 'q1' with 'p1' had 2"),
        ("corpus.jsonl", '{"_id": "p 9", "text": "a"}', "_id: 'p 9' contains whitespace"),
        ("queries.jsonl", '{"_id": "q\\t9", "text": "a"}', "_id: .* contains whitespace"),
        ("corpus.jsonl", '{"_id": "p9", "text": "\\ud83d"}', "text: not Unicode"),
        ("queries.jsonl", '{"_id": "\\ud83d", "text": "a"}', "_id: not Unicode"),
        ("corpus.jsonl", b'{"_id": "p9", "text": "\xff"}', "not UTF-8"),
        ("queries.jsonl", b'{"_id": "q9", "text": "gr\xfc\xdfe"}', "not UTF-8"),
        ("qrels/train.tsv", b"q\xff\tp1\t1", "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(folder, name, line, said):
    path = folder / name
    before = path.read_bytes()
    path.write_bytes(before + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    number = before.count(b"\n") + 1
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:{number}: {said}"):
        read_beir(folder)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{re.escape(str(folder / name))}: missing"):
        read_beir(folder)


def test_an_empty_corpus_is_refused(folder):
    (folder / "corpus.jsonl").write_text("")
    with pytest.raises(InputError, match=r"corpus\.jsonl: the corpus is empty"):
        read_beir(folder)


def test_a_folder_without_judgements_is_refused(folder):
    for path in (folder / "qrels").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="/qrels: no judgements"):
        read_beir(folder)


def test_a_judgement_may_stand_twice_if_it_says_the_same(folder):
    (folder / "qrels/train.tsv").write_text(TRAIN + "q1\tp1\t2\n")
    assert read_beir(folder).splits["train"].qrels["q1"] == {"p1": 2, "p3": 0}


@pytest.mark.parametrize(
    "head",
    ["", "query-id\tcorpus-id\tscore\n", "qid docid relevance\n", "\n_id\tpassage_id\tLabel\n"],
)
@pytest.mark.parametrize("line", ["q1\tp1\t2", "q1 p1 2", "q1\tp1\t2.0", "q1  p1\t2."])
def test_the_first_line_of_judgements_is_a_header_only_if_it_looks_like_one(folder, head, line):
    (folder / "qrels/train.tsv").write_text(f"{head}{line}\nq2\tp2\t1\n")
    assert read_beir(folder).splits["train"].qrels == {"q1": {"p1": 2}, "q2": {"p2": 1}}


@pytest.mark.parametrize(
    "line", ["q1\tp1", "q1\tp1\thigh", "query-id\tp1\t1", "q1,p1,1", "docid\tqid\tscore"]
)
def test_a_damaged_first_line_of_judgements_is_named(folder, line):
    path = folder / "qrels/train.tsv"
    path.write_text(f"{line}\nq2\tp2\t1\n")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:1: "):
        read_beir(folder)


def test_rows_beside_a_corpus_that_are_not_read_are_named(folder):
    for name in ("train.jsonl", "hard_negatives.parquet", "answers.jsonl", "info.json", "x.md"):
        (folder / name).write_text("")
    (note,) = load_collection(str(folder)).notes
    assert note.startswith(f"{folder}: not read") and "hard_negatives.parquet, train.jsonl" in note
    assert "answers" not in note and "info" not in note


def test_whole_numbers_are_ids(folder):
    (folder / "corpus.jsonl").write_text('{"_id": 0, "text": "a"}\n{"_id": "1", "text": "b"}\n')
    (folder / "queries.jsonl").write_text('{"_id": 7, "text": "c"}\n')
    for name in ("train", "dev"):
        (folder / f"qrels/{name}.tsv").write_text("7\t0\t1\n")
    read = read_beir(folder)
    assert [passage.id for passage in read.passages] == ["0", "1"]
    assert read.splits["dev"].queries == {"7": "c"}
    (folder / "corpus.jsonl").write_text('{"_id": 1, "text": "a"}\n{"_id": "1", "text": "b"}\n')
    with pytest.raises(InputError, match="duplicate '1'"):
        read_beir(folder)


@pytest.mark.skipif(not SQUAD.is_dir(), reason=f"{SQUAD} is not here")
def test_squad_is_read():
    squad = read_beir(SQUAD)
    assert len(squad.passages) == 20_958
    with (SQUAD / "corpus.jsonl").open(encoding="utf-8") as file:
        first = json.loads(next(file))
    assert squad.passages[0] == (first["_id"], first["title"], first["text"])
    for name, split in squad.splits.items():
        lines = (SQUAD / f"qrels/{name}.tsv").read_text().split("\n")[1:]
        assert sum(map(len, split.qrels.values())) == len([line for line in lines if line])


def test_runs_are_written_as_trec_reads_them(tmp_path):
    path = tmp_path / "run.trec"
    write_run(path, {"q2": [("p5", 1.5), ("p1", -0.25)], "q1": [("p3", 1e-7)], "q3": []}, "tag")
    assert path.read_text() == ("q2 Q0 p5 1 1.5 tag\nq2 Q0 p1 2 -0.25 tag\nq1 Q0 p3 1 1e-07 tag\n")


def test_a_run_comes_back_to_the_last_bit(tmp_path):
    scores = np.sort(np.random.default_rng(0).standard_normal(500).astype(np.float32))[::-1]
    run = {"q": [(f"p{i}", float(score)) for i, score in enumerate(scores)]}
    write_run(tmp_path / "run.trec", run, "tag")
    (back,) = read_run(tmp_path / "run.trec").values()
    assert [pid for pid, _ in back] == [pid for pid, _ in run["q"]]
    assert [np.float32(score) for _, score in back] == list(scores)


def test_a_run_of_others_is_read_by_score_then_rank(tmp_path):
    text = (
        "q1\tQ0 a 3 1.0 x\nq1 Q0  b 1 1.0 x\n\nq1 Q0 c 2 -2e1 x\r\nq2 Q0 a 1 7 x\nq1 Q0 d 9 4 x\n"
    )
    (tmp_path / "run.trec").write_text(text)
    with gzip.open(tmp_path / "run.trec.gz", "wt") as file:
        file.write(text)
    want = {"q1": [("d", 4.0), ("b", 1.0), ("a", 1.0), ("c", -20.0)], "q2": [("a", 7.0)]}
    assert read_run(tmp_path / "run.trec") == want == read_run(tmp_path / "run.trec.gz")


def test_equal_scores_come_back_in_their_order(tmp_path):
    run = {"q": [("b", 0.5), ("c", 0.5), ("a", 0.5)], "other": [("z", -1.0)]}
    write_run(tmp_path / "run.trec", run, "tag")
    assert read_run(tmp_path / "run.trec") == run


def test_only_ascii_white_space_divides_columns(tmp_path, folder):
    name = "Jahr\u00a01928\u2028"
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"_id": name, "text": "a"}) + "\n")
    assert name in read_beir(folder).by_id
    write_run(tmp_path / "run.trec", {"q": [(name, 1.0)]}, "tag")
    assert read_run(tmp_path / "run.trec") == {"q": [(name, 1.0)]}


def test_an_empty_run_is_refused(tmp_path):
    (tmp_path / "run.trec").write_text("\n")
    with pytest.raises(InputError, match=r"run.trec: contains no rankings"):
        read_run(tmp_path / "run.trec")


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    (tmp_path / "run.trec").write_text("q Q0 a 1 0.7 x\n", encoding="utf-8-sig")
    assert read_run(tmp_path / "run.trec") == {"q": [("a", 0.7)]}
    (tmp_path / "q.tsv").write_text("1\ta\n", encoding="utf-8-sig")
    assert read_queries(tmp_path / "q.tsv") == {"1": "a"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 b 2 0.5", "expected query Q0 passage rank score tag"),
        ("q Q0 b b 2 0.5 x", "expected query Q0 passage rank score tag"),
        ("q Q0 b 2 -inf x", "score: expected a finite number, got '-inf'"),
        ("q Q0 a 2 0.5 x", "passage: duplicate 'a' for query 'q'"),
        ("q Q0 b 2 nan x", "score: expected a finite number, got 'nan'"),
        ("q Q0 b 2 high x", "score: expected a finite number, got 'high'"),
        ("q Q0 b first 2 x", "rank: expected a finite number, got 'first'"),
    ],
)
def test_a_damaged_run_is_named(tmp_path, line, message):
    path = tmp_path / "run.trec"
    path.write_text(f"q Q0 a 1 0.7 x\n{line}\n")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: {re.escape(message)}"):
        read_run(path)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"run.trec: no such file"):
        read_run(tmp_path / "run.trec")
    (tmp_path / "run.gz").write_bytes(
        gzip.compress(b"".join(b"q%d Q0 a 1 0.7 x\n" % i for i in range(999)))[:-20]
    )
    with pytest.raises(InputError, match=r"run.gz:\d+: cannot be read any further"):
        read_run(tmp_path / "run.gz")
    (tmp_path / "plain.gz").write_bytes(b"q Q0 a 1 0.7 x\n")
    with pytest.raises(InputError, match=r"plain.gz:1: cannot be read any further"):
        read_run(tmp_path / "plain.gz")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.tsv", "7\twhat is\tit\n\n8\tand that\r\n"),
        ("q.jsonl", '{"_id": "7", "text": "what is\\tit"}\n{"_id": "8", "text": "and that"}\n'),
    ],
)
def test_queries_are_read_by_the_name_of_their_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_queries(tmp_path / name) == {"7": "what is\tit", "8": "and that"}


def test_plain_queries_are_numbered_by_line(tmp_path):
    (tmp_path / "q.txt").write_text("first\n\n third \n")
    assert read_queries(tmp_path / "q.txt") == {"1": "first", "3": "third"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.tsv", "1\ta\n1\tb\n", ":2: id: duplicate '1'"),
        ("q.tsv", "1\ta\nno tab\n", ":2: expected id TAB text"),
        ("q.tsv", "1\t \n", ":1: text: expected non-empty text"),
        ("q.tsv", "\ta\n", ":1: id: expected non-empty text"),
        ("q.tsv", "1 2\ta\n", ":1: id: '1 2' contains whitespace"),
        ("q.csv", "1,a\n", ": queries are read from .tsv (id TAB text), .jsonl ({_id, text})"),
        ("q.txt", "\n", ": contains no queries"),
        ("q.jsonl", '{"_id": "1"}\n', ":1: text: expected non-empty text"),
    ],
)
def test_damaged_queries_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name) + message)):
        read_queries(tmp_path / name)


def test_answers_come_with_their_queries(folder):
    (folder / "answers.jsonl").write_text('{"_id": "q1", "answers": ["one", "1"]}\n')
    splits = read_beir(folder).splits
    assert [split.answers for split in splits.values() if "q1" in split.queries] == [
        {"q1": ("one", "1")}
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "q77", "answers": []}', "_id: 'q77' is not in queries.jsonl"),
        ('{"_id": "q1", "answers": "one"}', "answers: expected a list of strings"),
        ('{"_id": "q1", "answers": [1]}', "answers: expected a list of strings"),
        ('{"_id": "q1", "answers": []}\n{"_id": "q1", "answers": []}', "_id: duplicate 'q1'"),
    ],
)
def test_damaged_answers_are_named(folder, line, message):
    (folder / "answers.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=rf"answers.jsonl:\d: {re.escape(message)}"):
        read_beir(folder)


def test_queries_nobody_judged_are_a_split_of_their_own(folder):
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q-new", "text": "and this?"}\n')
    unlabelled = read_beir(folder).splits["unlabelled"]
    assert unlabelled.queries["q-new"] == "and this?" and unlabelled.qrels == {}
    assert unlabelled.queries == {"q-new": "and this?"}


def test_judged_0_is_judged_and_all_judged_leaves_no_such_split(folder):
    (folder / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp1\t0\n")
    assert set(read_beir(folder).splits) == {"dev", "train"}


def test_a_split_of_that_name_stays_as_it_is(folder):
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q-new", "text": "and this?"}\n')
    (folder / "qrels/unlabelled.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp2\t1\n")
    splits = read_beir(folder).splits
    assert splits["unlabelled"].qrels == {"q1": {"p2": 1}}
    assert all("q-new" not in split.queries for split in splits.values())


def test_answers_of_unlabelled_queries_are_kept(folder):
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q-new", "text": "and this?"}\n')
    (folder / "answers.jsonl").write_text('{"_id": "q-new", "answers": []}\n')
    splits = read_beir(folder).splits
    assert splits["unlabelled"].answers == {"q-new": ()} and splits["train"].answers == {}


MUTATIONS = st.binary(max_size=12) | st.text('\t\n\r"{}[]:,_id 01pq-aé\x00\u2028', max_size=9).map(
    str.encode
)


@settings(max_examples=200)
@given(
    st.sampled_from(["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "answers.jsonl"]),
    st.sampled_from(["fail", "skip"]),
    st.integers(0, 160),
    st.integers(0, 9),
    MUTATIONS,
)
def test_mutated_folders_give_rows_or_one_clear_error(folder, name, policy, start, length, data):
    (folder / "answers.jsonl").write_text('{"_id": "q1", "answers": ["Katze"]}\n')
    good = (folder / name).read_bytes()
    (folder / name).write_bytes(good[:start] + data + good[start + length :])
    try:
        read = read_beir(folder, policy)
    except InputError as error:
        assert str(folder) in str(error)
    else:
        for split in read.splits.values():
            assert all(pid in read.by_id for found in split.qrels.values() for pid in found)
            assert split.qrels.keys() <= split.queries.keys()
    finally:
        (folder / name).write_bytes(good)


RUN = b"q1 Q0 p1 1 2.5 tag\nq1 Q0 p2 2 -1e3 tag\nq2\tQ0\tp1\t1\t0.5\ttag\n"


@settings(max_examples=200)
@given(st.integers(0, 60), st.integers(0, 9), MUTATIONS)
def test_mutated_runs_give_rows_or_one_clear_error(tmp_path, start, length, data):
    path = tmp_path / "a.trec"
    path.write_bytes(RUN[:start] + data + RUN[start + length :])
    try:
        read = read_run(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        for ranked in read.values():
            scores = [score for _, score in ranked]
            assert ranked and np.isfinite(scores).all() and scores == sorted(scores, reverse=True)


@settings(max_examples=200)
@given(st.sampled_from(["q.tsv", "q.txt", "q.jsonl"]), MUTATIONS | st.binary())
def test_any_queries_give_rows_or_one_clear_error(tmp_path, name, data):
    good = {"q.tsv": b"1\ta\n", "q.txt": b"a\n", "q.jsonl": b'{"_id": "1", "text": "a"}\n'}[name]
    path = tmp_path / name
    path.write_bytes(good + data)
    try:
        read = read_queries(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert read and all(query and text.strip() for query, text in read.items())


def test_fields_that_nothing_reads_are_named(tmp_path):
    corpus = {"_id": "p", "title": "", "text": "words", "abstract": "more", "metadata": {}}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(corpus) + "\n")
    query = {"_id": "q", "text": "ask", "negatives": ["x"], "answers": ["y"]}
    (tmp_path / "queries.jsonl").write_text(json.dumps(query) + "\n")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text("q\tp\t1\n")
    notes = load_collection(str(tmp_path)).notes
    assert f"{tmp_path / 'corpus.jsonl'}: not used in training so far: abstract" in notes
    assert f"{tmp_path / 'queries.jsonl'}: not used in training so far: negatives, answers" in notes
