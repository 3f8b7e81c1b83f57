"""NanoBEIR, from the hub and through ir_datasets: files in its layout, read by their libraries."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rocketjax.data.load import load_collection
from rocketjax.runtime.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries' own making

# The head of zeta-alpha-ai/NanoSciFact's README.md, without its counts.
CARD = """---
configs:
- config_name: corpus
  data_files:
  - split: train
    path: corpus/train-*
- config_name: qrels
  data_files:
  - split: train
    path: qrels/train-*
- config_name: queries
  data_files:
  - split: train
    path: queries/train-*
---
"""
TABLES = {
    "corpus": {"_id": ["d1", "d2", "d3"], "text": ["cats purr", "dogs bark", "fish swim"]},
    "queries": {"_id": ["q1", "q2"], "text": ["who purrs", "who swims"]},
    "qrels": {"query-id": ["q1", "q2"], "corpus-id": ["d1", "d3"]},
}


@pytest.fixture
def folder(tmp_path):
    """A data set as the hub holds it."""
    for name, columns in TABLES.items():
        (tmp_path / "nano" / name).mkdir(parents=True)
        path = tmp_path / "nano" / name / "train-00000-of-00001.parquet"
        pq.write_table(pa.table(columns), path)
    (tmp_path / "nano" / "README.md").write_text(CARD)
    return tmp_path / "nano"


def check(collection, split):
    assert [passage.text for passage in collection.passages] == TABLES["corpus"]["text"]
    judged = collection.split(split)
    assert judged.queries == {"q1": "who purrs", "q2": "who swims"}
    assert judged.qrels == {"q1": {"d1": 1}, "q2": {"d3": 1}}


def test_from_the_hub(folder, tmp_path, monkeypatch):
    library = pytest.importorskip("datasets", reason="extra hub is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    library.disable_progress_bars()
    check(load_collection(f"hf:{folder}"), "train")


def test_through_ir_datasets(folder, tmp_path, monkeypatch):
    library = pytest.importorskip("ir_datasets", reason="extra irds is not installed")
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    if "nano-beir/scifact" not in set(library.registry):
        pytest.skip("this ir_datasets has no NanoBEIR")
    dataset = library.load("nano-beir/scifact")
    for kind, handler, name in (
        ("corpus", dataset.docs_handler(), "_dlc"),
        ("queries", dataset.queries_handler(), "_dlc"),
        ("qrels", dataset.qrels_handler(), "_qrels_dlc"),
    ):
        path = folder / kind / "train-00000-of-00001.parquet"
        monkeypatch.setattr(handler, name, SimpleNamespace(path=lambda path=path: path))
    check(load_collection("irds:nano-beir/scifact"), "scifact")


def test_without_a_network_it_says_what_cannot_be_loaded(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="extra hub is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"^hf:zeta-alpha-ai/NanoSciFact: cannot be loaded: "):
        load_collection("hf:zeta-alpha-ai/NanoSciFact")
