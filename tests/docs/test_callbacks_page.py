"""The examples of docs/callbacks.md run: W&B offline, and Trackio, both without a network."""

import re
from pathlib import Path

import pytest
from on_disk import TOPICS
from small_run import config

import rocketjax

PAGE = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text(encoding="utf-8")
CLASS, WANDB, TRACKIO = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
SMALL = {
    "retriever_warmup": {"steps": 0},
    "reranker_warmup": {"steps": 0},
    "joint": {"steps": 2, "batch": 4},
    "lists": {"length": 3, "top_n": 20},
    "index": {"kind": "exact"},
    "evaluate": {"top_k": 10, "rerank_depth": 5, "every": 1, "start": False},
}

pytestmark = pytest.mark.filterwarnings("ignore")  # of wandb and trackio


@pytest.fixture
def page(weights, tmp_path, monkeypatch):
    """What the page's first block defines; `rocketjax.fit` is small, on data of our own."""
    monkeypatch.chdir(tmp_path)
    texts = {f"p{i}": f"{TOPICS[i % 5]} number{i}" for i in range(20)}
    queries = {f"q{i}": TOPICS[i % 5].split()[0] + f" number{i}" for i in range(20)}
    relevant = {f"q{i}": [f"p{i}"] for i in range(14)}
    held_out = {f"q{i}": {f"p{i}": 1} for i in range(14, 20)}
    data, fit = rocketjax.Data(texts, queries, relevant, held_out), rocketjax.fit

    def small(collection, run_dir, callbacks):
        assert collection == "demo"
        return fit(data, config(weights, "nowhere", run_dir), callbacks, **SMALL)

    monkeypatch.setattr(rocketjax, "fit", small, raising=False)
    names = {}
    exec(CLASS, names)
    return names


def test_wandb_gets_every_step_and_judgement(page, monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb", reason="extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    exec(WANDB, page)
    wandb.teardown()  # its service writes the log in the background: wait until it has ended
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    written = log.read_bytes()  # keys and values of each record stand in it as text
    assert written.count(b"joint/gradient_norm") >= 2
    for key in (b"joint/step", b"joint/retriever MRR@10", b"reranker nDCG@10", b"oracle MRR@10"):
        assert key in written


def test_trackio_gets_every_step_and_judgement(page, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="extra trackio is not installed")
    exec(TRACKIO, page)
    logged = trackio.SQLiteStorage.get_logs("retrieval", "demo")
    steps = [row["joint/step"] for row in logged if "joint/loss" in row]
    judged = [row["joint/step"] for row in logged if "joint/reranker MRR@10" in row]
    assert steps == [0, 1] and judged == [0, 1, 2]
