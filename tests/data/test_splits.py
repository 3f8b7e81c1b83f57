"""What is judged on is not trained on; the same queries are held out wherever that is asked."""

import dataclasses
import json

import pytest

from rocketjax.config.schema import Config, DataConfig, ListConfig
from rocketjax.data.collection import Collection, Split, hold_out, sample_queries
from rocketjax.data.passages import InMemory
from rocketjax.pipeline import context
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unsaid, unwatched


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


def named(**texts):
    return Split(texts, {name: {"p": 1} for name in texts})


def test_held_out_texts_are_not_trained_on_under_other_ids():
    train = named(a="Where is it?", b="where  is\u00a0IT?", c="Why?", d="ﬁne?")
    dev = named(e="where is it?", f="fine?")
    collection = Collection("few", InMemory([]), {"train": train, "dev": dev})
    said = []
    kept, judged = context.splits_of(collection, DataConfig("few"), said.append)
    assert list(kept.queries) == list(kept.qrels) == ["c"] and judged == dev
    assert said == [
        "few: 3 training queries say what a held-out query says, under other ids, and are not "
        "trained on (--data.leaked train does)"
    ]
    splits = {"train": train.only(["a", "b"]), "dev": dev}
    with pytest.raises(InputError, match=r"all 2 training queries say .* --data\.leaked train"):
        context.splits_of(Collection("few", InMemory([]), splits), DataConfig("few"), said.append)
    said.clear()
    every, _ = context.splits_of(collection, DataConfig("few", leaked="train"), said.append)
    assert every == train and said[0].endswith("under other ids, and are trained on")


def test_a_share_that_is_held_out_leaves_no_text_of_it_behind():
    train = named(**{f"q{i}": f"text {i % 20}" for i in range(60)})
    collection = Collection("few", InMemory([]), {"train": train})
    said = []
    kept, judged = context.splits_of(collection, DataConfig("few", hold_out=0.2), said.append)
    assert judged == hold_out(train, 0.2)[1]
    texts = set(judged.queries.values())
    assert texts and set(kept.queries.values()) == set(train.queries.values()) - texts
    assert len(kept.queries) == sum(text not in texts for text in train.queries.values())
    leaked = 60 - len(kept.queries) - len(judged.queries)
    assert leaked > 0 and said[0].startswith(f"few: {leaked} training queries say what")


def test_unlabelled_queries_that_are_held_out_are_not_mined_for(tmp_path):
    for name, rows in (
        ("corpus", [{"_id": "p", "text": "passage"}]),
        (
            "queries",
            [{"_id": i, "text": t} for i, t in ((1, "one"), (2, "two"), (3, "Two"), (4, "x"))],
        ),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/train.tsv").write_text("1\tp\t1\n")
    (tmp_path / "qrels/dev.tsv").write_text("2\tp\t1\n")
    config = Config(data=DataConfig(str(tmp_path)), lists=ListConfig(pseudo_positives=1))
    watching = context.Watching(unsaid, unwatched)
    run = context.open_run(config, tmp_path, watching)
    assert set(run.queries) == {"1", "4"}
    leaking = dataclasses.replace(config, data=DataConfig(str(tmp_path), leaked="train"))
    assert set(context.open_run(leaking, tmp_path, watching).queries) == {"1", "3", "4"}


def test_unlabelled_queries_are_compared_with_all_that_may_be_judged_on(tmp_path):
    """Not with the few that this run judges on; what was left out is said."""
    dev = named(**{f"d{i}": f"text {i}" for i in range(20)})
    others = Split({f"u{i}": f"TEXT {i}" for i in range(25)}, {})
    splits = {"train": named(a="another"), "dev": dev, "unlabelled": others}
    collection = Collection("few", InMemory([]), splits)
    config = Config(
        data=DataConfig("few", max_eval_queries=2), lists=ListConfig(pseudo_positives=1)
    )
    train, judged = context.splits_of(collection, config.data, unsaid)
    said = []
    sampled = sample_queries(judged, 2)
    run = context.Run(config, tmp_path, collection, train, sampled, said.append, unwatched)
    assert {*run.queries} == {"a", "u20", "u21", "u22", "u23", "u24"}
    assert len(said) == 1 and said[0].startswith("few: 20 unlabelled queries say what a held-out")


def test_what_is_judged_on_is_left_out_of_training():
    both = {"train": split(["a", "b", "c"]), "dev": split(["c", "d"])}
    collection = Collection("few", InMemory([]), both)
    said = []
    train, judged = context.splits_of(collection, DataConfig("few"), said.append)
    assert list(train.queries) == ["a", "b"] and judged == both["dev"]
    assert said == ["few: 1 queries of train are in dev too, and are not trained on"]
    with pytest.raises(InputError, match=r"are both 'train'.*--data.hold-out 0.1"):
        context.splits_of(collection, DataConfig("few", eval_split="train"), said.append)
