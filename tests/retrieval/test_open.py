"""Which index is opened of a folder, and that it is said."""

import numpy as np
import pytest
from tiny import vectors_folder

from rocketjax.config.schema import IndexConfig
from rocketjax.retrieval import open as opening
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.index import Sample
from rocketjax.retrieval.open import build_index, check_buildable, open_index
from rocketjax.retrieval.vectors import Origin, Vectors
from rocketjax.runtime.errors import InputError


@pytest.fixture
def folder(tmp_path):
    vectors_folder(tmp_path, np.eye(5, dtype=np.float32))
    return tmp_path


def opened(folder, kind, monkeypatch, built, scann):
    """The index that is opened, and what is said of it."""
    if built:
        (folder / "scann").mkdir()
    monkeypatch.setattr(opening, "missing", lambda: "" if scann else "ScaNN is not here")
    monkeypatch.setattr(opening, "open_scann", lambda vectors: "ScaNN")
    said = []
    index = open_index(folder, IndexConfig(kind), Origin("m", "1", "c", "2"), said.append)
    (line,) = said
    return index, line.removeprefix(f"{folder}: ")


@pytest.mark.parametrize(
    ("kind", "built", "scann", "line"),
    [
        ("auto", True, True, "ScaNN searches it"),
        ("scann", True, True, "ScaNN searches it"),
        ("auto", True, False, "exact search; ScaNN is not here"),
        ("auto", False, True, "exact search; no ScaNN index was built there"),
        ("exact", True, True, "exact search; --index.kind exact"),
    ],
)
def test_it_is_said_who_searches(folder, monkeypatch, kind, built, scann, line):
    index, said = opened(folder, kind, monkeypatch, built, scann)
    assert said == line
    assert index == "ScaNN" if line.startswith("ScaNN") else isinstance(index, ExactIndex)


def test_nothing_is_built_where_an_index_is_opened(folder, monkeypatch):
    before = sorted(folder.rglob("*"))
    opened(folder, "auto", monkeypatch, built=False, scann=True)
    assert sorted(folder.rglob("*")) == before


def test_several_processes_search_exactly(folder, monkeypatch):
    monkeypatch.setattr(opening, "_alone", lambda: False)
    _, said = opened(folder, "auto", monkeypatch, built=True, scann=True)
    assert said == "exact search; several processes search together"


def test_without_scann_exact_search_stands_in_and_says_so(folder, monkeypatch):
    monkeypatch.setattr(opening, "missing", lambda: "ScaNN is not here")
    vectors, said = Vectors(folder), []
    config, sample = IndexConfig(leaves=9), Sample("queries", lambda: np.eye(5, dtype=np.float32))
    index = build_index(vectors, config, sample, 2, said.append)
    assert isinstance(index, ExactIndex)
    assert said == ["ScaNN is not here: exact search stands in; not used: index.leaves"]
    monkeypatch.setattr("rocketjax.retrieval.scann.missing", lambda: "ScaNN is not here")
    with pytest.raises(InputError, match="ScaNN is not here; install scann"):
        build_index(vectors, IndexConfig(kind="scann"), sample, 2, said.append)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leaves": 301}, "index.leaves is 301, but the corpus holds 300 passages"),
        ({"leaves": 8, "leaves_to_search": 20}, "index.leaves_to_search is 20, but there are 8"),
    ],
)
def test_more_leaves_than_there_can_be_are_refused_before_anything_is_encoded(
    monkeypatch, options, message
):
    monkeypatch.setattr(opening, "missing", lambda: "")
    with pytest.raises(InputError, match=message):
        check_buildable(IndexConfig(**options), 300)
