"""What says the same is found, however it is spelled and whatever its id."""

import pytest

from rocketjax.data.collection import Split
from rocketjax.data.copies import find_copies, said, shared_positives
from rocketjax.data.load import load_collection
from rocketjax.data.passages import InMemory, Passage, PassagesById
from rocketjax.runtime.progress import silent

SAME = [
    "the caf\u00e9 is open: 10 of fine wines",
    "  The caf\u00e9  is\nopen:\t10 of fine wines ",
    "the\u00a0caf\u00e9 is\u2003open: 10 of fine\u3000wines\u2028",
    "the cafe\u0301 is open: 10 of fine wines",  # an accent of its own
    "the caf\u00e9 is open: \uff11\uff10 of \ufb01ne wines",  # wide digits, a ligature
    "THE CAF\u00c9 IS OPEN: 10 OF FINE WINES",
    "\ufeffthe ca\u00adf\u00e9 is\u200b open: 10 of fine\u200d wines",
]


@pytest.mark.parametrize("text", SAME)
def test_spelling_does_not_count(text):
    assert said(text) == said(SAME[0])


def test_what_says_something_else_is_told_apart():
    others = ["", "a b", "ab", "a, b", "a b b", "b a", "\u00e0 b", "a 1", "a 2", "\u4f60\u597d"]
    assert len({said(text) for text in (*others, *SAME)}) == len(others) + 1
    assert len(said("")) == 16
    assert said("stra\u00dfe") == said("STRASSE") == said("Stra\u1e9ee")


def test_queries_of_one_text_share_their_positives():
    queries = {"a": "Who?", "b": "what", "c": "who? ", "d": "who?", "e": "what else"}
    qrels = {"a": {"p2": 1, "p9": 0}, "b": {"p3": 1}, "c": {"p1": 2}, "e": {"p4": 1}}
    shared = shared_positives(queries, qrels)
    assert shared == {name: ["p1", "p2"] for name in ("a", "c", "d")}
    split = Split(queries, qrels, shared=shared)
    assert [split.positives(name) for name in "abcd"] == [
        ["p2", "p1"],
        ["p3"],
        ["p1", "p2"],
        ["p1", "p2"],
    ]
    assert split.only(["c", "b"]).positives("c") == ["p1", "p2"]


def test_copies_are_found_and_nothing_is_kept_of_other_passages():
    passages = InMemory(
        [Passage(f"p{i}", "", text) for i, text in enumerate(SAME)]
        + [Passage("titled", "The caf\u00e9", "is open: 10 of fine wines")]
        + [Passage(f"o{i}", "", f"another {i}") for i in range(20)]
    )
    done = []
    found = find_copies(passages.by_id, ["p3", "o7", "not there"], done.append)
    assert found.keys() == {*(f"p{i}" for i in range(len(SAME))), "titled", "o7"}
    assert found["p0"] is found["titled"] != found["o7"]  # one object, however many copies
    assert sum(done) == len(passages)
    assert find_copies(passages.by_id, [], silent) == {}


def test_a_stored_corpus_is_read_in_its_order(collection, monkeypatch):
    """A look-up by id costs a bisection; only what is wanted is looked up."""
    loaded = load_collection(str(collection))
    assert isinstance(loaded.by_id, PassagesById)
    assert list(loaded.by_id.values()) == list(loaded.passages)
    looked_up, get = [], PassagesById.__getitem__

    def noted(self, pid):
        looked_up.append(pid)
        return get(self, pid)

    monkeypatch.setattr(PassagesById, "__getitem__", noted)
    found = find_copies(loaded.by_id, ["p3", "p8"], silent)
    assert looked_up == ["p3", "p8"]
    texts = {said(passage.text) for passage in loaded.passages if passage.id in ("p3", "p8")}
    assert found.keys() == {p.id for p in loaded.passages if said(p.text) in texts} >= {"p3", "p8"}


@pytest.mark.parametrize(
    ("copy", "text"),
    [
        ("Norway : a ( final )", "Norway: a (final)"),
        ("cafe ' s", "cafe's"),
        ("a\ufe0f b\x00", "a b"),
    ],
)
def test_blanks_beside_marks_and_what_tokenizers_drop_do_not_count(copy, text):
    assert said(copy) == said(text) != said(text + " not")
