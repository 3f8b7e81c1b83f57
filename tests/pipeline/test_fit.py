"""A run from Python: data as objects, callbacks, a stop that saves, and what one does with it."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from on_disk import TOPICS
from small_run import config

import rocketjax
from rocketjax.inference.folder import open_reranker, open_retriever, save_retriever
from rocketjax.pipeline.fit import Trained
from rocketjax.retrieval.load import load_pair

SMALL = {
    "retriever_warmup": {"steps": 0},
    "reranker_warmup": {"steps": 0},
    "joint": {"steps": 4, "batch": 4},
    "lists": {"length": 3, "top_n": 20},
    "index": {"kind": "exact"},
    "evaluate": {"top_k": 10, "rerank_depth": 5, "every": 2, "start": False},
    "checkpoint": {"every": 1},
}


class Told(rocketjax.Callback):
    """What it was told; interrupts after `stop_at` steps, as a notebook's stop button does."""

    def __init__(self, stop_at=None):
        self.stages, self.steps, self.judged, self.stop_at = [], [], [], stop_at

    def on_stage(self, stage):
        self.stages.append(stage)

    def on_step(self, stage, metrics):
        self.steps.append((stage, metrics["step"]))
        if len(self.steps) == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    def on_judged(self, stage, step, measures):
        assert all(-1 <= value <= 1 for value in measures.values())  # a lead may be negative
        self.judged.append(step)


def passages():
    return {f"p{i}": f"{TOPICS[i % 5]} number{i}" for i in range(30)}


def data():
    texts = passages()
    queries = {f"q{i}": TOPICS[i % 5].split()[0] + f" number{i}" for i in range(20)}
    relevant = {f"q{i}": [f"p{i}"] for i in range(20)}
    held_out = {name: {relevant.pop(name)[0]: 1} for name in [f"q{i}" for i in range(14, 20)]}
    return rocketjax.Data(texts, queries, relevant, held_out)


@pytest.fixture(scope="module")
def base(weights, tmp_path_factory):
    return config(weights, "nowhere", tmp_path_factory.mktemp("fit") / "run")


@pytest.fixture(scope="module")
def stopped_and_resumed(base):
    first = Told(stop_at=2)
    with pytest.raises(KeyboardInterrupt, match="stopped and saved; the same call resumes"):
        rocketjax.fit(data(), base, [first], **SMALL)
    run_dir = Path(base.run_dir)  # where it lies, or how it is called, is no matter
    (written,) = run_dir.parent.glob(f"{run_dir.name}-data-*")
    moved, second = shutil.copytree(written, written.with_name("moved")), Told()
    return first, second, rocketjax.fit(moved, base, [second], **SMALL)


def test_a_stop_saves_and_it_resumes_with_the_data_under_another_name(stopped_and_resumed):
    first, second, run = stopped_and_resumed
    assert first.stages[-1] == "joint" and first.steps == [("joint", 0), ("joint", 1)]
    assert second.steps == [("joint", 2), ("joint", 3)] and second.judged == [2, 4]
    assert second.stages == ["joint", "index", "evaluate"]
    assert run.results.queries == 6
    assert "MRR@10" in run._repr_html_()
    assert run.report().path.is_file()


def test_what_was_trained_searches_and_shows_both_orders(stopped_and_resumed):
    *_, run = stopped_and_resumed
    hits = run.search(TOPICS[0], top_k=4, depth=4)
    assert len(hits) == 4 and all(hit.passage.id in passages() for hit in hits)
    html = hits._repr_html_()
    assert html.count("<tr>") == 5 and "retriever&#x27;s" in html


def test_an_export_is_where_it_says(stopped_and_resumed, tmp_path, monkeypatch):
    *_, run = stopped_and_resumed
    monkeypatch.setenv("HOME", str(tmp_path))
    exported = run.export("~/exported")
    assert exported == tmp_path / "exported"
    assert (exported / "reranker" / "README.md").is_file()


def test_what_is_pushed_are_the_models_and_the_cards_of_now(
    stopped_and_resumed, tmp_path, monkeypatch
):
    """Whatever an earlier push has left, which could not log in."""
    uploads, logged_in = [], []

    class Api:
        def create_repo(self, name, private, exist_ok):
            if not logged_in:
                raise OSError("nobody is logged in")

        def repo_info(self, name):
            return SimpleNamespace(private=True)

        def upload_folder(self, repo_id, folder_path, commit_message):
            assert "license: apache-2.0" in (folder_path / "README.md").read_text()
            opened = open_reranker if uploads else open_retriever
            uploads.append((repo_id, opened(folder_path).fingerprint))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    *_, trained = stopped_and_resumed
    run = Trained(Path(shutil.copytree(trained.folder, tmp_path / "run")), None)
    with pytest.raises(rocketjax.InputError, match="the hub's repository is 'pair'; give ORG/NAME"):
        run.push("pair")
    with pytest.raises(
        rocketjax.InputError, match=r"could not be uploaded .*`hf upload org/pair-r"
    ):
        run.push("org/pair", license="mit")
    logged_in.append(True)
    pair = load_pair(run.folder)
    params = jax.tree.map(lambda x: 2 * np.asarray(x), pair.retriever.params)
    changed = dataclasses.replace(pair.retriever, params=params)
    save_retriever(run.folder / "retriever", changed)
    run.push("org/pair", license="apache-2.0")
    assert uploads == [
        ("org/pair-retriever", changed.fingerprint),
        ("org/pair-reranker", pair.reranker.fingerprint),
    ]


def test_other_data_or_options_in_the_same_folder_are_refused(stopped_and_resumed, base):
    other = dataclasses.replace(data(), passages=passages() | {"p30": "more"})
    with pytest.raises(
        rocketjax.InputError, match=r"other options \(data\.collection: .*overwrite"
    ):
        rocketjax.fit(other, base, **SMALL)
    with pytest.raises(rocketjax.InputError, match=r"joint\.stpes; did you mean joint\.steps"):
        rocketjax.fit(data(), base, joint={"stpes": 3})
    with pytest.raises(rocketjax.InputError, match="no option joints; did you mean joint"):
        rocketjax.fit(data(), base, joints={"steps": 3})
    with pytest.raises(rocketjax.InputError, match=r"other options \(joint.steps: 4 -> 5\)"):
        rocketjax.fit(data(), base, **SMALL | {"joint": {"steps": 5, "batch": 4}})
    with pytest.raises(rocketjax.InputError, match="the collection is a list; give a name"):
        rocketjax.fit([("a", "b")], base)
    with pytest.raises(rocketjax.InputError, match="expected a list of rocketjax"):
        rocketjax.fit(data(), base, [print])
    with pytest.raises(rocketjax.InputError, match="config is a dict; give a file"):
        rocketjax.fit(data(), {"joint": {}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            rocketjax.Data({"p": "a"}, {"q": "b"}, {"r": ["p"]}),
            "query 'r' is not among",
        ),
        (rocketjax.Data({"p": "a"}, {"q": "b"}, {"q": ["x"]}), "query 'q': no passage 'x'"),
        (rocketjax.Data(["a"], {"q": "b"}, {}), "passages: expected texts by id, got list"),
        (rocketjax.Data({"p": 3}, {"q": "b"}, {"q": ["p"]}), r"passages\[0\] is 3, not a string"),
        (rocketjax.Data({"p": "a"}, {"q": "b"}, {"q": "p"}), "'p' is no list of passage ids"),
        (
            rocketjax.Data({"p": "a"}, {"q": "b"}, {"q": ["p"]}, {}, {"x": "t"}),
            "titles: no passage",
        ),
        (rocketjax.Pairs(["a", "b"], ["c"]), "got 2 queries, 1 positives and 2 lists"),
        (rocketjax.Pairs("a", ["c"]), "queries: a single text"),
        (rocketjax.Pairs(["a"], ["c"], ["d"]), r"negatives\[0\]"),
        (
            rocketjax.Data({"New York": "a"}, {"q": "b"}, {"q": ["New York"]}),
            r"passages\['New York'\]: id: 'New York' contains whitespace",
        ),
        (rocketjax.Data({"p": " "}, {"q": "b"}, {"q": ["p"]}), r"passages\['p'\]: text: .* empty"),
        (
            rocketjax.Data({"p": "a"}, {"q": ""}, {"q": ["p"]}),
            r"queries\['q'\]: text: expected non",
        ),
        (
            rocketjax.Data({"p": "a"}, {"q": "b"}, {"q": {"p": 0.5}}),
            "qrels of query 'q': grade: expected a whole number, got '0.5'",
        ),
        (rocketjax.Pairs(["a", " "], ["c", "d"]), r"pair 1: query: expected non-empty text"),
        (rocketjax.Pairs(["a"], ["c"], [["d", ""]]), r"pair 0: neg: expected non-empty text"),
    ],
)
def test_data_that_does_not_fit_is_refused_and_nothing_written(given, message, tmp_path):
    with pytest.raises(rocketjax.InputError, match=message):
        given.write(tmp_path / "data")
    assert not any(tmp_path.iterdir())


def test_bad_texts_are_left_to_be_counted_where_rows_may_be_skipped(tmp_path):
    texts = passages() | {"empty": ""}
    options = {"run_dir": str(tmp_path / "run"), "retriever": {"weights": "/no/such"}}
    given = dataclasses.replace(data(), passages=texts)
    with pytest.raises(rocketjax.InputError, match="'empty' is empty"):
        rocketjax.fit(given, **options)
    assert not any(tmp_path.iterdir())
    with pytest.raises(rocketjax.InputError, match="/no/such"):  # the data are read by then
        rocketjax.fit(given, data={"on_bad_rows": "skip"}, **options)


def test_rejected_data_are_no_obstacle_to_corrected_ones(tmp_path):
    """Rejected when they are read; the second call gets as far as the weights."""
    options = {"run_dir": str(tmp_path / "run"), "retriever": {"weights": "/no/such"}}
    with pytest.raises(rocketjax.InputError, match="no judgements"):
        rocketjax.fit(dataclasses.replace(data(), qrels={}, held_out={}), **options)
    with pytest.raises(rocketjax.InputError, match="/no/such"):
        rocketjax.fit(data(), **options)


def test_texts_of_ones_own_are_refused_where_only_this_machine_would_find_them(tmp_path):
    with pytest.raises(rocketjax.InputError, match=r"run_dir gs://bucket/r: .*\.write\(folder\)"):
        rocketjax.fit(data(), run_dir="gs://bucket/r")
    data().write(tmp_path / "data")
    assert (tmp_path / "data" / "qrels" / "dev.tsv").is_file()


def test_pairs_become_training_rows(tmp_path):
    columns = iter(["q1", "q2"]), ("p1", "p2"), [["n1"], []]
    rocketjax.Pairs(*columns).write(tmp_path / "data")
    lines = (tmp_path / "data" / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0] == {"query": "q1", "pos": ["p1"], "neg": ["n1"]}
    assert rows[1] == {"query": "q2", "pos": ["p2"], "neg": []}


def test_ids_in_a_set_are_written_in_one_order(tmp_path):
    few = {"p1": "a", "p2": "b", "p3": "c"}
    rocketjax.Data(few, {"q": "x"}, {"q": {"p3", "p1", "p2"}}).write(tmp_path / "data")
    lines = (tmp_path / "data" / "qrels" / "train.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == ["p1", "p2", "p3"]


def test_what_a_recipe_says_of_mining_is_put_back_where_pairs_bring_negatives(tmp_path, capsys):
    pairs = rocketjax.Pairs(["a", "b"], ["c", "d"], [["e"], ["f"]])
    options = {"run_dir": str(tmp_path / "run"), "data": {"eval_split": "train"}}
    with pytest.raises(rocketjax.InputError, match=r"lists\.denoised: given lists are not mined"):
        rocketjax.fit(pairs, "squad", lists={"denoised": 0.3}, **options)
    with pytest.raises(rocketjax.InputError, match=r"hold-out is for collections"):  # far enough
        rocketjax.fit(pairs, "squad", **options)
    said = " ".join(capsys.readouterr().out.split())
    assert "none are mined: lists.top_n, lists.denoised of config: not used" in said
