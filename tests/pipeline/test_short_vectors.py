"""A whole run with vectors that are cut, trained at two widths and stored in few bits."""

import gc
import json

import jax
import numpy as np
import pytest
from small_run import config

import rocketjax
from rocketjax import encode, evaluate, export
from rocketjax.config.loss import LossConfig
from rocketjax.config.schema import EvaluateConfig, IndexConfig, RetrieverConfig, StageConfig
from rocketjax.evaluation import results
from rocketjax.pipeline import run as pipeline
from rocketjax.retrieval.vectors import read_manifest
from rocketjax.runtime.progress import unwatched

pytestmark = pytest.mark.usefixtures("one_device")


def test_every_door_heeds_the_width_and_the_type(weights, collection, tmp_path, capsys):
    folder, said, stage = tmp_path / "run", [], StageConfig(steps=1, batch=8)
    settings = config(
        weights,
        collection,
        folder,
        retriever=RetrieverConfig(str(weights), "shared", "mean", True, truncate=8),
        loss=LossConfig(retriever_temperature=None, matryoshka=(8, 1)),
        index=IndexConfig(dtype="int8", shard=25),
        evaluate=EvaluateConfig(top_k=20, rerank_depth=10, every=0, start=False),
        retriever_warmup=stage,
        reranker_warmup=stage,
        joint=stage,
    )
    searched = []  # for each search, whether a corpus of codes is on the devices as it begins

    def watch(name, total, unit):
        if name == "retrieve":
            gc.collect()
            there = [(x.dtype, x.shape[1:]) for x in jax.live_arrays()]
            searched.append((np.int8, (8,)) in there)
        return unwatched(name, total, unit)

    assert pipeline.run(settings, said.append, watch) is not None
    assert not searched[-1]  # by one number: the whole vectors have made room
    (line,) = (line for line in said if "scores are cosines" in line)
    assert "of 8 numbers" in line and "its losses are of 8 (0.5), 1 (0.5) numbers" in line
    assert any("int8, 12 bytes a vector" in one and "recall@10" in one for one in said)
    logged = [json.loads(row) for row in (folder / "log.jsonl").read_text().splitlines()]
    (joint,) = (row for row in logged if row["stage"] == "joint")
    assert 0 <= joint["retriever_accuracy_1"] <= 1 and "retriever_accuracy_8" not in joint
    manifest = read_manifest(folder / "index")
    assert (manifest.width, manifest.dtype) == (8, "int8")

    report = results.load(folder)
    rows = {(row.model, row.measure): row.after for row in report.rows}
    model = rocketjax.load(folder)
    by_eight = {m: v for (name, m), v in rows.items() if name == "retriever"}
    by_one = {m: v for (name, m), v in rows.items() if name == "retriever, 1 numbers"}
    assert by_one.keys() == by_eight.keys()
    assert 0 <= by_one["MRR@10"] < by_eight["MRR@10"]  # all cosines of one number are 1 or -1
    assert "retriever, 1 numbers" in (folder / "report.html").read_text()
    query = model.encode_query(["topic words"])
    assert query.shape == (1, 8) and np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
    hits = model.search("topic words", top_k=60, depth=0)
    stored = model.corpus.index.vectors.rows(0, 60) @ query[0]
    np.testing.assert_allclose([h.retriever_score for h in hits], np.sort(stored)[::-1], atol=1e-5)

    assert export.main(["--model", str(folder), "--output", str(tmp_path / "out")]) == 0
    library = json.loads(
        (tmp_path / "out" / "retriever" / "config_sentence_transformers.json").read_text()
    )
    assert (library["truncate_dim"], library["similarity_fn_name"]) == (8, "cosine")

    shorter = ["--collection", str(collection), "--truncate", "4"]
    index = str(tmp_path / "four")
    assert encode.main(["--model", str(folder), "--output", index, *shorter]) == 0
    assert read_manifest(tmp_path / "four").width == 4
    judged = ["--model", str(folder), "--index", index, "--evaluate.rerank-depth", "10"]
    judged += ["--evaluate.top-k", "20"]
    assert evaluate.main([*judged, *shorter]) == 0
    capsys.readouterr()
    assert evaluate.main([*judged, *shorter[:2]]) == 2  # whole queries, another model's index
    assert "encode the corpus again" in " ".join(capsys.readouterr().err.split())
