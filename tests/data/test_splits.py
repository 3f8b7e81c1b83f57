"""What is judged on is not trained on; the same queries are held out wherever that is asked."""

import pytest

from rocketjax.config.schema import DataConfig
from rocketjax.data.collection import Collection, Split, hold_out, sample_queries
from rocketjax.data.passages import InMemory
from rocketjax.pipeline import context
from rocketjax.runtime.errors import InputError


def split(names):
    return Split(
        {name: f"text {name}" for name in names},
        {name: {"p": 1} for name in names if name != "unjudged"},
        {name: ["answer"] for name in names[:1]},
        {name: ["n"] for name in names[1:]},
    )


def test_a_part_keeps_all_that_is_known_of_its_queries():
    whole = split(["b", "unjudged", "a"])
    assert whole.only(["a", "b"]) == Split(
        {"a": "text a", "b": "text b"},
        {"a": {"p": 1}, "b": {"p": 1}},
        {"b": ["answer"]},
        {"a": ["n"]},
    )
    assert list(whole.only(["a", "b"]).queries) == ["a", "b"]


def test_a_query_is_held_out_whatever_others_there_are():
    names = [f"q{i}" for i in range(2_000)]
    train, out = hold_out(split(names), 0.1)
    assert 150 < len(out.queries) < 250
    assert {*train.queries} | {*out.queries} == {*names} and not {*train.queries} & {*out.queries}
    fewer = hold_out(split(names[::-2]), 0.1)[1].queries
    assert fewer.keys() == out.queries.keys() & {*names[::-2]}
    assert hold_out(split(names), 0.2)[1].queries.keys() > out.queries.keys()


def test_a_sample_has_judged_queries_only():
    assert list(sample_queries(split(["b", "unjudged", "a"]), 0).queries) == ["a", "b"]
    names = [f"q{i}" for i in range(50)]
    drawn = list(sample_queries(split(names), 7).queries)
    assert len(drawn) == 7 and drawn == list(sample_queries(split(names[::-1]), 7).queries)
    assert drawn != list(sample_queries(split(names), 7, seed=2).queries)


def test_what_is_judged_on_is_left_out_of_training():
    both = {"train": split(["a", "b", "c"]), "dev": split(["c", "d"])}
    collection = Collection("few", InMemory([]), both)
    said = []
    train, judged = context.splits_of(collection, DataConfig("few"), said.append)
    assert list(train.queries) == ["a", "b"] and judged == both["dev"]
    assert said == ["few: 1 queries of train are in dev too, and are not trained on"]
    with pytest.raises(InputError, match=r"are both 'train'.*--data.hold-out 0.1"):
        context.splits_of(collection, DataConfig("few", eval_split="train"), said.append)
