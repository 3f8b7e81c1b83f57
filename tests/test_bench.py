"""The benchmark: real texts, both sides doing the same work, figures that follow from times."""

import json
import math

import pytest

from rocketjax.bench import __main__ as bench
from rocketjax.bench import pair
from rocketjax.bench.ours import Ours
from rocketjax.bench.work import Work, make_work
from rocketjax.config import ComputeConfig
from rocketjax.data.collections import load_collection


@pytest.fixture(scope="module")
def work(weights, collection):
    loaded = load_collection(str(collection))
    lengths = (10, 12, 20)
    return make_work(loaded, loaded.split("dev"), str(weights), 20, 8, 3, lengths)


def test_work_is_drawn_from_the_collection_and_travels(work, collection, tmp_path):
    loaded = load_collection(str(collection))
    texts = {passage.text for passage in loaded.passages}
    assert len(work.passages) == len(work.pairs) == 20
    assert set(work.passages) <= texts
    assert [len(texts) for _, texts in work.lists] == [3] * 8
    work.write(tmp_path / "work.json")
    again = Work.read(tmp_path / "work.json")
    assert again.passages == work.passages
    assert [tuple(pair) for pair in again.pairs] == work.pairs


def test_figures_follow_from_the_times(monkeypatch):
    taken = iter([9.0, 2.0, 1.0, 4.0])
    monkeypatch.setattr(pair, "seconds", lambda run: next(taken, 2.0))
    answers = iter([{"seconds": s, "setting": "its own"} for s in (1.0, 4.0, 3.0, 8.0)])
    result = pair.compare("encode", "passages", 12, lambda: None, lambda _: next(answers), 3)
    # Ours 9, 2, 1; theirs 4, 3, 8: medians 2 and 4, ratios 0.44, 1.5, 8.
    assert (result.ours, result.theirs, result.ratio) == (6.0, 3.0, 1.5)
    assert result.setting == "its own"


def test_both_sides_take_the_same_step(work):
    """A loss that falls on either side: neither is let off any work."""
    pytest.importorskip("torch", reason="the extra `parity` brings torch")
    from rocketjax.bench.plain_torch import make_step

    step = make_step(work)
    losses = [step() for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[2] < losses[0]  # the same lists again and again
    ours = Ours(work, ComputeConfig())
    run = ours.train()
    for _ in range(2):
        run()
    ours.encode()
    ours.rerank()


def test_the_command_prints_and_writes_its_figures(weights, collection, tmp_path, capsys):
    pytest.importorskip("sentence_transformers", reason="the extra `parity` brings it")
    args = [
        "--tasks",
        "encode",
        "train",
        "--weights",
        str(weights),
        "--rounds",
        "1",
        "--lists",
        "8",
    ]
    args += ["--collection", str(collection), "--length", "2", "--passages", "10"]
    args += ["--passage-length", "12", "--query-length", "10", "--pair-length", "20"]
    assert bench.main([*args, "--json", str(tmp_path / "figures.json")]) == 0, (
        capsys.readouterr().err
    )
    assert "ratio" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["task"] for row in figures["results"]] == ["encode", "train"]
    assert all(row["ours"] > 0 and row["theirs"] > 0 for row in figures["results"])
