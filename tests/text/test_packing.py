"""Packed rows hold every text once, are full, and give what padded texts give, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ENCODER, as_texts, drawn, models, tokens

from rocketjax.models.encoder import Compute, Encoder, unstacked
from rocketjax.text.batch import Text
from rocketjax.text.chunks import in_chunks, shape_for
from rocketjax.text.rows import (
    NARROW,
    WIDE,
    best_width,
    fill,
    fitting,
    lay_out,
    one_a_row,
    pack,
)

SEVEN = st.lists(st.integers(1, 12), min_size=7, max_size=7)
LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=40)


@given(lengths=LENGTHS, width=st.sampled_from([32, 64, 96]))
def test_every_text_is_in_one_row_that_has_room_for_it(lengths, width):
    rows = list(fill(lengths, width, NARROW))
    assert sorted(index for _, row in rows for index in row) == list(range(len(lengths)))
    for wide, row in rows:
        longest = max(lengths[index] for index in row)
        assert (
            sum(lengths[index] for index in row)
            <= wide
            == max(width, fitting(longest, (width, *NARROW)))
        )
    widths = [wide for wide, _ in rows]
    assert widths == sorted(widths, reverse=True)


def ms_marco(count, mean, longest, seed=0):
    """Lengths as MS MARCO's are spread."""
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(np.log(mean) - 0.06, 0.35, count)
    return np.clip(drawn, 10, longest).round().astype(int).tolist()


@pytest.mark.parametrize(("mean", "longest"), [(69, 128), (79, 158)])
def test_rows_are_full(mean, longest):
    """At least 94 % of the slots of rows of 256 hold a token; of padded texts, half do."""
    lengths = ms_marco(128, mean, longest)
    assert sum(lengths) / sum(wide for wide, _ in fill(lengths, 256, WIDE)) >= 0.94
    assert sum(lengths) / (longest * len(lengths)) < 0.6


def test_the_width_suits_the_texts():
    """Two long texts side by side, three, or one; and not so wide that attention costs more."""
    assert best_width([128] * 64, NARROW) == 128
    assert best_width([85] * 64, NARROW) == 256  # three fill it, two would leave a third of 256
    assert best_width([10] * 64, NARROW) == 32
    assert best_width([158] * 64, WIDE) == 384  # two
    assert best_width(ms_marco(512, 69, 128), WIDE) == 256


def test_texts_lie_where_they_are_said_to():
    texts = as_texts(tokens(np.random.default_rng(0), 5))
    rows = pack([texts[:2], texts[2:4], texts[4:]], 16, 0, pad_id=49)
    assert rows.first.shape == (3, 2) and rows.first[2, 1] == -1  # the last part has one text
    for number, text in enumerate(texts):
        part, own = divmod(number, 2)
        start, size = rows.first[part, own], len(text.ids)
        ids, types, place = (
            x[part].reshape(-1)[start : start + size] for x in rows[:2] + rows[3:4]
        )
        assert ids.tolist() == text.ids.tolist() and types.tolist() == text.types.tolist()
        assert place.tolist() == list(range(size))
        assert (rows.text[part] == own).sum() == size
    assert (rows.ids[rows.text < 0] == 49).all()
    assert (rows.text >= 0).sum() == sum(len(text.ids) for text in texts)


def test_parts_are_of_equal_shape():
    texts = as_texts(tokens(np.random.default_rng(0), 12))
    rows = pack([texts[:4], texts[4:6], ()], 12, 9, 0, texts=6)
    assert rows.ids.shape == (3, 9, 12)  # as many rows as were asked for
    assert (rows.first >= 0).sum(axis=1).tolist() == [4, 2, 0] and rows.first.shape == (3, 6)


@pytest.mark.parametrize(
    ("count", "chunk", "least"), [(12_288, 64, 0.95), (12_288, 128, 0.95), (1_536, 128, 0.92)]
)
def test_chunks_of_rows_are_full_of_text(count, chunk, least):
    """At a step of MS MARCO's passages, on the only device and on one of eight."""
    seen = np.array_split(ms_marco(16 * count, 70.5, 128), 16)
    shape = shape_for([some.tolist() for some in seen[:4]], chunk, WIDE)
    assert shape.rows * shape.width <= 1.05 * chunk * 70.5 + 256  # what memory is planned for
    for some in seen:
        texts = [Text(*np.zeros((2, length), np.int32)) for length in some]
        rows = in_chunks([texts], shape, 0)
        assert rows.ids.shape == (shape.chunks, shape.rows, shape.width)
        assert (rows.text >= 0).mean() >= least


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 16), min_size=12, max_size=12), chunk=st.integers(1, 12))
def test_chunks_hold_all_texts_in_order(lengths, chunk):
    texts = [Text(np.full(size, i), np.zeros(size, int)) for i, size in enumerate(lengths)]
    shape = shape_for([lengths[:6], lengths[6:]], chunk, [16])
    rows = in_chunks([texts[:6], texts[6:]], shape, 0)
    assert rows.ids.shape == (2 * shape.chunks, shape.rows, 16)
    assert rows.first.shape == (2 * shape.chunks, shape.texts)
    for device, want in (0, texts[:6]), (1, texts[6:]):
        own = slice(device * shape.chunks, (device + 1) * shape.chunks)
        starts = [(part, start) for part, some in enumerate(rows.first[own]) for start in some]
        found = [rows.ids[own][part].reshape(-1)[start] for part, start in starts if start >= 0]
        assert found == [text.ids[0] for text in want]


@pytest.mark.parametrize(("kind", "dropout"), [("vectors", 0.0), ("scores", 0.3)])
@settings(max_examples=4, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=7, max_size=7), width=st.sampled_from([12, 32])
)
def test_packing_changes_neither_outputs_nor_gradients(kind, dropout, lengths, width):
    """Over every parameter; with dropout, whose keys are the texts' and not the rows'.

    Vectors are means over all tokens, scores hang on the first alone.
    """
    retriever, reranker, params = models(dropout=dropout, shared=True, scale=1.0)
    padded = tokens(np.random.default_rng(0), 7)._replace(length=np.array(lengths, np.int32))
    rows = jax.tree.map(lambda x: x[0], pack([as_texts(padded)], width, 0, 0))
    keys = jax.random.split(jax.random.key(0), 7) if dropout else None

    def loss(params, texts):
        if kind == "scores":
            out = reranker.apply({"params": params["reranker"]}, texts, keys)
        else:
            args = {"params": params["retriever"]}, texts, keys
            out = retriever.apply(*args, method="encode_passage")
        return jnp.sum(out**3), out

    params = {name: params[name] for name in ["reranker" if kind == "scores" else "retriever"]}
    grad = jax.value_and_grad(loss, has_aux=True)
    (_, apart), grad_apart = grad(params, padded)
    (_, packed), grad_packed = grad(params, rows)
    np.testing.assert_allclose(packed, apart, atol=1e-5 * np.abs(apart).max())
    for a, b in zip(jax.tree.leaves(grad_packed), jax.tree.leaves(grad_apart), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(b).max(), 1e-3))


def test_another_text_in_the_row_is_told_apart():
    """A control: tokens said to be of one text do reach each other."""
    retriever, _, params = models(scale=1.0)
    texts = as_texts(tokens(np.random.default_rng(0), 2))
    rows = lay_out([[0, 1]], texts, (1, 32, 2), 0)

    def vectors(rows):
        return retriever.apply({"params": params["retriever"]}, rows, method="encode_passage")

    mixed = rows._replace(text=np.minimum(rows.text, 0))
    assert np.abs(vectors(mixed)[0] - vectors(rows)[0]).max() > 1e-3


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


def test_texts_and_rows_that_are_not_there_do_no_harm():
    retriever, _, params = models(scale=1.0)
    texts = as_texts(tokens(np.random.default_rng(0), 4))
    less, more = (pack([texts], 24, rows, 0) for rows in (0, 7))
    more = more._replace(first=np.pad(more.first, ((0, 0), (0, 3)), constant_values=-1))
    for pooling in ("mean", "cls"):
        module = retriever.clone(pooling=pooling)

        def vectors(params, rows, module=module):
            own = jax.tree.map(lambda x: x[0], rows)
            return module.apply({"params": params}, own, method="encode_passage")

        def total(params, rows, vectors=vectors):
            return jnp.sum(vectors(params, rows)[:4] ** 3)

        out = vectors(params["retriever"], more)
        assert np.isfinite(out).all()
        want = vectors(params["retriever"], less)
        np.testing.assert_allclose(out[:4], want, atol=1e-5 * np.abs(want).max())
        grads = [jax.grad(total)(params["retriever"], rows) for rows in (more, less)]
        for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(b).max(), 1e-3))


def test_padded_texts_have_a_row_each():
    text = tokens(np.random.default_rng(0), 3)
    rows = one_a_row(text)
    assert rows.first.tolist() == [0, 12, 24]
    assert (rows.text >= 0).sum(axis=1).tolist() == text.length.tolist()
