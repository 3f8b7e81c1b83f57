"""Encoding a corpus: whole shards, resumed where stopped, the same vectors whoever encodes."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny import vectors_folder

from rocketjax import encode as command
from rocketjax.config.schema import ComputeConfig, IndexConfig, RetrieverConfig, TextConfig
from rocketjax.data.collection import Collection
from rocketjax.data.load import load_collection
from rocketjax.data.passages import InMemory
from rocketjax.inference import retriever as inference
from rocketjax.inference.start import pretrained_retriever
from rocketjax.retrieval import vectors as module
from rocketjax.retrieval.encode import encode_corpus
from rocketjax.retrieval.vectors import Vectors
from rocketjax.runtime import devices as parallel
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

TEXT = TextConfig(query_length=10, passage_length=10, pair_length=18)
CONFIG = IndexConfig(shard=16)  # 60 passages: 16, 16, 16, 12


@pytest.fixture(scope="module")
def retriever(weights):
    return pretrained_retriever(RetrieverConfig(str(weights)), TEXT, ComputeConfig(batch=4))


@pytest.fixture(scope="module")
def loaded(collection):
    return load_collection(str(collection))


def encode(retriever, loaded, folder, config=CONFIG, **options):
    return encode_corpus(retriever, "tiny", loaded, config, folder, unwatched, **options)


def test_vectors_are_the_passages_in_order(retriever, loaded, tmp_path):
    vectors = encode(retriever, loaded, tmp_path / "v")
    texts = [p.text for p in loaded.passages]
    want = retriever.encode_passage(texts, [p.title for p in loaded.passages])
    np.testing.assert_allclose(vectors.rows(0, 60), want, atol=1e-6)
    np.testing.assert_array_equal(vectors.rows(13, 35), vectors.rows(0, 60)[13:35])
    assert vectors.names(np.arange(60)).tolist() == [p.id for p in loaded.passages]
    assert vectors.names(np.array([[3, -1]])).tolist() == [[loaded.passages[3].id, ""]]
    assert len(vectors) == 60 and vectors.width == 32


@pytest.mark.parametrize("ids", [["a", "bc", "d-1"], ["å", "東京", "x"]], ids=["ascii", "utf-8"])
def test_ids_are_read_as_they_were_written(tmp_path, ids):
    vectors = vectors_folder(tmp_path, np.zeros((3, 2), np.float32), ids)
    assert vectors.names(np.array([[2, -1], [0, 1]])).tolist() == [[ids[2], ""], ids[:2]]
    assert vectors.names(np.empty((0, 4), np.int64)).shape == (0, 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_smaller_types_are_kept_as_they_are_named(retriever, loaded, tmp_path, dtype):
    exact = encode(retriever, loaded, tmp_path / "exact").rows(0, 60)
    vectors = encode(retriever, loaded, tmp_path / "v", IndexConfig(shard=16, dtype=dtype))
    rows = Vectors(vectors.folder).rows(0, 60)
    assert str(rows.dtype) == dtype
    np.testing.assert_array_equal(rows, exact.astype(rows.dtype))


def test_a_stopped_encode_goes_on_and_ends_the_same(retriever, loaded, tmp_path, monkeypatch):
    whole = encode(retriever, loaded, tmp_path / "whole")
    encoded = []
    run = inference.Retriever.encode_passage_tokens

    def dies(self, texts, *rest):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(len(texts))
        return run(self, texts, *rest)

    monkeypatch.setattr(inference.Retriever, "encode_passage_tokens", dies)
    with pytest.raises(KeyboardInterrupt):
        encode(retriever, loaded, tmp_path / "v")
    with pytest.raises(InputError, match=r"2 of 4 shards are missing \(the first is 00002.npy\)"):
        Vectors(tmp_path / "v")
    (tmp_path / "v" / ".00002.npy.123").write_bytes(b"half a shard of a killed process")
    monkeypatch.setattr(inference.Retriever, "encode_passage_tokens", run)
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "v").glob("0000[01]*")}
    vectors = encode(retriever, loaded, tmp_path / "v")
    assert stamps == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "v").glob("0000[01]*")}
    np.testing.assert_array_equal(vectors.rows(0, 60), whole.rows(0, 60))
    assert not list((tmp_path / "v").glob(".*"))


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_quantised_vectors_resume_and_are_measured(weights, collection, tmp_path, capsys, dtype):
    """By the command, which holds the folder's lock; with workers, and stopped between shards."""
    common = ["--model", str(weights), "--collection", str(collection), "--pooling", "mean"]
    common += ["--index.dtype", dtype, "--index.shard", "16", "--text.passage-length", "10"]
    assert command.main([*common, "--output", str(tmp_path / "whole")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{dtype}, {36 if dtype == 'int8' else 8} bytes a vector, exact search" in said
    assert "recall@10" in said and "of float32 on" in said
    for worker in ("1", "0"):
        share = ["--worker", worker, "--workers", "2"]
        assert command.main([*common, *share, "--output", str(tmp_path / "v")]) == 0
    again = " ".join(capsys.readouterr().out.split())
    assert again.partition("recall@")[2] == said.partition("recall@")[2]
    for path in (tmp_path / "whole").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "v" / path.name).read_bytes(), path.name
    (tmp_path / "v" / "00001.npy").unlink()  # as if it had been stopped there
    assert command.main([*common, "--output", str(tmp_path / "v")]) == 0
    assert (tmp_path / "v" / "00001.npy").read_bytes() == (
        tmp_path / "whole" / "00001.npy"
    ).read_bytes()
    assert command.main([*common, "--index.kind", "scann", "--output", str(tmp_path / "w")]) == 2
    assert not (tmp_path / "w").exists()  # before any passage is encoded


def test_workers_share_the_shards(retriever, loaded, tmp_path):
    whole = encode(retriever, loaded, tmp_path / "whole")
    assert encode(retriever, loaded, tmp_path / "v", worker=(1, 3)) is None
    assert sorted(p.name for p in (tmp_path / "v").glob("0000?.npy")) == ["00001.npy"]
    assert encode(retriever, loaded, tmp_path / "v", worker=(0, 3)) is None
    vectors = encode(retriever, loaded, tmp_path / "v", worker=(2, 3))
    np.testing.assert_array_equal(vectors.rows(0, 60), whole.rows(0, 60))


def test_the_number_of_devices_does_not_change_a_bit(retriever, loaded, tmp_path, monkeypatch):
    several = encode(retriever, loaded, tmp_path / "several").rows(0, 60)
    assert parallel.shard_rows(np.zeros(4)).sharding.num_devices > 1  # it was really so
    local = jax.local_devices()
    monkeypatch.setattr(jax, "local_devices", lambda: local[:1])
    anew = dataclasses.replace(retriever)  # whose parameters lie on this device
    one = encode(anew, loaded, tmp_path / "one").rows(0, 60)
    np.testing.assert_array_equal(one, several)
    assert parallel.shard_rows(np.zeros(4)).sharding.num_devices == 1


def test_another_model_or_collection_is_refused_by_hash(retriever, loaded, weights, tmp_path):
    encode(retriever, loaded, tmp_path / "v")
    other = Collection(
        "other", InMemory([*loaded.passages[:-1], loaded.passages[0]]), loaded.splits
    )
    with pytest.raises(InputError, match=r"collection topics.* \(hash .*not of collection other"):
        encode(retriever, other, tmp_path / "v")
    longer = TextConfig(query_length=10, passage_length=12, pair_length=18)
    model = pretrained_retriever(RetrieverConfig(str(weights)), longer, ComputeConfig())
    with pytest.raises(InputError, match=r"holds vectors of model tiny \(hash .*not of model"):
        encode(model, loaded, tmp_path / "v")
    with pytest.raises(InputError, match="dtype float32, not of dtype float16"):
        encode(retriever, loaded, tmp_path / "v", IndexConfig(shard=16, dtype="float16"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(InputError, match="holds other files and no vectors"):
        encode(retriever, loaded, tmp_path / "mine")


def test_an_empty_corpus_is_refused(retriever, tmp_path):
    with pytest.raises(InputError, match="nothing: the corpus is empty"):
        encode(retriever, Collection("nothing", InMemory([]), {}), tmp_path / "v")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("00001.npy", b"\x93NUMPY but not for long", "00001.npy: damaged"),
        ("00001.ids.npy", b"", "00001.ids.npy: damaged"),
        ("manifest.json", b"{", "manifest.json: not readable as JSON"),
        (
            "manifest.json",
            b"{}",
            "^[^\n]*manifest.json: damaged: model: Field required; encode the .*$",
        ),
    ],
)
def test_a_damaged_folder_is_named(retriever, loaded, tmp_path, name, content, message):
    encode(retriever, loaded, tmp_path / "v")
    (tmp_path / "v" / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Vectors(tmp_path / "v")


def test_a_shard_of_another_size_is_named(retriever, loaded, tmp_path):
    encode(retriever, loaded, tmp_path / "v")
    path = tmp_path / "v" / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"width": 31}))
    with pytest.raises(InputError, match=r"00000.npy: holds float32 \(16, 32\), .* \(16, 31\)"):
        Vectors(tmp_path / "v")


def test_a_full_disk_leaves_whole_shards_only(retriever, loaded, tmp_path, monkeypatch):
    save = np.save

    def full(file, array, **options):
        if array.ndim == 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(file, array, **options)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"00000.npy: cannot be written: No space left on device"):
        encode(retriever, loaded, tmp_path / "v")
    assert not module.has_shard(tmp_path / "v", 0) and not list((tmp_path / "v").glob(".*"))
    monkeypatch.setattr(np, "save", save)
    assert len(encode(retriever, loaded, tmp_path / "v")) == 60


def test_a_fingerprint_is_of_what_is_computed(weights):
    def fingerprint(text=TEXT, **options):
        compute = ComputeConfig(unroll=1, batch=3)
        return pretrained_retriever(
            RetrieverConfig(str(weights), **options), text, compute
        ).fingerprint

    same = pretrained_retriever(RetrieverConfig(str(weights)), TEXT, ComputeConfig()).fingerprint
    assert fingerprint() == same  # however it is computed
    others = {
        fingerprint(pooling="mean"),
        fingerprint(normalize=True),
        fingerprint(towers="separate"),
        fingerprint(TextConfig(query_length=9, passage_length=10, pair_length=18)),
    }
    assert len(others | {same}) == 5


def test_a_fingerprint_is_the_same_in_another_process(retriever, weights):
    code = f"""
from rocketjax import encode as command
from rocketjax.config.schema import ComputeConfig, RetrieverConfig, TextConfig
from rocketjax.inference.start import pretrained_retriever
text = TextConfig(query_length=10, passage_length=10, pair_length=18)
print(pretrained_retriever(RetrieverConfig({str(weights)!r}), text, ComputeConfig()).fingerprint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == retriever.fingerprint
