"""MS MARCO's and DPR's files in: whole folders, each fault by file and line, any bytes at all."""

import gzip
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocketjax.config.schema import Config, DataConfig, ListConfig
from rocketjax.data.collection import hold_out, sample_queries
from rocketjax.data.formats.msmarco import read_msmarco
from rocketjax.data.load import load_collection, read_queries
from rocketjax.data.passages import Passage
from rocketjax.data.runs import read_run
from rocketjax.pipeline import context
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

RAW = Path(__file__).parents[3] / "shared" / "data" / "raw" / "msmarco"
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
    assert list(packed.passages) == list(plain.passages)
    assert packed.splits == plain.splits
    assert packed.fingerprint == plain.fingerprint


def test_headers_are_no_rows_and_texts_of_triples_are_said_not_to_be_read(folder):
    plain = load_collection(str(folder))
    heads = {"collection": "pid\tpassage", "queries.train": "qid\tquery", "queries.dev": "id\ttext"}
    for name, head in {**heads, "qrels.train": "query-id\tcorpus-id"}.items():
        path = folder / f"{name}.tsv"
        path.write_bytes(head.encode() + b"\r\n" + path.read_bytes())
    (folder / "triples.train.small.tsv").write_text("who purrs?\tA cat purrs.\tDogs bark.\n")
    said = []
    headed = load_collection(str(folder), say=said.append)
    assert list(headed.passages) == list(plain.passages)
    assert {name: dict(vars(split), negatives=0) for name, split in headed.splits.items()} == {
        name: dict(vars(split), negatives=0) for name, split in plain.splits.items()
    }
    assert len(said) == 1
    assert said[0].startswith(f"{folder}/triples.train.small.tsv: not read")
    queries = folder / "queries.train.tsv"
    assert read_queries(queries) == {"7": "who purrs?", "8": "who sleeps?", "9": "who knows?"}
    (folder / "qrels.train.tsv").write_text("pid\tqid\n0\t7\n")
    with pytest.raises(InputError, match=r"qrels\.train\.tsv:1: query: 'pid' is not among"):
        load_collection(str(folder))


def test_of_a_file_and_its_packed_copy_the_first_is_read(folder):
    plain = load_collection(str(folder))
    for name in GOOD:
        (folder / f"{name}.gz").write_bytes(b"damaged")
    assert load_collection(str(folder)).splits == plain.splits


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
        ("collection.tsv", "0\tagain", "id: duplicate '0'"),
        ("collection.tsv", "a b\ttext", "id: 'a b' contains whitespace"),
        ("collection.tsv", "\ttext", "id: expected non-empty text"),
        ("queries.train.tsv", "7\twho purrs?", "id: duplicate '7'"),
        ("queries.train.tsv", "5\tanother", "id: '5' has another text in another file"),
        ("queries.train.tsv", "4\t", "text: expected non-empty text"),
        ("qrels.train.tsv", "7\t0\t0", "expected query 0 passage grade"),
        ("qrels.train.tsv", "7\t0\t0\tx", "grade: expected a whole number"),
        ("qrels.train.tsv", "77\t0\t0\t1", "query: '77' is not among"),
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


def test_unlabelled_queries_keep_the_order_of_their_file(folder):
    names = [str(i) for i in range(100, 130)]
    with (folder / "queries.train.tsv").open("a") as file:
        file.writelines(f"{name}\tquery {name}\n" for name in names)
    assert list(read_msmarco(folder).splits["unlabelled"].queries)[-30:] == names


def test_an_empty_file_is_named(folder):
    (folder / "collection.tsv").write_text("\n")
    with pytest.raises(InputError, match="the corpus is empty"):
        read_msmarco(folder)


@settings(max_examples=150)
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


ROCKETQA = {
    "para.txt": "0\tA cat purrs.\n1\tDogs bark.\n2\tEels\n",
    "para.title.txt": "2\tFish\n0\t-\n1\t\n",
    "train.query.txt": "7\twho purrs?\n8\twho barks?\n",
    "dev.query.txt": "5\twho swims?\n",
    "qrels.train.tsv": "7\t0\t0\t1\n8\t1\n",
    "qrels.dev.tsv": "5\t0\t2\t1\n",
    "qidpidtriples.train.full.2.tsv": "7\t0\t1\n7\t0\t2\n7\t0\t1\n8\t1\t0\n",
}


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_rocketqa_is_read(tmp_path, packed):
    for name, text in ROCKETQA.items():
        data = gzip.compress(text.encode()) if packed else text.encode()
        (tmp_path / (f"{name}.gz" if packed else name)).write_bytes(data)
    read = load_collection(str(tmp_path))
    assert [passage.title for passage in read.passages] == ["", "", "Fish"]
    assert read.splits["train"].qrels == {"7": {"0": 1}, "8": {"1": 1}}
    assert read.splits["dev"].qrels == {"5": {"2": 1}}
    assert read.splits["train"].negatives == {"7": ["1", "2"], "8": ["0"]}


def test_negatives_of_several_files_are_taken_together(tmp_path):
    for name, text in ROCKETQA.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "qidpidtriples.train.more.tsv").write_text("8\t1\t2\n8\t1\t0\n")
    assert load_collection(str(tmp_path)).splits["train"].negatives["8"] == ["0", "2"]


@pytest.fixture
def broken(tmp_path):
    """A folder of RocketQA whose triples have a line that is none."""
    for name, text in ROCKETQA.items():
        (tmp_path / name).write_text(text)
    with (tmp_path / "qidpidtriples.train.full.2.tsv").open("a") as file:
        file.write("no triple\n")
    return tmp_path


def test_triples_are_read_when_negatives_are_asked_for_and_not_before(broken):
    train = load_collection(str(broken)).split("train")
    parts = [train, train.only(["8"]), *hold_out(train, 0.5), sample_queries(train, 1)]
    for part in parts:
        with pytest.raises(InputError, match=r"full\.2\.tsv:5: expected query TAB positive"):
            part.negatives.get("7")
    said = []
    train = load_collection(str(broken), "skip", said.append).split("train")
    assert not said
    part, file = train.only(["8", "7"]), broken / "qidpidtriples.train.full.2.tsv"
    assert list(part.negatives.items()) == [("8", ["0"]), ("7", ["1", "2"])]
    assert said[0] == f"{file}: reading hard negatives"
    assert said[1].startswith(f"{file}: left out 1 bad rows: {file}:5: expected query TAB")
    file.unlink()
    assert train.negatives == {"7": ["1", "2"], "8": ["0"]} and len(said) == 2  # read once


def test_training_on_mined_lists_does_not_read_triples(broken):
    def opened(source):
        data = DataConfig(str(broken), hold_out=0.5, eval_split="test")
        config = Config(data=data, lists=ListConfig(source=source))
        return context.open_run(config, broken, context.Watching(print, unwatched))

    run = opened("mined")
    assert run.order and run.judged.queries
    with pytest.raises(InputError, match=r"full\.2\.tsv:5: expected query TAB positive"):
        opened("given")


def test_a_title_that_is_left_out_is_counted(tmp_path):
    for name, text in (ROCKETQA | {"para.title.txt": "2\tFish\nnone\n"}).items():
        (tmp_path / name).write_text(text)
    said = []
    read = load_collection(str(tmp_path), "skip", said.append)
    assert [passage.title for passage in read.passages] == ["", "", "Fish"]
    assert len(said) == 1 and "para.title.txt: left out 1 bad rows" in said[0]


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("para.title.txt", "3", "expected id TAB title"),
        ("para.title.txt", "2\tagain", "id: duplicate '2'"),
        ("qidpidtriples.train.full.2.tsv", "7\t0", "expected query TAB positive TAB negative"),
        ("qidpidtriples.train.full.2.tsv", "7\t0\t9", "negative: '9' is not in the corpus"),
        ("qidpidtriples.train.full.2.tsv", "5\t0\t1", "query: '5' is not in the qrels"),
        ("qidpidtriples.train.full.2.tsv", "7\t0\t0", "negative: '0' is a positive of '7'"),
    ],
)
def test_a_fault_of_such_a_folder_is_named_or_left_out(tmp_path, name, line, said):
    for other, text in ROCKETQA.items():
        (tmp_path / other).write_text(text)
    with (tmp_path / name).open("a") as file:
        file.write(line + "\n")
    number = ROCKETQA[name].count("\n") + 1
    with pytest.raises(InputError, match=re.escape(f"{name}:{number}: {said}")):
        len(load_collection(str(tmp_path)).splits["train"].negatives)
    read = load_collection(str(tmp_path), "skip")
    assert read.splits["train"].negatives == {"7": ["1", "2"], "8": ["0"]}
    assert len(read.notes) <= 1  # titles that are left out are those of no passage


def test_bad_rows_are_left_out_and_counted(folder):
    bad = {
        "collection.tsv": b"no tab\n3\t \n0\tagain\n\xff\xff\n",
        "queries.train.tsv": b"7\tagain\n4\t\n",
        "qrels.train.tsv": b"7\t0\t55\t1\n77\t0\t0\t1\n7\t0\t0\t2\nx\n",
    }
    good = load_collection(str(folder))
    for name, data in bad.items():
        (folder / name).write_bytes((folder / name).read_bytes() + data)
    said = []
    read = load_collection(str(folder), "skip", said.append)
    assert list(read.passages) == list(good.passages)
    assert read.splits == good.splits
    counts = {Path(line.split(": left out ")[0]).name: line for line in said}
    assert {
        name: int(line.split(": left out ")[1].split()[0]) for name, line in counts.items()
    } == {
        "collection.tsv": 4,
        "queries.train.tsv": 2,
        "qrels.train.tsv": 4,
    }


def test_a_corpus_alone_is_a_collection_to_search(folder):
    read = load_collection(str(folder / "collection.tsv"))
    assert (len(read.passages), read.splits) == (3, {})


def test_top_1000_is_a_run(tmp_path):
    path = tmp_path / "top1000.dev.tsv"
    path.write_text("7\t0\twho purrs?\tA cat purrs.\n7\t2\twho purrs?\tDogs bark.\n5\t2\tx\ty\n")
    assert read_run(path) == {"7": [("0", 0.0), ("2", -1.0)], "5": [("2", 0.0)]}


def test_a_corpus_whose_header_has_a_title_is_refused(tmp_path):
    (tmp_path / "collection.tsv").write_text("id\ttitle\ttext\n0\tFish\tswims\n")
    with pytest.raises(InputError, match=r"collection\.tsv:1: columns id, title, text, but here"):
        load_collection(str(tmp_path / "collection.tsv"))
