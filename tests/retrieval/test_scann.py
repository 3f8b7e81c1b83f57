"""The real ScaNN through our interface: its recall, its folder, and what is not opened."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import vectors_folder

from rocketjax.config.schema import IndexConfig
from rocketjax.retrieval import scann
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.index import Sample
from rocketjax.retrieval.open import build_index, open_index
from rocketjax.retrieval.scann import ScannIndex, build_scann, missing, open_scann
from rocketjax.retrieval.vectors import Origin, Vectors
from rocketjax.runtime.errors import InputError

pytestmark = pytest.mark.skipif(bool(missing()), reason="scann is not installed (no wheel here)")


def clustered(count, width, seed=0):
    """Vectors around 50 centres, of norms from 0.5 to 3: a cosine would order them otherwise."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((50, width))
    x = centres[rng.integers(0, 50, count)] + 0.6 * rng.standard_normal((count, width))
    norms = rng.uniform(0.5, 3.0, (count, 1))
    return (norms * x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def corpus(folder, count, width, **options):
    queries = clustered(64, width, seed=1)
    return vectors_folder(folder, clustered(count, width), shard=50_000, **options), queries


def recall(index, queries, top_k):
    exact, _ = ExactIndex(index.vectors).search(queries, top_k)
    found, _ = index.search(queries, top_k)
    return np.mean([len(set(a) & set(b)) / top_k for a, b in zip(found, exact, strict=True)])


def quiet(_):
    """Says nothing."""


def test_a_small_corpus_is_searched_by_brute_force(tmp_path):
    vectors, queries = corpus(tmp_path, 300, 16)
    said = []
    index = build_scann(vectors, IndexConfig(), queries, 10, said.append)
    assert "brute force" in said[0] and "recall@10 1.0000" in said[0]
    ids, scores = index.search(queries, 20)
    want, values = ExactIndex(vectors).search(queries, 20)
    np.testing.assert_array_equal(ids, want)  # by dot product, not by cosine
    np.testing.assert_allclose(scores, values, rtol=1e-5)
    one, _ = index.search(queries[:1], 20)
    np.testing.assert_array_equal(one, want[:1])
    assert index.search(queries[:0], 5)[0].shape == (0, 5)


@pytest.fixture(scope="module")
def hashed(tmp_path_factory):
    """21,000 passages: quantised, without a tree."""
    vectors, queries = corpus(tmp_path_factory.mktemp("hashed"), 21_000, 32)
    return build_scann(vectors, IndexConfig(), queries, 100, quiet), queries


def test_a_middling_corpus_is_quantised_and_meets_the_target(hashed):
    index, queries = hashed
    assert index.settings.leaves == 0 and index.settings.reorder >= 200
    assert index.settings.recall >= 0.99
    assert recall(index, queries, 100) == pytest.approx(index.settings.recall)
    assert recall(index, clustered(64, 32, seed=2), 100) >= 0.97  # on queries it did not see
    assert recall(index, queries, 1000) >= 0.97  # above what it was made for


@pytest.mark.parametrize("count", [10_000, pytest.param(101_000, marks=pytest.mark.slow)])
def test_a_large_corpus_is_partitioned_and_meets_the_target(tmp_path, monkeypatch, count):
    if count < scann.NO_TREE:  # what is large, a tenth of what it is
        monkeypatch.setattr(scann, "BRUTE_FORCE", scann.BRUTE_FORCE // 10)
        monkeypatch.setattr(scann, "NO_TREE", scann.NO_TREE // 10 - 1)
    vectors, queries = corpus(tmp_path, count, 16)
    said = []
    index = build_scann(vectors, IndexConfig(target_recall=0.95), queries, 20, said.append)
    leaves = round(count**0.5)
    assert index.settings.leaves == leaves
    assert index.settings.recall >= 0.95 and f"of {leaves} leaves" in said[0]
    assert recall(index, queries, 20) >= 0.95
    chosen = index.settings
    fewer = dataclasses.replace(chosen, leaves_to_search=chosen.leaves_to_search - 1)
    assert recall(ScannIndex(vectors, index.searcher, fewer), queries, 20) < 0.95  # none to spare
    again = open_scann(Vectors(tmp_path))
    np.testing.assert_array_equal(again.search(queries, 20)[0], index.search(queries, 20)[0])
    config = IndexConfig(target_recall=0.95, leaves_to_search=9, reorder=60)
    builds = [build_scann(vectors, config, queries, 20, quiet) for _ in range(2)]
    first, second = (build.search(queries, 20)[0] for build in builds)
    np.testing.assert_array_equal(first, second)  # same vectors, same index, same lists


def test_what_the_config_sets_is_left(tmp_path):
    vectors, queries = corpus(tmp_path, 3_000, 16)
    config = IndexConfig(leaves=40, leaves_to_search=1, reorder=30)
    index = build_scann(vectors, config, queries, 10, quiet)
    chosen = index.settings
    assert (chosen.leaves, chosen.leaves_to_search, chosen.reorder) == (40, 1, 30)
    assert chosen.recall < 0.99  # and so it says
    ids, scores = index.search(queries, 2_000)  # more than one leaf holds, at any width
    assert ((ids == "") == np.isneginf(scores)).all()
    narrow = build_scann(vectors, IndexConfig(leaves=40, leaves_to_search=1), queries, 500, quiet)
    ids, scores = narrow.search(queries, 500)
    assert (ids == "").any() and ((ids == "") == np.isneginf(scores)).all()
    # A query by itself takes another way, with the results of a batch of one. (In larger batches
    # ScaNN may look into another leaf, where two are about as near.)
    reorder = narrow.settings.reorder
    for query in queries:
        rows, values = narrow.searcher.search_batched(query[None], 500, reorder, 1)
        found = ~np.isnan(values[0])
        one, score = narrow.search(query[None], 500)
        np.testing.assert_array_equal(one[0][found], vectors.names(rows[0][found].astype(int)))
        np.testing.assert_array_equal(score[0][found], values[0][found])
        assert (one[0][~found] == "").all() and not found.all()


def test_two_byte_vectors_are_reordered_in_two_bytes(tmp_path):
    vectors, queries = corpus(tmp_path, 21_000, 32, dtype="bfloat16")
    index = build_scann(vectors, IndexConfig(), queries, 50, quiet)
    assert recall(index, queries, 50) >= 0.95
    assert any("bfloat16" in path.name for path in (tmp_path / "scann").iterdir())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_built_from_is_in_memory_once(tmp_path, monkeypatch, dtype):
    vectors, queries = corpus(tmp_path, 120_001, 32, dtype=dtype)  # in three shards

    class Given(Exception):
        pass

    def builder(rows, *_):
        raise Given(rows, tracemalloc.get_traced_memory()[1])

    monkeypatch.setattr(scann, "_ops", lambda: SimpleNamespace(builder=builder))
    tracemalloc.start()
    with pytest.raises(Given) as given:
        build_scann(vectors, IndexConfig(), queries, 10, quiet)
    tracemalloc.stop()
    rows, peak = given.value.args
    assert rows.dtype == np.float32 and peak < 1.2 * rows.nbytes
    np.testing.assert_array_equal(rows, vectors.rows(0, len(vectors)).astype(np.float32))


def test_threads_change_no_result(hashed):
    index, queries = hashed
    want = index.search(queries, 10)
    for threads in (1, 3):
        index.use_threads(threads)
        for got, expected in zip(index.search(queries, 10), want, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_a_moved_folder_is_opened_without_building(hashed, tmp_path, monkeypatch):
    index, queries = hashed
    shutil.copytree(index.vectors.folder, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    moved = open_index(tmp_path / "moved", IndexConfig(), Origin("m", "1", "c", "2"))
    assert type(moved).__name__ == "ScannIndex"
    for got, want in zip(moved.search(queries, 100), index.search(queries, 100), strict=True):
        np.testing.assert_array_equal(got, want)


def test_another_model_or_collection_is_refused_with_both_named(hashed):
    folder = hashed[0].vectors.folder
    with pytest.raises(InputError, match=r"made of model m \(hash 1\), .* model other \(hash 9\)"):
        open_index(folder, IndexConfig(), Origin("other", "9", "c", "2"))
    with pytest.raises(InputError, match=r"made of collection c \(hash 2\), .* other \(hash 9\)"):
        open_index(folder, IndexConfig(), Origin("m", "1", "other", "9"))


@pytest.fixture
def copied(hashed, tmp_path):
    shutil.copytree(hashed[0].vectors.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_an_index_of_other_vectors_is_refused(copied):
    path = copied / "scann" / "index.json"
    values = json.loads(path.read_text())
    values["vectors"]["model_hash"] = "7"
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"\(hashes 2, 7\), but the vectors .* \(hashes 2, 1\)"):
        open_scann(Vectors(copied))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_in_the_folder_is_never_opened(copied, tmp_path):
    (copied / "scann" / "scann_docids.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(InputError, match=r"scann_docids.pkl: does not belong"):
        open_scann(Vectors(copied))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../../00000.npy", "nowhere.npy"])
def test_assets_outside_the_folder_are_refused(copied, name):
    path = copied / "scann" / "scann_assets.pbtxt"
    path.write_text(path.read_text().replace("dataset.npy", name, 1))
    with pytest.raises(InputError, match=r"pbtxt: (damaged|asset_path .* is no file of)"):
        open_scann(Vectors(copied))


def test_a_damaged_index_is_named(copied):
    for text, said in (("{", "not readable as JSON"), ('{"leaves": -1}', "damaged: leaves: ")):
        (copied / "scann" / "index.json").write_text(text)
        with pytest.raises(InputError, match=rf"index.json: {said}"):
            open_scann(Vectors(copied))


def test_an_index_of_other_options_is_built_again_and_one_of_these_is_kept(tmp_path):
    vectors, queries = corpus(tmp_path, 300, 16)
    said, encoded = [], []

    def built(name="queries", **options):
        sample = Sample(name, lambda: encoded.append(name) or queries)
        return build_index(vectors, IndexConfig(**options), sample, 10, said.append)

    built(leaves=9, leaves_to_search=1)
    built(leaves=9, leaves_to_search=1)
    assert len(encoded) == 1 and "there already, built by these options; recall@10 0." in said[-1]
    assert built(leaves=9, leaves_to_search=9).settings.leaves_to_search == 9
    assert "built again; index.leaves_to_search: 1 -> 9" in said[-2] and len(encoded) == 2
    assert open_scann(Vectors(tmp_path)).settings.leaves_to_search == 9
    built("queries of dev", leaves=9, leaves_to_search=9)
    assert "built again; sample: queries -> queries of dev" in said[-2]
    assert said[-1].endswith("on 64 queries of dev")
    path = tmp_path / "scann" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"asked": None}))
    built("queries of dev", leaves=9, leaves_to_search=9)
    assert "built again; an older version built it" in said[-2]
    built(kind="exact")
    assert "it is scann.unused/ now" in said[-1] and not path.parent.exists()
    (tmp_path / "scann.unused").rename(path.parent)
    assert open_index(tmp_path, IndexConfig(), vectors.manifest).settings.recall


def test_what_a_small_corpus_has_no_use_for_is_named(tmp_path):
    vectors, queries = corpus(tmp_path, 300, 16)
    said = []
    build_scann(vectors, IndexConfig(leaves_to_search=5, reorder=50), queries, 10, said.append)
    unread = "not used: index.leaves_to_search (no leaves), index.reorder (brute force)"
    assert said[0].endswith(unread)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"leaves": 301}, "index.leaves is 301, but the corpus holds 300 passages"),
        ({"leaves": 8, "leaves_to_search": 20}, "index.leaves_to_search is 20, but there are 8"),
    ],
)
def test_more_leaves_than_there_can_be_are_refused(tmp_path, options, said):
    vectors, queries = corpus(tmp_path, 300, 16)
    with pytest.raises(InputError, match=said):
        build_scann(vectors, IndexConfig(**options), queries, 10, quiet)


BROKEN = "raise RuntimeError('undefined symbol: absl')"
ASKED = "import sys; from rocketjax.retrieval.scann import missing; print(missing() or 'here')"


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", "here"),  # what is not imported yet is not looked at
        (
            "import sys, types; sys.modules['tensorflow'] = types.ModuleType('tensorflow'); ",
            "ScaNN cannot be loaded with this TensorFlow (undefined symbol: absl)",
        ),
    ],
)
def test_a_tensorflow_that_scann_was_not_built_beside_does_no_harm(tmp_path, before, said):
    """As Colab has one. Where it is imported first, the library is a stand-in that breaks."""
    (tmp_path / "tensorflow.py").write_text(BROKEN)
    if before:
        (tmp_path / "scann.py").write_text(f"import tensorflow\n{BROKEN}")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(scann.__file__).parents[2]}"}
    command = [sys.executable, "-c", before + ASKED]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


def test_exact_search_on_demand(hashed):
    folder = hashed[0].vectors.folder
    index = open_index(folder, IndexConfig(kind="exact"), Origin("m", "1", "c", "2"))
    assert isinstance(index, ExactIndex)
