"""Runs at a gs:// address, whose machines are lost, end with the bits of a run on a disk."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from emulated import emulator, fresh_machine, needs_emulator
from on_disk import make_weights
from small_run import config

from rocketjax import encode, search
from rocketjax.config.options import dump
from rocketjax.config.schema import (
    EvaluateConfig,
    IndexConfig,
    ListConfig,
    OptimizerConfig,
    RetrieverConfig,
    StageConfig,
)
from rocketjax.pipeline.run import run
from rocketjax.retrieval.load import load
from rocketjax.runtime import lease
from rocketjax.runtime.progress import unwatched
from rocketjax.training.callbacks import Callback

ADDRESS = "gs://data/runs/some"
pytestmark = needs_emulator
CLOCKS = ("stages.json", "timing.jsonl", "report.html", "tensorboard/")


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setattr(lease, "EVERY", 0.1)
    monkeypatch.setattr(lease, "STALE", 1.0)
    monkeypatch.setattr(lease, "LOOK", 0.1)
    fresh_machine(monkeypatch, tmp_path / "first")
    with emulator() as running:
        yield running


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"), layers=1)


def settings(weights, collection, run_dir, refresh=0):
    """Little to compile: joint training alone, on lists that the starting models mine."""
    optimizer = OptimizerConfig(retriever_lr=3e-3, reranker_lr=3e-3)
    return config(
        weights,
        collection,
        run_dir,
        retriever=RetrieverConfig(str(weights)),
        retriever_warmup=StageConfig(0),
        reranker_warmup=StageConfig(0),
        joint=StageConfig(steps=6, batch=8, optimizer=optimizer),
        lists=ListConfig(length=4, top_n=30, low=0.6, calibration="sigmoid", refresh=refresh),
        index=IndexConfig(shard=25, kind="exact"),
        evaluate=EvaluateConfig(top_k=20, rerank_depth=10, start=False, every=0),
    )


class Lost(BaseException):
    """The machine is gone."""


class Loses(Callback):
    """Loses the machine at a step: no request of it gets through any more."""

    def __init__(self, bucket, step, when: Callable[[], bool]):
        self._bucket, self._step, self._when = bucket, step, when

    def on_step(self, stage, metrics):
        if metrics["step"] == self._step:
            end = time.monotonic() + 60
            while not self._when() and time.monotonic() < end:
                time.sleep(0.02)
            self._bucket.refuse = lambda method, name: True
            raise Lost


def files_below(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def objects_of(bucket):
    objects = bucket.objects.items()
    return {name.removeprefix("runs/some/"): data for name, data in objects if "runs/some/" in name}


def results(files, name):
    """Every file by its bytes, without clocks; the run's name is as good as any other."""
    own = {path: data for path, data in files.items() if not path.startswith((".", *CLOCKS))}
    return {path: data.replace(name.encode(), b"RUN") for path, data in own.items()}


def test_a_run_whose_machines_are_lost_ends_with_the_same_bits(
    bucket, weights, collection, monkeypatch, tmp_path
):
    on_disk = tmp_path / "disk"
    run(settings(weights, collection, on_disk), lambda _: None, unwatched)
    place = settings(weights, collection, ADDRESS)
    # After the second checkpoint is there: the third machine begins with it.
    whole = Loses(bucket, 3, lambda: "checkpoints/joint/2/sums.json" in objects_of(bucket))
    with suppress(Lost):
        run(place, lambda _: None, unwatched, [whole])
    bucket.refuse = lambda method, name: False
    fresh_machine(monkeypatch, tmp_path / "second")

    # In the middle of the upload of the next one: what the first has committed counts.
    uploads = []

    def half(method, name):
        if uploads or (method == "POST" and "/.aside/" in str(name)):
            uploads.append(name)
        return len(uploads) > 3 and method != "GET" and ".lock" not in str(name)

    class Cuts(Callback):
        def on_step(self, stage, metrics):
            bucket.refuse = half

    said = []
    with suppress(Lost):
        cut = Loses(bucket, 5, lambda: len(uploads) > 3)
        run(place, said.append, unwatched, [Cuts(), cut])
    assert "joint: resumes at step 2" in said and len(uploads) > 3
    bucket.refuse = lambda method, name: False
    fresh_machine(monkeypatch, tmp_path / "third")

    said = []
    report = run(place, said.append, unwatched)
    assert report is not None and report.folder == ADDRESS
    assert "joint: resumes at step 2" in said
    assert any(line.startswith(f"{ADDRESS}: fetching") for line in said)
    wanted, found = (
        results(files_below(on_disk), str(on_disk)),
        results(objects_of(bucket), ADDRESS),
    )
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []

    # Finished, it is read from there, by a machine that has nothing of it.
    fresh_machine(monkeypatch, tmp_path / "reader")
    model = load(ADDRESS)
    assert model.search("cat purr", top_k=3) == load(on_disk).search("cat purr", top_k=3)


def test_a_collection_weights_and_an_index_are_read_from_there(
    bucket, weights, collection, monkeypatch, tmp_path, capsys
):
    for source, name in ((weights, "weights"), (collection, "topics")):
        for path, data in files_below(source).items():
            bucket.put(f"{name}/{path}", data)
    model = ["--model", "gs://data/weights", "--collection", "gs://data/topics"]
    lengths = ["--text.query-length", "10", "--text.passage-length", "10"]
    kind = ["--index.kind", "exact"]
    assert encode.main([*model, *lengths, *kind, "--output", "gs://data/index"]) == 0
    said = capsys.readouterr().out
    assert "gs://data/topics: fetching 4 files" in said
    assert "gs://data/index: 60 vectors of 32, float32" in said
    assert {"index/manifest.json", "index/00000.npy", "index/.commit.json"} <= bucket.objects.keys()
    assert b"cache" not in bucket.objects["index/manifest.json"].lower()  # no place of this machine

    fresh_machine(monkeypatch, tmp_path / "second")
    options = [*model, *lengths, "--index", "gs://data/index", "--depth", "0", "--top-k", "2"]
    assert search.main(["cat purr whisker", *options]) == 0
    assert "purr" in capsys.readouterr().out
    assert (
        encode.main([*model, *lengths, *kind, "--output", "gs://data/index"]) == 0
    )  # no more to do

    assert encode.main([*model, "--output", "s3://data/index"]) == 2
    assert "s3://data/index: of addresses, rocketjax knows gs://" in capsys.readouterr().err
    assert search.main(["--queries", "x", "--output", "gs://data/x", *options]) == 2
    assert "only training, encode and mine write to an address" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_killed_in_an_upload_end_with_the_same_bits(
    bucket, weights, collection, monkeypatch, tmp_path
):
    """By SIGKILL: before an upload, between two, as a commit is written, as files are moved."""
    on_disk = tmp_path / "disk"
    run(settings(weights, collection, on_disk, 4), lambda _: None, unwatched)
    (tmp_path / "config.yaml").write_text(dump(settings(weights, collection, ADDRESS, 4)))
    programs = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    arguments = ["--config", str(tmp_path / "config.yaml")]
    dying = Path(__file__).parent / "dying.py"
    for machine, (where, calls) in enumerate(
        [("Cloud.put", 1), ("Cloud.put", 40), ("Cloud.write", 4), ("Cloud.copy", 45)]
    ):
        fresh_machine(monkeypatch, tmp_path / f"machine{machine}")
        command = [sys.executable, dying, "SIGKILL", f"rocketjax.runtime.cloud:{where}", str(calls)]
        done = subprocess.run([*command, *arguments], env=os.environ | programs, timeout=900)
        assert done.returncode == -signal.SIGKILL
        bucket.remove("runs/some/.lock")  # or the next would watch it for a minute
    fresh_machine(monkeypatch, tmp_path / "last")
    run(settings(weights, collection, ADDRESS, 4), lambda _: None, unwatched)
    wanted, found = (
        results(files_below(on_disk), str(on_disk)),
        results(objects_of(bucket), ADDRESS),
    )
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


def trained_by_two(folder, caches, run_dir, arguments):
    """Trains with two processes of one device each, by their own caches."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    flags = re.sub(r"(device_count)=\d+", r"\1=1", os.environ["XLA_FLAGS"])
    shared = {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    shared |= {"ROCKETJAX_COORDINATOR": f"localhost:{port}", "ROCKETJAX_PROCESSES": "2"}
    command = [sys.executable, "-m", "rocketjax.train", *arguments, "--run-dir", str(run_dir)]
    running = [
        subprocess.Popen(
            command,
            env=os.environ
            | shared
            | {"ROCKETJAX_PROCESS": str(number), "ROCKETJAX_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, cache in enumerate(caches)
    ]
    said = [process.communicate(timeout=900)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    return said


@pytest.mark.slow
def test_two_machines_that_share_no_disk_train_what_two_on_one_disk_train(
    bucket, weights, collection, tmp_path
):
    file = tmp_path / "config.yaml"
    file.write_text(dump(settings(weights, collection, "", 4)))
    on_disk, arguments = tmp_path / "disk", ["--config", str(file)]
    trained_by_two(tmp_path, [tmp_path / "a", tmp_path / "b"], on_disk, arguments)
    caches = [tmp_path / "c", tmp_path / "d"]
    stages = ["--stages", "start", "warm-retriever", "encode", "warm-reranker", "mine"]
    trained_by_two(tmp_path, caches, ADDRESS, [*arguments, *stages])
    caches[0] = tmp_path / "e"  # another process 0 goes on
    said = trained_by_two(tmp_path, caches, ADDRESS, arguments)[0]
    assert f"{ADDRESS}: fetching" in said.replace("\n", "")
    wanted, found = (
        results(files_below(on_disk), str(on_disk)),
        results(objects_of(bucket), ADDRESS),
    )
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    assert not [name for name in bucket.objects if "/.from/" in name or "/.aside/" in name]
