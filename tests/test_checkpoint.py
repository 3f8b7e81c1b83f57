"""Train states come back exactly, the latest first, whatever the step did to its memory since."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny import list_batch, models

from rocketjax.checkpoint import Checkpoints
from rocketjax.config import LossConfig, OptimizerConfig
from rocketjax.losses import joint_weights
from rocketjax.optim import make_optimizer
from rocketjax.parallel import data_parallel, replicate
from rocketjax.state import init_state
from rocketjax.steps import joint_terms_of, train_step


def training():
    retriever, reranker, params = models(dropout=0.1)
    optimizer = make_optimizer(OptimizerConfig(retriever_lr=1e-2, reranker_lr=1e-2), 10)
    loss = LossConfig()

    def step(state, batch):
        return train_step(
            state,
            batch,
            terms_of=joint_terms_of(retriever, reranker, loss),
            weights=joint_weights(loss),
            optimizer=optimizer,
        )

    return data_parallel(step), replicate(init_state(params, optimizer, 1))


def equal(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path):
    step, state = training()
    fresh = jax.tree.map(jnp.copy, state)
    batches = [list_batch(seed) for seed in range(6)]
    with Checkpoints(tmp_path / "c", keep=2) as saved:
        assert saved.restore(fresh) is None
        for number, batch in enumerate(batches, 1):
            state, _ = step(state, batch)
            if number == 3:
                saved.save(number, state)  # the next step takes this state's memory back
    with Checkpoints(tmp_path / "c", keep=2) as saved:
        resumed = saved.restore(fresh)
    assert int(resumed.step) == 3
    for batch in batches[3:]:
        resumed, _ = step(resumed, batch)
    assert equal(resumed, state) and not equal(fresh, state)


def test_the_latest_is_restored_and_few_are_kept(tmp_path):
    _, state = training()
    with Checkpoints(tmp_path / "c", keep=2) as saved:
        for number in (1, 2, 3):
            saved.save(number, state.replace(step=jnp.int32(number)))
            saved.save(number, state.replace(step=jnp.int32(number)))  # again: nothing to do
    assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.is_dir()) == ["2", "3"]
    with Checkpoints(tmp_path / "c", keep=2) as saved:
        assert int(saved.restore(state).step) == 3
