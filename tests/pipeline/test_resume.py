"""A run goes on with its collection wherever that lies now, and with no other."""

import dataclasses
import json
import shutil

import pytest
from small_run import config

from rocketjax.config.options import load
from rocketjax.config.schema import (
    ComputeConfig,
    Config,
    EvaluateConfig,
    IndexConfig,
    RetrieverConfig,
    TextConfig,
)
from rocketjax.inference.folder import save_retriever
from rocketjax.inference.start import pretrained_retriever
from rocketjax.pipeline import run as pipeline
from rocketjax.pipeline.resume import is_renamed, open_folder, write_done
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

FIRST = {"stages": ("start",), "evaluate": EvaluateConfig(20, 10, start=False, every=0)}


@pytest.fixture
def moved(weights, collection, tmp_path):
    """A run that was begun, and a copy of its collection; the original is out of reach."""
    first = shutil.copytree(collection, tmp_path / "here")
    pipeline.run(config(weights, first, tmp_path / "run", **FIRST), str, unwatched)
    return first.rename(tmp_path / "there")


def go_on(weights, collection, folder, **changes):
    said = []
    settings = config(weights, collection, folder, **{**FIRST, **changes})
    pipeline.run(settings, said.append, unwatched)
    return said


def test_a_run_goes_on_with_its_collection_under_another_path(weights, moved, tmp_path):
    folder = tmp_path / "run"
    said = go_on(weights, moved, folder)
    assert f"{moved} has the content that {tmp_path / 'here'} had: the run resumes with it" in said
    assert any("every stage asked for is done" in line for line in said)
    assert load(folder / "config.yaml").data.collection == str(moved)
    assert not any("has the content" in line for line in go_on(weights, moved, folder))


def test_stages_that_stay_do_not_depend_on_where_the_collection_lies(weights, moved, tmp_path):
    said = go_on(weights, moved, tmp_path / "run", from_stage="warm-retriever")
    assert any("has the content" in line for line in said)
    assert not any("they depend on" in line for line in said)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("corpus.jsonl", "purr", "meow"),
        ("queries.jsonl", "purr", "meow"),
        ("qrels/train.tsv", "q1\tp1\t1\n", ""),
        ("qrels/dev.tsv", "q45\tp45\t1\n", "q45\tp45\t2\n"),
    ],
)
def test_another_content_is_another_collection(weights, moved, tmp_path, name, old, new):
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    text = (moved / name).read_text()
    assert old in text
    (moved / name).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"other options \(data\.collection: .*here -> .*there\)"):
        go_on(weights, moved, tmp_path / "run")
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == before


def test_other_options_are_refused_with_a_moved_collection_too(weights, moved, tmp_path):
    with pytest.raises(InputError, match=r"other options \(seed: 1 -> 2\)"):
        go_on(weights, moved, tmp_path / "run", seed=2)


def test_a_run_that_did_not_record_its_collection_is_refused(weights, moved, tmp_path):
    (tmp_path / "run" / "collection.json").unlink()
    with pytest.raises(InputError, match=r"data\.collection: .*here -> .*there"):
        go_on(weights, moved, tmp_path / "run")


def test_a_damaged_record_is_named(weights, moved, tmp_path):
    (tmp_path / "run" / "collection.json").write_text("[]")
    with pytest.raises(InputError, match=r"collection\.json: expected a JSON object"):
        go_on(weights, moved, tmp_path / "run")


def test_what_was_refused_before_its_first_stage_may_begin_anew(weights, moved, tmp_path):
    folder = tmp_path / "run"
    (folder / "stages.json").unlink()
    left = {path.name for path in folder.iterdir()}
    assert left == {"config.yaml", "collection.json"}
    go_on(weights, moved, folder, seed=2)
    assert load(folder / "config.yaml").seed == 2


def test_a_run_of_before_resumes_without_what_its_index_does_not_read(weights, moved, tmp_path):
    path = tmp_path / "run" / "config.yaml"
    for old, new in (("target_recall: 0.99", "target_recall: 0.95"), ("kind: auto", "kind: exact")):
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"index\.kind: exact -> auto"):
        go_on(weights, moved, tmp_path / "run")
    said = go_on(weights, moved, tmp_path / "run", index=IndexConfig("exact", shard=25))
    assert any("every stage asked for is done" in line for line in said)


def test_training_starts_from_two_towers(weights, collection, tmp_path):
    options = RetrieverConfig(str(weights), towers="separate", pooling="cls", normalize=False)
    start = pretrained_retriever(options, TextConfig(10, 10, 18), ComputeConfig())
    save_retriever(tmp_path / "towers", start)
    towers = dataclasses.replace(options, weights=str(tmp_path / "towers"))
    pipeline.run(
        config(weights, collection, tmp_path / "run", retriever=towers, **FIRST), str, unwatched
    )
    assert "start" in json.loads((tmp_path / "run" / "stages.json").read_text())
    one = config(tmp_path / "towers", collection, tmp_path / "other", **FIRST)
    with pytest.raises(InputError, match="a re-ranker starts from one encoder; export it"):
        pipeline.run(one, str, unwatched)  # at once, not after the retriever's stages


def test_only_a_run_of_another_name_is_looked_into(weights, moved, tmp_path):
    settings = config(weights, moved, tmp_path / "run")
    assert is_renamed(tmp_path / "run", settings)
    assert not is_renamed(tmp_path / "run", config(weights, tmp_path / "here", tmp_path / "run"))
    assert not is_renamed(tmp_path / "new", settings)
    assert not is_renamed(tmp_path / "run", config(weights, moved, "", overwrite=True))


def test_a_loss_counts_by_its_values_not_by_its_presets_name(tmp_path):
    open_folder(tmp_path, Config(), str)
    write_done(tmp_path, {"start": 1.0})
    same = Config(loss=dataclasses.replace(Config().loss, preset="custom"))
    assert open_folder(tmp_path, same, str) == {"start": 1.0}
    other = dataclasses.replace(same, loss=dataclasses.replace(same.loss, distill_weight=0.9))
    with pytest.raises(InputError, match=r"other options \(loss\.distill_weight: 0\.3 -> 0\.9\)"):
        open_folder(tmp_path, other, str)
