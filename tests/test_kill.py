"""Runs that are killed, again and again, end with the bits of a run that nobody disturbed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_pipeline import config

from rocketjax.config import CheckpointConfig, ListConfig, OptimizerConfig, StageConfig, dump

DYING = Path(__file__).parent / "dying.py"


def environment(cache, devices=2):
    """Compiled programs are kept: a run that goes on need not compile what the first one did."""
    return os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_llvm_disable_expensive_passes=true",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def start(command, env):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(command, env):
    """Exit status and output."""
    process = start(command, env)
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def write_config(path, weights, collection, run_dir, steps=6, every=2, refresh=2, **changes):
    settings = config(
        weights,
        collection,
        run_dir,
        lists=ListConfig(length=4, top_n=30, low=0.6, calibration="sigmoid", refresh=refresh),
        joint=StageConfig(steps, 8, OptimizerConfig(retriever_lr=3e-3, reranker_lr=3e-3)),
        checkpoint=CheckpointConfig(every=every),
        **changes,
    )
    path.write_text(dump(settings))
    return path


def results(folder):
    """All that a run says and leaves, by its bytes; where it lies and how long it took left out."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == "report.json":
            found[name] = json.loads(path.read_text())["rows"]
        elif path.name not in ("config.yaml", "stages.json", "manifest.json", "request.json"):
            found[name] = path.read_bytes()
    kinds = {Path(name).suffix for name in found}
    assert {".safetensors", ".npy", ".jsonl", ".trec", ".tsv"} <= kinds and "log.jsonl" in found
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def done(folder):
    path = folder / "stages.json"
    return set(json.loads(path.read_text())) if path.exists() else set()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def undisturbed(weights, collection, place):
    settings = write_config(place / "whole.yaml", weights, collection, place / "whole")
    status, said = finish(
        ["-m", "rocketjax.train", "--config", settings], environment(place / "cache")
    )
    assert status == 0, said
    return place / "whole"


def test_a_run_killed_in_every_kind_of_stage_ends_with_the_same_bits(
    undisturbed, weights, collection, place
):
    folder = place / "run"
    settings = write_config(place / "run.yaml", weights, collection, folder)
    env = environment(place / "cache")

    def dies(name, where, calls):
        status, said = finish([DYING, name, where, calls, "--config", settings], env)
        assert status == (-signal.SIGKILL if name == "SIGKILL" else 75), said
        return said

    dies("SIGKILL", "rocketjax.corpus:write_shard", 5)  # of the warmed retriever's index
    assert "encode" not in done(folder) and (folder / "warmup/index/00000.npy").exists()

    dies("SIGKILL", "rocketjax.train_log:TrainLog.write", 2)
    assert "encode" in done(folder) and "warm-reranker" not in done(folder)

    # facts.json and sums.json of steps 2 and 3 of the warm-up, of 2 of the joint stage, and 4's.
    dies("SIGKILL", "rocketjax.checkpoint:write_text", 8)
    assert "mine" in done(folder)
    assert (folder / "checkpoints/joint/2/sums.json").exists()
    assert (folder / "checkpoints/joint/4/state").exists()
    assert not (folder / "checkpoints/joint/4/sums.json").exists()

    said = dies("SIGTERM", "rocketjax.train_log:TrainLog.write", 1)
    assert f"{folder / 'checkpoints/joint/4'}: half-written" in said.replace("\n", "")
    assert "joint: goes on from step 2" in said and "the same command goes on" in said
    assert max(int(path.name) for path in (folder / "checkpoints/joint").iterdir()) > 2
    shutil.copytree(folder, place / "fewer")

    dies("SIGKILL", "rocketjax.mining:write_lists", 1)  # a refresh
    assert (folder / "rounds/2/lists").exists() and "joint" not in done(folder)

    status, said = finish(["-m", "rocketjax.train", "--config", settings], env)
    assert status == 0, said
    assert_same(results(folder), results(undisturbed))


def test_on_fewer_devices_it_ends_the_same_but_for_rounding(
    undisturbed, weights, collection, place
):
    """Goes on where the run above was preempted on two devices."""
    folder = place / "fewer"
    settings = write_config(place / "fewer.yaml", weights, collection, folder)
    env = environment(place / "cache-of-one", devices=1)
    status, said = finish(["-m", "rocketjax.train", "--config", settings], env)
    assert status == 0, said
    assert "2 devices until now, 1 from here" in said
    rows, wanted = (
        [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (folder, undisturbed)
    )
    for row, want in zip(rows, wanted, strict=True):
        assert row == pytest.approx(want, rel=1e-3, abs=1e-5)
    for name in ("retriever", "reranker"):
        for tensors in (folder / name).rglob("model.safetensors"):
            want = load_file(undisturbed / tensors.relative_to(folder))
            for key, value in load_file(tensors).items():
                np.testing.assert_allclose(value, want[key], atol=1e-4, err_msg=key)
