"""Folders and files of strangers: read, or refused by one error that names them, and nothing else.

`READERS` holds how many mutants of real files each reader is given by `pytest -m slow`; by default
it is given the first tenth of them. A mutant is drawn from the reader's name and its number, so a
failure comes back.
"""

import contextlib
import dataclasses
import gzip
import json
import os
import random
import shutil
import signal
import struct
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from others import modular
from record import make_record
from safetensors.numpy import save
from tiny import vectors_folder

import rocketjax
from rocketjax.config import options
from rocketjax.config.schema import ComputeConfig, Config, IndexConfig, ListConfig, TextConfig
from rocketjax.data import lists, store
from rocketjax.data.lines import LONGEST
from rocketjax.data.load import load_collection, read_queries
from rocketjax.data.passages import Passage
from rocketjax.data.runs import read_run, write_run
from rocketjax.evaluation import results as report
from rocketjax.inference import folder as model_folder
from rocketjax.mining import mine as mining
from rocketjax.models import convert, pretrained
from rocketjax.models.heads import head_params
from rocketjax.models.sentence_transformers import read_conventions, read_pooling
from rocketjax.pipeline import resume
from rocketjax.report import figures as pictures
from rocketjax.report import page, record
from rocketjax.retrieval.scann import build_scann, missing, open_scann
from rocketjax.retrieval.vectors import Vectors
from rocketjax.runtime.errors import InputError
from rocketjax.text.tokenizer import Tokenizer
from rocketjax.training import checkpoint
from rocketjax.training.journal import TrainLog
from rocketjax.training.step import TrainState

TEXT = TextConfig(query_length=12, passage_length=12, pair_length=20)
MEGABYTE = 2**20
MARGIN = 1024 * MEGABYTE  # of address space; what no reader of these small files may need
QUERIES = np.ones((2, 8), np.float32)


# ---- what is read, and what "usable" means


def use_config(folder):
    read = options.load(folder / "run.yaml")
    assert options.load(write(folder / "again.yaml", options.dump(read).encode())) == read


def use_model(folder):
    model = model_folder.load_retriever(folder, ComputeConfig())
    assert model.module.config.hidden_size == 32 and len(model.tokenizer.query(["cat"])) == 1


def use_tensors(folder):
    read = pretrained.read_encoder_config(folder)
    tensors = pretrained.load_tensors(folder)
    params = convert.encoder_params(tensors, read, str(folder))
    assert params["word_embedding"].dtype == np.float32
    head_params(tensors, read, str(folder))


def use_encoder_config(folder):
    read = pretrained.read_encoder_config(folder)
    assert read.hidden_size % read.num_heads == 0 and read.max_length > 0


def use_conventions(folder):
    told = read_conventions(folder)
    assert isinstance((told.query_prompt + told.passage_prompt).encode(), bytes)
    assert read_pooling(folder) is None or read_pooling(folder).pooling in ("cls", "mean")


def use_tokenizer(folder):
    tokenizer = Tokenizer(folder, TEXT)
    assert tokenizer.vocabulary_size > 0 and tokenizer.segments > 0 and tokenizer.description
    texts = (*tokenizer.query(["cat purr ?"]), *tokenizer.passage(["sun"], ["sea wave " * 9]))
    for text in (*texts, *tokenizer.pair(["cat " * 20], [""], ["dog " * 20])):
        assert len(text.ids) == len(text.types) <= 20
        assert text.ids.min() >= 0 and text.ids.max() < tokenizer.vocabulary_size


def use_vectors(folder):
    vectors = Vectors(folder)
    assert vectors.rows(0, len(vectors)).shape == (len(vectors), vectors.width)
    assert vectors.names(np.array([-1, 0])).tolist()[0] == ""


def use_scann(folder):
    index = open_scann(Vectors(folder))
    for queries in (QUERIES, QUERIES[:1]):
        ids, scores = index.search(queries, 3)
        assert ids.shape == scores.shape == (len(queries), 3)


def use_lists(folder):
    assert all(item.positive for item in lists.read_lists(folder / "lists.jsonl"))


def use_candidates(folder):
    for row in lists.read_candidates(folder / "candidates.jsonl"):
        assert len(row.scores) <= len(row.passages) and np.isfinite(row.scores).all()


def use_request(folder):
    mining._claim(folder, REQUEST)


def use_stages(folder):
    done = resume.open_folder(folder, Config(run_dir=str(folder)), print)
    assert sum(done.values()) is not None


def use_report(folder):
    assert report.load(folder).rows is not None


def use_log(folder):
    log = TrainLog(folder / "log.jsonl", "joint", 2)
    assert log.loss is None or isinstance(log.loss, float | int)


def use_checkpoint(folder):
    """By a forger, who makes the sums right: damage alone is found by them (test_checkpoint)."""
    sums = checkpoint._sums(folder / "2")
    write(folder / "2" / "sums.json", json.dumps(sums).encode())
    with checkpoint.Checkpoints(folder, 2, lambda _: None) as saved:
        if saved.latest() != 2:
            raise InputError(f"{folder}: removed")
        read = saved.restore(2, STATE)
    for x, like in zip(jax.tree.leaves(read), jax.tree.leaves(STATE), strict=True):
        assert x.shape == like.shape and x.dtype == like.dtype


def use_record(folder):
    with mock.patch.object(pictures, "svg", return_value=b""):  # which takes a second
        assert "</html>" in page.page(record.read(folder))


def use_run(folder):
    for ranked in read_run(folder / "a.trec").values():
        scores = [score for _, score in ranked]
        assert scores == sorted(scores, reverse=True)


def use_queries(folder):
    assert all(read_queries(folder / "q.tsv").values())


def use_collection(folder):
    for policy in ("fail", "skip"):
        read = load_collection(str(folder), policy)
        for split in read.splits.values():
            assert all(pid in read.by_id for found in split.qrels.values() for pid in found)


def use_store(folder):
    """Nobody's but the user's own: a damaged one is made anew, or named as it is met."""
    found = store._open(folder)
    if found is None:
        raise InputError(f"{folder}: read again")
    assert len(list(found.passages)) == len(found.passages)
    for i in range(30):
        found.passages.by_id.get(f"p{i}")


# ---- the real files


STATE = TrainState(
    step=jnp.int32(2),
    skipped=jnp.int32(0),
    seed=jnp.uint32(1),
    params={"retriever": {"w": jnp.arange(6.0).reshape(2, 3)}},
    opt_state=(jnp.ones(3),),
)
ELSEWHERE = dict.fromkeys(("easy", "refresh", "after", "teacher"))  # what lists do not depend on
OPTIONS = dataclasses.asdict(ListConfig()) | ELSEWHERE
REQUEST = {"retriever": "1", "queries": "2", "lists": OPTIONS, "seed": 1}
LISTS = [lists.TrainingList(f"q{i}", "p1", ("p2", "p3")) for i in range(3)]
FOUND = [lists.Candidates(f"q{i}", ("p1",), ("p2", "p3"), (0.5, -1.0), (2.0,)) for i in range(3)]


def write(path, data):
    path.write_bytes(data)
    return path


def make_config(folder, _):
    values = options.dump(Config(name="größer", run_dir=str(folder)))
    write(folder / "run.yaml", values.encode())


def make_model(folder, weights):
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    settings = {"kind": "retriever", "towers": "shared", "pooling": "mean", "normalize": True}
    settings["text"] = {"query_length": 12, "passage_length": 12, "pair_length": 20}
    write(folder / "rocketjax.json", json.dumps(settings).encode())


def make_tensors(folder, weights):
    """In two shards, with a cross-encoder's head."""
    shutil.copy(weights / "config.json", folder)
    tensors = {name: np.array(x) for name, x in pretrained.load_tensors(weights).items()}
    tensors["classifier.weight"], tensors["classifier.bias"] = np.ones((1, 32)), np.zeros(1)
    shards = ("model-1.safetensors", "model-2.safetensors")
    places = {name: shards[i % 2] for i, name in enumerate(tensors)}
    for shard in shards:
        part = {name: x for name, x in tensors.items() if places[name] == shard}
        write(folder / shard, save(part))
    index = {"metadata": {"total_size": 9}, "weight_map": places}
    write(folder / "model.safetensors.index.json", json.dumps(index).encode())


def make_encoder_config(folder, weights):
    shutil.copy(weights / "config.json", folder)


def make_conventions(folder, _):
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ]
    prompts = {"prompts": {"query": "q: ", "document": "d: "}, "default_prompt_name": None}
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling").mkdir()
    for name, values in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("config_sentence_transformers.json", prompts),
        ("sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False}),
        ("tokenizer_config.json", {"model_max_length": 30}),
    ):
        write(folder / name, json.dumps(values).encode())


def make_tokenizer(folder, weights):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(weights / name, folder)


def make_vectors(folder, _):
    array = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    vectors_folder(folder, array, shard=8, dtype="bfloat16")


def make_scann(folder, _):
    array = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    vectors = vectors_folder(folder, array, shard=600)
    build_scann(vectors, IndexConfig(leaves=8, leaves_to_search=2, reorder=9), QUERIES, 3, print)


def make_lists(folder, _):
    lists.write_lists(folder / "lists.jsonl", LISTS)


def make_candidates(folder, _):
    lists.write_candidates(folder / "candidates.jsonl", FOUND)


def make_request(folder, _):
    write(folder / "request.json", json.dumps(REQUEST).encode())


def make_stages(folder, _):
    """With what stands in config.yaml, and something that makes it a run."""
    resume.open_folder(folder, Config(run_dir=str(folder)), print)
    write(folder / "stages.json", json.dumps({"start": 1.5, "encode": 20}).encode())


def make_report(folder, _):
    row = report.Row("retriever", "MRR@10", 0.5, 0.6, 0.01)
    report.save(report.Report(str(folder), 3, [row, row], {"joint": 1.0}), folder)


def make_log(folder, _):
    rows = [{"stage": s, "step": i, "loss": 1.5} for s in ("warm", "joint") for i in range(3)]
    write(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def make_checkpoint(folder, _):
    with checkpoint.Checkpoints(folder, 2, lambda _: None) as saved:
        saved.save(2, STATE, {"loss": 1.5})


def make_record_of_run(folder, _):
    make_record(folder)


def make_run(folder, _):
    write_run(folder / "a.trec", {"q1": [("p1", 2.5), ("p2", -1e3)], "q2": [("p1", 0.5)]}, "tag")


def make_queries(folder, _):
    write(folder / "q.tsv", "q1\twer bellt, ö?\nq2\tand\ttabs\n".encode())


def make_beir(folder, _):
    (folder / "qrels").mkdir()
    rows = [{"_id": f"p{i}", "title": "T", "text": f"text {i}"} for i in range(3)]
    write(folder / "corpus.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    write(folder / "queries.jsonl", b'{"_id": "q1", "text": "who?"}\n{"_id": "q2", "text": "x"}\n')
    write(folder / "qrels" / "train.tsv", b"query-id\tcorpus-id\tscore\nq1\tp1\t2\nq2\tp0\t1\n")


def make_msmarco(folder, _):
    write(folder / "collection.tsv", b"1\tone\n2\ttwo\ttabs\n3\tthree\n")
    write(folder / "queries.train.tsv", b"10\twho?\n11\twhat?\n")
    write(folder / "qrels.train.tsv", b"10\t0\t1\t1\n11\t0\t2\t1\n")
    write(folder / "qidpidtriples.train.tsv", b"10\t1\t3\n11\t2\t3\n")


def make_rows(folder, _):
    row = {"question": "q", "answers": ["a"], "positive_ctxs": [{"title": "t", "text": "x"}]}
    row["hard_negative_ctxs"] = [{"title": "", "text": "y"}]
    write(folder / "train.json", json.dumps([row, row | {"question": "r"}]).encode())
    other = {"query": "q", "pos": ["x"], "neg": ["y", "z"]}
    write(folder / "dev.jsonl.gz", gzip.compress(json.dumps(other).encode() + b"\n", mtime=0))


def make_store(folder, _):
    rows = [(f"x:{i}", Passage(f"p{i}", "T" * (i % 3), f"text {i}")) for i in range(30)]
    store.store("x", ["hostile", str(folder)], lambda bad: iter(rows), "fail")
    stored = store.cache_folder() / store._key(
        [store._VERSION, "fail", False, "hostile", str(folder)]
    )
    shutil.copytree(stored, folder, dirs_exist_ok=True)


class Reader(NamedTuple):
    """How many mutants in all, of which files, and what is done with each."""

    examples: int
    make: object
    use: object


READERS = {
    "config YAML": Reader(250, make_config, use_config),
    "a model's folder": Reader(60, make_model, use_model),
    "safetensors, their index": Reader(500, make_tensors, use_tensors),
    "config.json of a model": Reader(400, make_encoder_config, use_encoder_config),
    "modules.json, prompts, lengths": Reader(400, make_conventions, use_conventions),
    "tokenizer files": Reader(400, make_tokenizer, use_tokenizer),
    "vectors: manifest, shards": Reader(500, make_vectors, use_vectors),
    "ScaNN index": Reader(200, make_scann, use_scann),
    "lists.jsonl": Reader(300, make_lists, use_lists),
    "candidates": Reader(300, make_candidates, use_candidates),
    "request.json": Reader(200, make_request, use_request),
    "stages.json, config.yaml of a run": Reader(100, make_stages, use_stages),
    "report.json": Reader(300, make_report, use_report),
    "log.jsonl": Reader(300, make_log, use_log),
    "checkpoints, with sums made right": Reader(80, make_checkpoint, use_checkpoint),
    "what a run's page is drawn from": Reader(60, make_record_of_run, use_record),
    "TREC run": Reader(300, make_run, use_run),
    "queries": Reader(200, make_queries, use_queries),
    "BEIR folder": Reader(150, make_beir, use_collection),
    "MS MARCO folder": Reader(150, make_msmarco, use_collection),
    "training rows, packed ones too": Reader(200, make_rows, use_collection),
    "Arrow store": Reader(400, make_store, use_store),
}


# ---- mutants


VALUES = [
    *(None, True, -1, 0, 7, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf")),
    *("", "x", "../x", "/etc/passwd", "\ud83d", "[CLS]", "LlamaTokenizer", "RagTokenizer"),
    *([], {}, [[]], {"type": "x"}, ["x"] * 50),
]
BITS = [b"", b"\x00", b"\xff", b'"', b"[", b"]", b"{", b"}", b":", b",", b"\n", b"\t", b"-", b"e9"]
BITS += [b"9" * 30, b"&a [*a, *a]", b"!!python/object:x", b"\xed\xa0\xbd", b"[" * 3000, b"\\ud83d"]


def mutate(rng, data):
    """Damaged somewhere: one of JSON in its values, or any bytes."""
    if rng.random() < 0.6:
        with contextlib.suppress(ValueError):
            value = json.loads(data)
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                value = changed(rng, value)
            return json.dumps(value).encode()
    kind, at = rng.randrange(6), rng.randrange(len(data) + 1)
    if rng.random() < 0.5:
        at = rng.randrange(min(len(data), 150) + 1)  # headers stand first
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.randrange(9)) + data[at + rng.randrange(9) :]
    if kind == 2:
        return (
            data[:at]
            + bytes([b ^ 1 << rng.randrange(8) for b in data[at : at + 1]])
            + data[at + 1 :]
        )
    if kind == 3:
        return data + data[at : at + rng.randrange(200)]
    return data[:at] + rng.choice(BITS) + data[at + rng.randrange(4) :]


def changed(rng, value):
    """The JSON value with one place in it changed, at any depth."""
    places = list(range(len(value))) if isinstance(value, list) else None
    places = list(value) if isinstance(value, dict) else places
    if not places or rng.random() < 0.1:
        return rng.choice(VALUES)
    place = rng.choice(places)
    copy = value.copy()
    if rng.random() < 0.2:
        del copy[place]
    elif isinstance(value[place], list | dict) and rng.random() < 0.8:
        copy[place] = changed(rng, value[place])
    else:
        copy[place] = rng.choice(VALUES)
    return copy


class Hang(BaseException):
    """Not an Exception, which a reader might take for its own."""


@contextlib.contextmanager
def limited(seconds=60):
    """No hang, and no more address space than a margin above what the process has."""
    resource = pytest.importorskip("resource", reason="limits are POSIX's")
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MARGIN
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))

    def ring(*_):
        raise Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused(error, folder):
    """Whether it is the one error that there may be."""
    assert str(folder) in str(error), f"does not name the file: {error}"
    assert len(str(error)) < 20_000
    cause = error
    while cause is not None:
        assert not isinstance(cause, MemoryError), "asked for more memory than there may be"
        cause = cause.__cause__
    return True


@pytest.mark.filterwarnings("ignore")  # of libraries, about what they are given
@pytest.mark.parametrize("name", READERS)
def test_mutants_are_read_or_refused_by_one_error(name, weights, tmp_path, capfd):
    """The first tenth of the mutants; test_all_mutants_are_read_or_refused takes them all."""
    outcomes = try_mutants(name, max(20, READERS[name].examples // 10), weights, tmp_path)
    capfd.readouterr()  # what Rust and C++ say of themselves
    print(f"{name}: {outcomes}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_all_mutants_are_read_or_refused(name, weights, tmp_path, capfd):
    outcomes = try_mutants(name, READERS[name].examples, weights, tmp_path)
    capfd.readouterr()
    print(f"{name}: {outcomes}")


def try_mutants(name, examples, weights, tmp_path):
    """Gives a reader its first mutants, one by one; how many it read, and how many it refused."""
    reader = READERS[name]
    if name == "ScaNN index" and missing():
        pytest.skip("scann is not installed (no wheel here)")
    folder = tmp_path / "hostile"
    folder.mkdir()
    reader.make(folder, weights)
    good = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    reader.use(folder)
    for path in {path for path in folder.rglob("*") if path.is_file()} - good.keys():
        path.unlink()
    outcomes = {"read": 0, "refused": 0}
    for number in range(examples):
        rng = random.Random(f"{name} {number}")
        victim = rng.choice(list(good))
        victim.write_bytes(mutate(rng, good[victim]))
        try:
            with limited():
                reader.use(folder)
            outcomes["read"] += 1
        except InputError as error:
            outcomes["refused"] += refused(error, folder)
        except BaseException as error:
            error.add_note(f"{name}, mutant {number} of {victim.name}")
            raise
        for path, data in good.items():
            if path == victim or not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    assert outcomes["refused"] > examples // 20  # else these are no damage
    return outcomes


# ---- lies


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(first, last, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


@pytest.mark.parametrize(
    "data",
    [
        safetensors({"a": tensor(0, 8)}, b"\0" * 8, length=10**6),
        safetensors({"a": tensor(0, 8)}, b"\0" * 8, length=2**63),
        safetensors({"a": tensor(0, 8)}, b"\0" * 8, length=3),
        safetensors({"a": tensor(0, 8)}, b"\0" * 4),
        safetensors({"a": tensor(0, 8)}, b"\0" * 16),
        safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}, b"\0" * 12),
        safetensors({"a": tensor(0, 8), "b": tensor(0, 8)}, b"\0" * 8),
        safetensors({"a": tensor(0, 8), "b": tensor(12, 20)}, b"\0" * 20),
        safetensors({"a": tensor(8, 0)}, b"\0" * 8),
        safetensors({"a": tensor(0, 8, (3,))}, b"\0" * 8),
        safetensors({"a": tensor(0, 8, (2,), "F16")}, b"\0" * 8),
        safetensors({"a": tensor(0, 8, (2**62, 4))}, b"\0" * 8),
        safetensors({"a": tensor(0, 8, (-2,))}, b"\0" * 8),
        safetensors(b'{"a": %s, "a": %s}' % ((json.dumps(tensor(0, 8)).encode(),) * 2), b"\0" * 8),
        safetensors(b"[" * 100_000),
        b"\0" * 4,
    ],
    ids=[
        *("header beyond the file", "absurd header", "header cut", "data cut", "data left over"),
        *("overlap", "the same bytes twice", "gap", "backwards", "shape", "type", "overflow"),
        *("negative", "name twice", "depth", "no header"),
    ],
)
def test_lying_safetensors_are_refused(tmp_path, data):
    path = write(tmp_path / "model.safetensors", data)
    with limited(), pytest.raises(InputError, match=rf"^{path}: damaged or not readable"):
        pretrained.load_tensors(tmp_path)


@pytest.mark.parametrize("other", ["bert.embeddings.LayerNorm.gamma", "shard"])
def test_a_tensor_that_stands_twice_is_refused(weights, tmp_path, other):
    make_tensors(tmp_path, weights)
    read = pretrained.read_encoder_config(tmp_path)
    name = "embeddings.LayerNorm.weight" if other == "shard" else other
    write(tmp_path / "model-3.safetensors", save({name: np.ones(32, np.float32)}))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"][name] = "model-3.safetensors"
    if other == "shard":
        index["weight_map"]["some.other"] = "model-1.safetensors"
        index["weight_map"]["one.more"] = "model-2.safetensors"
    write(tmp_path / "model.safetensors.index.json", json.dumps(index).encode())
    with pytest.raises(InputError, match=r"duplicate tensor"):
        convert.encoder_params(pretrained.load_tensors(tmp_path), read, str(tmp_path))


def test_every_wrong_shape_is_named_and_nothing_is_made_of_absurd_sizes(weights, tmp_path):
    make_model(tmp_path, weights)
    fields = json.loads((tmp_path / "config.json").read_text())
    absurd = {"vocab_size": 10**7, "hidden_size": 10**7, "intermediate_size": 10**7}
    absurd |= {"num_attention_heads": 1, "max_position_embeddings": 10**7}
    write(tmp_path / "config.json", json.dumps(fields | absurd).encode())
    tracemalloc.start()
    try:
        with limited(), pytest.raises(InputError, match=r"do not fit config\.json") as caught:
            model_folder.load_retriever(tmp_path, ComputeConfig())
        assert tracemalloc.get_traced_memory()[1] < 64 * MEGABYTE
    finally:
        tracemalloc.stop()
    tensors = pretrained.load_tensors(tmp_path)
    assert len(tensors) == 5 + 2 * 16
    assert all(name in str(caught.value) for name in tensors)


@pytest.mark.parametrize("name", ["00000.npy", "00000.ids.npy"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((10**12,), "|S4"),
        ((8,), "|S1000000000"),
        ((10**6, 10**6), "<f4"),
        ((2**40, 2**40), "<f4"),
        ((-8, 8), "<f4"),
        ((8, 8), "|O"),
    ],
    ids=str,
)
def test_arrays_that_promise_more_than_they_hold_are_refused(tmp_path, name, shape, dtype):
    make_vectors(tmp_path, None)
    header = str({"descr": dtype, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 999
    write(tmp_path / name, data)
    with limited(), pytest.raises(InputError, match=rf"^{tmp_path}/{name}: damaged"):
        Vectors(tmp_path)


def test_a_manifest_of_endless_shards_is_refused_at_once(tmp_path):
    make_vectors(tmp_path, None)
    values = json.loads((tmp_path / "manifest.json").read_text())
    for change in ({"passages": 2**31 - 1, "shard": 1}, {"passages": 10**30}, {"shard": 10**30}):
        write(tmp_path / "manifest.json", json.dumps(values | change).encode())
        with limited(20), pytest.raises(InputError, match=r"shards are missing|manifest\.json"):
            Vectors(tmp_path)


def test_ids_that_the_collection_has_not_are_named(weights, tmp_path):
    from rocketjax.retrieval.model import Corpus, search

    (tmp_path / "model").mkdir()
    make_model(tmp_path / "model", weights)
    model = model_folder.load_retriever(tmp_path / "model", ComputeConfig())
    vectors = vectors_folder(tmp_path / "index", np.ones((3, 32), np.float32))
    found = vectors.names(np.array([[0, 1]])), np.ones((1, 2), np.float32)
    index = SimpleNamespace(vectors=vectors, search=lambda queries, top_k: found)
    corpus = Corpus(index, {"p0": Passage("p0", "", "x")})
    with pytest.raises(InputError, match=r"index: passage p1 is not in the collection"):
        search(model, None, corpus, "cat", 3, 0)


# ---- size


SETTINGS = [
    *(("a model's folder", name) for name in ("config.json", "rocketjax.json", "tokenizer.json")),
    *(("a model's folder", name) for name in ("tokenizer_config.json", "vocab.txt")),
    ("modules.json, prompts, lengths", "modules.json"),
    ("modules.json, prompts, lengths", "1_Pooling/config.json"),
    ("modules.json, prompts, lengths", "sentence_bert_config.json"),
    ("safetensors, their index", "model.safetensors.index.json"),
    ("vectors: manifest, shards", "manifest.json"),
    ("ScaNN index", "scann/index.json"),
    ("ScaNN index", "scann/scann_assets.pbtxt"),
    *(("request.json", "request.json"), ("report.json", "report.json")),
    *(("stages.json, config.yaml of a run", name) for name in ("stages.json", "config.yaml")),
    ("config YAML", "run.yaml"),
]


def made(name, folder, weights):
    if name == "ScaNN index" and missing():
        pytest.skip("scann is not installed (no wheel here)")
    folder.mkdir()
    READERS[name].make(folder, weights)
    return READERS[name].use


@pytest.mark.parametrize(("name", "file"), SETTINGS)
@pytest.mark.parametrize("fault", ["gigabytes", "deep", "pipe", "link"])
def test_settings_that_are_no_such_file_are_refused(name, file, fault, weights, tmp_path):
    use = made(name, tmp_path / "hostile", weights)
    path = tmp_path / "hostile" / file
    if fault == "deep":
        # YAML is parsed by Python, slowly: a tenth of it is still far deeper than Python goes.
        write(path, b"[" * (10_000 if path.suffix == ".yaml" else 100_000))
    elif fault == "gigabytes":
        with path.open("ab") as data:
            data.truncate(8 * 2**30)  # sparse: takes no room on the disk
    else:
        good = path.read_bytes() if path.exists() else b"x"
        path.unlink(missing_ok=True)
        if path.suffix == ".yaml":
            return  # what the user names is opened, whatever it is: --config <(...)
        if fault == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(write(tmp_path / "secret", good))
    try:
        with limited(20):
            use(tmp_path / "hostile")
    except InputError as error:
        assert refused(error, tmp_path / "hostile")
    else:  # a file that need not be there
        assert (fault in ("deep", "pipe") and not path.is_file()) or path.name == "vocab.txt"


def link_to_blobs(folder):
    """As the hub's cache has the files of a snapshot."""
    blobs = folder.parent.parent / "blobs"
    blobs.mkdir()
    for i, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        path.rename(blobs / f"blob{i}")
        path.symlink_to(os.path.relpath(blobs / f"blob{i}", path.parent))


def test_a_link_within_the_folder_or_the_hubs_cache_is_followed(weights, tmp_path):
    folder = tmp_path / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    make_model(folder, weights)
    link_to_blobs(folder)
    use_model(folder)
    (folder / "config.json").rename(folder / "real.json")
    (folder / "config.json").symlink_to("real.json")
    use_model(folder)


def test_a_module_in_a_folder_of_its_own_is_read_from_the_hubs_cache(weights, tmp_path):
    folder = tmp_path / "models--o--m" / "snapshots" / "0123abc"
    shutil.copytree(weights, folder / "0_Transformer")
    modular(folder, inner="0_Transformer")
    link_to_blobs(folder)
    assert rocketjax.open_retriever(folder).module.pooling == "mean"
    path = folder / "0_Transformer" / "model.safetensors"
    path.resolve().rename(tmp_path / "secret")
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=rf"a link to {tmp_path}/secret, outside its folder"):
        rocketjax.open_retriever(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "00000.npy", "00000.ids.npy"])
def test_data_are_not_read_through_a_link_out_of_the_folder(name, weights, tmp_path):
    kind = "a model's folder" if name.startswith("model") else "vectors: manifest, shards"
    use = made(kind, tmp_path / "hostile", weights)
    path = tmp_path / "hostile" / name
    path.rename(tmp_path / "secret")
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=rf"{path}: a link to {tmp_path}/secret, outside"):
        use(tmp_path / "hostile")


def test_a_yaml_bomb_is_refused_in_few_words(tmp_path):
    names = ("on_bad_rows", "train_split", "eval_split", "max_eval_queries", "hold_out")
    lines = ["data:", "  collection: &b0 [x, x]"]
    for i, name in enumerate(names, 1):  # 99 ** 5 strings, if someone wrote them out
        lines += [f"  {name}: &b{i} [{', '.join([f'*b{i - 1}'] * 99)}]"]
    path = write(tmp_path / "run.yaml", "\n".join(lines).encode())
    with limited(20), pytest.raises(InputError, match=r"run\.yaml:7: data\.hold_out: ") as caught:
        options.load(path)
    assert refused(caught.value, path)


# ---- lines that do not end


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_packed_line_of_gigabytes_is_not_unpacked_whole(policy, tmp_path):
    path = tmp_path / "collection.tsv.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b"1\tone\n2\t")
        for _ in range(8):
            file.write(b"a" * LONGEST)
        file.write(b"\n3\tthree\n")
    assert path.stat().st_size < MEGABYTE
    tracemalloc.start()
    try:
        with limited():
            read = load_collection(str(path), policy)
        assert policy == "skip" and [p.id for p in read.passages] == ["1", "3"]
        assert f"{path}:2: longer than" in read.notes[0]
    except InputError as error:
        assert policy == "fail" and f"{path}:2: longer than {LONGEST:,} bytes" in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 6 * LONGEST  # the line, and what Python copies of it


@pytest.mark.parametrize("item", [b'{"question": "%s"}', b'"%s"', b"[%s]"])
def test_an_endless_item_of_an_array_is_not_read_whole(item, tmp_path):
    path = tmp_path / "train.json.gz"
    with gzip.open(path, "wb", 1) as file:
        start, end = item.split(b"%s")
        file.write(b'[{"question": "q", "positive_ctxs": [{"text": "t"}]}, ' + start)
        for _ in range(2):
            file.write(b"1," * (LONGEST // 2) if item == b"[%s]" else b"a" * LONGEST)
        file.write(b"1" + end + b"]")
    with limited(), pytest.raises(InputError, match=rf"^{path}:item 1: .* is longer than"):
        load_collection(str(path))


# ---- code


def trap(folder):
    """Code that shows that it ran, from wherever it was copied to."""
    return f"open({str(folder / 'sprung')!r}, 'w').close()\nclass Trap: pass\n".encode()


@pytest.mark.filterwarnings("ignore")
def test_no_code_of_a_folder_is_run(weights, tmp_path, monkeypatch):
    """Neither by what it says of custom classes nor by files that lie about."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("trap", "tokenizer", "modeling_trap", "tokenization_trap", "__init__", "setup"):
        write(folder / f"{name}.py", trap(folder))
    traps = {"AutoTokenizer": ["tokenization_trap.Trap", None], "AutoConfig": "trap.Trap"}
    traps |= {"AutoModel": "modeling_trap.Trap"}
    for values in (
        {"config.json": {"auto_map": traps}},
        {"tokenizer_config.json": {"auto_map": traps}},
        {"tokenizer_config.json": {"auto_map": traps, "tokenizer_class": "Trap"}},
        {"tokenizer_config.json": {"auto_map": ["trap.Trap", "trap.Trap"]}},
        {"tokenizer_config.json": {"tokenizer_class": "trap.Trap"}},
        {"tokenizer_config.json": {"tokenizer_class": "BertJapaneseTokenizer"}},
        {"config.json": {"auto_map": traps, "model_type": "trap"}},
        {"modules.json": [{"path": "", "type": "trap.Trap"}]},
        {"modules.json": [{"path": "", "type": "trap.Transformer"}, {"type": "trap.Pooling"}]},
    ):
        make_model(folder, weights)
        (folder / "modules.json").unlink(missing_ok=True)
        for name, fields in values.items():
            old = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
            write(folder / name, json.dumps(old | fields if old else fields).encode())
        with contextlib.suppress(InputError):
            use_model(folder)
        with contextlib.suppress(InputError):
            use_conventions(folder)
        assert not (folder / "sprung").exists(), values
    assert not {"trap", "modeling_trap", "tokenization_trap"} & set(sys.modules)


def test_the_trap_springs_where_code_is_trusted(weights, tmp_path, monkeypatch):
    """Else the test above would show nothing."""
    import transformers

    folder = tmp_path / "hostile"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "c"))
    make_model(folder, weights)
    write(folder / "tokenization_trap.py", trap(folder))
    path = folder / "tokenizer_config.json"
    traps = {"auto_map": {"AutoTokenizer": ["tokenization_trap.Trap", None]}}
    write(path, json.dumps(json.loads(path.read_text()) | traps).encode())
    with contextlib.suppress(Exception):  # what it makes of a trap without a class is its affair
        transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=True)
    assert (folder / "sprung").exists()


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "a/b.json", 7])
def test_a_tokenizers_files_lie_in_its_folder(name, weights, tmp_path):
    use = made("tokenizer files", tmp_path / "hostile", weights)
    path = tmp_path / "hostile" / "tokenizer_config.json"
    fields = json.loads(path.read_text())
    write(path, json.dumps(fields | {"fast_tokenizer_files": ["tokenizer.json", name]}).encode())
    with pytest.raises(InputError, match="fast_tokenizer_files: expected plain names"):
        use(tmp_path / "hostile")
