"""Arms part where their options do, results add up, and the command goes on where it was."""

import dataclasses
import importlib.util
import json
import math
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from on_disk import TOPICS, make_topics
from test_pipeline import config

from rocketjax import ablate, pipeline
from rocketjax.ablation import rivals
from rocketjax.ablation.arms import BASE, arm_files, first_change, read_arms, settled, taken_over
from rocketjax.ablation.bm25 import bm25_run
from rocketjax.ablation.page import Effect, _edge, effects, picture, table
from rocketjax.ablation.ranks import first_hits, read_ranks, reciprocal, write_ranks
from rocketjax.ablation.sample import write_sample
from rocketjax.augment import TrainingList, read_lists
from rocketjax.data.collection import Collection, InMemory, Passage, Split
from rocketjax.data.collections import load_collection
from rocketjax.errors import InputError
from rocketjax.metrics import confidence_interval
from rocketjax.options import dump
from rocketjax.progress import unwatched

CONFIGS = Path(__file__).parents[1] / "configs"


def missing(*libraries):
    return [name for name in libraries if not importlib.util.find_spec(name)]


@pytest.fixture(autouse=True)
def few_programs():
    yield
    jax.clear_caches()


def test_an_arm_parts_from_the_base_where_its_options_do():
    arms = read_arms(arm_files([CONFIGS], ""))
    assert next(iter(arms)) == BASE and len(arms) > 15
    stages = {name: first_change(arms[BASE], arm) for name, arm in arms.items()}
    assert stages[BASE] is None
    assert {stages[name] for name in ("static", "alone", "paper", "stopnone")} == {"joint"}
    assert {stages[name] for name in ("undenoised", "length16", "refresh")} == {"mine"}
    assert {stages[name] for name in ("pointwise", "sequential")} == {"warm-reranker"}
    assert stages["separate"] == "start"
    assert None not in [stages[name] for name in arms if name != BASE]

    taken = {name: taken_over(name, arms) for name in (*arms, "start", "recipe")}
    assert taken[BASE] is None and taken["separate"] is None and taken["start"] == "start"
    assert taken["static"] == "mine" and taken["pointwise"] == "encode"
    assert taken["recipe"] == taken["undenoised"] == "warm-reranker"
    plain = arms | {BASE: arms["undenoised"]}  # its own lists are the recipe's
    assert taken_over("recipe", plain) == "mine"


def test_a_sample_holds_what_is_judged_and_is_drawn_by_the_seed(tmp_path):
    whole = load_collection(str(make_topics(tmp_path / "whole")))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample(whole, tmp_path / name, 20, 10, 45, seed)
    a, b, c = (load_collection(str(tmp_path / name)) for name in "abc")
    assert len(a.passages) == 45 and len(a.split("train").qrels) == 20
    assert len(a.split("dev").qrels) == 10
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.split("dev").qrels == b.split("dev").qrels != c.split("dev").qrels
    for query, text in a.split("dev").queries.items():
        assert whole.split("dev").queries[query] == text
    assert [a.by_id[p.id] == p for p in whole.passages if p.id in a.by_id] == [True] * 45

    write_sample(whole, tmp_path / "a", 20, 10, 45, 1)  # is there
    with pytest.raises(InputError, match=r"'train': 20.*not of .*'train': 19.*another --folder"):
        write_sample(whole, tmp_path / "a", 19, 10, 45, 1)
    with pytest.raises(InputError, match=f"a sample of .*{whole.fingerprint}"):
        write_sample(a, tmp_path / "a", 20, 10, 45, 1)

    write_sample(whole, tmp_path / "all", 0, 0, 0, 1)
    everything = load_collection(str(tmp_path / "all"))
    assert [p.id for p in everything.passages] == [p.id for p in whole.passages]
    for name in ("train", "dev"):
        assert everything.split(name).qrels == whole.split(name).qrels


def test_ranks_are_those_of_first_hits_and_come_back(tmp_path):
    qrels = {"q2": {"a": 1, "b": 2}, "q1": {"c": 1}, "q3": {"d": 1}, "q4": {"e": 0}}
    run = {
        "q1": [("c", 1.0)],
        "q2": [("x", 3.0), ("b", 2.0), ("a", 1.0)],
        "q3": [*((f"x{i}", -i) for i in range(10)), ("d", -11)],
        "q4": [("e", 1.0)],
    }
    ranks = first_hits(qrels, run)
    assert ranks == (1, 2, 0, 0)
    np.testing.assert_array_equal(reciprocal(ranks), [1, 0.5, 0, 0])
    path, found = tmp_path / "new" / "x.tsv", {("a", 1, "retriever"): ranks}
    arms = {"slow": "12ab", BASE: "0000"}
    assert read_ranks(path, "t", arms) == ({}, {})
    write_ranks(path, "t", {}, found)
    assert read_ranks(path, "t", arms) == (found, {})
    with pytest.raises(InputError, match="is of '# t', not of 'other'"):
        read_ranks(path, "other", arms)
    path.write_text(path.read_text() + "a\t2\tretriever\t1 11\n")
    with pytest.raises(InputError, match=r"x\.tsv:4: ranks are 0 to 10; delete the line"):
        read_ranks(path, "t", arms)

    found |= {("slow", 1, "retriever"): ranks}
    write_ranks(path, "t", arms, found)
    assert read_ranks(path, "t", {"fast": "1111"}) == (found, arms)
    with pytest.raises(InputError, match=r"x\.tsv:3: slow was judged with another config"):
        read_ranks(path, "t", {"slow": "34cd"})


@pytest.mark.skipif(missing("bm25s", "Stemmer"), reason="the extra `ablation` brings BM25")
def test_bm25_finds_passages_that_hold_a_word_of_the_query(tmp_path):
    whole = load_collection(str(make_topics(tmp_path / "whole")))
    found = bm25_run(whole, {"a": TOPICS[0], "b": "zebra", "c": "the"}, 60)
    assert 0 < len(found["a"]) < 60 and found["b"] == found["c"] == []
    assert min(score for _, score in found["a"]) > 0


def test_gains_are_paired_over_the_seeds_that_both_have():
    rng = np.random.default_rng(0)
    base = {seed: tuple(rng.integers(1, 5, 200).tolist()) for seed in (1, 2)}
    ranks = {(BASE, seed, "retriever"): found for seed, found in base.items()}
    ranks |= {("best", 2, "retriever"): (1,) * 200, ("best", 3, "retriever"): (2,) * 200}
    ranks |= {("same", seed, "retriever"): found for seed, found in base.items()}
    found = effects(ranks, "retriever", [BASE, "best", "same", "unknown"])
    assert list(found) == [BASE, "best", "same"]
    best, gain = found["best"], 1 - reciprocal(base[2]).mean()
    assert best.seeds == (2, 3) and best.mrr == pytest.approx(0.75)
    assert best.spread == pytest.approx(np.std([1, 0.5], ddof=1))
    assert best.gain == pytest.approx(gain) and 0 < best.low < gain < best.high
    assert best.gains == pytest.approx([gain])  # of the one seed that both have
    same = found["same"]
    assert (same.gain, same.low, same.high, same.gains) == (0, 0, 0, (0, 0))
    shown = table(ranks, {BASE: "as it is", "best": "better", "unknown": "never run"})
    best = shown.splitlines()[3].replace("\N{NO-BREAK SPACE}", " ")
    assert best.startswith("| best | better | 0.750 ± 0.354 | +")
    assert len(shown.splitlines()) == 6 and "| unknown |" not in shown
    better = {("best", 1, "retriever"): (1,) * 200}
    first, second = effects(ranks | better, "retriever", ["best"])["best"].gains
    shown = table(ranks | better, {"best": "better"})
    assert f"; {first:+.3f} {second:+.3f} | " in shown and first != second

    ranks |= {("bad", seed, "retriever"): (0,) * 200 for seed in (1, 2)}
    for near in ("near", "nearer", "as near"):
        ranks[near, 1, "retriever"] = (*base[1][:190], *(4,) * 10)
    shown = [BASE, "bad", "near", "nearer", "as near", "unknown"]
    drawn = picture(ranks, shown, "title")
    assert picture(ranks, shown, "title") == drawn
    labels = re.findall(r"<!-- (.*?) -->", drawn)
    assert {"bad", "near", "title"} <= {*labels} and "unknown" not in labels
    far = effects(ranks, "retriever", ["bad"])["bad"].gain
    assert f"{far:+.3f}" in labels  # off the scale of the others
    one = {key: found for key, found in ranks.items() if key[1] == 1}
    assert "a seed's own" in drawn and "a seed's own" not in picture(one, shown, "title")


def test_what_a_panel_draws_it_draws_whole():
    """One arm is nearer than the first guess at an edge and reaches past it, and brings another."""

    def effect(gain, reach):
        return Effect(0.5, (1,), float("nan"), gain, gain - reach, gain + reach, (gain,))

    small = [effect(0.001, 0.01)] * 5
    wide, wider, far = effect(0.04, 0.03), effect(-0.07, 0.03), effect(0.5, 0.1)
    assert _edge(small) == pytest.approx(1.15 * 0.011)
    assert _edge([*small, wide]) == pytest.approx(1.15 * 0.07)
    assert _edge([*small, wide, wider]) == pytest.approx(1.15 * 0.1)
    assert _edge([*small, wide, wider, far]) == pytest.approx(1.15 * 0.1)
    assert _edge([]) == 1.15 and _edge([effect(0.0, 0.0)]) == 1.15


def test_an_interval_is_over_queries_however_many_seeds_there_are():
    """More seeds say more about each query, and are no further queries."""
    rng = np.random.default_rng(0)
    ranks = {
        (arm, seed, "retriever"): tuple(rng.integers(1, 5, 40).tolist())
        for arm in (BASE, "other")
        for seed in (1, 2, 3)
    }
    before, after = (
        np.mean([reciprocal(ranks[arm, seed, "retriever"]) for seed in (1, 2, 3)], axis=0)
        for arm in (BASE, "other")
    )
    found = effects(ranks, "retriever", ["other"])["other"]
    wanted = confidence_interval(dict(enumerate(before)), dict(enumerate(after)))
    assert (found.low, found.high) == wanted and found.gain == pytest.approx(
        np.mean(after - before)
    )


@pytest.fixture
def home(tmp_path, weights, collection, monkeypatch):
    """Configs of a base and three arms, to run in."""
    monkeypatch.chdir(tmp_path)
    base = config(
        weights,
        collection,
        "",
        retriever_warmup=dataclasses.replace(
            config(weights, collection, "").retriever_warmup, steps=0
        ),
    )
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ablation.yaml").write_text("# command\n# as it is\n" + dump(base))
    arms = {
        "alone": {"loss": {"preset": "custom", "distill_weight": 0.0}},
        "pointwise": {"loss": {"preset": "custom", "reranker_loss": "pointwise"}},
        "undenoised": {"lists": {"denoised": 0.0}},
    }
    for name, values in arms.items():
        text = f"# command\n# what {name} is\n{yaml.safe_dump(values)}"
        (tmp_path / "configs" / f"ablation_{name}.yaml").write_text(text)
    return tmp_path


def run(collection, *more):
    sizes = ("--train", "30", "--held-out", "15", "--passages", "50", "--seeds", "1")
    return ablate.main(["--collection", str(collection), *sizes, *more])


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def log_of(folder):
    return (folder / "log.jsonl").read_text().splitlines()


@pytest.mark.filterwarnings("ignore")  # of the recipe's libraries
def test_arms_share_what_they_have_in_common_and_the_command_goes_on(
    home, collection, monkeypatch, capsys
):
    wanted = [BASE, "alone", "pointwise", "undenoised", "start"]
    wanted += [] if missing("bm25s", "Stemmer") else ["bm25"]
    wanted += [] if missing("torch", "accelerate", "datasets") else ["recipe"]
    assert run(collection, "--arms", *wanted) == 0
    results = home / "runs" / "ablation_results"
    text = (results / f"{collection.name}.md").read_text()
    assert all(f"| {arm} |" in text for arm in wanted) and "what pointwise is" in text
    assert "<svg" in (results / f"{collection.name}.svg").read_text()

    runs = home / "runs" / "ablation" / collection.name / "1"
    base, alone, pointwise = (log_of(runs / name) for name in (BASE, "alone", "pointwise"))
    warm = [line for line in base if "warm-reranker" in line]
    assert [line for line in alone if "warm-reranker" in line] == warm
    assert [line for line in pointwise if "warm-reranker" in line] != warm
    lists = [(runs / name / "lists" / "lists.jsonl").read_bytes() for name in (BASE, "alone")]
    assert lists[0] == lists[1] and alone != base
    assert not (runs / "alone" / "retriever").exists()  # tidied

    # An arm that took over the base's first stages is the same as one that began anew.
    arms = read_arms(arm_files([home / "configs"], ""))
    arm = settled(arms["alone"], runs.parent / "collection", 1, home / "anew")
    pipeline.run(arm, print, unwatched)
    assert log_of(home / "anew") == alone
    for name in ("retriever", "reranker"):
        trec = f"runs/{name}.trec"
        assert (home / "anew" / trec).read_bytes() == (runs / "alone" / trec).read_bytes()

    # An arm whose config is another now is judged anew, though it was tidied.
    other = {"loss": {"preset": "custom", "distill_weight": 3.0}}
    config_of_alone = home / "configs" / "ablation_alone.yaml"
    config_of_alone.write_text(f"# command\n# what alone is\n{yaml.safe_dump(other)}")
    assert run(collection, "--arms", "alone") == 2
    assert "alone was judged with another config than it has now" in said(capsys)
    table = results / f"{collection.name}.tsv"
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join(row for row in rows if not row.startswith(("alone", "# alone"))))
    assert run(collection, "--arms", "alone") == 0
    again = log_of(runs / "alone")
    assert again != alone and [line for line in again if "warm-reranker" in line] == warm

    # Results came along without their runs: the base runs again only as far as it is taken over.
    before = table.read_text()
    rows = before.splitlines(keepends=True)
    table.write_text("".join(row for row in rows if not row.startswith(("alone", "pointwise"))))
    shutil.rmtree(runs)
    for arm, last in (("pointwise", "encode"), ("alone", "mine")):
        assert run(collection, "--arms", arm) == 0
        assert list(json.loads((runs / BASE / "stages.json").read_text()))[-1] == last
    assert table.read_text() == before

    def never(*_):
        raise AssertionError("ran again")

    monkeypatch.setattr(pipeline, "run", never)
    before = (results / f"{collection.name}.tsv").read_bytes()
    assert run(collection, "--arms", *wanted) == 0
    assert run(collection, "--draw") == 0
    assert (results / f"{collection.name}.tsv").read_bytes() == before
    capsys.readouterr()


def test_commands_side_by_side_lose_none_of_each_others_results(home, collection, monkeypatch):
    table = home / "runs" / "ablation_results" / f"{collection.name}.tsv"
    ranks = (1,) * 15

    def trained(arm, arms, sample, collection, seed, folder):
        if arm == "alone":
            with table.open("a") as file:  # another process, while this one was training
                file.write(f"pointwise\t1\tretriever\t{' '.join(map(str, ranks))}\n")
        return {(arm, seed, "retriever"): ranks}

    monkeypatch.setattr(ablate, "_run", trained)
    assert run(collection, "--arms", "alone", "undenoised") == 0
    found = read_ranks(table, table.read_text().splitlines()[0].removeprefix("# "), {})[0]
    assert {arm for arm, _, _ in found} == {BASE, "alone", "pointwise", "undenoised"}


def test_the_later_folder_of_configs_counts(home, collection):
    gpu = home / "configs" / "gpu"
    gpu.mkdir()
    shutil.copy(home / "configs" / "ablation.yaml", gpu)
    (gpu / "ablation_alone.yaml").write_text("# command\n# larger\nlists: {length: 2}\n")
    files = arm_files([home / "configs", gpu], "")
    assert next(iter(files)) == BASE and files[BASE] == gpu / "ablation.yaml"
    assert files["alone"] == gpu / "ablation_alone.yaml"
    assert files["pointwise"] == home / "configs" / "ablation_pointwise.yaml"
    assert arm_files([home / "configs", gpu], "other.yaml")[BASE].name == "other.yaml"


def test_another_config_can_be_the_base(home, collection, capsys):
    text = (home / "configs" / "ablation.yaml").read_text().replace("# as it is", "# shorter lists")
    values = yaml.safe_load(text)
    values["lists"]["length"] = 3
    values["data"]["max_eval_queries"] = 5  # the sample decides how many are judged
    comments = "".join(line + "\n" for line in text.splitlines()[:2])
    (home / "short.yaml").write_text(comments + yaml.safe_dump(values))
    (home / "configs" / "ablation.yaml").unlink()
    (home / "configs" / "ablation_undenoised.yaml").unlink()
    (home / "configs" / "ablation_far.yaml").write_text("# command\n# no\nlists: {length: 99}\n")
    assert run(collection, "--base", "nowhere.yaml") == 2
    assert "nowhere.yaml: cannot read the config" in said(capsys)
    assert run(collection, "--base", "short.yaml", "--arms", "far") == 2
    assert "ablation_far.yaml:3: lists.length: at most" in said(capsys)
    assert run(collection, "--base", "short.yaml", "--arms", "start") == 0
    results = home / "runs" / "ablation_results" / f"{collection.name}.md"
    assert "sample 1, base short.yaml (" in results.read_text()
    assert "| dynamic | shorter lists |" in results.read_text()
    runs = home / "runs" / "ablation" / collection.name / "1" / BASE
    lists = (runs / "lists" / "lists.jsonl").read_text().splitlines()
    assert {len(json.loads(line)["negatives"]) for line in lists} == {2}
    ranked = (runs / "runs" / "retriever.trec").read_text().splitlines()
    assert len({line.split()[0] for line in ranked}) == 15

    # Results came along, the runs that they are of did not.
    table = results.with_suffix(".tsv")
    kept = [line for line in table.read_text().splitlines() if not line.startswith("start")]
    table.write_text("\n".join(kept) + "\n")
    before = results.read_text()
    shutil.rmtree(home / "runs" / "ablation")
    assert run(collection, "--base", "short.yaml", "--arms", "start") == 0
    assert results.read_text() == before

    assert run(collection, "--base", "short.yaml", "--arms", "recipe") == 2
    assert "configs: no ablation_undenoised.yaml, which recipe needs" in said(capsys)
    assert run(collection, "--base", "configs/ablation_alone.yaml", "--draw") == 2
    assert "choose another --results" in said(capsys)


def test_the_recipe_takes_the_lists_of_a_base_that_denoises_none(home, collection, monkeypatch):
    base = yaml.safe_load((home / "configs" / "ablation.yaml").read_text())
    base["lists"]["denoised"] = 0.0
    (home / "plain.yaml").write_text(yaml.safe_dump(base))
    seen = []

    def judged(config, lists, warm, *_):
        seen.extend(lists)
        return {("recipe", config.seed, "retriever"): (1,) * 15}

    monkeypatch.setattr(rivals, "judge_recipe", judged)
    assert run(collection, "--base", "plain.yaml", "--arms", "recipe") == 0
    runs = home / "runs" / "ablation" / collection.name / "1"
    assert seen == read_lists(runs / BASE / "lists" / "lists.jsonl")
    assert {item.kind for item in seen} == {"undenoised"} and not (runs / "undenoised").exists()


def test_a_recipe_that_stops_says_why_and_keeps_the_model_that_is_done(
    home, collection, monkeypatch
):
    base = settled(read_arms(arm_files([home / "configs"], ""))[BASE], collection, 1, home / "base")
    loaded = load_collection(str(collection))
    pids = [passage.id for passage in loaded.passages]
    lists = [
        TrainingList(query, next(iter(grades)), tuple(pids[:3]))
        for query, grades in loaded.split("train").qrels.items()
    ]
    trainer, started, watched = home / "trainer", home / "started", {}
    trainer.write_text(
        f"#!/bin/sh\necho $3 >> {started}\necho step; echo Traceback; echo step; echo No torch\n"
        "test $3 = retriever && echo $3 > $4/weights\n"
    )
    trainer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(trainer))

    @contextmanager
    def watch(name, total, unit):
        watched[name] = [total, 0]

        def advance(count):
            watched[name][1] += count

        yield advance

    def judged():
        rivals.judge_recipe(base, lists, lists, loaded, home / "recipe", print, watch)

    for _ in range(2):
        with pytest.raises(InputError, match="the recipe stopped: No torch; pip install"):
            judged()
    assert started.read_text().split() == ["retriever", "reranker", "reranker"]
    assert (home / "recipe" / "models" / "retriever" / "weights").is_file()
    assert [path.name for path in (home / "recipe" / "models").iterdir()] == ["retriever"]
    joint, warm = base.joint, base.reranker_warmup
    rows = joint.steps * joint.batch
    pairs = 4 * (rows + warm.steps * warm.batch)
    assert watched == {
        "recipe retriever": [math.ceil(rows / joint.batch), 2],
        "recipe reranker": [math.ceil(pairs / (joint.batch * base.lists.length)), 2],
    }


def test_the_recipe_is_given_what_our_models_saw(weights, tmp_path):
    """A rival that is given less, or at other rates, would lose for it."""
    texts = {"a": "one", "b": "two", "c": "three", "d": "four"}
    passages = InMemory([Passage(pid, "T" * (pid == "b"), text) for pid, text in texts.items()])
    splits = {"train": Split({"q": "first?", "r": "second?"}, {"q": {"a": 1}, "r": {"b": 1}})}
    lists = [TrainingList("q", "a", ("b", "c")), TrainingList("r", "b", ("d", "a"))]
    warm = [TrainingList("r", "b", ("c",))]
    base = config(weights, "unused", tmp_path)
    base = dataclasses.replace(
        base,
        lists=dataclasses.replace(base.lists, length=3),
        joint=dataclasses.replace(base.joint, steps=3, batch=1),
        reranker_warmup=dataclasses.replace(base.reranker_warmup, steps=1, batch=1),
        seed=7,
    )
    work = rivals._work(base, lists, warm, Collection("few", passages, splits))
    rows = [
        {"query": "first?", "positive": "one", "negative_1": "T two", "negative_2": "three"},
        {"query": "second?", "positive": "T two", "negative_1": "four", "negative_2": "one"},
    ]
    pairs = [
        [("first?", "one", 1.0), ("first?", "T two", 0.0), ("first?", "three", 0.0)],
        [("second?", "T two", 1.0), ("second?", "four", 0.0), ("second?", "one", 0.0)],
    ]
    first = [("second?", "T two", 1.0), ("second?", "three", 0.0)]
    assert work["retriever"] == {
        "weights": str(weights),
        "data": [rows[0], rows[1], rows[0]],  # round again, for three steps
        "batch": 1,
        "rate": base.joint.optimizer.retriever_lr,
        "tokens": base.text.passage_length,
        "seed": 7,
    }
    seen = [*first, *pairs[0], *pairs[1], *pairs[0]]
    assert [tuple(pair.values()) for pair in work["reranker"].pop("data")] == seen
    assert work["reranker"] == {
        "weights": str(weights),
        "batch": 3,
        "rate": base.reranker_warmup.optimizer.reranker_lr,
        "tokens": base.text.pair_length,
        "positive": 2.0,
        "seed": 7,
    }


def test_an_arm_that_says_what_its_base_does_is_passed_over(home, collection, monkeypatch, capsys):
    (home / "configs" / "ablation_same.yaml").write_text("# command\n# nothing\n{}\n")
    monkeypatch.setattr(ablate, "_run", lambda arm, *_: {(arm, 1, "retriever"): (1,) * 15})
    assert run(collection, "--arms", "same", "alone") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "same: passed over, as configs/ablation.yaml says all that" in shown
    table = home / "runs" / "ablation_results" / f"{collection.name}.tsv"
    found = read_ranks(table, table.read_text().splitlines()[0].removeprefix("# "), {})[0]
    assert {arm for arm, _, _ in found} == {BASE, "alone"}


def test_a_start_that_is_not_judged_is_refused_before_anything_is_trained(home, collection, capsys):
    base = yaml.safe_load((home / "configs" / "ablation.yaml").read_text())
    base["evaluate"]["start"] = False
    (home / "fast.yaml").write_text(yaml.safe_dump(base))
    assert run(collection, "--base", "fast.yaml") == 2
    assert "fast.yaml: evaluate.start is false" in said(capsys)
    assert not (home / "runs").exists()


def test_bad_input_is_one_line(home, collection, capsys):
    assert run(collection, "--arms", "nonsense") == 2
    assert "--arms: no nonsense; there are dynamic, alone" in " ".join(
        capsys.readouterr().err.split()
    )
    assert run(collection, "--draw") == 2
    assert "holds no results yet" in " ".join(capsys.readouterr().err.split())
    deeper = home / "configs" / "ablation_deeper.yaml"
    deeper.write_text("# command\n# more\nevaluate: {rerank_depth: 11}\n")
    assert run(collection, "--arms", "deeper") == 2
    assert "ablation_deeper.yaml: evaluate.rerank_depth differs from the base's" in said(capsys)
    (home / "configs" / "ablation.yaml").unlink()
    assert run(collection) == 2
    assert "ablation.yaml: cannot read the config" in " ".join(capsys.readouterr().err.split())
