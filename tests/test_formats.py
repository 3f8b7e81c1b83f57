"""BEIR folders in, each of their faults named by file and line; TREC runs out."""

import json
import re
from pathlib import Path

import pytest

from rocketjax.data.collection import Passage
from rocketjax.data.formats import read_beir, write_run
from rocketjax.errors import InputError

SQUAD = Path(__file__).parents[2] / "shared/data/squad"
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


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("corpus.jsonl", "{", "not JSON"),
        ("corpus.jsonl", '["p9", "a"]', "expected an object"),
        ("corpus.jsonl", '{"_id": "p9", "title": "", "text": " "}', "text: .*'p9' is empty"),
        ("corpus.jsonl", '{"_id": "p9", "text": 5}', "text: .*5"),
        ("corpus.jsonl", '{"_id": "p9", "title": ["a"], "text": "a"}', "title: .*'a'"),
        ("corpus.jsonl", '{"text": "a"}', "_id: .*None"),
        ("corpus.jsonl", '{"_id": 9, "text": "a"}', "_id: .*9"),
        ("corpus.jsonl", '{"_id": "p1", "text": "a"}', "_id: 'p1' stands twice"),
        ("queries.jsonl", "text", "not JSON"),
        ("queries.jsonl", "5", "expected an object"),
        ("queries.jsonl", '{"_id": "q9", "text": " "}', "text: "),
        ("queries.jsonl", '{"_id": "q9"}', "text: .*None"),
        ("queries.jsonl", '{"_id": "q2", "text": "a"}', "_id: 'q2' stands twice"),
        ("qrels/train.tsv", "q9\tp1\t1", "query-id: 'q9' is not in"),
        ("qrels/train.tsv", "q1\tp9\t1", "corpus-id: 'p9' is not in"),
        ("qrels/train.tsv", "q1 p1 1", "expected query-id, corpus-id, score"),
        ("qrels/train.tsv", "q1\t0\tp1\t1", "expected query-id, corpus-id, score"),
        ("qrels/train.tsv", "q1\tp1\t0.5", "expected query-id, corpus-id, score"),
        ("qrels/train.tsv", "q1\tp1\t²", "expected query-id, corpus-id, score"),
        ("qrels/train.tsv", "q1\tp1\t--1", "expected query-id, corpus-id, score"),
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


def test_judgements_without_a_header_are_refused_not_lost(folder):
    path = folder / "qrels/train.tsv"
    path.write_text("q1\tp1\t1\nq2\tp2\t1\n")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:1: expected the line query-id"):
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
    assert path.read_text() == (
        "q2 Q0 p5 1 1.500000 tag\nq2 Q0 p1 2 -0.250000 tag\nq1 Q0 p3 1 0.000000 tag\n"
    )
