"""Collections of other libraries: Hugging Face datasets in local files, ir_datasets by id."""

import json
from contextlib import contextmanager

import pytest

from rocketjax.data.load import load_collection
from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import InputError

CAT, DOG = Passage("a", "Cats", "They purr."), Passage("b", "", "Dogs bark.")


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    import sys

    for prefix, library, extra in (("hf", "datasets", "hub"), ("irds", "ir_datasets", "irds")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(
            InputError, match=rf"{library} is not installed; .*rocketjax\[{extra}\]"
        ):
            load_collection(f"{prefix}:any/name")


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets", reason="extra hub is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    library.disable_progress_bars()
    return library


@pytest.mark.filterwarnings("ignore")  # of the library's own making
def test_rows_of_a_dataset_are_read(datasets, tmp_path):
    folder = tmp_path / "rows"
    jsonl(folder / "train.jsonl", [{"anchor": "q1", "positive": "a", "negative_1": "b"}] * 2)
    jsonl(folder / "test.jsonl", [{"anchor": "q2", "positive": "b", "negative_1": "c"}])
    collection = load_collection(f"hf:{folder}")
    assert {p.text for p in collection.passages} == {"a", "b", "c"}
    train, test = collection.splits["train"], collection.splits["test"]
    assert (list(train.queries.values()), list(test.queries.values())) == (["q1"], ["q2"])
    assert collection.by_id[next(iter(next(iter(test.qrels.values()))))].text == "b"
    jsonl(folder / "test.jsonl", [{"anchor": "q2", "positive": "b", "negative_1": " "}])
    with pytest.raises(InputError, match=r"/test:0: negative_1: expected non-empty text"):
        load_collection(f"hf:{folder}")
    with pytest.raises(InputError, match="nowhere: cannot be loaded"):
        load_collection(f"hf:{tmp_path}/nowhere")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_judged_dataset_is_read(datasets, tmp_path, policy):
    folder = tmp_path / "judged"
    jsonl(
        folder / "corpus.jsonl",
        [{"_id": p.id, "title": p.title, "text": p.text} for p in (CAT, DOG)],
    )
    jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in (1, 2, 3)])
    rows = [
        {"query-id": "q1", "corpus-id": "a", "score": 2},
        {"query-id": "q1", "corpus-id": "b", "score": 0},
    ]
    jsonl(folder / "qrels" / "train.jsonl", rows)
    rows = [{"query-id": "q2", "corpus-id": "b", "score": 1.0}]
    rows += [{"query-id": "q2", "corpus-id": "x", "score": 1}] if policy == "skip" else []
    jsonl(folder / "qrels" / "test.jsonl", rows)
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: corpus\n  data_files: corpus.jsonl\n"
        "- config_name: queries\n  data_files: queries.jsonl\n"
        "- config_name: default\n  data_files:\n"
        "  - split: train\n    path: qrels/train.jsonl\n"
        "  - split: test\n    path: qrels/test.jsonl\n---\n"
    )
    collection = load_collection(f"hf:{folder}", policy)
    assert list(collection.passages) == [CAT, DOG]
    assert collection.splits["train"].qrels == {"q1": {"a": 2, "b": 0}}
    assert collection.splits["test"].qrels == {"q2": {"b": 1}}
    assert collection.splits["unlabelled"].queries == {"q3": "query 3"}
    assert len(collection.notes) == (policy == "skip")


@pytest.mark.filterwarnings("ignore")
def test_all_splits_of_a_corpus_are_read_and_the_judgements_that_are_named(datasets, tmp_path):
    folder = tmp_path / "parts"
    for split, p, query in (("train", CAT, "q1"), ("test", DOG, "q2")):
        row = {"_id": p.id, "title": p.title, "text": p.text}
        jsonl(folder / "corpus" / f"{split}.jsonl", [row])
        jsonl(folder / "queries" / f"{split}.jsonl", [{"_id": query, "text": query}])
    for name, query in (("default", "q1"), ("strict", "q2")):
        row = {"query-id": query, "corpus-id": "a", "score": 1}
        jsonl(folder / name / "test.jsonl", [row])
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}/{split}.jsonl\n" for split in splits)
        for name, splits in (
            *((name, ("train", "test")) for name in ("corpus", "queries")),
            *((name, ("test",)) for name in ("default", "strict")),
        )
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    collection = load_collection(f"hf:{folder}")
    assert list(collection.passages) == [CAT, DOG]
    assert collection.splits["test"].qrels == {"q1": {"a": 1}}
    assert {*collection.splits["unlabelled"].queries} == {"q2"}
    strict = load_collection(f"hf:{folder}:strict")
    assert strict.splits["test"].qrels == {"q2": {"a": 1}}
    with pytest.raises(InputError, match="corpus and queries are read together"):
        load_collection(f"hf:{folder}:queries")


@pytest.fixture
def ir_datasets(tmp_path, monkeypatch):
    library = pytest.importorskip("ir_datasets", reason="extra irds is not installed")
    (tmp_path / "docs.tsv").write_text("a\tThey purr.\nb\tDogs bark.\n")
    for name, query, pid in (("train", "q1", "a"), ("dev", "q2", "b")):
        (tmp_path / f"{name}.queries.tsv").write_text(f"{query}\tquery {query}\n")
        (tmp_path / f"{name}.qrels").write_text(f"{query} 0 {pid} 1\n")
    parts = {
        f"rocketjax-test{part}": library.create_dataset(
            docs_tsv=str(tmp_path / "docs.tsv"),
            **(
                {
                    "queries_tsv": str(tmp_path / f"{part[1:]}.queries.tsv"),
                    "qrels_trec": str(tmp_path / f"{part[1:]}.qrels"),
                }
                if part
                else {}
            ),
        )
        for part in ("", "/train", "/dev")
    }
    for name, dataset in parts.items():
        if name not in library.registry:
            library.registry.register(name, dataset)
    yield library
    for name in parts:
        library.registry._registered.pop(name, None)


@contextmanager
def registered(library, name, dataset):
    library.registry.register(name, dataset)
    yield
    library.registry._registered.pop(name)


@pytest.mark.filterwarnings("ignore")
def test_an_id_of_ir_datasets_is_read(ir_datasets):
    collection = load_collection("irds:rocketjax-test")
    assert [passage.text for passage in collection.passages] == ["They purr.", "Dogs bark."]
    assert list(collection.splits) == ["unlabelled", "dev", "train"]
    assert collection.splits["unlabelled"].queries == {}
    assert collection.splits["train"].qrels == {"q1": {"a": 1}}
    assert collection.split("dev").queries == {"q2": "query q2"}
    assert list(load_collection("irds:rocketjax-test/dev").splits) == ["dev"]
    with pytest.raises(InputError, match="has no such dataset"):
        load_collection("irds:rocketjax-test/none")


@pytest.mark.filterwarnings("ignore")
def test_datasets_that_name_their_documents_alike_have_their_own(ir_datasets, tmp_path):
    """A namespace, None here, is shared by several corpora in ir_datasets itself (LoTTE's)."""
    (tmp_path / "others.tsv").write_text("a\tFish swim.\n")
    other = ir_datasets.create_dataset(docs_tsv=str(tmp_path / "others.tsv"))
    assert ir_datasets.load("rocketjax-test").docs_namespace() == other.docs_namespace()
    with registered(ir_datasets, "rocketjax-other", other):
        read = [load_collection(f"irds:rocketjax-{name}").passages for name in ("test", "other")]
    assert [[p.text for p in passages] for passages in read] == [
        ["They purr.", "Dogs bark."],
        ["Fish swim."],
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_download_that_fails_on_the_way_is_told_as_one(ir_datasets, monkeypatch):
    """Documents come lazily, and errors of HTTP are OSErrors, as those of the cache's disk are."""

    def cut_off():
        yield from ()
        raise ConnectionError("name resolution failed")

    dataset = ir_datasets.load("rocketjax-test/train")
    monkeypatch.setattr(dataset, "docs_iter", cut_off, raising=False)
    said = "irds:rocketjax-cut: cannot be loaded: ConnectionError: name resolution failed"
    with (
        registered(ir_datasets, "rocketjax-cut", dataset),
        pytest.raises(InputError, match=f"^{said}"),
    ):
        load_collection("irds:rocketjax-cut")


@pytest.mark.filterwarnings("ignore")
def test_rows_of_ir_datasets_are_checked(ir_datasets, tmp_path):
    with (tmp_path / "train.queries.tsv").open("a") as file:
        file.write("q1\tanother text\nq 2\twhite space\nq3\t \nq4\tnobody judged me\n")
    with (tmp_path / "train.qrels").open("a") as file:
        file.write("q1 0 nowhere 1\n")
    with pytest.raises(InputError, match="train/queries:1: _id: duplicate 'q1'"):
        load_collection("irds:rocketjax-test").split("train")
    said = []
    collection = load_collection("irds:rocketjax-test", "skip", said.append)
    assert collection.split("train").queries == {"q1": "query q1"}
    assert collection.split("unlabelled").queries == {"q4": "nobody judged me"}
    assert "train/queries: left out 3 bad rows" in said[0] and "nowhere" in said[1]
    assert len(said) == 2  # once
