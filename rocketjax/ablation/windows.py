"""A collection in which the truth is known: passages cut into windows, and labels hidden.

Every passage becomes its overlapping windows of three sentences, without a title. Those windows of
a query's passage that contain one of its answers are relevant, and in a passage of many sentences
that is several.

Held-out queries are judged by all that is relevant. A training query is labelled with one, and of
the others a share is hidden: they stay in the corpus, and nobody says that they answer. The corpus,
the queries and the truth are the same whatever the share, and what a smaller share hides a larger
one hides, too. So two shares differ in labels alone.
"""

import dataclasses
import re
from collections.abc import Mapping

from rocketjax.data.collection import Collection, Qrels, Split, relevant
from rocketjax.data.lists import hash_bits
from rocketjax.data.passages import InMemory, Passage
from rocketjax.evaluation.answers import has_answer
from rocketjax.runtime.errors import InputError

SENTENCES = 3  # in a window
# A full stop, what may close behind it, and a space before what may open a sentence.
_END = re.compile(r"""([.!?]["'\u2019\u201d)\]]*)\s+(?=["'\u2018\u201c(\[]?[A-Z0-9])""")
# What ends in a full stop and is no sentence: an initial, an abbreviation with stops of its own
# ("U.S."), a title, or a word that leads to a name or a number.
_SHORT = re.compile(
    r"(?:\b[A-Za-z]|\b\w+\.\w+|\b(?:Mr|Mrs|Ms|Dr|St|Prof|Rev|Gen|Col|Lt|Sgt|Capt|Sr|Jr|Mt|Ft|No|Nos"
    r"|vs|ca|cf|approx|vol|fig|pp?))\.$"
)


def windows_of(passage: Passage) -> list[Passage]:
    """Windows of three sentences, each one sentence further on; a shorter passage is one window.

    The window that starts with sentence i of passage p is p.i, and has no title.
    """
    sentences = _sentences(passage.text)
    return [
        Passage(f"{passage.id}.{i}", "", " ".join(sentences[i : i + SENTENCES]))
        for i in range(max(1, len(sentences) - SENTENCES + 1))
    ]


def answering_windows(split: Split, query: str, passages: Mapping[str, Passage]) -> list[str]:
    """Ids of the windows of a query's relevant passages that contain one of its answers.

    In the text's order. Empty where an answer is longer than a window, or the query has none.

    Raises:
        InputError: no query of the split has answers.
    """
    if not split.answers:
        raise InputError(
            "no query has answers, which say which windows are relevant: --hidden needs a BEIR "
            "folder with answers.jsonl (docs/data.md)"
        )
    return [
        window.id
        for pid in relevant(split.qrels.get(query, {}))
        for window in windows_of(passages[pid])
        if has_answer(split.answers.get(query, ()), window.text)
    ]


def cut(collection: Collection) -> Collection:
    """Cuts all passages into windows, and judges the queries of every split by them."""
    windows = [window for passage in collection.passages for window in windows_of(passage)]
    splits = {
        name: dataclasses.replace(
            split,
            qrels={
                query: dict.fromkeys(answering_windows(split, query, collection.by_id), 1)
                for query in split.queries
            },
        )
        for name, split in collection.splits.items()
    }
    return Collection(collection.name, InMemory(windows), splits)


def hide(truth: Qrels, share: float, seed: int) -> Qrels:
    """Labels: one relevant passage of every query, and of its others those that are not hidden.

    Args:
        truth: all that is relevant.
        share: 0 to 1, of the others; which ones is a hash of seed, query and passage.
        seed: of that hash.
    """
    labels = {}
    for query, grades in truth.items():
        # Two draws: by one alone, the others would be those that are seldom hidden.
        first = min(grades, key=lambda pid: hash_bits(f"{seed} {query} {pid} first"))
        labels[query] = {
            pid: grade
            for pid, grade in grades.items()
            if pid == first or hash_bits(f"{seed} {query} {pid} hidden") / 2**64 >= share
        }
    return labels


def _sentences(text: str) -> list[str]:
    """The text's sentences, by their full stops: rules for English, as good as they are short."""
    sentences, start = [], 0
    for end in _END.finditer(text):
        if not _SHORT.search(text, start, end.end(1)):
            sentences.append(text[start : end.end(1)])
            start = end.end()
    return [*sentences, text[start:]]
