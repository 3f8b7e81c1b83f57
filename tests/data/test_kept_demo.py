"""The demo read from the cache folder: the very collection that is made of docstrings."""

import subprocess
import sys
from pathlib import Path

import pytest

from rocketjax.data.formats import demo as module
from rocketjax.data.formats import kept_demo as cached
from rocketjax.data.formats.docstrings import Docstring
from rocketjax.data.load import load_collection

DOCS = [
    Docstring("a.mean", "Compute the mean Größe", "mean(x)", "of all that is in x"),
    Docstring("b.mean", "Compute the MEAN größe", "mean(y)", "of what is in y, \U0001f600"),
    Docstring("c.sort", "Sort what is given", "", "in rising order"),
]
AGAIN = """
import sys
from rocketjax.data.load import load_collection
assert len(load_collection("demo").passages) == 3
assert "rocketjax.data.formats.demo" not in sys.modules
"""


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch):
    """How often docstrings were read, of three objects for the sake of speed."""
    monkeypatch.setenv("ROCKETJAX_CACHE", str(tmp_path / "cache"))
    count = []

    def docs():
        count.append(1)
        return DOCS, {"d.broken"}

    monkeypatch.setattr(module, "_docs", docs)
    return count


def content(collection):
    queries = [list(split.queries.items()) for split in collection.splits.values()]
    parts = (list(collection.passages), list(collection.splits), queries, collection.splits)
    return collection.name, parts, list(collection.notes), collection.fingerprint


def files(tmp_path):
    return list((tmp_path / "cache" / "demo").iterdir())


def test_it_is_made_once_and_stays_the_same(made):
    first, again = content(load_collection("demo")), content(load_collection("demo"))
    assert first == again == content(module.load_demo())
    assert len(made) == 2  # with the last line's


@pytest.mark.parametrize("what", ["version", "code_hash"])
def test_other_packages_or_code_make_another(made, what, monkeypatch):
    load_collection("demo")
    monkeypatch.setattr(cached, what, lambda *name: "another")
    load_collection("demo")
    assert len(made) == 2


@pytest.mark.parametrize("text", ["", "{}", "[[], {}]", '[[["a"]], {}, []]'])
def test_a_file_of_another_kind_is_made_again(made, tmp_path, text):
    first = content(load_collection("demo"))
    (path,) = files(tmp_path)
    cached.keep(path, text)
    assert content(load_collection("demo")) == content(load_collection("demo")) == first
    assert len(made) == 2


def test_another_process_reads_it_without_making_it():
    load_collection("demo")
    subprocess.run([sys.executable, "-c", AGAIN], cwd=Path(__file__).parents[2], check=True)
