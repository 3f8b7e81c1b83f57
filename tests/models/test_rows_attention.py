"""The kernels for TPUs, interpreted on a CPU, are plain attention, in value and in gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rocketjax.models.attention import rows as rows_attention
from rocketjax.models.attention.rows import attend_rows, row_fits
from rocketjax.models.attention.tpu import attend_on_tpu, choose

ON_CPU = partial(attend_rows, interpret=True)


def packed(rows, length, seed=0):
    """Texts of random lengths, [rows, length] int32, with empty slots between and after them."""
    rng = np.random.default_rng(seed)
    text, count = np.full((rows, length), -1, np.int32), 0
    for row in text:
        at = int(rng.integers(0, 5))
        while at < length:
            size = int(rng.integers(1, length // 2))
            row[at : at + size] = count
            at, count = at + size + int(rng.integers(0, 9)), count + 1
        row[-int(rng.integers(1, 9)) :] = -1
    return jnp.asarray(text)


def inputs(text, width, dtype=jnp.float32, seed=1):
    one, other = jax.random.split(jax.random.key(seed))
    qkv = jax.random.normal(one, (*text.shape, 3 * width)).astype(dtype)
    weight = jax.random.normal(other, (*text.shape, width))
    return qkv, weight * (text >= 0)[..., None]


def plain(qkv, text, heads, window=None, scale=None):
    """In float32, whatever the dtype of `qkv`."""
    rows, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    parts = jnp.split(qkv.astype(jnp.float32), 3, axis=-1)
    q, k, v = (part.reshape(rows, length, heads, -1) for part in parts)
    seen = text[:, :, None] == text[:, None]
    if window is not None:
        seen &= abs(jnp.arange(length)[:, None] - jnp.arange(length)) <= window // 2
    scores = jnp.einsum("rqhd,rkhd->rhqk", q, k) * (scale or (width // heads) ** -0.5)
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf))
    return jnp.einsum("rhqk,rkhd->rqhd", weights, v).reshape(rows, length, width)


def both(attend, qkv, text, weight, *rule):
    """The result and the gradient of its sum weighted by `weight`, those of texts only."""

    def total(qkv):
        out = attend(qkv, text, *rule).astype(jnp.float32)
        return jnp.sum(out * weight), out

    (_, out), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(qkv)
    assert np.isfinite(out).all() and np.isfinite(grad).all()
    return out * (text >= 0)[..., None], grad.astype(jnp.float32)


def error(ours, theirs):
    return float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))


@pytest.mark.parametrize(
    ("dtype", "length", "width", "heads", "rule", "tolerance"),
    [
        (jnp.float32, 128, 128, 4, (), 1e-6),
        (jnp.float32, 128, 128, 1, (32, 0.3), 1e-6),
        (jnp.bfloat16, 256, 128, 2, (), 5e-3),
        (jnp.bfloat16, 128, 256, 16, (15,), 5e-3),
    ],
)
def test_rows_are_plain_attention(dtype, length, width, heads, rule, tolerance):
    text = packed(3, length)
    qkv, weight = inputs(text, width, dtype)
    value, grad = both(ON_CPU, qkv, text, weight, heads, *rule)
    expected, expected_grad = both(plain, qkv, text, weight, heads, *rule)
    assert error(value, expected) < tolerance
    assert error(grad, expected_grad) < tolerance


def test_texts_do_not_see_each_other_nor_empty_slots():
    text = packed(2, 128)
    qkv, weight = inputs(text, 128)
    value, grad = both(ON_CPU, qkv, text, weight, 4)
    one = text == text[0, 40]
    assert 1 < one.sum() < (text >= 0).sum()
    changed, _ = both(ON_CPU, jnp.where(one[..., None], qkv, 7.0), text, weight, 4)
    np.testing.assert_array_equal(changed[one], value[one])
    assert not grad[text < 0].any()
    # Were texts told apart by nothing, all of this would show.
    mixed, mixed_grad = both(ON_CPU, qkv, jnp.zeros_like(text), weight, 4)
    assert error(mixed, value) > 0.1
    assert error(mixed_grad, grad) > 0.1


def test_what_a_step_of_the_grid_works_on_changes_nothing(monkeypatch):
    """Two short rows share a step, unless their number is odd; of wide rows it takes some lanes."""
    text = packed(2, 128)
    qkv, weight = inputs(text, 256, jnp.bfloat16)
    whole = both(ON_CPU, qkv, text, weight, 4)
    monkeypatch.setattr(rows_attention, "VMEM", 1_900_000)
    assert rows_attention._lanes(128, 256, jnp.bfloat16) == 128
    parts = both(ON_CPU, qkv[:1], text[:1], weight[:1], 4)
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs[:1])


@pytest.mark.parametrize(
    ("length", "width", "heads", "dtype", "program"),
    [
        (256, 768, 12, jnp.bfloat16, "rows"),  # BERT base
        (512, 1024, 16, jnp.bfloat16, "rows"),  # BERT large
        (512, 384, 12, jnp.float32, "plain"),  # twice the bytes
        (256, 384, 12, jnp.float32, "rows"),  # MiniLM
        (256, 312, 12, jnp.bfloat16, "splash"),  # TinyBERT: a width of no whole lanes
        (256, 768, 8, jnp.bfloat16, "splash"),  # heads of 96
        (1024, 768, 12, jnp.bfloat16, "splash"),  # a row that does not fit
        (96, 768, 12, jnp.bfloat16, "plain"),
        (200, 312, 12, jnp.float32, "plain"),
    ],
)
def test_shapes_alone_choose_the_program(length, width, heads, dtype, program):
    assert choose(length, width, heads, dtype) == program


@pytest.mark.parametrize("rule", [(), (32, 0.3)])
@pytest.mark.parametrize(
    ("program", "length", "dtype", "tolerance"),
    [("splash", 128, jnp.bfloat16, 1e-2), ("plain", 40, jnp.float32, 1e-6)],
)
def test_what_the_kernel_does_not_take_is_attended_by_others(
    program, length, dtype, tolerance, rule
):
    text = packed(2, length)
    qkv, weight = inputs(text, 24, dtype)
    assert choose(length, 24, 2, dtype) == program
    value, grad = both(partial(attend_on_tpu, interpret=True), qkv, text, weight, 2, *rule)
    expected, expected_grad = both(plain, qkv, text, weight, 2, *rule)
    assert error(value, expected) < tolerance
    assert error(grad, expected_grad) < tolerance


def test_shapes_the_kernel_does_not_take_are_refused():
    assert not row_fits(128, 24, 2, jnp.float32)
    with pytest.raises(ValueError, match="24 wide in 2 heads"):
        attend_rows(jnp.zeros((1, 128, 72)), jnp.zeros((1, 128), jnp.int32), 2)
