"""int8 and binary vectors: searched as numpy does on the same codes, and their recall measured."""

import jax
import numpy as np
import pytest
from tiny import vectors, vectors_folder

from rocketjax.config.options import merged
from rocketjax.config.schema import Config, IndexConfig
from rocketjax.retrieval import exact
from rocketjax.retrieval.exact import ExactIndex, in_int8
from rocketjax.retrieval.index import Sample
from rocketjax.retrieval.open import build_index, open_index
from rocketjax.retrieval.quantised import dequantise, keep_sample, quantise, signs
from rocketjax.retrieval.vectors import Origin, Shortened, Vectors
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unsaid

BOTH = pytest.mark.parametrize("dtype", ["int8", "binary"])


def by_numpy(queries, vectors, top_k, rescore):
    """Candidates by whole numbers, then float64: rows and scores, ties to the lower row."""
    stored = vectors.codes(0, len(vectors))
    codes = signs(stored.codes, vectors.width)
    whole = in_int8(queries).astype(np.int64) @ codes.astype(np.int64).T
    first = whole.astype(np.float32) * stored.scales
    most = min(exact.few(min(rescore * top_k, len(vectors)), len(vectors)), len(vectors))
    rows = np.sort(np.argsort(-first, axis=1, kind="stable")[:, :most], axis=1)
    scores = np.stack(
        [codes[own].astype(np.float64) @ q for own, q in zip(rows, queries, strict=True)]
    )
    scores = (scores * stored.scales[rows]).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


@BOTH
@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("memory", [None, 1], ids=["resident", "streamed"])
def test_search_is_that_of_the_stored_codes_to_the_bit(tmp_path, monkeypatch, dtype, kind, memory):
    monkeypatch.setattr(exact, "ROWS", 128)
    queries, passages = vectors(kind)  # of 16 numbers; of 3, which fill no byte
    stored = vectors_folder(tmp_path, passages, shard=300, dtype=dtype)
    for top_k, rescore, devices in ((1, 1, 1), (10, 3, 2), (1001, 2, 2)):
        index = ExactIndex(stored, jax.devices()[:devices], memory, rescore)
        rows, scores = index.rows(queries, top_k)
        want, values = by_numpy(queries, stored, top_k, rescore)
        np.testing.assert_array_equal(rows, want)
        np.testing.assert_array_equal(scores, values)


@pytest.mark.parametrize("width", [7, 1024, 2500])
def test_products_are_whole_numbers_on_every_platform(width):
    rng = np.random.default_rng(0)
    queries = rng.integers(-127, 128, (3, width)).astype(np.int8)
    queries[0] = 127
    int8 = rng.integers(-127, 128, (5, width)).astype(np.int8)
    int8[0] = 127  # the largest sum there can be
    for codes in (int8, np.packbits(int8 > 0, axis=1)):
        want = queries.astype(np.int64) @ signs(codes, width).astype(np.int64).T
        for platform in ("cpu", "gpu"):
            got = exact._integers(queries, jax.numpy.asarray(codes), platform)
            np.testing.assert_array_equal(got, want)


def test_codes_are_the_nearest_of_their_scale(tmp_path):
    rng = np.random.default_rng(1)
    some = rng.standard_normal((40, 13)).astype(np.float32) * rng.lognormal(0, 3, (40, 1))
    some[3] = 0
    int8, binary = quantise(some, "int8"), quantise(some, "binary")
    assert int8.codes.shape == (40, 13) and binary.codes.shape == (40, 2)
    error = np.abs(dequantise(int8, 13) - some)
    assert (error <= 0.5001 * int8.scales[:, None]).all() and (
        np.abs(int8.codes).max(1)[:3] == 127
    ).all()
    again = dequantise(binary, 13)
    np.testing.assert_array_equal(np.sign(again[4:]), np.sign(some[4:]))
    # A vector's product with its own code is what it is with itself.
    np.testing.assert_allclose((again * some).sum(1), (some**2).sum(1), rtol=1e-4)
    for dtype in ("int8", "binary"):
        stored = vectors_folder(tmp_path / dtype, some, shard=7, dtype=dtype)
        np.testing.assert_array_equal(
            stored.rows(5, 30), dequantise(quantise(some, dtype), 13)[5:30]
        )
        np.testing.assert_array_equal(stored.in_float32(), stored.rows(0, 40))
        some_rows = np.array([39, 0, 0, 7, 6])
        at = stored.codes_at(some_rows)
        np.testing.assert_array_equal(dequantise(at, 13), stored.rows(0, 40)[some_rows])
    size = sum(path.stat().st_size for path in (tmp_path / "binary").glob("0000?.npy"))
    assert size == 40 * 2 + 6 * 128  # and numpy's headers


@BOTH
def test_recall_of_float32_is_measured_and_said(tmp_path, dtype):
    queries, passages = vectors("random", passages=1501)
    keep_sample(tmp_path, queries)
    stored = vectors_folder(tmp_path, passages, shard=400, dtype=dtype)
    _, best = stored.exact_best(50)
    want = np.argsort(-(queries.astype(np.float64) @ passages.T), axis=1, kind="stable")[:, :50]
    np.testing.assert_array_equal(best, want)
    said = []
    index = build_index(
        stored, IndexConfig(dtype=dtype), Sample("queries", lambda: queries), 100, said.append
    )
    assert isinstance(index, ExactIndex)
    (line,) = said
    found, _ = index.rows(queries, 10)
    share = np.mean([len(np.intersect1d(a, b[:10])) / 10 for a, b in zip(found, want, strict=True)])
    assert f"recall@10 {share:.4f}" in line and f"of float32 on {len(queries)} queries" in line
    assert f"{dtype}, {20 if dtype == 'int8' else 6} bytes a vector" in line
    assert share > (0.95 if dtype == "int8" else 0.3)
    (tmp_path / "00001.best.npy").unlink()
    build_index(
        stored, IndexConfig(dtype=dtype), Sample("queries", lambda: queries), 100, said.append
    )
    assert "recall is not known: 00001.best.npy is missing" in said[1]
    assert said[1].endswith("encode into another folder to measure it")


@BOTH
def test_an_index_is_searched_as_it_was_built(tmp_path, dtype):
    """By whoever opens the folder, who need not know what `encode` was told."""
    queries, passages = vectors("random", passages=300)
    queries[:, 0], passages[:, 0] = 200, 0.01  # little is left of the queries in int8
    stored, origin = vectors_folder(tmp_path, passages, dtype=dtype), Origin("m", "1", "c", "2")
    want, said = {}, []
    for rescore in (1, 7):
        config = IndexConfig(dtype=dtype, rescore=rescore)
        build_index(stored, config, Sample("queries", lambda: queries), 10, unsaid)
        found = open_index(tmp_path, IndexConfig(), origin, said.append).search(queries, 5)
        want[rescore] = ExactIndex(stored, rescore=rescore).search(queries, 5)
        np.testing.assert_array_equal(found[0], want[rescore][0])
    if dtype == "int8":
        assert (want[1][0] != want[7][0]).any()
    assert all(f"{n} candidates scored again" in line for n, line in zip((1, 7), said, strict=True))
    (tmp_path / "exact.json").write_text('{"rescore": 0}')
    with pytest.raises(InputError, match=r"exact\.json: .*rescore"):
        open_index(tmp_path, IndexConfig(), origin)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "binary"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_first_numbers_are_searched_as_vectors_of_that_width(tmp_path, dtype, normalize):
    queries, passages = vectors("random", passages=300)
    stored = vectors_folder(tmp_path, passages, shard=90, dtype=dtype)
    rows = stored.in_float32()[:, :5]
    if normalize:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    index = ExactIndex(Shortened(stored, 5, normalize), rescore=1)
    found, scores = index.search(queries[:, :5], 7)
    want = queries[:, :5] @ rows.T
    np.testing.assert_allclose(scores, -np.sort(-want, axis=1)[:, :7], atol=1e-5)
    places = np.char.lstrip(found, "p").astype(int)
    np.testing.assert_allclose(np.take_along_axis(want, places, 1), scores, atol=1e-5)
    with pytest.raises(InputError, match=r"the index takes \[Q, 5\]"):
        index.search(queries, 7)


@BOTH
def test_opening_says_what_searches_and_scann_is_refused(tmp_path, dtype):
    queries, passages = vectors("random", passages=50)
    stored, said = vectors_folder(tmp_path, passages, dtype=dtype), []
    origin = Origin("m", "1", "c", "2")
    index = open_index(tmp_path, IndexConfig(), origin, said.append)
    assert isinstance(index, ExactIndex) and said == [
        f"{tmp_path}: exact search; its vectors are {dtype}, "
        "2 candidates scored again for each passage"
    ]
    with pytest.raises(InputError, match=rf"ScaNN reads vectors in float32 .* these are {dtype}"):
        open_index(tmp_path, IndexConfig(kind="scann"), origin)
    with pytest.raises(InputError, match=f"index.kind: ScaNN reads .* these are {dtype}"):
        merged(Config(), {"index": {"kind": "scann", "dtype": dtype}})
    with pytest.raises(InputError, match=f"ScaNN reads .* these are {dtype}"):
        build_index(
            stored, IndexConfig(kind="scann"), Sample("queries", lambda: queries), 10, unsaid
        )


@BOTH
def test_damaged_scales_and_vectors_that_are_not_finite_are_named(tmp_path, dtype):
    _, passages = vectors("random", passages=20)
    vectors_folder(tmp_path / "v", passages, shard=7, dtype=dtype)
    scales = tmp_path / "v" / "00001.scales.npy"
    np.save(scales, np.ones(3, np.float32))
    with pytest.raises(InputError, match=r"00001\.scales\.npy: not the scales of 7 passages"):
        Vectors(tmp_path / "v")
    scales.unlink()
    with pytest.raises(InputError, match=r"00001.scales.npy"):
        Vectors(tmp_path / "v")
    np.save(scales, np.full(7, np.nan, np.float32))
    with pytest.raises(InputError, match="the vector of passage p7 is not finite"):
        ExactIndex(Vectors(tmp_path / "v")).search(passages[:1], 3)
    passages[4, 2] = np.nan
    with pytest.raises(InputError, match=f"passage p4: its vector is not finite in {dtype}"):
        vectors_folder(tmp_path / "w", passages, shard=7, dtype=dtype)


def test_a_sample_that_a_killed_encode_left_is_written_again(tmp_path):
    keep_sample(tmp_path, np.zeros((2, 3)))
    keep_sample(tmp_path, np.ones((4, 5)))
    np.testing.assert_array_equal(np.load(tmp_path / "sample.npy"), np.ones((4, 5)))
    vectors_folder(tmp_path, np.ones((6, 5)), dtype="int8")
    keep_sample(tmp_path, np.zeros((2, 3)))  # there are vectors now, measured against it
    np.testing.assert_array_equal(np.load(tmp_path / "sample.npy"), np.ones((4, 5)))


def test_a_sample_changes_nothing_that_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    keep_sample(tmp_path, np.zeros((2, 3)))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
