"""What is longer than models read is counted: the same as transformers' tokenizer counts."""

import numpy as np
import pytest
from on_disk import WORDS
from transformers import AutoTokenizer

from rocketjax.config.schema import TextConfig
from rocketjax.data.collection import Split
from rocketjax.data.passages import InMemory, Passage
from rocketjax.text import cut
from rocketjax.text.cut import cut_line
from rocketjax.text.tokenizer import Tokenizer

TEXT = TextConfig(query_length=10, passage_length=16, pair_length=24)


def some_texts(count, longest, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest + 1))) for _ in range(count)]


def texts_of(count=80, queries=20, passages=30):
    corpus = InMemory(
        Passage(f"p{i}", "cat" * (i % 2), text)
        for i, text in enumerate(some_texts(count, passages, 1))
    )
    asked = {f"q{i}": text for i, text in enumerate(some_texts(count, queries, 2))}
    return Split(asked, {f"q{i}": {f"p{i}": i % 3, "p0": 1} for i in range(count)}), corpus


def test_shares_are_those_that_transformers_counts(weights):
    split, corpus = texts_of()
    live = AutoTokenizer.from_pretrained(weights)
    pairs = [
        (split.queries[query], corpus.by_id[pid].whole)
        for query, judged in split.qrels.items()
        for pid, grade in judged.items()
        if grade > 0
    ]
    counts = (
        ("query", 10, "queries", [len(live(text)["input_ids"]) for text in split.queries.values()]),
        ("passage", 16, "passages", [len(live(p.whole)["input_ids"]) for p in corpus]),
        ("pair", 24, "pairs", [len(live(*pair)["input_ids"]) for pair in pairs]),
    )
    parts = []
    for kind, longest, plural, lengths in counts:
        share = np.mean([length > longest for length in lengths])
        assert 0.1 < share < 0.9 and longest in lengths  # what just fits is not cut
        parts.append(f"at text.{kind}_length {longest}: {share:.1%} of {len(lengths)} {plural}")
    tokenizer = Tokenizer(weights, TEXT)
    assert cut_line("dev", split, corpus, tokenizer, tokenizer) == f"dev: cut {'; '.join(parts)}"
    assert cut_line("dev", split, corpus, None, tokenizer) == f"dev: cut {parts[2]}"
    assert cut_line("x", Split({}, {}), corpus, tokenizer, None) == f"x: cut {parts[1]}"
    assert cut_line("x", split, InMemory([]), tokenizer, None) == f"x: cut {parts[0]}"
    assert max(len(text.ids) for text in tokenizer.query([*split.queries.values()])) == 10


def test_nothing_is_said_where_all_is_read(weights):
    split, corpus = texts_of(queries=8, passages=10)
    tokenizer = Tokenizer(weights, TextConfig(query_length=10, passage_length=16, pair_length=30))
    assert cut_line("dev", split, corpus, tokenizer, tokenizer) == ""


def test_prompts_take_up_their_part(weights):
    split, corpus = texts_of(queries=8, passages=10)
    text = TextConfig(10, 16, 30, query_prompt="cat cat cat cat cat cat cat cat ")
    tokenizer = Tokenizer(weights, text)
    line = cut_line("dev", split, corpus, tokenizer, tokenizer)
    assert line == "dev: cut at text.query_length 10: 100.0% of 80 queries"


@pytest.mark.parametrize("most", [7, 79, 80])
def test_of_many_texts_a_sample_is_measured(weights, monkeypatch, most):
    monkeypatch.setattr(cut, "SAMPLE", most)
    split, _ = texts_of(queries=20)
    tokenizer = Tokenizer(weights, TextConfig(8, 16, 24))
    line = cut_line("dev", split, InMemory([]), tokenizer, None)
    assert ("of a sample of" in line) == (most < 80) and ("of 80 queries" in line) == (most == 80)
    if most < 80:
        assert 1 < int(line.split()[-2]) <= most
