"""Attention laid out by hand is jax's own, in value and in gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rocketjax.models.attention.attend import attend


def inputs(n, s, h, d, scale=1.0, dtype=jnp.float32):
    """Rows of some texts each and, perhaps, empty slots after them."""
    rng = np.random.default_rng(n * s)
    text = np.sort(rng.integers(0, 4, (n, s)), axis=1)
    text = jnp.asarray(np.where(np.arange(s) < rng.integers(1, s + 1, (n, 1)), text, -1))
    qkv = jnp.asarray(rng.normal(size=(n, s, 3, h, d)) * scale, dtype)
    weight = jnp.asarray(rng.normal(size=(n, s, h, d)), jnp.float32)
    return qkv, text, weight * (text >= 0)[:, :, None, None]


def attended(qkv, text, implementation):
    n, s, _, h, d = qkv.shape
    return attend(qkv.reshape(n, s, -1), text, h, implementation).reshape(n, s, h, d)


def reference(qkv, text, weight):
    """In float64: the result, and the gradient of its sum weighted by `weight`."""
    x, weight = np.asarray(qkv, np.float64), np.asarray(weight, np.float64)
    q, k, v = (x[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    scale = q.shape[-1] ** -0.5
    scores = q @ k.transpose(0, 1, 3, 2) * scale
    own = np.asarray(text)[:, :, None] == np.asarray(text)[:, None]
    scores = np.where(own[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    p = weights / weights.sum(-1, keepdims=True)
    grad = weight.transpose(0, 2, 1, 3)
    dp = grad @ v.transpose(0, 1, 3, 2)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * scale
    sides = (ds @ k, ds.transpose(0, 1, 3, 2) @ q, p.transpose(0, 1, 3, 2) @ grad)
    return (p @ v).transpose(0, 2, 1, 3), np.stack([s.transpose(0, 2, 1, 3) for s in sides], 2)


@pytest.mark.parametrize(("n", "s", "h", "d"), [(1, 1, 1, 4), (5, 17, 3, 8), (8, 32, 12, 32)])
@pytest.mark.parametrize("scale", [1.0, 12.0])  # the second: one token takes nearly all
def test_value_and_gradient_are_right_as_those_of_jax_are(n, s, h, d, scale):
    """Rounding depends on the order of sums, and grows with the scores: as jax's does."""
    qkv, text, weight = inputs(n, s, h, d, scale)
    own = np.asarray(weight != 0)  # of empty slots, nothing is asked

    def errors(implementation):
        def total(qkv):
            out = attended(qkv, text, implementation)
            return jnp.sum(out * weight), out

        (_, out), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(qkv)
        return np.abs((out - value) * own).max(), np.abs(grad - gradient).max()

    value, gradient = reference(qkv, text, weight)
    for ours, theirs, size in zip(errors("plain"), errors("xla"), (value, gradient), strict=True):
        assert ours <= 3 * theirs + 1e-6 * np.abs(size).max()


def test_nothing_but_its_own_text_reaches_a_token():
    qkv, text, weight = inputs(6, 24, 3, 8)
    own = np.asarray(text == 1)[:, :, None, None]
    weight = weight * own  # of one text of each row
    filled = jnp.where(own[:, :, None], qkv, 7.0)

    def both(qkv):
        return jax.value_and_grad(lambda x: jnp.sum(attended(x, text, "plain") * weight))(qkv)

    value, grad = both(qkv)
    filled_value, filled_grad = both(filled)
    np.testing.assert_allclose(value, filled_value, rtol=1e-6)
    np.testing.assert_allclose(grad * own[:, :, None], filled_grad * own[:, :, None], atol=1e-6)
    np.testing.assert_array_equal(filled_grad[:, :, 1:] * ~own[:, :, None], 0)  # never seen


def test_half_precision_stays_close():
    qkv, text, weight = inputs(4, 16, 2, 8)
    low = qkv.astype(jnp.bfloat16)

    def grad(qkv):
        return jax.grad(lambda x: jnp.sum(attended(x, text, "plain").astype(jnp.float32) * weight))(
            qkv
        )

    assert attended(low, text, "plain").dtype == grad(low).dtype == jnp.bfloat16
    np.testing.assert_allclose(grad(low).astype(jnp.float32), grad(qkv), atol=0.06)
