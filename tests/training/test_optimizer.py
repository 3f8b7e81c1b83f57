"""The optimizer against AdamW as it is written down, and its cosine schedule."""

import math

import jax
import numpy as np
import optax
import pytest

from rocketjax.config.schema import OptimizerConfig
from rocketjax.training.optimizer import make_optimizer, make_schedule

SHAPES = {
    "retriever": {"word_embedding": (3, 2), "kernel": (2, 2), "bias": (2,)},
    "reranker": {"kernel": (2, 3), "bias": (3,), "scale": (2,)},
}
DECAYED = ("kernel", "word_embedding")


def draw(rng):
    return {
        model: {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        for model, shapes in SHAPES.items()
    }


def test_the_optimizer_is_adamw_with_one_clip_over_both_models():
    config = OptimizerConfig(
        retriever_lr=0.1,
        reranker_lr=0.03,
        schedule="linear",
        warmup=0.0,
        weight_decay=0.2,
        clip=2.0,
        b1=0.8,
        b2=0.9,
        eps=0.05,
    )
    rng = np.random.default_rng(0)
    params = draw(rng)
    optimizer = make_optimizer(config, 3)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    want = {(model, name): x for model, some in params.items() for name, x in some.items()}
    mean, square = ({key: np.zeros_like(x) for key, x in want.items()} for _ in range(2))
    # Were all of one norm, Adam would hide that they are clipped.
    for step, norm in enumerate((10.0, 0.5, 3.0)):
        grads = draw(rng)
        size = math.sqrt(sum(float(np.sum(x**2)) for some in grads.values() for x in some.values()))
        grads = {
            model: {name: x * np.float32(norm / size) for name, x in some.items()}
            for model, some in grads.items()
        }
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)

        for key, x in want.items():
            model, name = key
            grad = grads[model][name] * min(1.0, 2.0 / norm)
            mean[key] = 0.8 * mean[key] + 0.2 * grad
            square[key] = 0.9 * square[key] + 0.1 * grad**2
            unbiased = mean[key] / (1 - 0.8 ** (step + 1)), square[key] / (1 - 0.9 ** (step + 1))
            move = unbiased[0] / (np.sqrt(unbiased[1]) + 0.05)
            move = move + 0.2 * x * (name in DECAYED)
            want[key] = x - {"retriever": 0.1, "reranker": 0.03}[model] * (1 - step / 3) * move
            np.testing.assert_allclose(params[model][name], want[key], rtol=1e-5, atol=1e-6)


def test_the_cosine_begins_after_the_warm_up():
    rate = make_schedule(OptimizerConfig(warmup=0.2, schedule="cosine"), 2.0, 10)
    want = [1.0, 2.0, 2.0, 1 + math.cos(math.pi / 4), 1.0, 0.0]
    assert [float(rate(i)) for i in (0, 1, 2, 4, 6, 10)] == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("clip_by", ["all", "model"])
def test_clipped_by_model_one_models_gradient_does_not_scale_the_others_step(clip_by):
    config = OptimizerConfig(warmup=0.0, clip=1.0, clip_by=clip_by, eps=0.05)
    rng = np.random.default_rng(0)
    params, grads = draw(rng), draw(rng)
    optimizer = make_optimizer(config, 3)

    def step(scale):
        some = grads | {"retriever": {name: scale * x for name, x in grads["retriever"].items()}}
        return optimizer.update(some, optimizer.init(params), params)[0]["reranker"]["kernel"]

    assert np.array_equal(step(1.0), step(100.0)) == (clip_by == "model")
