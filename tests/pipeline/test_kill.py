"""Runs that are killed, again and again, end with the bits of a run that nobody disturbed."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from on_disk import make_weights
from safetensors.numpy import load_file
from small_run import config

from rocketjax.config.options import dump
from rocketjax.config.schema import (
    CheckpointConfig,
    IndexConfig,
    ListConfig,
    OptimizerConfig,
    RetrieverConfig,
    StageConfig,
)
from rocketjax.pipeline.stages import STAGES

DYING = Path(__file__).parent / "dying.py"


def environment(cache, devices=2):
    """Compiled programs are kept: a run that goes on need not compile what the first one did."""
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    return os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(cache)}


def start(command, cwd, env):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(command, cwd, env):
    """Exit status and output."""
    process = start(command, cwd, env)
    try:
        said, _ = process.communicate(timeout=900)
        return process.returncode, said
    finally:
        process.kill()


def home(place, name, weights, collection, refresh=2, every=2, **stages):
    """A folder to run in, with its config; runs go to its subfolder run: nothing else differs."""
    settings = config(
        weights,
        collection,
        "run",
        retriever=RetrieverConfig(str(weights)),  # with shared towers: fewer programs
        lists=ListConfig(
            length=4, top_n=30, easy=0.5, low=0.6, calibration="sigmoid", refresh=refresh
        ),
        checkpoint=CheckpointConfig(every=every),
        **stages,
    )
    (place / name).mkdir()
    (place / name / "config.yaml").write_text(dump(settings))
    return place / name


TRAIN = ("-m", "rocketjax.train", "--config", "config.yaml")


# What holds times; the bits of all else are the same.
CLOCKS = ("stages.json", "timing.jsonl", "report.html", "tensorboard/")


def results(folder):
    """Every file of a run by its bytes; how long it took left out."""
    found = {
        name: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not (name := path.relative_to(folder).as_posix()).startswith(CLOCKS)
    }
    kinds = {Path(name).suffix for name in found}
    assert {".safetensors", ".npy", ".jsonl", ".trec", ".tsv"} <= kinds
    assert {"log.jsonl", "judged.jsonl", "scores/0.json", "report.json"} <= {*found}
    assert {"lists/lists.jsonl", "rounds/2/lists/lists.jsonl"} <= {*found}
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def done(folder):
    path = folder / "stages.json"
    return set(json.loads(path.read_text())) if path.exists() else set()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"), layers=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def undisturbed(weights, collection, place):
    folder = home(place, "whole", weights, collection)
    status, said = finish(TRAIN, folder, environment(place / "cache"))
    assert status == 0, said
    return folder / "run"


def dies(cwd, env, name, where, calls):
    """A run that signals itself; what it said."""
    status, said = finish([DYING, name, where, calls, *TRAIN[2:]], cwd, env)
    assert status == (-signal.SIGKILL if name == "SIGKILL" else 75), said
    return said.replace("\n", "")


def dies_in_a_save(cwd, env):
    """In the joint stage, half-way through the checkpoint of step 4."""
    joint = cwd / "run" / "checkpoints" / "joint"
    # facts.json and sums.json of steps 2 and 3 of the warm-up, of 2 of the joint stage, and 4's.
    dies(cwd, env, "SIGKILL", "rocketjax.training.checkpoint:write_json", 8)
    assert "mine" in done(cwd / "run") and (joint / "2/sums.json").exists()
    assert (joint / "4/state").exists() and not (joint / "4/sums.json").exists()
    return joint


def test_a_run_killed_in_every_kind_of_work_ends_with_the_same_bits(
    undisturbed, weights, collection, place
):
    """While it encodes, trains (in the middle of a save) and mines."""
    cwd = home(place, "killed", weights, collection)
    run, env = cwd / "run", environment(place / "cache")
    dies(
        cwd, env, "SIGKILL", "rocketjax.retrieval.encode:write_shard", 5
    )  # of the warmed retriever's index
    assert "encode" not in done(run) and (run / "warmup/index/00000.npy").exists()

    joint = dies_in_a_save(cwd, env)

    said = dies(cwd, env, "SIGKILL", "rocketjax.mining.mine:new_lists", 1)  # a refresh
    assert f"{joint / '4'}: half-written" in said and "joint: resumes at step 2" in said
    assert (run / "rounds/2/lists").exists() and "joint" not in done(run)

    status, said = finish(TRAIN, cwd, env)
    assert status == 0, said
    assert_same(results(run), results(undisturbed))


@pytest.mark.slow
def test_a_run_that_is_stopped_and_killed_in_other_stages_ends_with_the_same_bits(
    undisturbed, weights, collection, place
):
    """In the re-ranker's warm-up, in a save, and by a SIGTERM, which lets it save first.

    Then on as many devices, and on fewer: the same but for rounding.
    """
    cwd = home(place, "stopped", weights, collection)
    run, env = cwd / "run", environment(place / "cache")
    # A step is written to two files: after the retriever's two, in the re-ranker's second.
    dies(cwd, env, "SIGKILL", "rocketjax.training.journal:TrainLog.write", 7)
    assert "encode" in done(run) and "warm-reranker" not in done(run)

    joint = dies_in_a_save(cwd, env)

    said = dies(cwd, env, "SIGTERM", "rocketjax.training.journal:TrainLog.write", 1)
    assert f"{joint / '4'}: half-written" in said and "joint: resumes at step 2" in said
    assert "stopped by SIGTERM; the same command resumes" in said
    assert max(int(path.name) for path in joint.iterdir()) > 2
    fewer = shutil.copytree(cwd, place / "fewer")

    status, said = finish(TRAIN, cwd, env)
    assert status == 0, said
    assert_same(results(run), results(undisturbed))

    run = fewer / "run"
    status, said = finish(TRAIN, fewer, environment(place / "cache-of-one", devices=1))
    assert status == 0, said
    assert "2 devices until now, 1 from here" in said
    rows, wanted = (
        [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (run, undisturbed)
    )
    # Rounding may turn a rank around where lists are mined again; others are trained from there on.
    lists = "rounds/2/lists/lists.jsonl"
    mined_alike = (run / lists).read_bytes() == (undisturbed / lists).read_bytes()
    for row, want in zip(rows, wanted, strict=True):
        assert row.pop("stage") == want["stage"]
        if want.pop("stage") != "joint" or want["step"] < 4 or mined_alike:
            assert row == pytest.approx(want, rel=1e-3, abs=1e-5)
    if not mined_alike:
        return
    for path in undisturbed.glob("re*/**/model.safetensors"):
        want, found = load_file(path), load_file(run / path.relative_to(undisturbed))
        for key, value in found.items():
            if key.endswith("attention.self.key.bias"):
                continue  # softmax does not see it: its gradient is rounding, which Adam scales up
            # A tenth of what one step moves a parameter, six of which follow each other.
            np.testing.assert_allclose(value, want[key], atol=3e-4, err_msg=key)


def half_written(run, since):
    """Checkpoints that are being written, or were when a kill came; of a time on."""
    return [
        path
        for path in run.glob("checkpoints/*/[0-9]*")
        if not (path / "sums.json").exists() and path.stat().st_mtime > since
    ]


def refreshing(run, since):
    """What a refresh wrote, of a time on, before its lists are there."""
    return [
        path
        for folder in run.glob("rounds/*")
        if not (folder / "lists/lists.jsonl").exists()
        for path in folder.rglob("*")
        if path.stat().st_mtime > since
    ]


def steps_logged(run, stage):
    path = run / "log.jsonl"
    return path.read_text().count(f'"stage": "{stage}"') if path.exists() else 0


def moments(run, since):
    """What a run was at when it was killed: its stage, and what went on in it."""
    found = {next(step.name for step in STAGES if step.name not in done(run))}
    found |= {"save"} if half_written(run, since) else set()
    return found | ({"refresh"} if refreshing(run, since) else set())


def logged(stage, count):
    return lambda run, since: steps_logged(run, stage) >= count


def written(pattern, count):
    return lambda run, since: len(list(run.glob(pattern))) >= count


# When to kill, twenty times.
MOMENTS = [
    written("start/index/*.npy", 3),
    *(logged("warm-retriever", count) for count in (2, 6, 11)),
    half_written,
    *(written("warmup/index/*.npy", count) for count in (1, 4)),
    *(logged("warm-reranker", count) for count in (1, 7)),
    half_written,
    written("lists/request.json", 1),
    logged("joint", 3),
    half_written,
    logged("joint", 9),
    refreshing,
    refreshing,
    logged("joint", 13),
    half_written,
    refreshing,
    logged("joint", 25),
]


def seen(now, run, since):
    """Whether a moment has come; files may go while it looks."""
    try:
        return bool(now(run, since))
    except FileNotFoundError:
        return False


@pytest.mark.soak
def test_twenty_kills_at_random_moments_change_no_bit(weights, collection, tmp_path):
    rates = OptimizerConfig(retriever_lr=3e-3, reranker_lr=3e-3)
    stages = {
        "retriever_warmup": StageConfig(16, 8, rates),
        "reranker_warmup": StageConfig(12, 8, rates),
        "joint": StageConfig(30, 8, rates),
        "index": IndexConfig(shard=7),
        "refresh": 10,
    }
    env, rng = environment(tmp_path / "cache"), random.Random(0)
    whole = home(tmp_path, "whole", weights, collection, **stages)
    status, said = finish(TRAIN, whole, env)
    assert status == 0, said
    cwd = home(tmp_path, "killed", weights, collection, **stages)
    run, hit = cwd / "run", Counter()
    for now in MOMENTS:
        since = time.time()
        process = start(TRAIN, cwd, env)
        while process.poll() is None and not seen(now, run, since):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, said
        hit.update(moments(run, since))
    print(hit)
    kinds = {"warm-retriever", "encode", "warm-reranker", "mine", "joint", "refresh", "save"}
    assert kinds <= hit.keys()
    status, said = finish(TRAIN, cwd, env)
    assert status == 0, said
    assert_same(results(run), results(whole / "run"))
