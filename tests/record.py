"""A run's folder as a stage at work leaves it, for what only reads one."""

import json

from rocketjax.config.options import dump
from rocketjax.config.schema import Config, DataConfig


def lines(path, some):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in some))


def make_record(folder, steps=5, text="text"):
    """A run that is at its joint stage; no two of its lines end alike."""
    folder.mkdir(exist_ok=True)
    config = Config(name=text, data=DataConfig(collection=text))
    (folder / "config.yaml").write_text(dump(config))
    (folder / "stages.json").write_text('{"start": 1.5, "mine": 70}')
    names = ("loss", "retriever", "reranker", "kl", "retriever_accuracy", "reranker_accuracy")
    ends = {name: 0.1 + 0.1 * i for i, name in enumerate(names)}
    log = [{"stage": "joint", "step": s} | ends for s in range(steps)]
    log[1] = {"stage": "joint", "step": 1, "bad": "loss = nan", "queries": [text]}
    lines(folder / "log.jsonl", log)
    clock = {"stage": "joint", "time": 1.7e9, "seconds": 0.5, "tokens": 1000}
    lines(folder / "timing.jsonl", [clock | {"step": s} for s in range(steps)])
    judged = [f"{m} {k}" for m in ("retriever", "reranker") for k in ("MRR@10", "nDCG@10")]
    looks = [{name: (i + s) / 10 for i, name in enumerate(judged)} for s in (0, 4)]
    looks = [{"stage": "joint", "step": s} | look for s, look in zip((0, 4), looks, strict=True)]
    lines(folder / "judged.jsonl", looks)
    one = {"positive": [1.0, 2.0], "undenoised": [0.0, 1.5, 2.0], "denoised": [-1.0]}
    other = {"positive": [1.0] * 4, "undenoised": [0.0] * 5, "denoised": [-1.0] * 6}
    (folder / "scores").mkdir(exist_ok=True)
    (folder / "scores" / "0.json").write_text(json.dumps({"retriever": one, "reranker": other}))
    mined = dict.fromkeys(
        (
            *("queries", "unlabelled", "undenoised", "denoised", "pseudo_positives", "topped_up"),
            *("short", "lost", "likely_positives"),
        ),
        1,
    )
    mined |= {"scored": 4, "dropped": 1, "scale": 1.0, "shift": 0.0}
    mined |= {"examples": [["q", "p", 0.75]], "texts": [[text, text]]}
    candidates = {"query": "q", "positives": ["a"], "passages": ["b", "c"]}
    lines(
        folder / "lists" / "candidates-00000.jsonl",
        [candidates | {"scores": [0.0, -9.0], "positive_scores": [2.0]}],
    )
    (folder / "lists" / "report.json").write_text(json.dumps(mined))
    return folder
