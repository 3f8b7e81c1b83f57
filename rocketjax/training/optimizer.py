"""AdamW with a learning rate for each model, as optax transformations."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from rocketjax.config.schema import OptimizerConfig
from rocketjax.models.encoder import Params


def make_schedule(config: OptimizerConfig, peak: float, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up from 0 to `peak`, then the configured decay."""
    warmup = round(config.warmup * steps)
    rest = max(steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
    }[config.schedule]
    if warmup == 0:
        return after
    # The first step already moves: a learning rate of 0 would waste its batch.
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def decay_mask(params: Params) -> Any:
    """True for what weight decay shrinks: matrices and embeddings, not biases and LayerNorms.

    By name, not by shape: the scanned layers' biases are matrices [num_layers, D] too.
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = str(path[-1].key)
        return name == "kernel" or name.endswith("embedding")

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW over {"retriever": .., "reranker": ..} (or one of them).

    The gradient is clipped to one global norm, over all that is trained or over each model. Each
    model follows its own learning rate.
    """
    rates = {
        "retriever": make_schedule(config, config.retriever_lr, steps),
        "reranker": make_schedule(config, config.reranker_lr, steps),
    }
    clip = optax.clip_by_global_norm(config.clip)
    if config.clip_by == "model":
        clip = optax.partition(dict.fromkeys(rates, clip), _by_model)
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        optax.partition(
            {name: optax.scale_by_learning_rate(rate) for name, rate in rates.items()}, _by_model
        ),
    )


def clipped(config: OptimizerConfig, metrics: Mapping[str, float]) -> dict[str, float]:
    """ "MODEL_clipped" of each trained model: 1 where its gradient was scaled down, else 0.

    Args:
        config: of the stage.
        metrics: of a step: the norm of its gradient, and of each model's.
    """
    norms = {name: norm for name, norm in metrics.items() if name.endswith("_gradient_norm")}
    if config.clip_by == "all":
        norms = dict.fromkeys(norms, metrics["gradient_norm"])
    return {
        name.replace("_gradient_norm", "_clipped"): float(norm >= config.clip)
        for name, norm in norms.items()
    }


def _by_model(params: Params) -> Any:
    """The name of its model at every parameter."""
    return {name: jax.tree.map(lambda _, name=name: name, tree) for name, tree in params.items()}
