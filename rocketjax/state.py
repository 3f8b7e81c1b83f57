"""What a train step carries from one step to the next."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rocketjax.models.encoder import Params


@flax.struct.dataclass
class TrainState:
    """A value: a step makes a new one and the old one's memory is taken back."""

    step: jax.Array  # [] int32, steps done, skipped ones counted
    skipped: jax.Array  # [] int32, steps of them whose update was not finite and left out
    seed: jax.Array  # [] uint32
    params: Params  # {"retriever": .., "reranker": ..}, or the one that is trained
    opt_state: optax.OptState


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """A state before its first step.

    The parameters are copied: the train step is given the state's memory, and the caller may
    still need the arrays it started from.
    """
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
        params=params,
        opt_state=optimizer.init(params),
    )


def row_keys(state: TrainState, first: jax.Array, rows: int) -> jax.Array:
    """A random key for each of the rows first .. first + rows - 1 of this step's global batch [B].

    Keys hang on seed, step and row alone: neither the number of devices nor a resume changes them.
    """
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))
