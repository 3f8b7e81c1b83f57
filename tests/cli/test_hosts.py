"""Two processes of two simulated devices each, beside one of four: the same run."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rocketjax.cli import hosts
from rocketjax.config.loss import LossConfig
from rocketjax.config.options import dump
from rocketjax.config.schema import (
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    HostsConfig,
    IndexConfig,
    ListConfig,
    OptimizerConfig,
    RerankerConfig,
    RetrieverConfig,
    StageConfig,
    TextConfig,
)
from rocketjax.data.lists import TrainingList, read_lists
from rocketjax.data.load import load_collection
from rocketjax.inference.folder import save_reranker
from rocketjax.inference.start import pretrained_retriever
from rocketjax.retrieval.encode import encode_corpus
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.runtime import processes as distributed
from rocketjax.runtime.devices import AXIS, data_parallel, own_rows, replicate
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched
from rocketjax.training.checkpoint import Checkpoints
from rocketjax.training.loader import list_batches
from rocketjax.training.optimizer import make_optimizer
from rocketjax.training.step import init_state

TEXT = TextConfig(query_length=10, passage_length=10, pair_length=18)


def run(*args, devices=2, places=({},)):
    """Starts a process for each of the environments."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    flags += f" --xla_force_host_platform_device_count={devices}"
    program = str(Path(__file__).with_name("together.py"))
    return [
        subprocess.Popen(
            [sys.executable, program, *map(str, args), *place.get("args", ())],
            env=os.environ | {"XLA_FLAGS": flags} | place.get("env", {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]


def by_environment(count=2):
    names = {"COORDINATOR": f"localhost:{free_port()}", "PROCESSES": str(count)}
    told = {f"ROCKETJAX_{name}": value for name, value in names.items()}
    return [{"env": told | {"ROCKETJAX_PROCESS": str(i)}} for i in range(count)]


def by_options(count=2, timeout=300):
    """`timeout`: on a busy machine even a healthy process may not be heard of for a while."""
    options = ["--hosts.coordinator", f"localhost:{free_port()}", "--hosts.timeout", str(timeout)]
    options += ["--hosts.processes", str(count), "--hosts.process"]
    return [{"args": [*options, str(i)]} for i in range(count)]


def free_port():
    with socket.socket() as some:
        some.bind(("localhost", 0))
        return some.getsockname()[1]


def ended(processes, seconds=900):
    """Exit status, output and errors of each; none outlives the test."""
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=seconds)
            results.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return results


def well(results):
    assert [status for status, _, _ in results] == [0] * len(results), results
    return results


# The whole pipeline


@pytest.fixture(scope="module")
def options(weights, collection, tmp_path_factory):
    """A file of options, for runs whose folders are given apart."""
    from on_disk import untrained_pair  # not above: together.py, which imports this, lacks it

    # eps: else Adam makes whole steps of gradients that are nothing but rounding.
    optimizer = OptimizerConfig(retriever_lr=2e-3, reranker_lr=2e-3, eps=1e-4)
    teacher = tmp_path_factory.mktemp("models") / "teacher"
    save_reranker(teacher, untrained_pair(weights, TEXT).reranker)
    config = Config(
        data=DataConfig(str(collection), max_eval_queries=15),
        text=TEXT,
        retriever=RetrieverConfig(str(weights)),
        reranker=RerankerConfig(str(weights)),
        lists=ListConfig(
            **{"length": 4, "top_n": 20, "low": 0.6, "calibration": "sigmoid", "refresh": 2},
            # Rules by scores, and scores that teach beside the re-ranker.
            **{"teacher": str(teacher), "range_min": 1, "relative_margin": 0.01},
            sampling="simans",
        ),
        index=IndexConfig("exact", shard=16),
        retriever_warmup=StageConfig(2, 8, optimizer=optimizer),
        reranker_warmup=StageConfig(2, 8, optimizer=optimizer),
        joint=StageConfig(4, 8, optimizer=optimizer),
        loss=LossConfig(teacher="both"),
        evaluate=EvaluateConfig(20, 10),
        checkpoint=CheckpointConfig(every=1),
    )
    path = tmp_path_factory.mktemp("options") / "config.yaml"
    path.write_text(dump(config))
    return path


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """What one process compiled, a later one with the same devices reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("programs")))
        yield


@pytest.fixture(scope="module")
def both(options, weights, collection, tmp_path_factory):
    """Folders of the same work: of one process, and of two; they run side by side."""
    folder = tmp_path_factory.mktemp("both")
    other = shutil.copytree(weights, folder / "other")
    first = load_file(other / "model.safetensors")
    name = next(iter(first))
    save_file(first | {name: first[name] + 1}, other / "model.safetensors")
    given = (options, weights, other, collection)
    started = run("whole", folder / "one", *given, devices=4)
    started += run("whole", folder / "two", *given, places=by_environment())
    results = well(ended(started))
    assert "held-out queries" in results[0][1] and "held-out queries" in results[1][1]
    assert results[2][1] == ""  # process 0 talks
    return folder / "one", folder / "two"


@pytest.fixture(scope="module")
def one(both):
    return both[0]


@pytest.fixture(scope="module")
def two(both):
    return both[1]


def written(folder):
    """What a run leaves behind, by its bytes; times and places left out."""
    paths = [p for p in folder.rglob("*") if p.suffix in (".jsonl", ".npy", ".trec", ".tsv")]
    paths += folder.rglob("model.safetensors")
    assert len(paths) > 10
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.name != "timing.jsonl"
    }


def tensors(folder):
    paths = sorted(folder.rglob("model.safetensors"))
    return {
        f"{path.relative_to(folder)}/{name}": value
        for path in paths
        for name, value in load_file(path).items()
    }


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def plain(item):
    return dataclasses.replace(item, scores=())


def test_two_processes_train_what_one_trains(one, two):
    one, two = one / "run", two / "run"
    alone, together = log(one), log(two)
    assert [(row["stage"], row["step"]) for row in alone] == [
        (row["stage"], row["step"]) for row in together
    ]
    assert len(alone) == 2 + 2 + 4
    for row, same in zip(alone, together, strict=True):
        numbers = {name: value for name, value in row.items() if name != "stage"}
        for name, value in numbers.items():
            assert same[name] == pytest.approx(value, rel=1e-3, abs=1e-5), (row["step"], name)
        assert row["gradient_norm"] > 0
    mine, theirs = tensors(one), tensors(two)
    assert len(mine) > 100 and mine.keys() == theirs.keys()
    for name, value in mine.items():
        largest = max(np.abs(value).max(), 1e-2)
        np.testing.assert_allclose(theirs[name], value, atol=1e-3 * largest, err_msg=name)
    names = ("lists", "warmup/lists", "rounds/1/lists")
    for name in names:  # scores are rounded before they decide
        lists, same = (read_lists(folder / name / "lists.jsonl") for folder in (one, two))
        assert [plain(item) for item in lists] == [plain(item) for item in same]
        for item, other in zip(lists, same, strict=True):
            assert item.is_scored is not name.startswith("warmup")
            assert other.scores == pytest.approx(item.scores, rel=1e-4, abs=1e-5)
    assert written(one).keys() == written(two).keys()


def test_two_processes_mine_what_one_mines(one, two):
    alone, lists = ((folder / "mined" / "lists.jsonl").read_bytes() for folder in (one, two))
    assert lists == alone and lists.count(b"denoised") > 12


def test_a_process_that_is_killed_ends_the_other_and_the_run_goes_on(options, two, tmp_path):
    folder = tmp_path / "run"
    train = ("--config", options, "--run-dir", folder)
    survivor, victim = processes = run("train", 2, *train, places=by_options(timeout=20))
    try:
        assert victim.wait(600) == -9
        died = time.monotonic()
        _, err = survivor.communicate(timeout=100)
        assert time.monotonic() - died < 60
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert survivor.returncode == 134  # as a shell says of an abort
    # The last line, unless jax's own farewell of the same loss comes later.
    assert re.search(
        r"^error: process 1 of 2 \(\S+\) died, or cannot be reached; the same", err, re.M
    )
    assert log(folder)[-1]["stage"] == "joint" and len(log(folder)) < 8
    said = well(ended(run("train", -1, *train, places=by_options())))
    assert "joint: resumes at step" in said[0][1]
    assert written(folder) == written(two / "run")


# Its parts


def stepped(backend, devices):
    """An epoch of three batches of eight lists through a step that tells what it was dealt."""
    lists = [TrainingList(str(i), "p", ()) for i in range(24)]

    def collate(some):
        return {"id": np.array([int(item.query) for item in some], np.int32)}

    def step(state, batch):
        everyones = jax.lax.all_gather(batch["id"], AXIS, tiled=True)
        noise = jnp.sin(batch["id"].astype(jnp.float32) + state["sum"])
        total = jax.lax.psum(noise.sum(), AXIS)
        return {"sum": state["sum"] + total}, {"ids": everyones, "loss": total}

    program = data_parallel(step, devices, backend)
    local = [device for device in devices if device.process_index == jax.process_index()]
    state, own, ids, losses = replicate({"sum": jnp.zeros(())}, local), [], [], []
    for _, batch in zip(range(3), list_batches(lists, collate, 8, seed=1), strict=False):
        own.append(own_rows(batch, devices)["id"])
        state, metrics = program(state, batch)
        ids.append(np.asarray(metrics["ids"]))
        losses.append(float(metrics["loss"]))
    values = {"own": own, "ids": ids, "losses": losses, "sum": state["sum"]}
    return {f"{backend} {name}": np.asarray(value) for name, value in values.items()}


def encoded(weights, collection, folder):
    retriever = pretrained_retriever(RetrieverConfig(str(weights)), TEXT, ComputeConfig(batch=4))
    config = IndexConfig(shard=16)
    loaded = load_collection(str(collection))
    return encode_corpus(retriever, "tiny", loaded, config, folder, unwatched)


def searched(vectors, weights):
    """What exact search finds, over all devices, the corpus at rest or streamed through them."""
    found = {"vectors": vectors.rows(0, len(vectors))}
    queries = found["vectors"][::7] + 0.01
    for name, memory in (("resident", None), ("streamed", 1)):
        rows, scores = ExactIndex(vectors, memory=memory).rows(queries, 9)
        found |= {f"{name} rows": rows, f"{name} scores": scores}
    return found


def test_the_parts_are_those_of_one_process(one, two):
    one = np.load(one / "0.npz")
    two = [np.load(two / f"{i}.npz") for i in range(2)]
    for backend in ("pmap", "shard_map"):
        order = one[f"{backend} ids"]
        assert sorted(order.reshape(-1)) == list(range(24))  # each example once an epoch
        dealt = [part[f"{backend} own"] for part in two]
        np.testing.assert_array_equal(np.concatenate(dealt, axis=1), order)
        for part in two:
            np.testing.assert_array_equal(part[f"{backend} ids"], order)
            for name in ("losses", "sum"):
                key = f"{backend} {name}"
                np.testing.assert_allclose(part[key], one[key], rtol=1e-5)
    found = [name for name in one if not name.startswith(("pmap", "shard_map"))]
    assert len(found) == 5
    for part in two:
        for name in found:
            np.testing.assert_array_equal(part[name], one[name], err_msg=name)


def test_what_is_not_the_same_everywhere_is_refused_by_all(two):
    """Weights too: at one and the same path they may differ, and would be trained apart."""
    for i in range(2):
        said = json.loads((two / f"{i}.json").read_text())
        assert said["folder"].startswith(str(two / "0")) == (i == 0)
        assert "process 1" in said["folder"]
        assert "does not see what process 0" in said["folder"]
        assert "has b: 1, but process 0" in said["options"]
        assert "the weights of retriever.weights: process 1" in said["weights"]


# What goes wrong


def all_there(what, ready, *args):
    """Two processes, once they have met: on a busy machine it takes them long to start."""
    processes = run(what, ready, *args, places=by_environment())
    end, gone = time.monotonic() + 300, False
    while not ready.exists():
        assert not gone and time.monotonic() < end, ended(processes, 100)
        gone = any(process.poll() is not None for process in processes)
        time.sleep(0.1)
    return processes


# The second of each is slow: of process 1 the run that goes on tells the same.
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_death_is_named_whoever_dies(tmp_path, victim):
    processes = all_there("idle", tmp_path / "ready")
    processes[victim].kill()
    died = time.monotonic()
    _, err = processes[1 - victim].communicate(timeout=100)
    assert time.monotonic() - died < 60
    status = processes[1 - victim].returncode
    ended(processes)
    if victim == 0:  # jax's coordination service dies with it: jax aborts, in its own words
        assert status == (-6 if jax.__version_info__ >= (0, 10) else 1)
        assert "another task died" in err and "leader task" in err
        return
    last = err.strip().splitlines()[-1]
    assert status == 134
    assert last.startswith(f"error: process {victim}") and "the same command" in last


@pytest.mark.parametrize("who", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_of_one_process_ends_all_at_once(tmp_path, who):
    processes = all_there("fails", tmp_path / "ready", who)
    results = ended(processes, 50)  # sooner than one that is silent counts as dead
    assert [status for status, _, _ in results] == [2, 2]
    assert results[who][2].strip().splitlines()[-1] == "error: the disk is full"
    told = results[1 - who][2].strip().splitlines()[-1]
    assert re.fullmatch(
        rf"error: process {who} of 2 \(\S+\) stopped: error: the disk is full", told
    )


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_signal_to_one_stops_all_at_one_step(tmp_path, name):
    """And none goes before that step is saved: who leaves ends the others, and 0 alone saves."""
    results = ended(run("stop", tmp_path, name, places=by_environment()))
    known = {75} if name == "SIGTERM" else {75, 130}
    assert {status for status, _, _ in results} <= known, results
    steps = [json.loads((tmp_path / str(i)).read_text()) for i in range(2)]
    assert steps[0] == steps[1] > 20
    with Checkpoints(tmp_path / "saved", 2, print) as saved:
        assert saved.latest() == steps[0]


def state_of(values):
    return replicate(init_state({"retriever": values}, make_optimizer(OptimizerConfig(), 10), 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (HostsConfig("nowhere"), "give HOST:PORT, or auto"),
        (HostsConfig("host:1"), r"hosts.process is not given, hosts.processes 0; .* from 0 to N"),
        (HostsConfig("host:1", 2, 2), "hosts.process is 2, hosts.processes 2"),
        (HostsConfig(processes=2), "go with hosts.coordinator HOST:PORT"),
        (HostsConfig("auto", 2, 0), "go with hosts.coordinator HOST:PORT"),
    ],
)
def test_options_that_do_not_fit_are_named(given, message):
    with pytest.raises(InputError, match=message):
        hosts.resolve_hosts(given)


@pytest.mark.parametrize("coordinator", ["taken", "auto"])
def test_an_address_that_cannot_be_had_is_named(tmp_path, coordinator):
    with socket.create_server(("localhost", 0)) as taken:
        env = {"ROCKETJAX_COORDINATOR": "auto"}
        if coordinator == "taken":
            env = {"ROCKETJAX_COORDINATOR": f"localhost:{taken.getsockname()[1]}"}
            env |= {"ROCKETJAX_PROCESSES": "2", "ROCKETJAX_PROCESS": "0"}
        [(status, _, said)] = ended(run("idle", tmp_path / "ready", places=[{"env": env}]), 60)
    assert status == 2 and not (tmp_path / "ready").exists()
    known = {"taken": "process 0 cannot listen at localhost:", "auto": "jax knows no cluster here"}
    assert known[coordinator] in said.strip().splitlines()[-1]


def test_processes_that_were_not_joined_are_told(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="2 processes share these devices, but were not joined"):
        distributed.allgather(1)


def test_the_environment_fills_in_what_options_leave_open(monkeypatch):
    assert hosts.resolve_hosts(HostsConfig()) == HostsConfig()
    monkeypatch.setenv("ROCKETJAX_COORDINATOR", "host:1")
    monkeypatch.setenv("ROCKETJAX_PROCESSES", "4")
    monkeypatch.setenv("ROCKETJAX_PROCESS", "3")
    assert hosts.resolve_hosts(HostsConfig()) == HostsConfig("host:1", 4, 3)
    given = HostsConfig("other:2", process=0, timeout=20)
    assert hosts.resolve_hosts(given) == dataclasses.replace(given, processes=4)
    monkeypatch.setenv("ROCKETJAX_PROCESS", "three")
    with pytest.raises(InputError, match="ROCKETJAX_PROCESS: invalid literal"):
        hosts.resolve_hosts(HostsConfig())
