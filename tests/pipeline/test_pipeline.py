"""The whole run on a tiny collection with tiny random weights: artefacts, loading, bad input."""

import dataclasses
import json
import os
import pkgutil
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from on_disk import WORDS, make_topics
from small_run import config

import rocketjax
from rocketjax.cli import command as cli
from rocketjax.config.loss import PRESETS, LossConfig
from rocketjax.config.options import dump, load
from rocketjax.config.schema import (
    ComputeConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    IndexConfig,
    ListConfig,
    OptimizerConfig,
    RetrieverConfig,
    StageConfig,
    TextConfig,
)
from rocketjax.data.collection import Split, sample_queries
from rocketjax.data.lists import read_lists
from rocketjax.data.load import load_collection
from rocketjax.data.runs import read_run
from rocketjax.evaluation import metrics
from rocketjax.evaluation.pool import draw_queries, evaluate_pool, make_pool, score_both
from rocketjax.evaluation.results import Report
from rocketjax.inference import folder as model_folder
from rocketjax.inference import start as start_module
from rocketjax.pipeline import batches, context, resume, stages
from rocketjax.pipeline import lists as rounds
from rocketjax.pipeline import run as pipeline
from rocketjax.pipeline.context import Run
from rocketjax.report import page
from rocketjax.retrieval.model import Model
from rocketjax.runtime import lock
from rocketjax.runtime.devices import data_parallel
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched
from rocketjax.train import main
from rocketjax.training.loader import lists_of_step
from rocketjax.training.loop import NonFiniteError
from rocketjax.training.step import loss_gradient


def say(_):
    """Nothing."""


class Finished(NamedTuple):
    folder: Path
    report: Report


@pytest.fixture(scope="module")
def finished(weights, collection, tmp_path_factory):
    """The one run that is trained from nothing. Read only: a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return Finished(folder, pipeline.run(config(weights, collection, folder), say, unwatched))


def test_a_run_leaves_whole_artefacts(finished):
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(
            "config.yaml",
            "collection.json",
            "stages.json",
            "log.jsonl",
            "judged.jsonl",
            "timing.jsonl",
        ),
        *("report.json", "report.html", "tensorboard", "scores"),
        *("start", "warmup", "lists", "checkpoints", "retriever", "reranker", "index", "runs"),
    }
    assert list((folder / "checkpoints").iterdir()) == []  # the models are stored
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    stages = ["warm-retriever"] * 2 + ["warm-reranker"] * 3 + ["joint"] * 6
    assert [row["stage"] for row in log] == stages
    assert {"loss", "retriever", "reranker", "distill", "kl", "gradient_norm"} <= set(log[-1])
    assert {"teacher_entropy", "distill_cosine", "reranker_clipped"} <= set(log[-1])
    report = json.loads((folder / "report.json").read_text())
    assert report["folder"] == str(folder)
    measures = {row["measure"] for row in report["rows"]}
    assert {"MRR@10", "recall@20", "nDCG@10"} <= measures and "recall@50" not in measures
    assert {row["model"] for row in report["rows"]} == {"retriever", "reranker", "oracle"}
    assert len((folder / "runs" / "reranker.trec").read_text().splitlines()) == 15 * 20
    assert load(folder / "config.yaml").joint.steps == 6
    kinds = [item.kind for item in read_lists(folder / "lists" / "lists.jsonl")]
    assert kinds.count("denoised") == kinds.count("undenoised") == 24  # 6 steps x 8 lists


def test_a_run_is_judged_on_the_way_and_drawn(finished, collection):
    """At its first step, every third and the last; each text once more on its page."""
    folder = finished.folder
    rows = [json.loads(line) for line in (folder / "judged.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 3, 6]
    measures = {f"{m} {name}" for m in ("retriever", "reranker") for name in ("MRR@10", "nDCG@10")}
    lead = "teacher lead MRR@10"
    assert all(row.keys() - {"stage", "step"} == {*measures, lead} for row in rows)
    assert rows[0] != rows[2] | {"step": 0}  # the models moved
    # What stands there of the end is what the saved pair is worth on the same pool.
    split = load_collection(str(collection)).splits["dev"]
    held_out = sample_queries(split, 15, 1)
    found = read_run(folder / "start" / "retriever.trec")
    pool = make_pool(draw_queries(held_out, 6, 1), found, 10)
    assert len(pool.passages) == 6 and all(10 <= len(ids) <= 11 for ids in pool.passages.values())
    passages = load_collection(str(collection)).by_id
    again = evaluate_pool(rocketjax.load(folder), pool, passages)
    assert again == pytest.approx({name: rows[2][name] for name in (*measures, lead)}, abs=1e-6)
    for step in (0, 6):
        scores = json.loads((folder / "scores" / f"{step}.json").read_text())
        counts = {k: [len(v) for v in kinds.values()] for k, kinds in scores.items()}
        assert counts["retriever"] == counts["reranker"] and min(counts["retriever"]) > 0
    timing = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    assert len(timing) == 11 and all(row["seconds"] > 0 < row["tokens"] for row in timing)
    page = (folder / "report.html").read_text()
    assert page.count("<figure>") == 14 and "the retriever&#39;s MRR@10 went from" in page


def test_the_report_compares_the_end_with_the_start(finished, collection):
    folder = finished.folder
    qrels = sample_queries(load_collection(str(collection)).splits["dev"], 15).qrels

    def measured(where):
        ids = {
            name: {
                query: [pid for pid, _ in ranked]
                for query, ranked in read_run(folder / where / f"{name}.trec").items()
            }
            for name in ("retriever", "reranker")
        }
        ids["oracle"] = metrics.oracle(qrels, ids["retriever"], 10)
        return {name: metrics.per_query(qrels, some, 20) for name, some in ids.items()}

    before, after = measured("start"), measured("runs")
    rows = json.loads((folder / "report.json").read_text())["rows"]
    names = [(row["model"], row["measure"]) for row in rows]
    assert names == [(name, measure) for name, values in after.items() for measure in values]
    for row, (name, measure) in zip(rows, names, strict=True):
        old, new = before[name][measure], after[name][measure]
        assert row["before"] == pytest.approx(np.mean([*old.values()]))
        assert row["after"] == pytest.approx(np.mean([*new.values()]))
        assert row["p"] == pytest.approx(metrics.p_value(old, new))
    for name in ("retriever", "reranker"):  # both moved, else one column could be the other
        assert before[name]["MRR@10"] != after[name]["MRR@10"]


def test_the_saved_pair_scores_as_the_run_judged_it(finished, collection):
    """Loaded from disk, both models give the scores that stand in the run's TREC files."""
    model = rocketjax.load(finished.folder)
    texts = {
        row["_id"]: row["text"]
        for name in ("corpus", "queries")
        for row in map(json.loads, (collection / f"{name}.jsonl").read_text().splitlines())
    }
    first = (finished.folder / "runs" / "reranker.trec").read_text().splitlines()[0].split()
    query, passage = texts[first[0]], texts[first[2]]
    assert model.score([query], [passage])[0] == pytest.approx(float(first[4]), rel=1e-5, abs=1e-6)
    first = (finished.folder / "runs" / "retriever.trec").read_text().splitlines()[0].split()
    dot = model.encode_query([texts[first[0]]]) @ model.encode_passage([texts[first[2]]]).T
    assert dot[0, 0] == pytest.approx(float(first[4]), rel=1e-5, abs=1e-6)
    ranked = model.rerank(query, list(texts.values())[:7], top_k=3)
    scores = model.score([query] * 7, list(texts.values())[:7])
    assert [item.index for item in ranked] == list(np.argsort(-scores, kind="stable")[:3])


def test_scores_depend_on_neither_company_nor_order(finished):
    model = rocketjax.load(finished.folder)
    rng = np.random.default_rng(0)
    queries = [" ".join(rng.choice(WORDS, rng.integers(1, 8))) for _ in range(70)]
    passages = [" ".join(rng.choice(WORDS, rng.integers(1, 14))) for _ in range(70)]
    scores = model.score(queries, passages)
    order = rng.permutation(70)
    shuffled = model.score([queries[i] for i in order], [passages[i] for i in order])
    np.testing.assert_allclose(shuffled, scores[order], atol=1e-5)
    alone = model.score(queries[:1], passages[:1])
    np.testing.assert_allclose(alone, scores[:1], atol=1e-5)
    assert model.score([], []).shape == (0,)
    assert model.encode_query([]).shape == (0, 32)


def test_new_lengths_and_sizes_do_not_recompile_every_time(finished):
    from rocketjax.inference.model import apply

    model = rocketjax.load(finished.folder)
    rng = np.random.default_rng(0)

    def call(n):
        texts = [" ".join(rng.choice(WORDS, rng.integers(1, 40))) for _ in range(n)]
        model.score(texts, texts)

    before = apply._cache_size()
    for n in range(1, 560, 43):
        call(n)
    compiled = apply._cache_size()
    # These texts have one padded length: three sizes, each for few long or many short ones.
    assert compiled - before <= 6
    for n in rng.integers(1, 600, 10):
        call(int(n))
    assert apply._cache_size() == compiled


def contents(folder):
    """Every file that says what a run did, by its bytes; times and places left out."""
    names = ("lists/lists.jsonl", "warmup/lists/lists.jsonl", "log.jsonl", "judged.jsonl")
    names += ("scores/0.json", "runs/reranker.trec")
    models = sorted(folder.glob("re*/**/model.safetensors"))
    vectors = sorted(folder.glob("index/*.npy"))
    paths = [folder / name for name in names] + models + vectors
    assert len(models) == 3 and len(vectors) == 6
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def expected(finished):
    return contents(finished.folder)


class Killed(Exception):
    """What stops a run."""


def dies_at(monkeypatch, where, calls):
    """The function of that name works `calls` times, and raises from then on; gives its undoing."""
    path, name = where.rsplit(".", 1)
    owner = pkgutil.resolve_name(path)
    real, count = getattr(owner, name), [0]

    def dies(*args, **options):
        count[0] += 1
        if count[0] > calls:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(owner, name, dies)
    return lambda: monkeypatch.setattr(owner, name, real)


DEATHS = (
    ("rocketjax.retrieval.encode.write_shard", 1),  # the warmed retriever's index
    ("rocketjax.training.journal.Journal.step", 2),  # in the re-ranker's warm-up
    ("rocketjax.mining.mine.write_candidates", 1),  # of the joint stage's lists
    ("rocketjax.training.journal.Journal.step", 4),  # in joint training, past a checkpoint
    ("rocketjax.pipeline.stages.save_reranker", 0),
    ("rocketjax.evaluation.results.write", 0),
)


def test_a_run_that_is_stopped_goes_on_and_ends_the_same(
    weights, collection, finished, tmp_path, monkeypatch, expected
):
    """One run that dies at six places, one after the other."""
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    settings = config(weights, collection, folder)
    monkeypatch.setattr("rocketjax.mining.mine.PAIRS_AT_ONCE", 400)
    again = dataclasses.replace(settings, from_stage="encode")  # all from here on is made anew
    stages_done = []
    for where, calls in DEATHS:
        revive = dies_at(monkeypatch, where, calls)
        done, said = set(json.loads((folder / "stages.json").read_text())), []
        with pytest.raises(Killed):
            pipeline.run(again, said.append, unwatched)
        if again is settings:
            assert not done & set(said)  # finished stages are not run again
        revive()
        stages_done.append(len(json.loads((folder / "stages.json").read_text())))
        assert "The run is not finished" in page.write(folder).read_text()
        again = settings
    assert stages_done == [2, 3, 4, 5, 5, 7]
    report = pipeline.run(settings, say, unwatched)
    assert contents(folder) == expected
    assert report.rows == pipeline.run(settings, say, unwatched).rows  # a finished run is kept


def test_part_of_a_run_and_the_same_again_from_a_stage(
    weights, collection, finished, tmp_path, expected
):
    folder = shutil.copytree(finished.folder, tmp_path / "run")

    def run(**changes):
        return pipeline.run(config(weights, collection, folder, **changes), say, unwatched)

    assert run(from_stage="mine", stages=("mine",)) is None
    with pytest.raises(InputError, match="stage index needs stage joint"):
        run(stages=("index",))
    assert run(stages=("joint", "index")) is None
    assert run() is not None
    assert contents(folder) == expected
    longer = StageConfig(steps=2, batch=8, optimizer=OptimizerConfig(reranker_lr=1e-3))
    with pytest.raises(InputError, match=r"other options \(joint.steps: 6 -> 2; joint.optim"):
        run(joint=longer)
    assert contents(folder) == expected
    said = []
    settings = config(weights, collection, folder, joint=longer, from_stage="joint")
    pipeline.run(settings, said.append, unwatched)
    assert "they depend on joint.steps; --from mine makes it again" in said[0]
    after = contents(folder)
    assert after["lists/lists.jsonl"] == expected["lists/lists.jsonl"]
    assert after["reranker/model.safetensors"] != expected["reranker/model.safetensors"]
    assert load(folder / "config.yaml").joint.steps == 2
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"] == 1
    with pytest.raises(InputError, match="no run here to resume with --from joint"):
        pipeline.run(
            config(weights, collection, tmp_path / "new", from_stage="joint"), say, unwatched
        )


@pytest.mark.slow
def test_a_run_in_parts_from_nothing_is_the_whole_run(weights, collection, tmp_path, expected):
    def run(**changes):
        settings = config(weights, collection, tmp_path / "run", **changes)
        return pipeline.run(settings, say, unwatched)

    assert run(stages=("start", "warm-retriever")) is None
    with pytest.raises(InputError, match="stage mine needs stage encode"):
        run(stages=("mine",))
    assert run(stages=("encode", "warm-reranker", "mine")) is None
    assert run() is not None
    assert contents(tmp_path / "run") == expected


def test_before_and_after_are_judged_alike(weights, collection, finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")

    def run(**changes):
        return pipeline.run(config(weights, collection, folder, **changes), say, unwatched)

    data = DataConfig(str(collection), max_eval_queries=14)
    for changes, said in (
        ({"data": data}, "data.max_eval_queries: 15 -> 14"),
        ({"evaluate": EvaluateConfig(top_k=30, rerank_depth=10)}, "evaluate.top_k: 20 -> 30"),
    ):
        with pytest.raises(InputError, match=rf"judged with .*\({said}\).*--from start"):
            run(from_stage="joint", **changes)
        assert contents(folder) == contents(finished.folder)
    report = run(from_stage="evaluate", data=data, evaluate=EvaluateConfig(20, 10, start=False))
    assert report.queries == 14 and {row.before for row in report.rows} == {None}


def test_what_is_to_run_again_is_forgotten(weights, collection, finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    settings = config(weights, collection, folder, from_stage="joint", stages=("evaluate",))
    with pytest.raises(InputError, match="stage evaluate needs stage joint"):
        pipeline.run(settings, say, unwatched)
    for name in ("log.jsonl", "timing.jsonl"):
        lines, before = (
            (path / name).read_text().splitlines() for path in (folder, finished.folder)
        )
        assert lines == [line for line in before if '"joint"' not in line] and len(lines) == 5
    assert not (folder / "tensorboard" / "joint").exists()
    assert not (folder / "judged.jsonl").exists()


REFRESHED = ListConfig(length=4, top_n=30, low=0.6, calibration="sigmoid", refresh=2)


def with_refresh(weights, collection, finished, folder):
    """A copy of the finished run, and the options by which it mines and trains anew, in rounds."""
    shutil.copytree(finished.folder, folder)
    return config(weights, collection, folder, lists=REFRESHED, from_stage="mine")


@pytest.fixture(scope="module")
def refreshed(weights, collection, finished, tmp_path_factory):
    """The folder of a run with refreshes, and the lists that each of its feeds was given."""
    folder, trained = tmp_path_factory.mktemp("runs") / "refreshed", []
    lists_of_round = batches.lists_of_round

    def noted(*args, **options):
        trained.append(lists_of_round(*args, **options))
        return trained[-1]

    settings = with_refresh(weights, collection, finished, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "lists_of_round", noted)
        pipeline.run(settings, say, cli.watch)  # bars in bars
    return folder, trained


def test_refresh_mines_anew_with_the_models_as_they_are(refreshed):
    folder, trained = refreshed
    rounds = [folder / "lists", *(folder / "rounds" / str(i) / "lists" for i in (1, 2))]
    mined = [read_lists(path / "lists.jsonl") for path in rounds]
    assert [len(items) for items in mined] == [16, 16, 16]  # 2 steps x 8 lists
    assert trained == mined
    queries = [{item.query for item in items} for items in mined]
    assert not queries[0] & queries[1] and not queries[1] & queries[2]
    models = [json.loads((path / "request.json").read_text())["retriever"] for path in rounds]
    assert len(set(models)) == 3  # each time another retriever
    assert not (folder / "rounds" / "1" / "index").exists()  # large, and used up


def stopped_at_training(stage, work, monkeypatch):
    """A stage's name, and what it would train with: parameters, objective and its feed."""
    asked = []

    def stops(run, name, options, params, objective, feeds, judge=None):
        asked.append((name, params, objective, feeds.from_step(0, params)))
        raise Killed

    monkeypatch.setattr(stages, "train_stage", stops)
    with pytest.raises(Killed):
        stage(work)
    return asked[0]


def test_the_joint_stage_trains_by_preset_temperature_and_chunk(
    weights, collection, finished, tmp_path, monkeypatch
):
    """Its first losses are those of the warmed models' scores, computed plainly.

    A device has four passages and pairs of every list of its own, in chunks of three; the last
    is not whole.
    """
    folder, temperature = shutil.copytree(finished.folder, tmp_path / "run"), 20.0
    loss = LossConfig("released", retriever_temperature=temperature)
    settings = config(weights, collection, folder, loss=loss, compute=ComputeConfig(chunk=3))
    work = context.open_run(settings, folder, context.Watching(say, unwatched))
    _, params, objective, feed = stopped_at_training(stages.train_jointly, work, monkeypatch)

    def losses(params, batch):
        return params, loss_gradient(params, batch, None, objective)[1]

    _, row = data_parallel(losses)(jax.tree.map(np.asarray, params), next(feed.batches))

    model = Model(
        model_folder.load_retriever(folder / "warmup" / "retriever", settings.compute),
        model_folder.load_reranker(folder / "warmup" / "reranker", settings.compute),
    )
    lists = lists_of_step(read_lists(folder / "lists" / "lists.jsonl"), 8, settings.seed, 0)
    pairs = [(item.query, pid) for item in lists for pid in (item.positive, *item.negatives)]
    found = score_both(model, pairs, work.queries, work.collection.by_id)
    de, ce = found["retriever"].reshape(8, 4) / temperature, found["reranker"].reshape(8, 4)
    de, ce = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (de, ce))
    distill = np.mean(np.exp(ce) * (ce - de))  # over all passages, as Paddle's is
    wanted = {"reranker": -ce[:, 0].mean(), "distill": distill}
    wanted |= {"loss": wanted["reranker"] + distill, "retriever": -de[:, 0].mean()}
    assert {name: float(row[name]) for name in wanted} == pytest.approx(wanted, rel=1e-4)


def test_every_stage_heeds_preset_temperature_and_chunk(
    weights, collection, finished, tmp_path, monkeypatch
):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    loss = LossConfig("paper", reranker_loss="pointwise", retriever_temperature=0.05)
    settings = config(weights, collection, folder, loss=loss, compute=ComputeConfig(chunk=1))
    work = context.open_run(settings, folder, context.Watching(say, unwatched))
    for kind in ("retriever", "reranker", "joint"):  # what comes after the models
        monkeypatch.setattr(stages, f"{kind}_objective", lambda *args: args[-1])
    asked = {}
    for stage in (stages.warm_retriever, stages.warm_reranker, stages.train_jointly):
        name, _, objective, feed = stopped_at_training(stage, work, monkeypatch)
        texts = next(feed.batches)[:3]
        chunks = [len(some.first) // jax.device_count() for some in texts]  # of a device
        asked[name] = objective
        assert all(count > 1 for count in chunks)  # without a chunk's size, all are one
    paper = dataclasses.replace(PRESETS["paper"], retriever_temperature=0.05)
    assert asked == {"warm-retriever": loss, "warm-reranker": paper, "joint": paper}


def test_the_retriever_keeps_a_share_of_its_starting_weights(
    weights, collection, finished, tmp_path
):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    plain = config(weights, collection, folder)
    options = dataclasses.replace(plain.retriever, keep=0.25)
    again = dataclasses.replace(plain, retriever=options, from_stage="joint")
    pipeline.run(dataclasses.replace(again, stages=("joint",)), say, unwatched)
    start = start_module.pretrained_retriever(plain.retriever, plain.text, plain.compute).params
    trained, kept = (
        model_folder.load_retriever(path / "retriever", plain.compute).params
        for path in (finished.folder, folder)
    )
    wanted = jax.tree.map(lambda a, b: 0.25 * np.asarray(a) + 0.75 * np.asarray(b), start, trained)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), kept, wanted)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), start, trained)
    assert max(jax.tree.leaves(moved)) > 1e-3  # else the mean would be either
    for name in ("log.jsonl", "reranker/model.safetensors"):
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes()


def test_rows_with_their_own_negatives_train_without_mining(weights, collection, tmp_path):
    """A file of rows, a quarter of it held out, and lists as given."""
    whole = load_collection(str(collection))
    train = whole.splits["train"]
    texts = [passage.text for passage in whole.passages]
    rows = [
        {
            # Some passages are equal, and so were their queries; of these lengths and with these
            # steps, the finished run's programs serve.
            "query": f"{text.rpartition(' ')[0]} {query}",
            "positive": whole.by_id[next(iter(train.qrels[query]))].text,
            **{f"negative_{j}": texts[(i + 7 * j) % 60] for j in range(1, 6)},
        }
        for i, (query, text) in enumerate(train.queries.items())
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = config(weights, path, tmp_path / "run")
    options = dataclasses.replace(
        options,
        data=DataConfig(collection=str(path), hold_out=0.25),
        lists=ListConfig(source="given", length=4),
        retriever_warmup=StageConfig(0),
        evaluate=EvaluateConfig(top_k=20, rerank_depth=10, start=False),
    )
    said = []
    report = pipeline.run(options, said.append, unwatched)
    lists = read_lists(tmp_path / "run" / "lists" / "lists.jsonl")
    loaded = load_collection(str(path)).splits["train"]
    judged = set(read_run(tmp_path / "run" / "runs" / "retriever.trec"))
    assert report.queries == len(judged)
    assert 4 <= len(judged) <= 16
    for item in lists:
        assert item.query not in judged  # held out
        assert loaded.qrels[item.query][item.positive] == 1
        assert set(item.negatives) <= set(loaded.negatives[item.query])
        assert len(set(item.negatives)) == 3
    assert len(lists) == 6 * 8 or {item.query for item in lists} == loaded.queries.keys() - judged
    assert f"{len(lists):,} lists with the negatives that the rows came with" in said
    assert not (tmp_path / "run" / "warmup" / "index").exists()  # nothing was encoded to mine from
    with pytest.raises(InputError, match="came with a positive and a hard negative"):
        pipeline.run(
            dataclasses.replace(
                options,
                run_dir=str(tmp_path / "other"),
                data=DataConfig(collection=str(collection)),
            ),
            say,
            unwatched,
        )


def test_given_lists_warm_up_on_some_queries_and_train_on_others():
    queries = {f"q{i:02}": "cat" for i in range(40)}
    negatives = {query: ["n"] for query in sorted(queries)[::2]}  # the others came without
    train = Split(queries, {query: {"p": 1} for query in queries}, {}, negatives)
    settings = Config(
        lists=ListConfig(source="given"),
        reranker_warmup=StageConfig(1, 8),
        joint=StageConfig(1, 8),
    )
    work = Run(settings, Path(), None, train, None, say, unwatched)
    warm, joint = {*rounds.warm_queries(work)}, {*rounds.joint_queries(work, 0)}
    assert len(warm) == len(joint) == 8 and not warm & joint and warm | joint < negatives.keys()


def test_a_split_to_judge_on_is_asked_for(weights, collection, tmp_path):
    for data, message in (
        (DataConfig(str(collection), eval_split="test"), r"has no split 'test' .*--data.hold-out"),
        (DataConfig(str(collection), hold_out=0.2), "--data.hold-out is for collections without"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.run(config(weights, collection, tmp_path / "run", data=data), say, unwatched)


def test_an_index_that_cannot_be_built_is_refused_before_the_first_stage(
    weights, collection, tmp_path, monkeypatch
):
    monkeypatch.setattr("rocketjax.retrieval.scann.missing", lambda: "ScaNN is not here")
    settings, said = config(weights, collection, tmp_path / "run"), []
    settings = dataclasses.replace(settings, index=IndexConfig("scann"))
    with pytest.raises(InputError, match="ScaNN is not here; install scann"):
        pipeline.run(settings, said.append, unwatched)
    assert "start" not in said


def test_a_refresh_that_is_stopped_goes_on(
    weights, collection, finished, refreshed, tmp_path, monkeypatch
):
    settings = with_refresh(weights, collection, finished, tmp_path / "run")
    revive = dies_at(monkeypatch, "rocketjax.pipeline.lists.mine", 2)  # round 0, 1, and then 2
    with pytest.raises(Killed):
        pipeline.run(settings, say, unwatched)
    revive()
    said = []
    pipeline.run(dataclasses.replace(settings, from_stage=None), said.append, unwatched)
    assert "mine" not in said
    assert contents(tmp_path / "run") == contents(refreshed[0])


def test_an_earlier_run_is_not_lost_unasked(weights, collection, finished, tmp_path):
    settings = config(weights, collection, finished.folder, seed=2)
    with pytest.raises(InputError, match=r"other options \(seed: 1 -> 2\).*--overwrite"):
        pipeline.run(settings, say, unwatched)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="holds other files and no run"):
        pipeline.run(config(weights, collection, tmp_path, overwrite=True), say, unwatched)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_folder_in_use_is_refused_and_not_touched(weights, collection, tmp_path):
    settings = config(weights, collection, tmp_path / "run", overwrite=True)
    with (
        lock.held(tmp_path / "run", say),
        pytest.raises(InputError, match=rf"process {os.getpid()} on .* is at work here"),
    ):
        pipeline.run(settings, say, unwatched)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_loaded_run_searches(finished, collection):
    model = rocketjax.load(finished.folder)
    hits = model.search("sun ray warm", top_k=7, depth=5)
    assert (
        len(hits) == 7 and [hit.reranker_score is None for hit in hits] == [False] * 5 + [True] * 2
    )
    scores = [hit.reranker_score for hit in hits[:5]]
    assert scores == sorted(scores, reverse=True)
    text, score = hits[0].passage.text, scores[0]
    assert model.score(["sun ray warm"], [text])[0] == pytest.approx(score, abs=1e-5)
    plain = model.search("sun ray warm", top_k=7, depth=0)
    assert {hit.passage.id for hit in plain} == {hit.passage.id for hit in hits}
    order = [hit.retriever_score for hit in plain]
    assert order == sorted(order, reverse=True)


def test_a_changed_collection_is_not_searched(weights, finished, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(finished.folder, folder)
    other = make_topics(tmp_path / "topics")
    lines = (other / "corpus.jsonl").read_text().replace("purr", "meow")
    (other / "corpus.jsonl").write_text(lines)
    text = (folder / "config.yaml").read_text()
    old = load(folder / "config.yaml").data.collection
    (folder / "config.yaml").write_text(text.replace(old, str(other)))
    with pytest.raises(InputError, match=r"collection topics.*\(hash"):
        rocketjax.load(folder).search("cat")


def test_a_re_ranker_that_cannot_tell_does_not_denoise(
    weights, collection, finished, tmp_path, monkeypatch
):
    def alike(reranker, pairs, *args):
        return [0.0] * len(pairs)

    monkeypatch.setattr("rocketjax.mining.mine.score_pairs", alike)
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    lists = ListConfig(length=4, top_n=30)
    settings = config(weights, collection, folder, lists=lists, from_stage="mine")
    with pytest.raises(
        InputError, match="cannot denoise lists or rule candidates out; warm it up longer"
    ):
        pipeline.run(settings, say, unwatched)


def test_a_diverging_run_stops_at_the_step(weights, collection, finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "wild")
    wild = OptimizerConfig(retriever_lr=1e30, reranker_lr=1e30, warmup=0.0)
    joint = StageConfig(6, 8, wild)
    settings = config(weights, collection, folder, joint=joint, from_stage="joint")
    with pytest.raises(
        NonFiniteError, match=r"step \d+: .*loss = nan.*; queries q\d+, q.*lower the"
    ):
        pipeline.run(settings, say, unwatched)
    row = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert row["stage"] == "joint" and len(row["queries"]) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint": StageConfig(1, 13)}, r"joint.batch is 13, which \d+ devices cannot share"),
        ({"data": DataConfig("no/such/folder")}, "data.collection: 'no/such/folder'"),
        (
            {"data": DataConfig("", eval_split="test")},
            "no split 'test' to judge on .it has dev, none, train",
        ),
        (
            {"data": DataConfig("", train_split="none")},
            "no query of data.train_split has a relevant passage",
        ),
        (
            {"data": DataConfig("", eval_split="none")},
            "judged queries has a relevant passage",
        ),
        ({"text": TextConfig(pair_length=96)}, "text.pair_length is 96, .* positions for 64"),
        ({"retriever": RetrieverConfig("/no/such/weights")}, "/no/such/weights"),
    ],
)
def test_bad_input_is_one_clear_error(weights, collection, tmp_path, changes, message):
    settings = config(weights, collection, tmp_path / "run", **changes)
    if settings.data.collection == "":
        folder = shutil.copytree(collection, tmp_path / "topics")
        judged = "query-id\tcorpus-id\tscore\nq1\tp1\t0\n"
        (folder / "qrels" / "none.tsv").write_text(judged)
        data = dataclasses.replace(settings.data, collection=str(folder))
        settings = dataclasses.replace(settings, data=data)
    with pytest.raises(InputError, match=message):
        pipeline.run(settings, say, unwatched)


def test_a_tokenizer_of_another_model_is_refused(weights, collection, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in weights.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"vocab_size": 7}))
    settings = config(folder, collection, tmp_path / "run")
    with pytest.raises(InputError, match=r"tokens, but config\.json says vocab_size 7"):
        pipeline.run(settings, say, unwatched)


def test_empty_texts_and_unequal_pairs_are_named(finished):
    model = rocketjax.load(finished.folder)
    with pytest.raises(InputError, match=r"passages\[1\] is empty"):
        model.score(["cat", "dog"], ["cat", "  "])
    with pytest.raises(InputError, match=r"queries\[0\] is empty"):
        model.encode_query([""])
    with pytest.raises(InputError, match="2 queries and 1 passages"):
        model.score(["cat", "dog"], ["cat"])


def test_load_names_what_is_wrong(finished, tmp_path):
    with pytest.raises(InputError, match=r"no trained model here .*retriever/rocketjax.json"):
        rocketjax.load(tmp_path)
    for name in ("retriever", "reranker"):
        (tmp_path / name).mkdir()
        settings = (finished.folder / "reranker" / "rocketjax.json").read_text()
        (tmp_path / name / "rocketjax.json").write_text(settings)
    with pytest.raises(InputError, match="kind is 'reranker', but a retriever is wanted"):
        rocketjax.load(tmp_path)


def test_the_command_prints_one_line_and_leaves_with_2(capsys, tmp_path):
    assert main(["--run-dir", str(tmp_path), "--data.collection", "nowhere"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: data.collection: 'nowhere'") and "Traceback" not in error


def test_the_command_says_how_to_use_what_it_trained(finished, capsys):
    assert main(["--config", str(finished.folder / "config.yaml")]) == 0
    said = capsys.readouterr().out
    assert f'rocketjax.search --model {finished.folder} "a query of yours"' in said
    assert "mean of an array" not in said  # that is the demo's


def test_the_seconds_of_a_stage_are_those_of_all_its_parts(tmp_path, monkeypatch):
    clock = iter([100.0, 107.0, 200.0, 203.5, 300.0, 301.0])
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for spent in (7.0, 10.5):  # stopped twice
        with pytest.raises(KeyboardInterrupt), pipeline._timed(tmp_path, "joint"):
            raise KeyboardInterrupt
        assert json.loads((tmp_path / resume.UNFINISHED).read_text()) == {"joint": spent}
    with pipeline._timed(tmp_path, "joint") as seconds:
        pass
    assert seconds() == 11.5
    resume.write_done(tmp_path, {"joint": 11.5}, "joint")
    assert not (tmp_path / resume.UNFINISHED).exists()
    (tmp_path / resume.UNFINISHED).write_text("[]")
    with pytest.raises(InputError, match=r"unfinished\.json: damaged"):
        pipeline._timed(tmp_path, "joint").__enter__()
    # Stopped before it left anything, a run may begin with other options.
    (tmp_path / "stages.json").unlink()
    (tmp_path / "config.yaml").write_text(dump(Config(seed=1)))
    assert resume.open_folder(tmp_path, Config(seed=2), say) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
