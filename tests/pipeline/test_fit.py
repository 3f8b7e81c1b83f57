"""A run from Python: data as objects, callbacks, a stop that saves, and what one does with it."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from on_disk import TOPICS
from small_run import config

import rocketjax

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
    written = Path(f"{base.run_dir}-data")  # where it lies, or how it is called, is no matter
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
    exported = run.export(run.folder.with_name("exported"))
    assert (exported / "reranker" / "README.md").is_file()


def test_other_data_or_options_in_the_same_folder_are_refused(stopped_and_resumed, base):
    fewer = rocketjax.Data({"p": "cat"}, {"q": "cat"}, {"q": ["p"]})
    with pytest.raises(rocketjax.InputError, match="holds other data; give another run_dir"):
        rocketjax.fit(fewer, base, **SMALL)
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
    ],
)
def test_data_that_does_not_fit_is_refused_and_nothing_written(given, message, tmp_path):
    with pytest.raises(rocketjax.InputError, match=message):
        given.write(tmp_path / "data")
    assert not any(tmp_path.iterdir())


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
