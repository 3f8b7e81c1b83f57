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

import numpy as np
import pytest
import yaml
from on_disk import TOPICS, make_answered, make_topics, make_weights, untrained_pair
from small_run import config

from rocketjax import ablate
from rocketjax.ablation import rivals
from rocketjax.ablation import run as ablation_run
from rocketjax.ablation.arms import (
    BASE,
    RECIPES,
    Trial,
    arm_files,
    first_change,
    read_arms,
    taken_over,
)
from rocketjax.ablation.page import Effect, _edge, effects, measures, picture, table
from rocketjax.ablation.ranks import (
    Hits,
    hits,
    ndcg,
    read_ranks,
    recall,
    reciprocal_ranks,
    write_ranks,
)
from rocketjax.ablation.sample import Sizes, write_sample
from rocketjax.config.options import dump, load
from rocketjax.data.collection import Collection, Split
from rocketjax.data.lists import TrainingList, read_lists
from rocketjax.data.load import load_collection
from rocketjax.data.passages import InMemory, Passage
from rocketjax.evaluation.metrics import confidence_interval, per_query
from rocketjax.inference.folder import save_reranker
from rocketjax.pipeline import run as pipeline
from rocketjax.retrieval.bm25 import bm25_run
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

CONFIGS = Path(__file__).parents[2] / "configs"


def missing(*libraries):
    return [name for name in libraries if not importlib.util.find_spec(name)]


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
    assert taken_over("recipe_kl", arms) == taken_over("recipe_margin", arms) == "joint"
    plain = arms | {BASE: arms["undenoised"]}  # its own lists are the recipe's
    assert taken_over("recipe", plain) == "mine"


def test_a_sample_holds_what_is_judged_and_is_drawn_by_the_seed(tmp_path):
    whole = load_collection(str(make_topics(tmp_path / "whole")))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample(whole, tmp_path / name, Sizes(20, 10, 45, seed))
    a, b, c = (load_collection(str(tmp_path / name)) for name in "abc")
    assert len(a.passages) == 45 and len(a.split("train").qrels) == 20
    assert len(a.split("dev").qrels) == 10
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.split("dev").qrels == b.split("dev").qrels != c.split("dev").qrels
    for query, text in a.split("dev").queries.items():
        assert whole.split("dev").queries[query] == text
    assert [a.by_id[p.id] == p for p in whole.passages if p.id in a.by_id] == [True] * 45

    write_sample(whole, tmp_path / "a", Sizes(20, 10, 45, 1))  # is there
    with pytest.raises(InputError, match=r"'train': 20.*not of .*'train': 19.*another --folder"):
        write_sample(whole, tmp_path / "a", Sizes(19, 10, 45, 1))
    with pytest.raises(InputError, match=f"a sample of .*{whole.fingerprint}"):
        write_sample(a, tmp_path / "a", Sizes(20, 10, 45, 1))

    write_sample(whole, tmp_path / "all", Sizes(0, 0, 0, 1))
    everything = load_collection(str(tmp_path / "all"))
    assert [p.id for p in everything.passages] == [p.id for p in whole.passages]
    for name in ("train", "dev"):
        assert everything.split(name).qrels == whole.split(name).qrels


def first(*ranks):
    """Queries with one relevant passage each, at these ranks; 0: not found."""
    return tuple(Hits((rank,) if rank else ()) for rank in ranks)


def test_ranks_are_those_of_what_is_relevant_and_come_back(tmp_path):
    qrels = {"q2": {"a": 1, "b": 2}, "q1": {"c": 1}, "q3": {"d": 1}, "q4": {"e": 0}}
    run = {
        "q1": [("c", 1.0)],
        "q2": [("x", 3.0), ("b", 2.0), ("a", 1.0)],
        "q3": [*((f"x{i}", -i) for i in range(10)), ("d", -11)],
        "q4": [("e", 1.0)],
    }
    ranks = hits(qrels, run)
    assert ranks == (Hits((1,)), Hits((2, 3), 2), Hits(()), Hits(()))
    np.testing.assert_array_equal(reciprocal_ranks(ranks), [1, 0.5, 0, 0])
    path, found = tmp_path / "new" / "x.tsv", {("a", 1, "retriever"): ranks}
    arms = {"slow": "12ab", BASE: "0000"}
    assert read_ranks(path, "t", arms) == ({}, {})
    write_ranks(path, "t", {}, found)
    assert path.read_text().splitlines()[-1] == "a\t1\tretriever\t1 2,3/2 0 0"
    assert read_ranks(path, "t", arms) == (found, {})
    with pytest.raises(InputError, match="holds results of '# t', not of 'other'"):
        read_ranks(path, "other", arms)
    whole = path.read_text()
    for word, said in (("11", "ranks are 0 to 10"), ("3,2/2", "no ranks in order"), ("1,2", "no")):
        path.write_text(f"{whole}a\t2\tretriever\t1 {word}\n")
        with pytest.raises(InputError, match=rf"x\.tsv:4: .*{said}.*; delete the line"):
            read_ranks(path, "t", arms)

    found |= {("slow", 1, "retriever"): ranks}
    write_ranks(path, "t", arms, found)
    assert read_ranks(path, "t", {"fast": "1111"}) == (found, arms)
    with pytest.raises(InputError, match=r"x\.tsv:3: slow was trained with another config"):
        read_ranks(path, "t", {"slow": "34cd"})


def test_measures_of_ranks_are_those_of_the_run():
    rng = np.random.default_rng(0)
    qrels = {
        f"q{i:02}": {f"p{j}": 1 for j in rng.choice(40, int(rng.integers(1, 14)), replace=False)}
        for i in range(30)
    }
    run = {
        query: [(f"p{j}", -float(r)) for r, j in enumerate(rng.permutation(40))] for query in qrels
    }
    measured = per_query(
        qrels, {query: [pid for pid, _ in ranked] for query, ranked in run.items()}
    )
    found = hits(qrels, run)
    for name, of in (("MRR@10", reciprocal_ranks), ("nDCG@10", ndcg)):
        np.testing.assert_allclose(of(found), [measured[name][query] for query in sorted(qrels)])
    shares = [
        len({pid for pid, _ in run[query][:10]} & qrels[query].keys()) / len(qrels[query])
        for query in sorted(qrels)
    ]
    np.testing.assert_allclose(recall(found), shares)


@pytest.mark.skipif(missing("bm25s", "Stemmer"), reason="the extra `ablation` brings BM25")
def test_bm25_finds_passages_that_hold_a_word_of_the_query(tmp_path):
    whole = load_collection(str(make_topics(tmp_path / "whole")))
    found = bm25_run(whole, {"a": TOPICS[0], "b": "zebra", "c": "the"}, 60)
    assert 0 < len(found["a"]) < 60 and found["b"] == found["c"] == []
    assert min(score for _, score in found["a"]) > 0


def test_gains_are_paired_over_the_seeds_that_both_have():
    rng = np.random.default_rng(0)
    base = {seed: first(*rng.integers(1, 5, 200).tolist()) for seed in (1, 2)}
    ranks = {(BASE, seed, "retriever"): found for seed, found in base.items()}
    ranks |= {("best", 2, "retriever"): first(1) * 200, ("best", 3, "retriever"): first(2) * 200}
    ranks |= {("same", seed, "retriever"): found for seed, found in base.items()}
    found = effects(ranks, "retriever", [BASE, "best", "same", "unknown"])
    assert list(found) == [BASE, "best", "same"]
    best, gain = found["best"], 1 - reciprocal_ranks(base[2]).mean()
    assert best.seeds == (2, 3) and best.mean == pytest.approx(0.75)
    assert best.spread == pytest.approx(np.std([1, 0.5], ddof=1))
    assert best.gain == pytest.approx(gain) and 0 < best.low < gain < best.high
    assert best.gains == pytest.approx([gain])  # of the one seed that both have
    same = found["same"]
    assert (same.gain, same.low, same.high, same.gains) == (0, 0, 0, (0, 0))
    shown = table(ranks, {BASE: "as it is", "best": "better", "unknown": "never run"})
    best = shown.splitlines()[3].replace("\N{NO-BREAK SPACE}", " ")
    assert best.startswith("| best | better | 0.750 ± 0.354 | +")
    assert len(shown.splitlines()) == 6 and "| unknown |" not in shown
    better = {("best", 1, "retriever"): first(1) * 200}
    one, two = effects(ranks | better, "retriever", ["best"])["best"].gains
    shown = table(ranks | better, {"best": "better"})
    assert f"; {one:+.3f}\\* {two:+.3f}\\* | " in shown and one != two
    near = {("near", seed, "retriever"): (*base[seed][:199], *first(1)) for seed in (1, 2)}
    near[BASE, 1, "retriever"] = near["near", 1, "retriever"]  # no gain with one seed
    found = effects(ranks | better | near, "retriever", ["best", "near"])
    assert found["best"].clear == (True, True) and found["near"].clear == (False, False)

    ranks |= {("bad", seed, "retriever"): first(0) * 200 for seed in (1, 2)}
    for near in ("near", "nearer", "as near"):
        ranks[near, 1, "retriever"] = (*base[1][:190], *first(4) * 10)
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
        (arm, seed, "retriever"): first(*rng.integers(1, 5, 40).tolist())
        for arm in (BASE, "other")
        for seed in (1, 2, 3)
    }
    before, after = (
        np.mean([reciprocal_ranks(ranks[arm, seed, "retriever"]) for seed in (1, 2, 3)], axis=0)
        for arm in (BASE, "other")
    )
    found = effects(ranks, "retriever", ["other"])["other"]
    wanted = confidence_interval(dict(enumerate(before)), dict(enumerate(after)))
    assert (found.low, found.high) == wanted and found.gain == pytest.approx(
        np.mean(after - before)
    )


def test_gains_are_over_any_arm_by_any_measure():
    low, high = (Hits((5,), 2),) * 40, (Hits((1, 2), 2),) * 40
    ranks = {(BASE, 1, "retriever"): low, ("best", 1, "retriever"): high}
    assert measures(ranks) == ["MRR@10", "nDCG@10", "recall@10"]
    assert effects(ranks, "retriever", ["best"], measure="recall@10")["best"].gain == 0.5
    assert effects(ranks, "retriever", [BASE], "best")[BASE].gain == pytest.approx(-0.8)
    shown = table(ranks, {BASE: "as it is", "best": "better"}, "best", "recall@10")
    assert "| dynamic | as it is | 0.500 | -0.500" in shown and "Gain: over `best`" in shown
    assert "| best | better | 1.000 |  |" in shown
    # Tables from before recall was measured have no number of relevant passages.
    assert measures(ranks | {("old", 1, "retriever"): first(1) * 40}) == ["MRR@10"]
    assert measures({("old", 1, "retriever"): first(1) * 40}) == ["MRR@10"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of one layer: what takes the time here is to compile the train steps."""
    return make_weights(tmp_path_factory.mktemp("weights"), layers=1)


def make_home(folder, weights, collection):
    """Configs of a base and three arms, for runs of seconds."""
    usual = config(weights, collection, "")
    base = dataclasses.replace(
        usual,
        retriever=dataclasses.replace(usual.retriever, towers="shared"),
        retriever_warmup=dataclasses.replace(usual.retriever_warmup, steps=0),
        reranker_warmup=dataclasses.replace(usual.reranker_warmup, steps=1, batch=4),
        joint=dataclasses.replace(usual.joint, steps=2, batch=4),
        evaluate=dataclasses.replace(usual.evaluate, every=0),
    )
    (folder / "configs").mkdir()
    (folder / "configs" / "ablation.yaml").write_text("# command\n# as it is\n" + dump(base))
    arms = {
        "alone": {"loss": {"preset": "custom", "distill_weight": 0.0}},
        "pointwise": {"loss": {"preset": "custom", "reranker_loss": "pointwise"}},
        "undenoised": {"lists": {"denoised": 0.0}},
    }
    for name, values in arms.items():
        text = f"# command\n# what {name} is\n{yaml.safe_dump(values)}"
        (folder / "configs" / f"ablation_{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def home(tmp_path, weights, collection, monkeypatch):
    """Configs of a base and three arms, to run in."""
    monkeypatch.chdir(tmp_path)
    return make_home(tmp_path, weights, collection)


JUDGED = [BASE, "alone", "start"]
JUDGED += [] if missing("bm25s", "Stemmer") else ["bm25"]


@pytest.fixture(scope="module")
def ablated(tmp_path_factory, weights, collection):
    """A home where the command has judged an arm and the rivals that need no training."""
    folder = make_home(tmp_path_factory.mktemp("ablated"), weights, collection)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(collection, "--arms", *JUDGED) == 0
    return folder


@pytest.fixture
def done(ablated, tmp_path, monkeypatch):
    """A copy of it, to go on in; its paths are relative."""
    shutil.copytree(ablated, tmp_path / "done")
    monkeypatch.chdir(tmp_path / "done")
    return tmp_path / "done"


def run(collection, *more):
    sizes = ("--train", "30", "--held-out", "15", "--passages", "50", "--seeds", "1")
    return ablate.main(["--collection", str(collection), *sizes, *more])


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def log_of(folder):
    return (folder / "log.jsonl").read_text().splitlines()


def runs_of(home, collection):
    return home / "runs" / "ablation" / collection.name / "1"


def table_of(home, collection):
    return home / "runs" / "ablation_results" / f"{collection.name}.tsv"


def forget(table, *arms):
    """Deletes what a table of results says of some arms."""
    rows = table.read_text().splitlines(keepends=True)
    gone = tuple(start for arm in arms for start in (arm, f"# {arm}"))
    table.write_text("".join(row for row in rows if not row.startswith(gone)))


def last_stage(folder):
    return list(json.loads((folder / "stages.json").read_text()))[-1]


def warm(log):
    return [line for line in log if "warm-reranker" in line]


def test_arms_share_what_they_have_in_common(ablated, collection):
    table = table_of(ablated, collection)
    text = table.with_suffix(".md").read_text()
    assert all(f"| {arm} |" in text for arm in JUDGED) and "what alone is" in text
    assert "<svg" in table.with_suffix(".svg").read_text()

    runs = runs_of(ablated, collection)
    base, alone = (log_of(runs / name) for name in (BASE, "alone"))
    assert warm(alone) == warm(base) != []
    lists = [(runs / name / "lists" / "lists.jsonl").read_bytes() for name in (BASE, "alone")]
    assert lists[0] == lists[1] and alone != base
    assert not (runs / "alone" / "retriever").exists()  # tidied


def test_an_arm_that_took_stages_over_is_the_same_as_one_that_began_anew(done, collection):
    runs = runs_of(done, collection)
    arms = read_arms(arm_files([done / "configs"], ""))
    arm = Trial(arms, runs.parent / "collection", 1, done).config("alone", "anew")
    pipeline.run(arm, print, unwatched)
    assert log_of(done / "anew") == log_of(runs / "alone")
    for name in ("retriever", "reranker"):
        trec = f"runs/{name}.trec"
        assert (done / "anew" / trec).read_bytes() == (runs / "alone" / trec).read_bytes()


def test_an_arm_whose_config_is_another_now_is_judged_anew(done, collection, capsys):
    """Though it was tidied."""
    runs = runs_of(done, collection)
    before = log_of(runs / "alone")
    other = {"loss": {"preset": "custom", "distill_weight": 3.0}}
    config_of_alone = done / "configs" / "ablation_alone.yaml"
    config_of_alone.write_text(f"# command\n# what alone is\n{yaml.safe_dump(other)}")
    assert run(collection, "--arms", "alone") == 2
    assert "alone was trained with another config than it has now" in said(capsys)
    forget(table_of(done, collection), "alone")
    assert run(collection, "--arms", "alone") == 0
    again = log_of(runs / "alone")
    assert again != before and warm(again) == warm(before)


@pytest.mark.slow  # by default: what start and the recipe take over, below
def test_a_base_judged_elsewhere_runs_only_as_far_as_it_is_taken_over(done, collection):
    """Results came along without their runs, which come out as they were."""
    assert run(collection, "--arms", "pointwise") == 0
    runs, table = runs_of(done, collection), table_of(done, collection)
    assert warm(log_of(runs / "pointwise")) != warm(log_of(runs / BASE)) != []
    before = table.read_text()
    forget(table, "alone", "pointwise")
    shutil.rmtree(runs)
    for arm, last in (("pointwise", "encode"), ("alone", "mine")):
        assert run(collection, "--arms", arm) == 0
        assert last_stage(runs / BASE) == last
    assert sorted(table.read_text().splitlines()) == sorted(before.splitlines())


def test_what_is_judged_is_not_run_again(done, collection, monkeypatch):
    def never(*_):
        raise AssertionError("ran again")

    monkeypatch.setattr(pipeline, "run", never)
    before = table_of(done, collection).read_bytes()
    assert run(collection, "--arms", *JUDGED) == 0
    assert run(collection, "--draw") == 0
    assert table_of(done, collection).read_bytes() == before
    with pytest.raises(AssertionError, match="ran again"):
        run(collection, "--arms", "undenoised")


no_recipe = pytest.mark.skipif(
    missing("torch", "accelerate", "datasets", "sentence_transformers"),
    reason="the extra `ablation` brings the recipe",
)


@no_recipe
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the recipes' libraries
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_recipe_is_trained_and_judged(done, collection, recipe):
    assert run(collection, "--arms", recipe) == 0
    table = table_of(done, collection)
    assert f"| {recipe} |" in table.with_suffix(".md").read_text()
    found = read_ranks(table, table.read_text().splitlines()[0].removeprefix("# "), {})[0]
    assert {model for arm, _, model in found if arm == recipe} == {"retriever", "re-ranker"}


@no_recipe
@pytest.mark.filterwarnings("ignore")  # of the recipe's libraries
def test_the_recipe_trains_the_model_that_is_missing(done, weights, collection):
    """One of its two, which takes half as long."""
    models = done / "recipe" / "models"
    shutil.copytree(weights, models / "retriever")
    runs = runs_of(done, collection)
    sample = runs.parent / "collection"
    arms = read_arms(arm_files([done / "configs"], ""))
    base = Trial(arms, sample, 1, runs).config(BASE)
    lists = read_lists(runs / BASE / "lists" / "lists.jsonl")
    loaded = load_collection(str(sample))
    given = rivals.Given(loaded, lists, [], runs / BASE / "reranker")
    ranks = rivals.run_recipe("recipe", base, given, done / "recipe", print, unwatched)
    assert {(arm, seed, model): len(found) for (arm, seed, model), found in ranks.items()} == {
        ("recipe", 1, "retriever"): 15,
        ("recipe", 1, "re-ranker"): 15,
    }
    start = rivals.ranks_of_runs("recipe", 1, runs / BASE / "start", loaded.split("dev"))
    key = ("recipe", 1, "retriever")
    assert ranks[key] == start[key]  # it was left as it is
    assert (models / "reranker" / "model.safetensors").is_file()
    assert not (models / "reranker" / "work.json").exists()


def test_commands_side_by_side_lose_none_of_each_others_results(home, collection, monkeypatch):
    table = home / "runs" / "ablation_results" / f"{collection.name}.tsv"
    ranks = first(*[1] * 15)

    def trained(arm, trial, *_):
        if arm == "alone":
            with table.open("a") as file:  # another process, while this one was training
                file.write(f"pointwise\t1\tretriever\t{' '.join('1' * 15)}\n")
        return {(arm, trial.seed, "retriever"): ranks}

    monkeypatch.setattr(ablation_run, "run_one", trained)
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


def test_what_an_ablation_does_not_judge_by_is_refused(tmp_path):
    base, arm = tmp_path / "ablation.yaml", tmp_path / "ablation_own.yaml"
    base.write_text("evaluate: {relevant: 2}\n")
    arm.write_text("evaluate: {skip_own: true}\n")
    with pytest.raises(InputError, match=r"ablation\.yaml: evaluate\.relevant: .* leave it out"):
        read_arms({BASE: base})
    base.write_text("")
    with pytest.raises(InputError, match=r"ablation_own\.yaml: evaluate\.skip_own"):
        read_arms({BASE: base, "own": arm})


def test_a_collection_in_which_the_truth_is_known_is_made_and_judged(home, tmp_path, capsys):
    values = yaml.safe_load((home / "configs" / "ablation.yaml").read_text())
    values["reranker_warmup"]["steps"] = values["joint"]["steps"] = 0
    (home / "untrained.yaml").write_text("# command\n# untrained\n" + yaml.safe_dump(values))
    answered = make_answered(tmp_path / "answered")
    options = ["--base", "untrained.yaml", "--train", "4", "--held-out", "4", "--passages", "0"]
    options += ["--hidden", "1", "--unlabelled", "3", "--layers", "0", "--arms", "start"]
    assert ablate.main(["--collection", str(answered), "--seeds", "1", *options]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "training queries 4; relevant for them 12; of these labelled 4" in shown
    name = "answered-hidden1-unlabelled3"
    page = (home / "runs" / "ablation_results" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}: 4 training queries, 4 held-out") and ", layers 0\n" in page
    assert all(f"retriever {measure} |" in page for measure in ("MRR@10", "nDCG@10", "recall@10"))
    runs = home / "runs" / "ablation" / name
    trained = load(runs / "1" / BASE / "config.yaml")
    assert trained.retriever.weights == trained.reranker.weights
    assert Path(trained.retriever.weights).parent == Path("runs/ablation") / name / "weights"
    assert (
        ablate.main(["--collection", str(answered), *options, "--draw", "--against", "start"]) == 0
    )
    over = home / "runs" / "ablation_results" / f"{name}-over-start.md"
    assert "Gain: over `start`" in over.read_text()
    assert ablate.main(["--collection", str(answered), *options, "--draw", "--against", "x"]) == 2
    assert "--against x: runs/ablation_results/" in said(capsys)


def test_another_config_can_be_the_base(home, collection, capsys):
    text = (home / "configs" / "ablation.yaml").read_text().replace("# as it is", "# shorter lists")
    values = yaml.safe_load(text)
    values["lists"]["length"] = 3
    values["reranker_warmup"]["steps"] = values["joint"]["steps"] = 0
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
    assert load(runs / "config.yaml").lists.length == 3
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
    assert last_stage(runs) == "start"

    assert run(collection, "--base", "configs/ablation_alone.yaml", "--draw") == 2
    assert "choose another --results" in said(capsys)


@pytest.fixture
def given(monkeypatch):
    """The lists that the recipe is given, which is not trained here."""
    lists = []

    def judged(name, config, given, *_):
        lists.extend(given.lists)
        return {(name, config.seed, "retriever"): first(1) * 15}

    monkeypatch.setattr(rivals, "run_recipe", judged)
    return lists


def test_the_recipe_takes_undenoised_lists_where_the_base_has_others(done, collection, given):
    assert run(collection, "--arms", "recipe") == 0
    mined = runs_of(done, collection) / "recipe_lists"
    assert given == read_lists(mined / "lists" / "lists.jsonl")
    assert {item.kind for item in given} == {"undenoised"}
    base = read_lists(runs_of(done, collection) / BASE / "lists" / "lists.jsonl")
    assert {item.kind for item in base} == {"undenoised", "denoised"}
    assert not (mined / "warmup").exists() and not (mined / "retriever").exists()  # tidied


def test_the_recipe_takes_the_lists_of_a_base_that_denoises_none(
    home, collection, given, monkeypatch
):
    base = yaml.safe_load((home / "configs" / "ablation.yaml").read_text())
    base["lists"]["denoised"] = 0.0
    (home / "plain.yaml").write_text(yaml.safe_dump(base))
    with monkeypatch.context() as patch:  # the base is judged elsewhere
        patch.setattr(
            ablation_run, "run_one", lambda arm, *_: {(arm, 1, "retriever"): first(1) * 15}
        )
        assert run(collection, "--base", "plain.yaml", "--arms", "start") == 0
    assert run(collection, "--base", "plain.yaml", "--arms", "recipe") == 0
    runs = runs_of(home, collection)
    assert last_stage(runs / BASE) == "mine"
    assert given == read_lists(runs / BASE / "lists" / "lists.jsonl")
    assert {item.kind for item in given} == {"undenoised"}
    assert not (runs / "undenoised").exists() and not (runs / "recipe_lists").exists()


def test_a_recipe_that_stops_says_why_and_keeps_the_model_that_is_done(
    home, collection, monkeypatch
):
    base = Trial(read_arms(arm_files([home / "configs"], "")), collection, 1, home).config(BASE)
    loaded = load_collection(str(collection))
    pids = [passage.id for passage in loaded.passages]
    lists = [
        TrainingList(query, next(iter(grades)), tuple(pids[:3]))
        for query, grades in loaded.split("train").qrels.items()
    ]
    given = rivals.Given(loaded, lists, lists, home / "no teacher is asked")
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
        rivals.run_recipe("recipe", base, given, home / "recipe", print, watch)

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
    lists = [
        TrainingList("q", "a", ("b", "c")),
        # Of no use to it: no label; too short for the retriever's losses.
        TrainingList("q", "", ("b", "c", "d"), "unlabelled"),
        TrainingList("r", "b", ("d", "a")),
        TrainingList("r", "b", ("d",)),
    ]
    warm = [TrainingList("r", "b", ("c",))]
    base = config(weights, "unused", tmp_path)
    base = dataclasses.replace(
        base,
        lists=dataclasses.replace(base.lists, length=3),
        joint=dataclasses.replace(base.joint, steps=3, batch=1),
        reranker_warmup=dataclasses.replace(base.reranker_warmup, steps=1, batch=1),
        seed=7,
    )
    given = rivals.Given(Collection("few", passages, splits), lists, warm, tmp_path / "teacher")
    work = rivals._work("recipe", base, given)
    rows = [
        {"query": "first?", "positive": "one", "negative_1": "T two", "negative_2": "three"},
        {"query": "second?", "positive": "T two", "negative_1": "four", "negative_2": "one"},
    ]
    pairs = [
        [("first?", "one", 1.0), ("first?", "T two", 0.0), ("first?", "three", 0.0)],
        [("second?", "T two", 1.0), ("second?", "four", 0.0), ("second?", "one", 0.0)],
        [("second?", "T two", 1.0), ("second?", "four", 0.0)],
    ]
    first = [("second?", "T two", 1.0), ("second?", "three", 0.0)]
    assert work["retriever"] == {
        "loss": "negatives",
        "weights": str(weights),
        "data": [rows[0], rows[1], rows[0]],  # round again, for three steps
        "batch": 1,
        "rate": base.joint.optimizer.retriever_lr,
        "tokens": base.text.passage_length,
        "temperature": base.loss.retriever_temperature,
        "seed": 7,
    }
    seen = [*first, *pairs[0], *pairs[1], *pairs[2]]
    assert [tuple(pair.values()) for pair in work["reranker"].pop("data")] == seen
    assert work["reranker"] == {
        "loss": "pairs",
        "weights": str(weights),
        "batch": 3,
        "rate": base.reranker_warmup.optimizer.reranker_lr,
        "tokens": base.text.pair_length,
        "positive": 2.0,
        "seed": 7,
    }

    teacher = untrained_pair(weights, base.text).reranker
    save_reranker(given.teacher, teacher)
    work = rivals._work("recipe_kl", base, given)
    shown = [
        {name: text for name, text in row.items() if name != "label"}
        for row in work["retriever"]["data"]
    ]
    assert shown == [rows[0], rows[1], rows[0]] and work["retriever"]["loss"] == "kl"
    for row in work["retriever"]["data"]:
        texts = [row[name] for name in ("positive", "negative_1", "negative_2")]
        scores = teacher.score([row["query"]] * 3, texts)
        np.testing.assert_allclose(row["label"], scores, rtol=1e-5)
    assert work["reranker"]["loss"] == "lambda" and work["reranker"]["batch"] == 1
    assert work["reranker"]["data"][:2] == [
        {"query": "second?", "passages": ["T two", "three"], "labels": [1.0, 0.0]},
        {"query": "first?", "passages": ["one", "T two", "three"], "labels": [1.0, 0.0, 0.0]},
    ]
    assert len(work["reranker"]["data"]) == 4


def test_an_arm_that_says_what_its_base_does_is_passed_over(home, collection, monkeypatch, capsys):
    (home / "configs" / "ablation_same.yaml").write_text("# command\n# nothing\n{}\n")
    monkeypatch.setattr(
        ablation_run, "run_one", lambda arm, *_: {(arm, 1, "retriever"): first(1) * 15}
    )
    assert run(collection, "--arms", "same", "alone") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "same: skipped, as configs/ablation.yaml already sets all that" in shown
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
    assert "--arms: no arm nonsense; choose from dynamic, alone" in " ".join(
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
