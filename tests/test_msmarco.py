"""MS MARCO's and DPR's files in: whole folders, each fault by file and line, any bytes at all."""

import gzip
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rocketjax.data.collection import Passage
from rocketjax.data.collections import load_collection
from rocketjax.data.msmarco import read_msmarco
from rocketjax.errors import InputError

RAW = Path(__file__).parents[2] / "shared" / "data" / "raw" / "msmarco"
GOOD = {
    "collection.tsv": "0\tA cat purrs.\r\n1\tSie schläft\tviel.\n\n2\t Dogs bark. \n",
    "queries.train.tsv": "7\twho purrs?\n8\twho sleeps?\n9\twho knows?\n",
    "queries.dev.small.tsv": "5\twho barks?\n",
    "queries.dev.tsv": "5\twho barks?\n6\twhat else?\n",
    "qrels.train.tsv": "7\t0\t0\t1\n8\t0\t1\t1\n8\t0\t0\t0\n",
    "qrels.dev.small.tsv": "5 Q0 2 3\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in GOOD.items():
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def test_a_good_folder_is_read(folder):
    read = load_collection(str(folder))
    assert list(read.passages) == [
        Passage("0", "", "A cat purrs."),
        Passage("1", "", "Sie schläft\tviel."),
        Passage("2", "", "Dogs bark."),
    ]
    train, dev = read.splits["train"], read.splits["dev.small"]
    assert train.qrels == {"7": {"0": 1}, "8": {"1": 1, "0": 0}}
    assert train.queries == {"7": "who purrs?", "8": "who sleeps?"}
    assert (dev.queries, dev.qrels) == ({"5": "who barks?"}, {"5": {"2": 3}})
    # Not 6: a query of dev is never one to train on.
    assert read.splits["unlabelled"].queries == {"9": "who knows?"}


def test_packed_files_and_a_mark_at_the_start_are_read(folder):
    plain = load_collection(str(folder))
    for name in GOOD:
        text = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / f"{name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text))
    packed = load_collection(str(folder))
    assert (packed.passages, packed.splits) == (plain.passages, plain.splits)
    assert packed.fingerprint == plain.fingerprint


def test_passages_of_dpr_are_unquoted(folder):
    (folder / "collection.tsv").unlink()
    rows = 'id\ttext\ttitle\n0\t"""Quoted"", they said."\tA "title"\n1\ttwo\t\n2\tthree\tThree\n'
    (folder / "psgs_w100.tsv").write_text(rows)
    assert list(load_collection(str(folder)).passages) == [
        Passage("0", 'A "title"', '"Quoted", they said.'),
        Passage("1", "", "two"),
        Passage("2", "Three", "three"),
    ]
    with (folder / "psgs_w100.tsv").open("a") as file:
        file.write('3\t"open\ttitle\n')
    with pytest.raises(InputError, match=r"psgs_w100\.tsv:5: not CSV"):
        load_collection(str(folder))


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("collection.tsv", "no tab", "expected id TAB text"),
        ("collection.tsv", "3\t ", "text: passage '3' is empty"),
        ("collection.tsv", "0\tagain", "id: '0' stands twice"),
        ("collection.tsv", "a b\ttext", "id: 'a b' is empty or holds white space"),
        ("collection.tsv", "\ttext", "id: '' is empty"),
        ("queries.train.tsv", "7\twho purrs?", "id: '7' stands twice"),
        ("queries.train.tsv", "5\tanother", "id: '5' is another query in another file"),
        ("queries.train.tsv", "4\t", "text: query '4' is empty"),
        ("qrels.train.tsv", "7\t0\t0", "expected query 0 passage grade"),
        ("qrels.train.tsv", "7\t0\t0\tx", "expected query 0 passage grade"),
        ("qrels.train.tsv", "77\t0\t0\t1", "query: '77' is in no queries"),
        ("qrels.train.tsv", "7\t0\t55\t1", "passage: '55' is not in the corpus"),
        ("qrels.train.tsv", "7\t0\t0\t2", "grade: 2, but '7' with '0' had 1"),
    ],
)
def test_a_fault_is_named_by_file_and_line(folder, name, line, said):
    with (folder / name).open("a") as file:
        file.write(line + "\n")
    number = len((folder / name).read_bytes().splitlines())
    with pytest.raises(InputError, match=re.escape(f"{name}:{number}: {said}")):
        read_msmarco(folder)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["qrels.train.tsv", "qrels.dev.small.tsv"], "no judgements; qrels.train.tsv is missing"),
        (["queries.train.tsv", "queries.dev.tsv", "queries.dev.small.tsv"], "no queries"),
    ],
)
def test_a_missing_file_is_named(folder, names, said):
    for name in names:
        (folder / name).unlink()
    with pytest.raises(InputError, match=said):
        read_msmarco(folder)


def test_an_empty_file_is_named(folder):
    (folder / "collection.tsv").write_text("\n")
    with pytest.raises(InputError, match="the corpus is empty"):
        read_msmarco(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    name=st.sampled_from(sorted(GOOD)),
    start=st.integers(0, 60),
    length=st.integers(0, 9),
    data=st.binary(max_size=12) | st.text('\t\n\r"01278 aé\x00\u2028', max_size=9).map(str.encode),
)
def test_mutated_files_give_rows_or_one_clear_error(folder, name, start, length, data):
    good = GOOD[name].encode()
    (folder / name).write_bytes(good[:start] + data + good[start + length :])
    try:
        read = read_msmarco(folder)
    except InputError as error:
        assert str(folder) in str(error)
    else:
        known = {passage.id for passage in read.passages}
        for split in read.splits.values():
            assert all(pid in known for found in split.qrels.values() for pid in found)
            assert split.qrels.keys() <= split.queries.keys()
    finally:
        (folder / name).write_bytes(good)


def test_real_files_are_read(tmp_path):
    if not RAW.is_dir():
        pytest.skip(f"{RAW} is not part of a user's clone")
    for name, source in (
        ("collection.tsv", "collection.first1000.tsv"),
        ("queries.train.tsv", "queries.dev.small.tsv"),
        ("queries.test2019.tsv", "msmarco-test2019-queries.tsv"),
    ):
        (tmp_path / name).write_bytes((RAW / source).read_bytes())
    # No real judgement points at the first thousand passages: the real ones, moved there.
    real = [line.split() for line in (RAW / "2019qrels-pass.txt").read_text().splitlines()[:500]]
    moved = {(query, int(pid) % 1000): grade for query, _, pid, grade in real}
    rows = "".join(f"{query} Q0 {pid} {grade}\n" for (query, pid), grade in moved.items())
    (tmp_path / "qrels.test2019.tsv").write_text(rows)
    read = load_collection(str(tmp_path))
    assert len(read.passages) == 1_001
    assert read.passages[0].text.startswith("The presence of communication amid")
    judged = read.splits["test2019"].qrels
    assert sum(map(len, judged.values())) == len(moved)
    assert {grade for found in judged.values() for grade in found.values()} <= {0, 1, 2, 3}
    assert len(read.splits["unlabelled"].queries) == 6_980
