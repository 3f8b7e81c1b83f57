"""The corpus of any size: its texts, and every step over it in a process of its own."""

import json

import numpy as np
import pytest

from rocketjax.bench import scale
from rocketjax.bench.synthetic import CHARACTERS, write_collection
from rocketjax.data.lists import read_lists
from rocketjax.data.load import load_collection


@pytest.fixture
def options(weights, collection, tmp_path):
    """Of a small run."""
    small = ["--queries", "20", "--searched", "8", "--depth", "30", "--scored", "5"]
    texts = ["--weights", str(weights), "--words", str(collection)]
    return [*small, *texts, "--width", "16", "--folder", str(tmp_path), "--passages"]


def test_texts_have_the_lengths_of_ms_marco_and_each_query_its_passage(tmp_path, collection):
    write_collection(tmp_path / "texts", 3_000, 50, load_collection(str(collection)))
    made = load_collection(str(tmp_path / "texts"))
    lengths = [len(passage.text) for passage in made.passages]
    assert len(lengths) == 3_000
    assert np.mean(lengths) == pytest.approx(CHARACTERS, rel=0.05)
    split = made.split("train")
    assert len(split.queries) == 50
    for query, text in split.queries.items():
        (positive,) = split.qrels[query]
        assert made.by_id[positive].text.startswith(text)


def test_what_cannot_be_measured_is_refused_or_said(options, capsys):
    assert scale.main([*options, "10"]) == 2
    assert "fewer than the 20 queries" in capsys.readouterr().err
    assert scale.main([*options, "1000000000000"]) == 2
    assert "GB are free; give --folder, or fewer --passages" in capsys.readouterr().err
    assert scale.main([*options, "40", "--steps", "search"]) == 0
    assert "exact search: not measured: encode was not" in capsys.readouterr().out


@pytest.mark.slow  # a process for each step
def test_every_step_is_measured_once_and_kept(options, tmp_path, capsys):
    command = [*options, "2000", "--steps", "store", "encode", "search", "mine"]
    assert scale.main(command) == 0
    home = tmp_path / "2000"
    figures = json.loads((home / "figures.json").read_text())
    assert [*figures] == ["store", "encode", "search", "mine"]
    for found in figures.values():
        assert found["peak"] >= found["own"] > 1e7 and found["seconds"] > 0
    lists = read_lists(home / "lists" / "lists.jsonl")
    assert len(lists) == 2 * 20 and {item.kind for item in lists} == {"undenoised", "denoised"}
    capsys.readouterr()
    assert scale.main(command) == 0
    assert json.loads((home / "figures.json").read_text()) == figures
    assert scale.main([*command, "--width", "8"]) == 2
    assert "measured with other options" in capsys.readouterr().err
