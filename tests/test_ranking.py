"""What the re-ranker does not see stays behind what it does, in the retriever's order."""

import numpy as np

from rocketjax.data.collection import Passage
from rocketjax.progress import unwatched
from rocketjax.ranking import rerank

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
