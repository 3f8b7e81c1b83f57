"""Training rows of every format: the same collection out of each, faults by place, any bytes."""

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocketjax.data.formats.row import row_of
from rocketjax.data.lines import BadRow
from rocketjax.data.load import load_collection
from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import InputError

RAW = Path(__file__).parents[3] / "shared" / "data" / "raw"

CAT, DOG, EEL = ("Cats", "They purr."), ("", "Dogs bark."), ("Eels", "Wet.")
Q1, Q2 = "who purrs?", "wer bellt, ö?"


def jsonl(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def joined(passage):
    return " ".join(passage).strip()


def titled(passage, **more):
    return {"title": passage[0], "text": passage[1], **more}


# Name of the file -> what it holds: Q1 with CAT, against DOG and EEL; Q2 with DOG, against EEL.
TITLED = {
    "train.json": json.dumps(
        [
            {
                "question": Q1,
                "answers": ["cats"],
                "positive_ctxs": [titled(CAT)],
                "negative_ctxs": [titled(CAT)],  # never used where there are hard ones
                "hard_negative_ctxs": [titled(DOG), titled(EEL)],
            },
            {"question": Q2, "positive_ctxs": [titled(DOG)], "negative_ctxs": [titled(EEL)]},
        ],
        indent=1,
    ),
    "dual.train.tsv": f"{Q1}\t{CAT[0]}\t{CAT[1]}\t-\t{DOG[1]}\t0\r\n\n"
    f"{Q1}\t{CAT[0]}\t{CAT[1]}\t{EEL[0]}\t{EEL[1]}\t0\n"
    f"{Q2}\t\t{DOG[1]}\t{EEL[0]}\t{EEL[1]}\t0\n",
    "joint.train.tsv": f"{Q1}\t{CAT[0]}\t{CAT[1]}\t1\n{Q1}\t-\t{DOG[1]}\t0\n"
    f"{Q1}\t{EEL[0]}\t{EEL[1]}\t0\n{Q2}\t\t{DOG[1]}\t1\n{Q2}\t{EEL[0]}\t{EEL[1]}\t0\n",
}
UNTITLED = {
    "train.jsonl": jsonl(
        {"query": Q1, "pos": [joined(CAT)], "neg": [joined(DOG), joined(EEL)], "prompt": "x"},
        {"query": Q2, "pos": [joined(DOG)], "neg": [joined(EEL)], "pos_scores": [1.0]},
    ),
    "triplets-train.jsonl": jsonl(
        {"anchor": Q1, "positive": joined(CAT), "negative": joined(DOG)},
        {"anchor": Q1, "positive": joined(CAT), "negative": joined(EEL)},
        {"anchor": Q2, "positive": joined(DOG), "negative": joined(EEL)},
    ),
    "many.train.jsonl": jsonl(
        {
            "question": Q1,
            "positive": joined(CAT),
            "negative_1": joined(DOG),
            "negative_2": joined(EEL),
        },
        {"question": Q2, "positive": joined(DOG), "negative_1": joined(EEL), "negative_2": None},
    ),
    "lists.jsonl": jsonl(
        {"query": Q1, "docs": [joined(DOG), joined(CAT), joined(EEL)], "labels": [0, 1, 0]},
        {"query": Q2, "docs": [joined(DOG), joined(EEL)], "labels": [True, False]},
    ),
    "pairs.jsonl": jsonl(
        {"query": Q1, "passage": joined(CAT), "label": 1.0},
        {"query": Q1, "passage": joined(DOG), "label": 0},
        {"query": Q1, "passage": joined(EEL), "label": 0},
        {"query": Q2, "passage": joined(DOG), "label": 1},
        {"query": Q2, "passage": joined(EEL), "label": 0},
    ),
}
TEVATRON = {
    "train.jsonl": jsonl(
        {
            "query_id": 1,
            "query": Q1,
            "positive_passages": [titled(CAT, docid="a")],
            "negative_passages": [titled(DOG, docid="b"), titled(EEL, docid="c")],
        },
        {
            "query_id": "2",
            "query": Q2,
            "positive_passages": [titled(DOG, docid="b")],
            "negative_passages": [titled(EEL, docid="c")],
        },
    )
}
TEVATRON_2 = {
    "corpus.jsonl": jsonl(
        titled(EEL, docid="c"),
        titled(CAT, docid="a"),
        titled(DOG, docid="b"),
        {"docid": "d", "text": "D"},
    ),
    "train.jsonl": jsonl(
        {
            "query_id": "1",
            "query_text": Q1,
            "positive_document_ids": ["a"],
            "negative_document_ids": ["b", "c"],
        },
        {
            "query_id": "2",
            "query_text": Q2,
            "query_image": None,
            "positive_document_ids": ["b"],
            "negative_document_ids": ["c"],
        },
    ),
}


def spelled(collection, split="train"):
    """The split's content, ids replaced by what they stand for."""
    part = collection.splits[split]

    def text(pid):
        return collection.by_id[pid][1:]

    return {
        part.queries[query]: (
            {text(p) for p in part.qrels[query]},
            [text(p) for p in part.negatives[query]],
        )
        for query in part.queries
    }


def wanted(form):
    cat, dog, eel = ((form(p) if form else p) for p in (CAT, DOG, EEL))
    return {Q1: ({cat}, [dog, eel]), Q2: ({dog}, [eel])}


@pytest.mark.parametrize("name", [*TITLED, *UNTITLED])
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_gives_the_same_collection(tmp_path, name, packed):
    text = (TITLED | UNTITLED)[name].encode()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text) if packed else text)
    form = None if name in TITLED else (lambda p: ("", joined(p)))
    split = "train" if "train" in name else name.removesuffix(".jsonl")
    for source in (path, tmp_path):  # the file, or its folder
        collection = load_collection(str(source))
        assert spelled(collection, split) == wanted(form)
        assert len(collection.passages) == 3
    answers = (
        {
            collection.splits["train"].queries[q]: a
            for q, a in collection.splits[split].answers.items()
        }
        if name == "train.json"
        else {}
    )
    assert answers == ({Q1: ["cats"]} if name == "train.json" else {})


@pytest.mark.parametrize("files", [TEVATRON, TEVATRON_2])
@pytest.mark.parametrize("packed", [False, True])
def test_rows_with_ids_keep_them(tmp_path, files, packed):
    for name, text in files.items():
        data = gzip.compress(text.encode()) if packed else text.encode()
        (tmp_path / (f"{name}.gz" if packed else name)).write_bytes(data)
    collection = load_collection(str(tmp_path))
    train = collection.splits["train"]
    assert (train.queries, train.qrels) == ({"1": Q1, "2": Q2}, {"1": {"a": 1}, "2": {"b": 1}})
    assert train.negatives == {"1": ["b", "c"], "2": ["c"]}
    assert collection.by_id["a"] == Passage("a", *CAT)
    assert len(collection.passages) == (4 if "corpus.jsonl" in files else 3)


def test_dpr_rows_over_its_passages(tmp_path):
    (tmp_path / "psgs_w100.tsv").write_text(
        "id\ttext\ttitle\n7\tThey purr.\tCats\n8\tDogs bark.\t\n"
    )
    rows = [{"question": Q1, "answers": [], "positive_ctxs": [titled(CAT, passage_id="7")]}]
    (tmp_path / "biencoder-nq-train.json").write_text(json.dumps(rows))
    rows = [{"question": Q2, "answers": ["d"], "positive_ctxs": [titled(DOG, psg_id=8)]}]
    (tmp_path / "biencoder-nq-dev.json").write_text(json.dumps(rows))
    collection = load_collection(str(tmp_path))
    assert list(collection.splits) == ["dev", "train"]
    assert list(collection.splits["dev"].qrels.values()) == [{"8": 1}]
    assert [p.id for p in collection.passages] == ["7", "8"]


def test_a_positive_of_one_row_is_no_negative_of_another(tmp_path):
    rows = [
        {"query": Q1, "pos": ["a"], "neg": ["b", "c"]},
        {"query": Q1, "pos": ["b"], "neg": ["a"]},
    ]
    (tmp_path / "train.jsonl").write_text(jsonl(*rows))
    train = load_collection(str(tmp_path)).splits["train"]
    (positives,) = train.qrels.values()
    (negatives,) = train.negatives.values()
    assert len(positives) == 2
    assert len(negatives) == 1
    assert not set(positives) & set(negatives)


def texts_of(collection, split="train"):
    """Of each query: its positives, its negatives and its answers, as texts."""
    part = collection.splits[split]

    def text(pid):
        return collection.by_id[pid].text

    return {
        part.queries[query]: (
            set(map(text, part.qrels.get(query, ()))),
            list(map(text, part.negatives[query])),
            list(part.answers.get(query, ())),
        )
        for query in part.queries
    }


@pytest.mark.parametrize(
    ("fields", "negatives", "answers"),
    [
        ({"positive": "p", "negatives": ["a", "b"]}, ["a", "b"], []),
        ({"positive": "p", "negative1": "a", "negative2": "b"}, ["a", "b"], []),
        ({"positive": "p", "negative_1": "a", "negative_2": ["b", "c"]}, ["a", "b", "c"], []),
        ({"positive": ["p"], "neg": ["a"], "hard_negatives": ["b"]}, ["a", "b"], []),
        ({"pos": "p", "neg": "a", "negative": None}, ["a"], []),
        ({"positives": ["p"], "answers": ["x", "y"]}, [], ["x", "y"]),
        ({"positive": "p", "answer": "x"}, [], ["x"]),
        ({"positive": "p", "answer": "", "hardneg": "a"}, ["a"], []),
        ({"pos": ["p"], "neg": [], "answers": ["x"]}, [], ["x"]),
        ({"answer": "p"}, [], []),
        ({"answer": "p", "answers": ["x"]}, [], ["x"]),
        ({"docs": ["p", "a"], "labels": [1, 0], "answers": ["x"]}, ["a"], ["x"]),
    ],
)
@pytest.mark.parametrize("query", ["query", "question", "anchor"])
def test_what_is_called_like_negatives_or_answers_is_read(
    tmp_path, fields, negatives, answers, query
):
    (tmp_path / "train.jsonl").write_text(jsonl({query: Q1, **fields}))
    collection = load_collection(str(tmp_path))
    assert texts_of(collection) == {Q1: ({"p"}, negatives, answers)}
    assert {passage.text for passage in collection.passages} == {"p", *negatives}
    assert not collection.notes


def test_negatives_beside_hard_ones_are_named_as_not_used(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(TITLED["train.json"])
    assert any(note.endswith(": negative_ctxs") for note in load_collection(str(path)).notes)


def test_fields_that_nothing_reads_are_named_once(tmp_path):
    row = {"query": Q1, "pos": ["p"], "neg": ["a"], "instruction": "find"}
    rows = [row | {"prompt": "Represent:"}, row | {"type": "", "id": None, "question": "other"}]
    rows[1] |= {"neg_ids": ["7"], "negativeScores": [0.1]}
    (tmp_path / "train.jsonl").write_text(jsonl(*rows))
    said = []
    load_collection(str(tmp_path), say=said.append)
    assert said == [
        f"{tmp_path}/train.jsonl: not used in training so far: instruction, prompt, question, "
        "neg_ids, negativeScores"
    ]
    ctxs = [titled(CAT, psg_id="1", score=3.5)]
    (tmp_path / "train.jsonl").write_text(jsonl({"question": Q1, "positive_ctxs": ctxs}))
    (note,) = load_collection(str(tmp_path)).notes
    assert note.endswith("so far: positive_ctxs.score")


def test_parts_of_a_split_are_one_split(tmp_path):
    for i, text in enumerate(("a b", "c d", "e f")):
        part = tmp_path / f"train-{i:05d}-of-00003.jsonl"
        part.write_text(jsonl({"query": text, "pos": [f"p{i}"], "neg": ["n"]}))
    (tmp_path / "dev-00000-of-00001.jsonl").write_text(jsonl({"query": "g", "pos": ["n"]}))
    collection = load_collection(str(tmp_path))
    assert list(collection.splits) == ["dev", "train"]
    assert list(collection.splits["train"].queries.values()) == ["a b", "c d", "e f"]
    assert [p.text for p in collection.passages] == ["n", "p0", "p1", "p2"]
    (tmp_path / "train-00001-of-00003.jsonl").unlink()
    with pytest.raises(InputError, match=r"train-00001-of-00003\.jsonl: missing, a part of split"):
        load_collection(str(tmp_path))


CSV = f'Query,Positive,negative_1,negative_2,Label\n"{Q1}","p, ""q""\nr",a,,\n"{Q2}",b,a,c,\n'


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_a_csv_are_read_by_the_names_of_their_columns(tmp_path, packed):
    path = tmp_path / ("train.csv.gz" if packed else "train.csv")
    data = b"\xef\xbb\xbf" + CSV.encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    assert texts_of(load_collection(str(tmp_path))) == {
        Q1: ({'p, "q"\nr'}, ["a"], []),
        Q2: ({"b"}, ["a", "c"], []),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{Q1},p\n{Q2},b\n", "1: expected the names of the columns"),
        ("query,positive,label\nq,p\n", "2: expected 3 columns, got 2"),
        (
            'query,answer\n"q\nr",p\nq,""\n',
            "4: positive: expected a text or a list of texts, got None",
        ),
        ('query,answer\nq,"p"x\n', "2: not CSV"),
        ("query,docs,labels\nq,a,1\n", "2: docs: expected a list, got 'a'"),
        ("query,passage,label\nq,a,1.0\nq,b,0\nq,c,0.5\n", "4: label: expected 0 or 1, got '0.5'"),
    ],
)
def test_a_bad_row_of_a_csv_is_named(tmp_path, text, said):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(InputError, match=rf"train\.csv:({said})"):
        load_collection(str(tmp_path))


def test_rows_of_a_parquet_file_are_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"query": Q1, "pos": ["p"], "neg": ["a", "b"], "label": None},
        {"query": Q2, "pos": ["b"], "neg": [], "label": "good"},
    ]
    path = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    collection = load_collection(str(tmp_path))
    assert texts_of(collection) == {Q1: ({"p"}, ["a", "b"], []), Q2: ({"b"}, [], [])}
    assert collection.notes == [f"{path}: not used in training so far: label"]
    parquet.write_table(pa.Table.from_pylist([*rows, {"query": " ", "pos": ["c"]}]), path)
    with pytest.raises(InputError, match=r"parquet:row 3: query: expected non-empty text"):
        load_collection(str(tmp_path))
    assert len(load_collection(str(tmp_path), "skip").splits["train"].queries) == 2
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"parquet:row 1: cannot be read any further"):
        load_collection(str(tmp_path))


def test_triples_of_texts_are_read(tmp_path):
    lines = [f"{Q1}\tp\ta\n", f"{Q1}\tp\tb\n", f"{Q2}\tb\ta c\n"]
    (tmp_path / "triples.train.small.tsv").write_text("".join(lines))
    assert texts_of(load_collection(str(tmp_path))) == {
        Q1: ({"p"}, ["a", "b"], []),
        Q2: ({"b"}, ["a c"], []),
    }
    (tmp_path / "triples.train.small.tsv").write_text(f"{Q1}\tp\t1\n{Q1}\ta\t0\n")
    assert texts_of(load_collection(str(tmp_path))) == {Q1: ({"p"}, ["a"], [])}
    (tmp_path / "triples.train.small.tsv").write_text("1185869\t0\t2942565\n")
    with pytest.raises(InputError, match=r"small\.tsv:1: expected query TAB .*, not ids, got"):
        load_collection(str(tmp_path))


@pytest.mark.parametrize(
    ("header", "row", "found"),
    [
        ("query\tpassage", f"{Q1}\tp", ({"p"}, [], [])),
        ("Question\tAnswer", f"{Q1}\tp", ({"p"}, [], [])),
        ("negative\tquery\tpositive", f"a\t{Q1}\tp", ({"p"}, ["a"], [])),
        ("label\tquery\ttitle\tpassage", f"1\t{Q1}\t\tp", ({"p"}, [], [])),
    ],
)
def test_a_header_names_the_columns(tmp_path, header, row, found):
    (tmp_path / "train.tsv").write_text(f"{header}\n{row}\n")
    assert texts_of(load_collection(str(tmp_path))) == {Q1: found}


def test_a_header_further_down_or_of_something_else_is_named(tmp_path):
    (tmp_path / "train.tsv").write_text(f"{Q1}\tp\ta\nquery\tpositive\tnegative\n")
    with pytest.raises(InputError, match=r"train\.tsv:2: expected query TAB .*, not ids"):
        load_collection(str(tmp_path))
    (tmp_path / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp1\t1\n")
    with pytest.raises(InputError, match=r"train\.tsv:2: fields query-id, .* none of the known"):
        load_collection(str(tmp_path))


def test_two_files_of_one_split_are_refused(tmp_path):
    for name in ("dual.train.tsv", "joint.train.tsv"):
        (tmp_path / name).write_text(TITLED[name])
    with pytest.raises(
        InputError, match=r"joint\.train\.tsv: split 'train', as .*dual\.train\.tsv is"
    ):
        load_collection(str(tmp_path))


BAD = [
    ("train.jsonl", "{", "not JSON"),
    ("train.jsonl", "[1]", "expected an object"),
    ("train.jsonl", "[" * 100_000, "not JSON"),
    ("train.jsonl", '{"query": "q", "text": "t"}', "fields query, text: none of the known formats"),
    ("train.jsonl", '{"query": "q", "pos": {"t": 1}}', "pos: expected a list, got {'t': 1}"),
    ("train.jsonl", '{"query": "q", "pos": ["t"], "neg_texts": ["u"]}', "neg_texts: looks like"),
    ("train.jsonl", '{"query": "q", "pos": ["t"], "negative_ctxs": ["u"]}', "negative_ctxs: looks"),
    ("train.jsonl", '{"query": "q", "docs": [], "labels": [], "neg": ["u"]}', "neg: looks like"),
    ("train.jsonl", '{"query": "q", "pos": ["t"], "bm25_negatives": ["u"]}', "bm25_negatives: loo"),
    ("train.jsonl", '{"query": "q", "pos": ["t"], "negativeTexts": ["u"]}', "negativeTexts: looks"),
    ("train.jsonl", '{"query": "q", "pos": ["t"], "neg_ids": ["u"]}', "neg_ids: looks like"),
    ("train.jsonl", '{"query": "q", "pos": ["t"], "answers": [5]}', "answers: expected a string"),
    ("train.jsonl", '{"query": "q", "answer": ["t"]}', "answer: expected a string"),
    ("train.jsonl", '{"query": "q", "pos": [5]}', "pos: expected a string, got 5"),
    ("train.jsonl", '{"query": "q", "pos": [" "]}', "pos: expected non-empty text"),
    ("train.jsonl", '{"query": "", "pos": ["t"]}', "query: expected non-empty text"),
    ("train.jsonl", '{"pos": ["t"]}', "query: expected non-empty text"),
    ("train.jsonl", '{"query": "q", "pos": ["\\ud83d"]}', "pos: not Unicode"),
    ("train.jsonl", '{"query": "q", "docs": ["a", "b"], "labels": [1]}', "labels: 1 for 2 docs"),
    (
        "train.jsonl",
        '{"query": "q", "docs": ["a"], "labels": [0.5]}',
        "label: expected 0 or 1, got 0.5",
    ),
    ("train.jsonl", '{"query": "q", "passage": "a"}', "label: expected 0 or 1, got None"),
    ("train.jsonl", '{"question": "q", "positive_ctxs": ["a"]}', "positive_ctxs: expected objects"),
    (
        "train.jsonl",
        '{"question": "q", "positive_ctxs": [{"title": "-"}]}',
        "text: passage .* is empty",
    ),
    (
        "train.jsonl",
        '{"query_id": "a b", "query": "q", "positive_passages": []}',
        "query_id: 'a b' contains",
    ),
    (
        "train.jsonl",
        '{"query": "q", "positive_document_ids": ["x"]}',
        "passage: 'x' is not in the corpus",
    ),
    ("joint.train.tsv", "q\tt\tp\t2", "label: expected 0 or 1, got '2'"),
    ("joint.train.tsv", "q\tt\tp", "expected query TAB title TAB passage TAB label, got 3 columns"),
    ("joint.train.tsv", "q\tp", "expected query TAB title TAB passage TAB label, got 2 columns"),
    ("joint.train.tsv", "q1\t0\tp1\t1", "expected .*, not ids, got"),
    ("joint.train.tsv", "q\t-\t \t1", "text: passage .* is empty"),
    ("dual.train.tsv", "\tt\tp\tt\tn\t0", "query: expected non-empty text"),
    ("dual.train.tsv", "q\tt\tp\xff".encode("latin-1"), "not UTF-8"),
]


@pytest.mark.parametrize(("name", "line", "said"), BAD)
def test_a_bad_row_is_named_or_left_out(tmp_path, name, line, said):
    good = (UNTITLED | TITLED)[name].encode()
    path = tmp_path / name
    path.write_bytes(good + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    place = f"{path}:{good.count(bytes([10])) + 1}: "
    with pytest.raises(InputError, match=f"^{re.escape(place)}(?:{said})"):
        load_collection(str(path))
    said_notes = []
    collection = load_collection(str(path), "skip", said_notes.append)
    assert len(collection.splits["train"].queries) == 2
    (left_out,) = (note for note in said_notes if "left out" in note)
    assert left_out.startswith(f"{path}: left out 1 bad rows: {place}")


def test_one_id_for_two_passages_or_queries_is_refused(tmp_path):
    rows = [{"query_id": "1", "query": Q1, "positive_passages": [titled(CAT, docid="a")]}]
    rows += [{"query_id": "2", "query": Q2, "positive_passages": [titled(DOG, docid="a")]}]
    (tmp_path / "train.jsonl").write_text(jsonl(*rows))
    with pytest.raises(InputError, match=r"train\.jsonl:2: id: duplicate 'a' .* the texts differ"):
        load_collection(str(tmp_path))
    notes = load_collection(str(tmp_path), "skip").notes
    assert len(notes) == 1
    rows[1] = {"query_id": "1", "query": Q2, "positive_passages": [titled(CAT, docid="a")]}
    (tmp_path / "train.jsonl").write_text(jsonl(*rows))
    with pytest.raises(InputError, match=r"train\.jsonl:2: query id: '1' had another query text"):
        load_collection(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "item 1: cannot be read any further"),
        (
            '[{"question": "q", "positive_ctxs": [{"text": "t"}]}, {"x"',
            "item 1: cannot be read any further",
        ),
        ('[{"question": "q", "positive_ctxs": [{"text": "t"}]}, 5]', "item 2: expected an object"),
        ('[{"question": "q", "positive_ctxs": []}]', "the corpus is empty"),
        (
            '[{"question": "q", "hard_negative_ctxs": [{"text": "t"}], "positive_ctxs": []}]',
            "no query has",
        ),
        (b'[{"question": "\xff", "positive_ctxs": [{"text": "t"}]}]', "item 1: "),
    ],
)
def test_damaged_arrays_are_named(tmp_path, text, said):
    path = tmp_path / "train.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=re.escape(str(path)) + f".*{said}"):
        load_collection(str(path))


ALL = TITLED | UNTITLED | {"tevatron.train.jsonl": TEVATRON["train.jsonl"]}


@settings(max_examples=200)
@given(
    name=st.sampled_from(sorted(ALL)),
    policy=st.sampled_from(["fail", "skip"]),
    start=st.integers(0, 400),
    length=st.integers(0, 9),
    data=st.binary(max_size=12)
    | st.text('\t\n\r"{}[]:,01-aé\x00\u2028', max_size=9).map(str.encode),
)
def test_mutated_files_give_rows_or_one_clear_error(tmp_path, name, policy, start, length, data):
    good = ALL[name].encode()
    (tmp_path / name).write_bytes(good[:start] + data + good[start + length :])
    try:
        collection = load_collection(str(tmp_path / name), policy)
    except InputError as error:
        assert str(tmp_path) in str(error)
    else:
        for split in collection.splits.values():
            named = [*split.qrels.values(), *split.negatives.values()]
            assert all(pid in collection.by_id for found in named for pid in found)
            assert split.qrels.keys() <= split.queries.keys()


@settings(max_examples=200)
@given(st.sampled_from(["train.jsonl", "train.json", "x.train.tsv", "x.jsonl.gz"]), st.binary())
def test_any_bytes_give_rows_or_one_clear_error(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    try:  # so few bytes hold no row, but for a query, a tab and a passage
        split = load_collection(str(tmp_path / name)).splits["train" if "train" in name else "x"]
    except InputError as error:
        assert str(tmp_path) in str(error)
        return
    assert name.endswith(".tsv")
    assert b"\t" in data
    assert all(text.strip() for text in split.queries.values())


def test_pairs_of_a_query_and_its_passage(tmp_path):
    lines = [f"{Q1}\t{CAT[1]}", f"{Q2}\t{DOG[1]}", f"{Q1} \t{EEL[1]}"]
    (tmp_path / "train.tsv").write_text("".join(line + "\n" for line in lines))
    collection = load_collection(str(tmp_path))
    train = collection.splits["train"]
    found = {
        train.queries[query]: {collection.by_id[pid].text for pid in judged}
        for query, judged in train.qrels.items()
    }
    assert found == {Q1: {CAT[1], EEL[1]}, Q2: {DOG[1]}}
    assert not any(train.negatives.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["title", "text", "docid"]), inner)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    """query anchor question query_id query_text pos neg positive negative negative_1 docs labels
    passage label positive_ctxs hard_negative_ctxs negative_ctxs answers positive_passages
    negative_passages positive_document_ids negative_document_ids""".split()  # noqa: SIM905
)


@settings(max_examples=250)
@given(st.dictionaries(FIELDS, JSON))
def test_any_fields_give_a_row_or_one_clear_error(fields):
    try:
        row = row_of(fields)
    except BadRow:
        return
    assert row.id
    assert row.query.strip()
    for passage in (*row.positives, *row.negatives):
        assert isinstance(passage, str) or passage.title.strip() or passage.text.strip()


needs_raw = pytest.mark.skipif(not RAW.is_dir(), reason=f"{RAW} is not part of a user's clone")


@needs_raw
@pytest.mark.parametrize("name", ["dual.train.tsv", "cross.train.tsv"])
def test_real_files_of_rocketqa_are_read(name):
    path = RAW / "rocketqa" / name
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]
    train = load_collection(str(path)).splits["train"]
    assert set(train.queries.values()) == {row[0].strip() for row in rows}
    pairs = {(row[0], row[2]) for row in rows if name.startswith("dual") or row[3] == "1"}
    assert sum(map(len, train.qrels.values())) == len(pairs)


@needs_raw
@pytest.mark.parametrize(
    ("name", "count"), [("msmarco", 10), ("nq", 10), ("reranker_examples", 10)]
)
def test_real_files_of_flag_embedding_are_read(name, count):
    path = RAW / "flagembedding" / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    (split,) = load_collection(str(path)).splits.values()
    assert len(split.qrels) == len({row["query"] for row in rows}) == count
    assert sum(map(len, split.negatives.values())) == sum(
        len(set(row["neg"]) - set(row["pos"])) for row in rows
    )


@needs_raw
def test_a_real_file_of_dpr_is_read():
    path = RAW / "dpr-nq" / "biencoder-nq-dev.sample.json"
    items = json.loads(path.read_text(encoding="utf-8"))
    (split,) = load_collection(str(path)).splits.values()
    assert [list(texts) for texts in split.answers.values()] == [item["answers"] for item in items]
    assert [len(judged) for judged in split.qrels.values()] == [
        len({passage["passage_id"] for passage in item["positive_ctxs"]}) for item in items
    ]


def test_lines_of_rocketqa_are_numbered_as_they_stand(tmp_path):
    (tmp_path / "x.tp").write_bytes(b"A\ta\n\nbroken\n\xff\n-\tb\n")
    read = load_collection(str(tmp_path / "x.tp"), "skip")
    assert list(read.passages) == [Passage("0", "A", "a"), Passage("4", "", "b")]
    with pytest.raises(InputError, match=r"x.tp:3: expected title TAB text"):
        load_collection(str(tmp_path / "x.tp"))


def test_answers_of_one_question_are_taken_together(tmp_path):
    rows = [
        {"question": Q1, "answers": answers, "positive_ctxs": [titled(CAT, passage_id="7")]}
        for answers in (["a", "b"], ["b", "c"])
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (answers,) = load_collection(str(tmp_path)).splits["train"].answers.values()
    assert list(answers) == ["a", "b", "c"]


@needs_raw
@pytest.mark.parametrize(("name", "count"), [("marco.tp.1k", 1000), ("dureader.para", 100)])
def test_real_corpora_of_rocketqa_are_read(name, count):
    path = RAW / "rocketqa" / name
    passages = load_collection(str(path)).passages
    assert len(passages) == count
    lines = path.read_text(encoding="utf-8").split("\n")
    for i in (0, 1, 17, count - 1):
        title, text = lines[i].split("\t")
        assert passages[i] == Passage(str(i), "" if title == "-" else title, text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("what is copper\tCopper\t2", "label: expected 0 or 1, got '2'"),
        ("17\twhat is copper\tCopper is a metal", "not ids"),
    ],
)
def test_numbers_among_three_columns_are_labels_or_ids_and_no_texts(tmp_path, line, message):
    (tmp_path / "train.tsv").write_text(f"{line}\n")
    with pytest.raises(InputError, match=f"train.tsv:1: .*{message}"):
        load_collection(str(tmp_path))


def test_a_label_may_be_written_with_a_point(tmp_path):
    (tmp_path / "train.tsv").write_text("a query\tgood words\t1.0\na query\tbad words\t0.0\n")
    read = load_collection(str(tmp_path))
    (query,) = read.split("train").qrels
    texts = {p.text for p in read.passages if p.id in read.split("train").qrels[query]}
    assert texts == {"good words"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "positive": "p", "label": 0}, "label: 0, but the row has a positive"),
        ({"query": "q", "positive": "p", "negative": "['a', 'b']"}, "a list written as one text"),
    ],
)
def test_a_positive_that_is_none_and_a_list_in_a_text_are_refused(tmp_path, row, message):
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=f"train.jsonl:1: {message}|{message}"):
        load_collection(str(tmp_path))


@pytest.mark.parametrize("header", ["query\tpid", "query\tscore"])
def test_a_column_of_ids_or_scores_is_no_passage(tmp_path, header):
    (tmp_path / "train.tsv").write_text(f"{header}\nwhat is it\td1\n")
    with pytest.raises(InputError, match=r"train\.tsv"):
        load_collection(str(tmp_path))
