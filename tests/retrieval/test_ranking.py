"""What the re-ranker does not see stays behind what it does, in the retriever's order."""

import numpy as np
import pytest

from rocketjax.data.passages import Passage
from rocketjax.data.runs import write_rankings
from rocketjax.retrieval.ranking import rerank, rerank_in_parts, retrieve, retrieve_in_parts
from rocketjax.runtime.progress import silent, unwatched

PASSAGES = {pid: Passage(pid, "", text) for pid, text in zip("abcde", "32154", strict=True)}


class ByItsNumber:
    """A re-ranker whose score is the number that a passage consists of."""

    def score(self, queries, passages, titles, advance, steady):
        assert queries == ["q"] * len(passages) and steady
        advance(len(passages))
        return np.array([float(text) for text in passages])


def ranked(depth):
    found = {"q": [(pid, 1.0 - i / 10) for i, pid in enumerate("abcde")], "none": []}
    return rerank(ByItsNumber(), found, {"q": "q", "none": ""}, PASSAGES, depth, unwatched)


def test_the_head_is_ordered_anew_and_the_rest_keeps_its_order():
    for depth, order in ((0, "abcde"), (2, "abcde"), (4, "dabce"), (5, "deabc"), (9, "deabc")):
        found = ranked(depth)
        assert "".join(pid for pid, _ in found["q"]) == order and found["none"] == []
        scores = [score for _, score in found["q"]]
        assert scores == sorted(scores, reverse=True) and len({*scores}) == 5
        assert all(score == float(PASSAGES[pid].text) for pid, score in found["q"][:depth])


MANY = {f"q{i}": f"text {i}" for i in range(1_000)}
FEW = {f"p{i}": Passage(f"p{i}", "", str(i)) for i in range(9)}


class Retriever:
    """Its vectors are the queries' numbers."""

    def encode_query(self, queries, steady):
        assert steady
        return np.array([[float(text.split()[1])] for text in queries])


class Searched:
    """Finds for query i the passages i, i + 1, .. of nine, and none for every seventh."""

    vectors = range(9)

    def search(self, vectors, top_k):
        rows = (vectors.astype(int) + np.arange(top_k)) % 9
        ids = np.array([f"p{i}" for i in range(9)])[rows]
        ids[vectors[:, 0] % 7 == 0] = ""
        return ids, -np.arange(float(rows.size)).reshape(rows.shape)


class Summed:
    """A re-ranker whose scores tell which pairs were scored together."""

    def score(self, queries, passages, titles, advance, steady):
        advance(len(passages))
        numbers = np.array([float(text) for text in passages])
        return np.sin(numbers + numbers.sum())


@pytest.mark.parametrize("depth", [0, 3])
def test_of_many_queries_a_part_is_in_memory_and_written_before_the_next(searches, tmp_path, depth):
    told, sizes = [], []
    rankings = retrieve_in_parts(Retriever(), Searched(), MANY, 5, told.append)
    if depth:
        rankings = rerank_in_parts(Summed(), rankings, MANY, FEW, depth, silent)

    def watched():
        for item in rankings:
            sizes.append(max(path.stat().st_size for path in tmp_path.iterdir()))
            yield item

    path = tmp_path / "run.trec"
    assert write_rankings(path, watched(), "tag") == 1_000
    assert told == [50] * 20 == [50] * len(searches)
    # A pair's window is 64 / 3 queries, and tee keeps 57 more.
    assert max(searches) <= (64 // 3 + 2 + 50 + 57 if depth else 1)
    assert sizes[0] == 0 and sizes[500] > 0.4 * path.stat().st_size


def test_parts_change_no_bit_of_the_ranking(searches):
    found = retrieve(Retriever(), Searched(), MANY, 5, unwatched)
    assert [query for query, ranked in found.items() if not ranked] == list(MANY)[::7]
    whole = rerank(Summed(), found, MANY, FEW, 3, unwatched)
    parts = retrieve_in_parts(Retriever(), Searched(), MANY, 5, silent)
    assert list(rerank_in_parts(Summed(), parts, MANY, FEW, 3, silent)) == list(whole.items())
