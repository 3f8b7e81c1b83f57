"""Every shipped config is read, names its own command, and fits shapes that can be trained."""

from functools import partial
from pathlib import Path

import jax
import pytest
from tiny import shapes_of

from rocketjax.bench.recipes import encoder_of
from rocketjax.config.loss import resolve_loss
from rocketjax.config.options import load
from rocketjax.config.schema import Config
from rocketjax.inference.start import make_compute
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.heads import has_own_pooler
from rocketjax.runtime.devices import check_divisible, data_parallel
from rocketjax.training.optimizer import make_optimizer
from rocketjax.training.step import init_state, joint_objective, train_step

HOME = Path(__file__).parents[2]
CONFIGS = sorted((HOME / "configs").rglob("*.yaml"))


def test_the_demo_is_the_default():
    assert load(HOME / "configs" / "demo.yaml") == Config()


def read(path):
    """As the command in its first line does: an arm of the ablation upon the ablation's base."""
    base = path.with_name("ablation.yaml")
    return load(path, load(base) if path.name.startswith("ablation_") else None)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(HOME)))
def test_first_lines_hold_the_command(path):
    folder = path.parent.relative_to(HOME)
    base = f"--config {folder}/ablation.yaml " if path.name.startswith("ablation_") else ""
    read(path)
    command = f"python -m rocketjax.train {base}--config {folder}/{path.name}"
    assert path.read_text().startswith(f"# {command}")


TRAINED = [path for path in CONFIGS if "ablation_" not in path.name]
# Shared and separate towers, no dropout and some, a list's negatives and the whole batch's: the
# others repeat one of these in other sizes.
KINDS = ("demo.yaml", "msmarco.yaml", "msmarco_modern.yaml", "squad.yaml")


def by_kind(path):
    name = str(path.relative_to(HOME))
    first = path.name in KINDS and path.parent.name == "configs"
    return pytest.param(path, id=name, marks=() if first else pytest.mark.slow)


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: str(path.relative_to(HOME)))
def test_eight_devices_can_share_its_batches(path):
    config = read(path)
    for stage in (config.retriever_warmup, config.reranker_warmup, config.joint):
        check_divisible(stage.batch, 8, "batch")


@pytest.mark.parametrize("path", [by_kind(path) for path in TRAINED])
def test_a_joint_step_of_its_shapes_traces(path):
    """Through the real step on all devices, by shapes alone: nothing is computed."""
    config = read(path)
    compute = make_compute(config.compute, config.retriever.dropout)
    shared = config.retriever.towers == "shared"
    encoder = encoder_of(config.retriever.weights)
    retriever = BiEncoder(encoder, compute, shared)
    encoder = encoder_of(config.reranker.weights)
    reranker = CrossEncoder(encoder, compute, has_own_pooler(encoder))
    batch = shapes_of(config, jax.device_count())
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch.query)
    params = {
        "retriever": jax.eval_shape(retriever.init, jax.random.key(0), one, one)["params"],
        "reranker": jax.eval_shape(reranker.init, jax.random.key(0), one)["params"],
    }
    loss = resolve_loss(config.loss)
    optimizer = make_optimizer(config.joint.optimizer, config.joint.steps)
    step = partial(
        train_step,
        objective=joint_objective(retriever, reranker, loss),
        optimizer=optimizer,
    )
    state = jax.eval_shape(lambda p: init_state(p, optimizer, config.seed), params)
    after, metrics = jax.eval_shape(data_parallel(step, backend="shard_map"), state, batch)
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert metrics["loss"].shape == ()
