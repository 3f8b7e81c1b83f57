"""Exact search against numpy's stable argsort, to the row."""

import numpy as np
import pytest

from rocketjax.errors import InputError
from rocketjax.retrieval import exact


def vectors(kind, queries=13, passages=101):
    """Random: distinct scores. Tied: small integers, so that most scores stand many times."""
    rng = np.random.default_rng(0)
    if kind == "random":
        draw = rng.standard_normal
        return draw((queries, 16)).astype(np.float32), draw((passages, 16)).astype(np.float32)
    draw = rng.integers
    return (
        draw(-1, 2, (queries, 3)).astype(np.float32),
        draw(-1, 2, (passages, 3)).astype(np.float32),
    )


def check(kind, top_k, **sizes):
    queries, passages = vectors(kind, **sizes)
    rows, scores = exact.search(queries, passages, top_k)
    full = queries.astype(np.float64) @ passages.T.astype(np.float64)
    want = np.argsort(-full, axis=1, kind="stable")[:, :top_k]
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(rows, want)
    np.testing.assert_allclose(scores, np.take_along_axis(full, want, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("top_k", [1, 10, 101])
def test_equals_a_stable_sort(kind, top_k):
    check(kind, top_k)


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("top_k", [1, 10, 40, 101])  # pieces of 16: 40 is more than one holds
def test_equals_a_stable_sort_in_pieces(kind, top_k, monkeypatch):
    monkeypatch.setattr(exact, "PASSAGES_AT_ONCE", 16)
    monkeypatch.setattr(exact, "QUERIES_AT_ONCE", 5)
    check(kind, top_k)


def test_one_query_and_one_passage():
    check("random", 5, queries=1)
    check("random", 1, queries=1, passages=1)


@pytest.mark.parametrize(("top_k", "passages"), [(102, 101), (1, 0), (0, 101)])
def test_more_than_the_corpus_holds_is_refused(top_k, passages):
    queries, corpus = vectors("random", passages=passages)
    with pytest.raises(InputError, match=f"top_k is {top_k}, .* {passages} passages"):
        exact.search(queries, corpus, top_k)
