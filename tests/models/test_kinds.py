"""What holds for every kind of encoder: however texts are laid out, and layers are run."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ENCODER, KINDS, REPEATED, as_texts, drawn, tokens

from rocketjax.models.architecture import Compute
from rocketjax.models.attention.attend import attend
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Encoder, unstacked
from rocketjax.models.families import FAMILIES
from rocketjax.models.positions import relative_bias, rotated, rotated_in_one_pass, turns
from rocketjax.text.batch import Tokens
from rocketjax.text.rows import pack

each_kind = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k in REPEATED else ()) for k in KINDS]
)


@cache
def params_of(kind):
    config = KINDS[kind]
    text = tokens(np.random.default_rng(0), 2)
    modules = BiEncoder(config, shared=True, pooling="mean"), CrossEncoder(config, pooler=True)

    def init():
        return {
            "retriever": modules[0].init(jax.random.key(1), text, text)["params"],
            "reranker": modules[1].init(jax.random.key(2), text)["params"],
        }

    return drawn(init)


def encode(kind, params, texts, keys=None, first_only=False, **compute):
    encoder = Encoder(KINDS[kind], Compute(**compute))
    return encoder.apply({"params": params}, texts, keys, first_only)


def same(one, other, least=1e-3):
    """Trees of equal numbers, up to rounding: relative to the largest of each array."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(np.abs(b).max(), least * largest))


@each_kind
@settings(max_examples=6)
@given(lengths=st.lists(st.integers(1, 12), min_size=7, max_size=7))
def test_packing_changes_neither_outputs_nor_gradients(kind, lengths):
    """Of scores through the family's own head, whose dropout is the texts' and not the rows'."""
    padded = tokens(np.random.default_rng(0), 7)._replace(length=np.array(lengths, np.int32))
    rows = jax.tree.map(lambda x: x[0], pack([as_texts(padded)], 32, 7, 0))  # some stay empty
    grad, params = gradient_of_scores(kind), params_of(kind)["reranker"]
    (_, apart), grad_apart = grad(params, padded)
    (_, together), grad_together = grad(params, rows)
    same(together, apart)
    same(grad_together, grad_apart)


@cache
def gradient_of_scores(kind):
    module = CrossEncoder(KINDS[kind], Compute(dropout=0.1), pooler=True)
    keys = jax.random.split(jax.random.key(0), 7)

    def loss(params, texts):
        scores = module.apply({"params": params}, texts, keys)
        return jnp.sum(scores**3), scores

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@each_kind
def test_first_tokens_stacks_and_recomputation_change_nothing(kind):
    text = tokens(np.random.default_rng(1), 5)
    params = params_of(kind)["retriever"]["shared"]

    def of(params, first_only=True, **compute):
        def loss(params):
            states = encode(kind, params, text, first_only=first_only, **compute)
            firsts = states if first_only else states[:, 0]
            return jnp.sum(firsts**3), firsts

        (_, firsts), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return firsts, gradient

    want = of(params, first_only=False)
    same(of(params), want)
    if kind in ("modernbert", "deberta"):  # whose step is several layers, whose scores are more
        same(of(params, unroll=1_000), want)
        same(of(params, remat="full"), want)
    apart = jax.jit(partial(encode, kind, texts=text, first_only=True))(params=unstacked(params))
    same(apart, want[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_adds_up_small_tables_gradients_as_a_scatter_does(dtype):
    """And no other table's: a vocabulary's rows are too many."""
    config = dataclasses.replace(ENCODER, vocab_size=1_100)
    texts = tokens(np.random.default_rng(0), 7)
    params = drawn(lambda: Encoder(config).init(jax.random.key(0), texts)["params"])

    def total(params, scatter):
        module = Encoder(config, Compute(dtype, scatter=scatter))
        out = module.apply({"params": params}, texts)
        return jnp.sum(out.astype(jnp.float32) ** 3)

    by_scatter, by_product = (partial(jax.grad(total), scatter=some) for some in (True, False))
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    for a, b in zip(*(jax.tree.leaves(g(params)) for g in (by_scatter, by_product)), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(a).max())
    programs = (str(jax.make_jaxpr(some)(params)) for some in (by_scatter, by_product))
    assert [text.count("scatter-add[") for text in programs] == [3, 1]


@each_kind
def test_a_text_is_dropped_from_by_its_own_key(kind):
    params = params_of(kind)["retriever"]["shared"]
    text = tokens(np.random.default_rng(1), 4)
    text = text._replace(length=np.array([12, 5, 1, 12], np.int32))
    keys = jax.random.split(jax.random.key(4), 4)
    together = jax.jit(partial(encode, kind, dropout=0.3))(params, text, keys)
    alone = jax.jit(partial(encode, kind, dropout=0.3))(
        params, jax.tree.map(lambda x: x[1:2], text), keys[1:2]
    )
    same(together[1, :5], alone[0, :5])
    other = jax.jit(partial(encode, kind, dropout=0.3))(params, text, keys[::-1])
    assert np.abs(other - together)[1, :5].max() > 0.01


def test_every_family_is_among_the_kinds():
    assert {config.family for config in KINDS.values()} == {*FAMILIES}


def test_what_is_compiled_does_not_grow_with_depth():
    """Of layers that take turns: a step of the scan is one turn of them."""

    def size(layers):
        config = dataclasses.replace(KINDS["modernbert"], num_layers=layers)
        text = tokens(np.random.default_rng(1), 2)
        shapes = jax.eval_shape(Encoder(config).init, jax.random.key(0), text)
        run = jax.jit(lambda params: Encoder(config).apply(params, text, None, True))
        return len(run.lower(shapes).as_text().splitlines())

    assert abs(size(7) - size(22)) <= 20


@pytest.mark.parametrize("implementation", ["plain", "xla"])
@pytest.mark.parametrize(("window", "biased"), [(6, False), (None, True), (6, True)])
def test_windows_and_biases_are_those_of_the_formula(implementation, window, biased):
    """In float64, gradients too; the biases' own included."""
    rng = np.random.default_rng(0)
    rows, slots, heads, size = 3, 24, 2, 8
    text = np.sort(rng.integers(0, 3, (rows, slots)))
    qkv = rng.normal(size=(rows, slots, 3, heads, size)).astype(np.float32)
    bias = rng.normal(size=(heads, slots, slots)).astype(np.float32) if biased else None
    weight = rng.normal(size=(rows, slots, heads * size)).astype(np.float32)

    def ours(qkv, bias):
        flat = jnp.asarray(qkv).reshape(rows, slots, -1)
        out = attend(flat, jnp.asarray(text), heads, implementation, window, bias)
        return jnp.sum(out * weight), out

    def exact(qkv, bias):
        q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        scores = q @ k.transpose(0, 1, 3, 2) * size**-0.5 + (0 if bias is None else bias)
        place = np.arange(slots)
        seen = (text[:, :, None] == text[:, None]) & (
            np.abs(place[:, None] - place) <= (window // 2 if window else slots)
        )
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf))
        out = (weights @ v).transpose(0, 2, 1, 3).reshape(rows, slots, -1)
        return jnp.sum(out * weight), out

    arguments = (0, 1) if biased else 0
    got, want = (jax.grad(f, arguments, has_aux=True)(qkv, bias) for f in (ours, exact))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize("rotated", [rotated, rotated_in_one_pass])
def test_rotated_scores_hang_on_distance_alone(rotated):
    rng = np.random.default_rng(0)
    qkv = np.tile(rng.normal(size=(1, 3 * 2 * 8)).astype(np.float32), (10, 1))
    turned = rotated(jnp.asarray(qkv), turns(jnp.arange(10), 8, 100.0), 2).reshape(10, 3, 2, 8)
    scores = np.einsum("qhd,khd->hqk", turned[:, 0], turned[:, 1])
    for apart in range(-9, 10):
        diagonal = np.diagonal(scores, apart, 1, 2)
        np.testing.assert_allclose(
            diagonal, diagonal[:, :1].repeat(diagonal.shape[1], 1), atol=1e-5
        )
    assert np.ptp(scores) > 0.1
    np.testing.assert_array_equal(turned[:, 2].reshape(10, -1), qkv[:, 32:])  # values stay


def test_one_pass_rotates_heads_to_the_same():
    rng = np.random.default_rng(0)
    qkv, weight = rng.normal(size=(2, 9, 3 * 2 * 8)).astype(np.float32)
    turned = turns(jnp.asarray([0, 1, 2, 3, 0, 1, 77, 8_000, 5]), 8, 100.0)

    def of(rotate):
        return jax.value_and_grad(lambda x: jnp.sum(rotate(x, turned, 2) * weight))(qkv)

    for ours, want in zip(of(rotated_in_one_pass), of(rotated), strict=True):
        np.testing.assert_allclose(ours, want, atol=1e-5)
    narrow = jnp.asarray(qkv, jnp.bfloat16)
    np.testing.assert_array_equal(*(r(narrow, turned, 2) for r in (rotated, rotated_in_one_pass)))


@each_kind
def test_a_program_of_any_number_and_length_of_texts_can_be_exported(kind):
    count, length = jax.export.symbolic_shape("n, s", constraints=["s <= 12"])
    grid = jax.ShapeDtypeStruct((count, length), jnp.int32)
    texts = Tokens(grid, grid, jax.ShapeDtypeStruct((count,), jnp.int32))
    run = jax.jit(lambda params, texts: encode(kind, params, texts, attention="xla"))
    padded, params = tokens(np.random.default_rng(0), 3), params_of(kind)["reranker"]["encoder"]
    exported = jax.export.export(run)(params, texts)
    inside = np.arange(12) < padded.length[:, None]
    found = np.asarray(exported.call(params, padded))[inside]
    np.testing.assert_allclose(found, np.asarray(encode(kind, params, padded))[inside], atol=1e-4)


def test_far_tokens_share_a_bucket():
    table = jnp.arange(32.0)[:, None]
    bias = np.asarray(relative_bias(table, 400))[0]
    assert bias[0, :9].tolist() == [0, 17, 18, 19, 20, 21, 22, 23, 24]
    assert bias[:9, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert (bias[0, 128:] == 31).all() and (bias[128:, 0] == 15).all()
    assert set(np.unique(bias)) == set(range(32)) - {16}
