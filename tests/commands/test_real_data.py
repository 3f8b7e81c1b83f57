"""The whole pipeline on real collections, at a size that a CPU does in minutes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import rocketjax
from rocketjax.config.schema import (
    Config,
    DataConfig,
    EvaluateConfig,
    ListConfig,
    OptimizerConfig,
    StageConfig,
    TextConfig,
)
from rocketjax.data.lists import read_lists
from rocketjax.models.pretrained import resolve_weights
from rocketjax.pipeline import run as pipeline
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

DATA = Path(__file__).parents[3] / "shared" / "data"


def part_of(name, folder, passages, train, dev):
    """A BEIR folder with a part of a collection: some queries, their positives, other passages."""
    source = DATA / name
    rng = np.random.default_rng(0)
    folder.mkdir()
    (folder / "qrels").mkdir()
    queries, positives = set(), set()
    for split, count in (("train", train), ("dev", dev)):
        header, *lines = (source / "qrels" / f"{split}.tsv").read_text().splitlines()
        lines = [lines[i] for i in sorted(rng.choice(len(lines), count, replace=False))]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join([header, *lines]) + "\n")
        queries |= {line.split("\t")[0] for line in lines}
        positives |= {line.split("\t")[1] for line in lines}
    rows = [json.loads(line) for line in (source / "corpus.jsonl").read_bytes().splitlines()]
    others = [i for i, row in enumerate(rows) if row["_id"] not in positives]
    drawn = set(rng.choice(others, passages - len(positives), replace=False).tolist())
    kept = [row for i, row in enumerate(rows) if row["_id"] in positives or i in drawn]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    for file in ("queries.jsonl", "answers.jsonl"):
        if (source / file).is_file():
            lines = (source / file).read_bytes().splitlines()
            wanted = [line.decode() for line in lines if json.loads(line)["_id"] in queries]
            (folder / file).write_text("\n".join(wanted) + "\n")
    return folder


@pytest.mark.soak
@pytest.mark.parametrize("name", ["squad", "medquad"])
def test_the_whole_pipeline_on_real_data(name, tmp_path):
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not part of a user's clone")
    config = Config()
    try:
        resolve_weights(config.retriever.weights)
    except InputError as error:
        pytest.skip(f"all-MiniLM-L6-v2 is not at hand: {error}")
    config = dataclasses.replace(
        config,
        run_dir=str(tmp_path / "run"),
        data=DataConfig(str(part_of(name, tmp_path / name, 2_000, 800, 200)), max_eval_queries=100),
        text=TextConfig(query_length=32, passage_length=64, pair_length=96),
        lists=ListConfig(length=4, top_n=30, scored=10, low=0.5, pseudo_positives=1),
        retriever_warmup=StageConfig(2, 16, OptimizerConfig(retriever_lr=1e-5)),
        reranker_warmup=StageConfig(20, 16, OptimizerConfig(reranker_lr=3e-4)),
        joint=StageConfig(6, 16, OptimizerConfig(retriever_lr=2e-5, reranker_lr=1e-4)),
        evaluate=EvaluateConfig(top_k=50, rerank_depth=10),
    )
    said = []
    report = pipeline.run(config, said.append, unwatched)
    rows = {(row.model, row.measure): row for row in report.rows}
    reranker = rows["reranker", "MRR@10"]
    assert reranker.after > reranker.before + 0.1  # held-out queries; its head was fresh
    retriever = rows["retriever", "MRR@10"]
    assert retriever.after > retriever.before - 0.02 and retriever.after > 0.4
    assert rows["oracle", "MRR@10"].after >= max(reranker.after, retriever.after)
    assert (("retriever", "answer@5") in rows) == (name == "squad")
    kinds = {item.kind for item in read_lists(tmp_path / "run" / "lists" / "lists.jsonl")}
    assert kinds == {"undenoised", "denoised"}
    assert any("candidates scored" in line for line in said)
    hits = rocketjax.load(tmp_path / "run").search("who wrote it?", top_k=5, depth=10)
    assert len(hits) == 5 and all(hit.passage.text for hit in hits)
