"""Exact search against numpy's stable argsort, to the row, on any number of devices."""

import tracemalloc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import vectors, vectors_folder

from rocketjax.retrieval import exact
from rocketjax.retrieval.exact import ExactIndex, select, two_stage
from rocketjax.runtime.errors import InputError


def sorted_by_numpy(queries, passages, top_k):
    full = queries.astype(np.float64) @ passages.astype(np.float64).T
    rows = np.argsort(-full, axis=1, kind="stable")[:, :top_k]
    return rows, np.take_along_axis(full, rows, 1)


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(exact, "ROWS", 128)
        monkeypatch.setattr(exact, "QUERIES", 5)


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("memory", [None, 1], ids=["resident", "streamed"])
@pytest.mark.parametrize("top_k", [1, 10, 1001])
def test_equals_a_stable_sort(kind, memory, top_k, tmp_path, blocks):
    queries, passages = vectors(kind)
    index = ExactIndex(vectors_folder(tmp_path, passages, shard=300), memory=memory)
    rows, scores = index.rows(queries, top_k)
    want, values = sorted_by_numpy(queries, passages, top_k)
    np.testing.assert_array_equal(rows, want)
    np.testing.assert_allclose(scores, values, atol=1e-5)
    ids, same = index.search(queries, top_k)
    assert ids.tolist() == [[f"p{row}" for row in line] for line in want]
    np.testing.assert_array_equal(same, scores)


def test_the_number_of_devices_does_not_change_a_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "ROWS", 128)
    queries, passages = vectors("random", queries=20, passages=2900)  # 23 blocks: an odd number
    corpus = vectors_folder(tmp_path, passages, shard=999)
    rows, scores = ExactIndex(corpus, jax.devices()[:1]).rows(queries, 50)
    more = ExactIndex(corpus, jax.devices()[:2]).rows(queries, 50)
    np.testing.assert_array_equal(more[0], rows)
    np.testing.assert_array_equal(more[1], scores)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_smaller_types_are_searched_as_stored(tmp_path, dtype):
    queries, passages = vectors("random")
    corpus = vectors_folder(tmp_path, passages, shard=300, dtype=dtype)
    rows, scores = ExactIndex(corpus).rows(queries, 10)
    stored = corpus.rows(0, len(corpus)).astype(np.float32)
    want, values = sorted_by_numpy(queries, stored, 10)
    np.testing.assert_array_equal(rows, want)
    np.testing.assert_allclose(scores, values, atol=1e-5)


def test_a_corpus_that_fits_is_placed_once(tmp_path, monkeypatch):
    queries, passages = vectors("random")
    corpus = vectors_folder(tmp_path, passages, shard=300)
    read = []
    rows = type(corpus).rows

    def counting(self, start, stop):
        read.append(stop - start)
        return rows(self, start, stop)

    monkeypatch.setattr(type(corpus), "rows", counting)
    index = ExactIndex(corpus)
    index.search(queries, 3)
    index.search(queries, 3)
    assert sum(read) == 1001
    monkeypatch.setattr(exact, "ROWS", 128)
    streamed = ExactIndex(corpus, jax.devices()[:2], memory=128 * 16 * 4)
    read.clear()
    streamed.search(queries, 3)
    assert sum(read) == 1001 and max(read) == 128  # no more than a device may hold


def test_placing_a_corpus_takes_its_size_once(tmp_path):
    """Of this process' memory; on a CPU jax takes that for its own."""
    passages = np.ones((50_001, 64), np.float32)
    index = ExactIndex(vectors_folder(tmp_path, passages, shard=20_000), jax.devices()[:1])
    tracemalloc.start()
    try:
        index.search(passages[:1], 1)
        assert tracemalloc.get_traced_memory()[1] < 1.6 * passages.nbytes
    finally:
        tracemalloc.stop()


def test_a_corpus_larger_than_the_machine_is_streamed(tmp_path, monkeypatch):
    """The system would end a process that placed it."""
    monkeypatch.setattr(exact, "ROWS", 1_024)
    queries, passages = vectors("random", passages=50_001)
    index = vectors_folder(tmp_path, passages, shard=20_000)
    rows, scores = ExactIndex(index).rows(queries, 10)
    monkeypatch.setattr("os.sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else 100_000)
    small = ExactIndex(index)
    tracemalloc.start()
    try:
        streamed = small.rows(queries, 10)
        assert tracemalloc.get_traced_memory()[1] < 0.5 * passages.nbytes
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(streamed[0], rows)
    np.testing.assert_array_equal(streamed[1], scores)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_search_does_not_copy_vectors_of_a_smaller_type(tmp_path, monkeypatch, dtype):
    """By the compiler's word: XLA on a CPU turned all bfloat16 into float32 before it sliced it."""
    monkeypatch.setattr(exact, "ROWS", 128)
    queries, passages = vectors("random", queries=exact.QUERIES, passages=128 * 200)
    index = ExactIndex(vectors_folder(tmp_path, passages, shard=9_999, dtype=dtype))
    index.search(queries, 8)
    best = (jnp.zeros((len(queries), 8), jnp.int32), jnp.zeros((len(queries), 8)))
    place = (0, len(passages))
    program = exact.search_piece.lower(
        index._mesh, index._block, queries, index._place(0), place, best
    )
    assert program.compile().memory_analysis().temp_size_in_bytes < passages.nbytes / 2


def test_one_piece_at_a_time_is_on_the_devices(tmp_path, monkeypatch):
    """A device may have room for no more than one."""
    queries, passages = vectors("random")
    monkeypatch.setattr(exact, "ROWS", 128)
    index = ExactIndex(vectors_folder(tmp_path, passages), jax.devices()[:1], memory=1)
    placed, alive = [], []
    place = index._place

    def counting(start):
        alive.append(sum(piece() is not None for piece in placed))
        piece = place(start)
        placed.append(weakref.ref(piece))
        return piece

    monkeypatch.setattr(index, "_place", counting)
    index.search(queries, 3)
    assert len(placed) == 8 and alive == [0] * 8


def test_one_query_one_passage_and_no_query(tmp_path):
    queries, passages = vectors("random", queries=1, passages=1)
    index = ExactIndex(vectors_folder(tmp_path, passages))
    assert index.search(queries, 1)[0].tolist() == [["p0"]]
    ids, scores = index.search(queries[:0], 1)
    assert ids.shape == scores.shape == (0, 1)


@pytest.mark.parametrize("top_k", [0, 102])
def test_more_than_the_corpus_holds_is_refused(tmp_path, top_k):
    queries, passages = vectors("random", passages=101)
    index = ExactIndex(vectors_folder(tmp_path, passages))
    with pytest.raises(InputError, match=f"top_k is {top_k}, .* 101 passages"):
        index.search(queries, top_k)
    with pytest.raises(InputError, match=r"queries are \(13, 4\), .* takes \[Q, 16\]"):
        index.search(queries[:, :4], 3)


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (100, 1), (1000, 7), (1001, 100), (64, 64), (70, 69)])
def test_two_stages_are_exact(kind, n, k):
    rng = np.random.default_rng(n + k)
    draw = rng.standard_normal((6, n)) if kind == "random" else rng.integers(0, 4, (6, n))
    scores = draw.astype(np.float32)
    values, places = two_stage(jnp.asarray(scores), k)
    want = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, want)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, want, 1))


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_platforms_selection_is_exact(platform, kind):
    rng = np.random.default_rng(0)
    draw = rng.standard_normal((3, 500)) if kind == "random" else rng.integers(0, 4, (3, 500))
    scores = draw.astype(np.float32)
    values, places = select(jnp.asarray(scores), 9, platform)
    want = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(places, want)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, want, 1))
    # Off a TPU approx_max_k is exact, too: what is lowered for one is what counts.
    exported = jax.export.export(
        jax.jit(lambda x: select(x, 9, platform)), platforms=[platform.replace("gpu", "cuda")]
    )(scores)
    assert "approx" not in exported.mlir_module().lower()
