"""Texts laid end to end give what padded texts give, in value and in gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ENCODER, drawn, models, tokens

from rocketjax.models.encoder import Compute, Encoder, unstacked
from rocketjax.text.batch import Tokens
from rocketjax.text.unpadded import Layout, lay_end_to_end

LENGTH = np.array([3, 1, 5, 4], np.int32)
PADDED = np.arange(20.0).reshape(4, 5) + 1


def layout(room=0):
    return Layout(LENGTH, 5, jnp.asarray(lay_end_to_end(LENGTH[None], 5, room)[0]))


def test_tokens_end_to_end_and_back():
    flat = np.asarray(layout(16).flat(PADDED))
    own = np.arange(5) < LENGTH[:, None]
    assert flat.tolist() == [*PADDED[own], 0, 0, 0]
    assert np.asarray(layout(16).grid(jnp.asarray(flat))).tolist() == (PADDED * own).tolist()
    assert np.asarray(layout().first(jnp.asarray(flat))).tolist() == PADDED[:, 0].tolist()
    assert layout(16).position()[:13].tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert layout(16).text()[:13].tolist() == [0] * 3 + [1] + [2] * 5 + [3] * 4


def test_the_moves_are_each_others_transposes():
    """What jax finds for plain indexing, scatters and all, is what the hand-made gradients are."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 2)), rng.normal(size=(4, 5, 2))
    for where in (layout(16), layout(13)):
        there = where._grid().reshape(-1)

        def plain(x, there=there):
            return jnp.take(x, there, axis=0, mode="fill", fill_value=0).reshape(4, 5, 2)

        part = x[: len(where.spots)]
        for ours, theirs in ((where.grid, plain),):
            got = jax.grad(lambda x, f=ours: jnp.sum(f(x) * y))(part)
            want = jax.grad(lambda x, f=theirs: jnp.sum(f(x) * y))(part)
            np.testing.assert_allclose(got, want, rtol=1e-6)
        back = jax.grad(lambda y, w=where, p=part: jnp.sum(w.flat(y) * p))(y)
        np.testing.assert_allclose(back, where.grid(jnp.asarray(part)), rtol=1e-6)


@pytest.mark.parametrize(("kind", "dropout"), [("vectors", 0.0), ("scores", 0.3)])
def test_skipping_padding_changes_neither_outputs_nor_gradients(kind, dropout):
    """Over every parameter; with dropout, whose keys are the texts' and not the layout's.

    Vectors are means over all tokens, scores hang on the first alone.
    """
    retriever, reranker, params = models(dropout=dropout, shared=True, scale=1.0)
    text = tokens(np.random.default_rng(0), 7)
    spots = lay_end_to_end(text.length[None], 12, 56)[0]
    assert len(spots) < text.ids.size
    keys = jax.random.split(jax.random.key(0), 7) if dropout else None

    def loss(params, spots):
        if kind == "scores":
            out = reranker.apply({"params": params["reranker"]}, text, keys, spots)
        else:
            args = {"params": params["retriever"]}, text, keys, spots
            out = retriever.apply(*args, method="encode_passage")
        return jnp.sum(out**3), out

    params = {name: params[name] for name in ["reranker" if kind == "scores" else "retriever"]}
    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, padded), grad_padded = grad(params, None)
    (_, flat), grad_flat = grad(params, spots)
    np.testing.assert_allclose(flat, padded, atol=1e-5 * np.abs(padded).max())
    for a, b in zip(jax.tree.leaves(grad_flat), jax.tree.leaves(grad_padded), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(b).max(), 1e-3))


@pytest.mark.parametrize("layers", [1, 2])
def test_first_tokens_only_are_those_of_the_whole(layers):
    encoder = Encoder(ENCODER.__class__(**{**vars(ENCODER), "num_layers": layers}))
    text = tokens(np.random.default_rng(1), 5)
    params = drawn(lambda: encoder.init(jax.random.key(0), text)["params"], scale=2.0)

    def first(params):
        return encoder.apply({"params": params}, text, first_only=True)

    def whole(params):
        return encoder.apply({"params": params}, text)[:, 0]

    def with_gradient(f):
        def loss(params):
            out = f(params)
            return jnp.sum(out**3), out

        (_, out), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return out, jax.tree.leaves(grad)

    (firsts, one), (wholes, other) = with_gradient(first), with_gradient(whole)
    np.testing.assert_allclose(firsts, wholes, atol=1e-5, rtol=1e-5)
    apart = jax.jit(first)(unstacked(params))
    np.testing.assert_allclose(apart, firsts, atol=1e-5, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in other)  # some true gradients are 0: of key biases
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(np.abs(b).max(), 1e-3 * largest))


def test_what_is_recomputed_is_the_same():
    text = tokens(np.random.default_rng(1), 5)
    params = drawn(lambda: Encoder(ENCODER).init(jax.random.key(0), text)["params"])

    def gradient(policy):
        module = Encoder(ENCODER, Compute(remat=policy))
        return jax.jit(jax.grad(lambda p: jnp.sum(module.apply({"params": p}, text) ** 3)))(params)

    plain = jax.tree.leaves(gradient("none"))
    for policy in ("full", "dots"):
        for a, b in zip(plain, jax.tree.leaves(gradient(policy)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(b).max(), 1e-3))


def test_texts_without_tokens_do_no_harm():
    retriever, _, params = models()
    text = tokens(np.random.default_rng(0), 4)
    more = Tokens(*(np.concatenate([x, 0 * x[:2]]) for x in text))
    for pooling in ("mean", "cls"):
        module = retriever.clone(pooling=pooling)

        @jax.jit
        def vectors(text, spots, module=module):
            args = {"params": params["retriever"]}, text, None, spots
            return module.apply(*args, method="encode_passage")

        def run(text, vectors=vectors):
            return vectors(text, lay_end_to_end(text.length[None], 12, 48)[0])

        out = run(more)
        assert np.isfinite(out).all()
        np.testing.assert_allclose(out[:4], run(text), atol=1e-6)
