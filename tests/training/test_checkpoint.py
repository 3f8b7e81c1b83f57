"""Train states come back exactly, the last good one first, and no damaged one ever."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import list_batch, models, packed

from rocketjax.config.loss import LossConfig
from rocketjax.config.schema import OptimizerConfig
from rocketjax.runtime.devices import data_parallel, replicate
from rocketjax.runtime.errors import InputError
from rocketjax.training.checkpoint import Checkpoints, half_written
from rocketjax.training.optimizer import make_optimizer
from rocketjax.training.step import init_state, reranker_objective, train_step


def training():
    """A train step and its first state, of the re-ranker alone, with dropout on."""
    _, reranker, params = models(dropout=0.1)
    optimizer = make_optimizer(OptimizerConfig(reranker_lr=1e-2), 10)

    def step(state, batch):
        return train_step(
            state,
            batch,
            objective=reranker_objective(reranker, LossConfig()),
            optimizer=optimizer,
        )

    own = {"reranker": params["reranker"]}
    return data_parallel(step), replicate(init_state(own, optimizer, 1))


def small_state():
    """As of training, but of a model of one matrix."""
    params = {"reranker": {"kernel": jnp.arange(6.0).reshape(2, 3)}}
    return replicate(init_state(params, make_optimizer(OptimizerConfig(), 10), 1))


def equal(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def step_folders(folder):
    return sorted(path.name for path in folder.iterdir())


def open_(folder, said=None, keep=2):
    return Checkpoints(folder, keep, (lambda _: None) if said is None else said.append)


def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path):
    step, state = training()
    fresh = jax.tree.map(jnp.copy, state)
    batches = [packed(list_batch(seed), devices=2) for seed in range(6)]
    with open_(tmp_path) as saved:
        assert saved.latest() is None and saved.best() is None
        for number, batch in enumerate(batches, 1):
            state, _ = step(state, batch)
            if number == 3:
                saved.save(number, state, {"loss": 0.5})  # the next step takes this state's memory
    said = []
    with open_(tmp_path, said) as saved:
        assert saved.latest() == 3 and saved.facts(3) == {"loss": 0.5} and not said
        resumed = saved.restore(3, fresh)
    assert int(resumed.step) == 3
    for batch in batches[3:]:
        resumed, _ = step(resumed, batch)
    assert equal(resumed, state) and not equal(fresh, state)


def test_the_last_and_the_best_are_kept(tmp_path):
    state = small_state()
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5, 5: None, 6: 1.7}
    with open_(tmp_path) as saved:
        for number, loss in losses.items():
            saved.save(number, state.replace(step=jnp.int32(number)), {"loss": loss})
            saved.save(number, state.replace(step=jnp.int32(99)), {"loss": 0.0})  # it is there
    assert step_folders(tmp_path) == ["2", "5", "6"]
    with open_(tmp_path, keep=1) as saved:
        assert (saved.latest(), saved.best()) == (6, 2)
        assert [int(saved.restore(step, state).step) for step in (6, 2)] == [6, 2]
        saved.save(7, state, {"loss": 1.0})  # as good, and later
    assert step_folders(tmp_path) == ["7"]


def test_a_commit_comes_once_a_checkpoint_is_whole_and_a_half_written_one_is_known(tmp_path):
    state, folder = small_state(), tmp_path / "checkpoints" / "joint"
    seen = []

    def commit():
        paths = sorted(folder.iterdir())
        seen.append([(path.name, half_written(path)) for path in paths])

    with Checkpoints(folder, 2, lambda _: None, commit) as saved:
        saved.save(1, state, {})
        saved.save(2, state, {})
    assert seen == [[("1", False)], [("1", False), ("2", False)]]
    (folder / "2" / "sums.json").unlink()
    assert half_written(folder / "2") and not half_written(folder)


def test_what_a_commit_refuses_is_passed_on_as_it_is(tmp_path):
    def commit():
        raise InputError("another process has taken over")

    with (
        pytest.raises(InputError, match=r"^another process has taken over$"),
        Checkpoints(tmp_path, 2, lambda _: None, commit) as saved,
    ):
        saved.save(1, small_state(), {})


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damages(checkpoint):
    """Every way to spoil each file that tells or holds anything."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    for path in files:
        for spoil in (truncated, flipped, type(path).unlink):
            yield path.relative_to(checkpoint), spoil


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    state = small_state()
    with open_(tmp_path / "whole") as saved:
        for number in (1, 2):
            saved.save(number, state.replace(step=jnp.int32(number)), {"loss": 1.0})
    cases = list(damages(tmp_path / "whole" / "2"))
    assert len(cases) > 20
    for name, spoil in cases:
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "c")
        spoil(tmp_path / "c" / "2" / name)
        said = []
        with open_(tmp_path / "c", said) as saved:
            assert saved.latest() == 1, name
            if spoil is truncated:
                assert int(saved.restore(1, state).step) == 1
        assert len(said) == 1 and str(tmp_path / "c" / "2") in said[0]
        if name.name == "sums.json":
            told = said[0].replace(str(tmp_path), "")
            assert any(word in told for word in ("half-written", "damaged", "not readable"))
        else:
            assert f"damaged: {name}" in said[0]
        assert step_folders(tmp_path / "c") == ["1"]


def test_without_a_good_checkpoint_there_is_none(tmp_path):
    state = small_state()
    with open_(tmp_path) as saved:
        saved.save(1, state, {"loss": 1.0})
    (tmp_path / "1" / "sums.json").unlink()
    (tmp_path / "2" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    said = []
    with open_(tmp_path, said) as saved:
        assert saved.latest() is None
        saved.save(1, state, {"loss": 1.0})  # and the place is free again
    assert [line.split(": ")[1].split(";")[0] for line in said] == ["half-written"] * 2
    assert step_folders(tmp_path) == ["1"]


def test_a_checkpoint_that_cannot_be_written_is_bad_input_and_the_last_stays(tmp_path, monkeypatch):
    state = small_state()

    def full(path, text):
        raise OSError(28, "No space left on device")

    with open_(tmp_path) as saved:
        saved.save(1, state, {"loss": 1.0})
        saved.wait()
        monkeypatch.setattr("rocketjax.training.checkpoint.write_json", full)
        saved.save(2, state, {"loss": 1.0})
        with pytest.raises(InputError, match=r"cannot be written: .*No space left"):
            saved.wait()
        assert saved.latest() == 1
