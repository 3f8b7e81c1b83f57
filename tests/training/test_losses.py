"""Losses against Paddle's own numbers, against numpy in float64, and at the edges."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rocketjax.config.loss import PRESETS, LossConfig, resolve_loss
from rocketjax.training.losses import (
    distillation,
    divergence,
    in_batch_cross_entropy,
    joint_terms,
    joint_weights,
    likely_in_batch,
    list_log_softmax,
    listwise_cross_entropy,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "official_losses.json"


def scores(seed, b=5, slots=7, scale=2.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(b, slots)) * scale, rng.normal(size=(b, slots)) * scale


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@partial(jax.jit, static_argnames="config")  # one program, not one for every operation
@partial(jax.value_and_grad, argnums=(0, 1))
def joint_loss(de, ce, valid, config, labelled=None):
    """The whole loss on one device and its gradients: each term's total over its own count."""
    terms = joint_terms(de, ce, valid, config, labelled)
    return sum(
        weight * (terms[name].total / (1.0 if terms[name].count is None else terms[name].count))
        for name, weight in joint_weights(config).items()
    )


def value_and_gradients(de, ce, config, valid=None, labelled=None):
    valid = np.ones(de.shape, bool) if valid is None else valid
    loss, gradients = joint_loss(np.float32(de), np.float32(ce), valid, config, labelled)
    return float(loss), *map(np.asarray, gradients)


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN} is not here (a user's clone has none)")
def test_released_matches_the_released_code_run_in_paddle():
    for case in json.loads(GOLDEN.read_text()):
        loss, grad_de, grad_ce = value_and_gradients(
            np.array(case["de_scores"]), np.array(case["ce_scores"]), PRESETS["released"]
        )
        assert loss == pytest.approx(case["loss"], abs=1e-5)
        grad_names = [key for key in case if key.startswith("grad")]
        assert len(grad_names) == 2
        np.testing.assert_allclose(grad_de, case["grad_de"], atol=1e-5)
        np.testing.assert_allclose(grad_ce, case["grad_ce"], atol=1e-5)


def test_released_matches_its_closed_form():
    de, ce = scores(0)
    b, slots = de.shape
    loss, grad_de, grad_ce = value_and_gradients(de, ce, PRESETS["released"])
    p_de, p_ce = softmax(de), softmax(ce)
    kl = np.sum(p_ce * (np.log(p_ce) - np.log(p_de))) / (b * slots)
    assert loss == pytest.approx(kl - np.log(p_ce[:, 0]).mean(), abs=1e-5)
    np.testing.assert_allclose(grad_de, (p_de - p_ce) / (b * slots), atol=1e-5)
    onehot = np.eye(slots)[0]
    np.testing.assert_allclose(grad_ce, (p_ce - onehot) / b, atol=1e-5)


def test_paper_is_equations_4_to_6_and_moves_both_models():
    de, ce = scores(1)
    b, slots = de.shape
    loss, grad_de, grad_ce = value_and_gradients(de, ce, PRESETS["paper"])
    p_de, p_ce = softmax(de), softmax(ce)
    log_ratio = np.log(p_de) - np.log(p_ce)
    kl = np.sum(p_de * log_ratio, axis=1)
    assert loss == pytest.approx(kl.sum() - np.log(p_ce[:, 0]).mean(), rel=1e-5)
    np.testing.assert_allclose(grad_de, p_de * (log_ratio - kl[:, None]), atol=1e-5)
    np.testing.assert_allclose(grad_ce, (p_ce - p_de) + (p_ce - np.eye(slots)[0]) / b, atol=1e-5)


def test_default_supervises_both_and_stops_the_teacher():
    de, ce = scores(2)
    config = LossConfig(retriever_temperature=0.5)
    _, grad_de, grad_ce = value_and_gradients(de, ce, resolve_loss(config))
    b, slots = de.shape
    p_de, p_ce, onehot = softmax(de / 0.5), softmax(ce), np.eye(slots)[0]
    np.testing.assert_allclose(grad_ce, (p_ce - onehot) / b, atol=1e-5)
    np.testing.assert_allclose(
        grad_de, ((p_de - onehot) + 0.3 * (p_de - p_ce)) / 0.5 / b, atol=1e-5
    )


def test_a_pointwise_re_ranker_is_a_classifier_of_passages():
    de, ce = scores(4)
    config = LossConfig(preset="custom", reranker_loss="pointwise", retriever_weight=0.0)
    config = dataclasses.replace(config, distill_weight=0.0)
    valid = np.ones(ce.shape, bool)
    valid[0, 3:] = valid[4] = False  # a short list, and none
    loss, grad_de, grad_ce = value_and_gradients(de, ce, config, valid)
    p, label = 1 / (1 + np.exp(-ce)), np.broadcast_to(np.eye(ce.shape[1])[0], ce.shape)
    entropy = -np.log(np.where(label == 1, p, 1 - p))
    assert loss == pytest.approx(entropy[valid].mean(), rel=1e-5)
    np.testing.assert_allclose(grad_ce, np.where(valid, p - label, 0) / valid.sum(), atol=1e-6)
    assert not grad_de.any()
    assert resolve_loss(LossConfig(reranker_loss="pointwise")).reranker_loss == "listwise"


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
@pytest.mark.parametrize("stop", ["reranker", "retriever", "none"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_options_against_float64(direction, stop, temperature):
    de, ce = scores(3)
    config = LossConfig(
        preset="custom", direction=direction, stop_gradient=stop, distill_temperature=temperature
    )

    def mean_kl(de, ce):
        term = distillation(de, ce, np.ones(np.shape(de), bool), config)
        return term.total / term.count

    both = jax.jit(jax.value_and_grad(mean_kl, (0, 1)))
    value, (grad_de, grad_ce) = both(np.float32(de), np.float32(ce))

    def reference(de, ce):
        p, q = softmax(ce / temperature), softmax(de / temperature)
        if direction == "student_teacher":
            p, q = q, p
        return np.sum(p * np.log(p / q)) / len(de)

    def numeric(function, x):
        gradient, step = np.zeros_like(x), 1e-5
        for place in np.ndindex(*x.shape):
            up, down = x.copy(), x.copy()
            up[place] += step
            down[place] -= step
            gradient[place] = (function(up) - function(down)) / (2 * step)
        return gradient

    assert float(value) == pytest.approx(reference(de, ce), rel=1e-5)
    zero = np.zeros_like(de)
    want_de = zero if stop == "retriever" else numeric(lambda x: reference(x, ce), de)
    want_ce = zero if stop == "reranker" else numeric(lambda x: reference(de, x), ce)
    np.testing.assert_allclose(grad_de, want_de, atol=1e-5)
    np.testing.assert_allclose(grad_ce, want_ce, atol=1e-5)


def test_the_teacher_may_have_a_temperature_of_its_own():
    """The gradient with respect to the retriever's scores, in closed form."""
    de, ce = scores(3)
    config = LossConfig(preset="custom", distill_temperature=2.0, teacher_temperature=0.5)
    valid = np.ones(np.shape(de), bool)

    def mean_kl(de):
        term = distillation(de, np.float32(ce), valid, config)
        return term.total / term.count

    grad = jax.grad(mean_kl)(np.float32(de))
    want = (softmax(de / 2.0) - softmax(ce / 0.5)) / 2.0 / len(de)
    np.testing.assert_allclose(grad, want, atol=1e-6)


def test_margins_are_distilled_by_their_squared_difference():
    de, ce = scores(4)
    config = LossConfig(preset="custom", distill_loss="margin_mse", distill_temperature=2.0)
    valid = np.ones(np.shape(de), bool)
    valid[0, 2:] = valid[3] = False  # a short list, and none

    def loss(de, ce):
        term = distillation(de, ce, valid, config)
        return term.total / term.count

    value, grads = jax.value_and_grad(loss, (0, 1))(np.float32(de), np.float32(ce))
    lists = valid[:, 0].sum()
    apart = ((ce[:, :1] - ce) - (de[:, :1] - de)) / 2.0 * valid
    assert float(value) == pytest.approx((apart**2).sum() / lists, rel=1e-5)
    want = 2 * apart / 2.0 / lists
    want[:, 0] -= want.sum(1)
    np.testing.assert_allclose(grads[0], want, atol=1e-5)
    assert not np.any(grads[1])  # the re-ranker is not moved


@pytest.mark.parametrize("above", [0.0, 1.0, -0.5])
def test_what_the_re_ranker_puts_above_the_label_is_no_negative(above):
    """m_i = [ce_i <= ce_0 + above]; the gradient is that of a softmax over m alone."""
    de, ce = scores(6)
    valid = np.ones(de.shape, bool)
    valid[0, 4:] = valid[3] = False  # a short list, and none
    config = LossConfig(preset="custom", distill_weight=0.0, mask_by_reranker=above)
    kept = valid & (ce <= ce[:, :1] + above)
    kept[:, 0] = valid[:, 0]
    assert (kept != valid)[valid[:, 0]].any() and kept[:, 1:].any()  # some of them, not all
    _, grad_de, grad_ce = value_and_gradients(de, ce, config, valid)
    p = softmax(np.where(kept, de, -np.inf)[[0, 1, 2, 4]])
    want = np.zeros_like(de)
    want[[0, 1, 2, 4]] = (p - np.eye(7)[0]) / 4
    np.testing.assert_allclose(grad_de, want, atol=1e-6)
    p_ce = softmax(np.where(valid, ce, -np.inf)[[0, 1, 2, 4]])
    np.testing.assert_allclose(grad_ce[[0, 1, 2, 4]], (p_ce - np.eye(7)[0]) / 4, atol=1e-6)
    share = joint_terms(np.float32(de), np.float32(ce), valid, config)["masked_negatives"]
    assert float(share.total) == (valid & ~kept).sum()
    assert float(share.count) == valid[:, 1:].sum()


@pytest.mark.parametrize("distill_loss", ["kl", "margin_mse"])
@pytest.mark.parametrize("preset", ["default", "paper", "distilled"])
def test_a_list_without_a_label_moves_the_retriever_by_distillation_alone(preset, distill_loss):
    """As if its labels' weights were 0, and the others' means were taken without it."""
    de, ce = scores(8)
    config = dataclasses.replace(
        resolve_loss(LossConfig(preset=preset)), preset="custom", distill_loss=distill_loss
    )
    labelled = np.array([True, False, True, True, False])
    loss, *grads = value_and_gradients(de, ce, config, labelled=labelled)
    taught = dataclasses.replace(config, retriever_weight=0.0, reranker_weight=0.0)
    by_label = dataclasses.replace(config, distill_weight=0.0)
    all_loss, *all_grads = value_and_gradients(de, ce, taught)
    own_loss, *own_grads = value_and_gradients(de[labelled], ce[labelled], by_label)
    assert loss == pytest.approx(all_loss + own_loss, rel=1e-5)
    for got, whole, own in zip(grads, all_grads, own_grads, strict=True):
        want = whole.copy()
        want[labelled] += own
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert grads[0][~labelled].any()  # they do teach
    assert grads[1][~labelled].any() == (config.stop_gradient == "none")


@pytest.mark.parametrize("preset", ["default", "paper", "released", "distilled"])
def test_padding_is_as_if_it_were_not_there(preset):
    """Garbage in padded slots and rows changes neither the loss nor a single gradient bit of it."""
    config = dataclasses.replace(PRESETS[preset], retriever_temperature=0.7)
    de, ce = scores(4, b=3, slots=4)
    loss, grad_de, grad_ce = value_and_gradients(de, ce, config)
    valid = np.zeros((5, 9), bool)
    valid[:3, :4] = True
    for garbage in (1e4, -1e4, np.inf, np.nan):
        wide_de, wide_ce = np.full((2, 5, 9), garbage)
        wide_de[:3, :4], wide_ce[:3, :4] = de, ce
        padded, padded_de, padded_ce = value_and_gradients(wide_de, wide_ce, config, valid)
        assert padded == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(padded_de[:3, :4], grad_de, atol=1e-7)
        np.testing.assert_allclose(padded_ce[:3, :4], grad_ce, atol=1e-7)
        assert not padded_de[~valid].any() and not padded_ce[~valid].any()


def test_lists_of_unequal_length_equal_each_list_alone():
    de, ce = scores(5, b=4, slots=6)
    lengths = [6, 2, 1, 4]
    valid = np.arange(6) < np.array(lengths)[:, None]
    term = distillation(jnp.float32(de), jnp.float32(ce), valid, LossConfig())
    alone = 0.0
    for row, length in enumerate(lengths):
        p_ce, p_de = softmax(ce[row, :length]), softmax(de[row, :length])
        alone += np.sum(p_ce * np.log(p_ce / p_de))
    assert float(term.total) == pytest.approx(alone, rel=1e-5)
    assert float(term.count) == 4
    elements = distillation(
        jnp.float32(de), jnp.float32(ce), valid, LossConfig(preset="custom", reduction="element")
    )
    assert float(elements.count) == sum(lengths)


def test_extreme_scores_stay_finite():
    de = jnp.float32([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]])
    for preset in PRESETS.values():
        loss, grad_de, grad_ce = value_and_gradients(np.array(de), np.array(-de), preset)
        assert np.isfinite(loss) and np.isfinite(grad_de).all() and np.isfinite(grad_ce).all()


def test_bfloat16_scores_are_reduced_in_float32():
    rounded = jnp.bfloat16(scores(6)[0])
    valid = np.ones(rounded.shape, bool)
    for reduced in (list_log_softmax, lambda *lists: listwise_cross_entropy(*lists).total):
        found, want = reduced(rounded, valid), reduced(jnp.float32(rounded), valid)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, want, rtol=1e-6)


def test_float16_scores_do_not_overflow_by_a_small_temperature():
    """30,000 / 0.05 is beyond float16."""
    de, ce = jnp.float16([[3e4, 2e4, 0.0]]), jnp.float16([[9.0, 3e4, 0.0]])
    config = LossConfig(preset="custom", retriever_temperature=0.05, teacher_temperature=0.05)
    valid = jnp.ones((1, 3), bool)
    terms = joint_terms(de, ce, valid, config)
    wide = joint_terms(de.astype(jnp.float32), ce.astype(jnp.float32), valid, config)
    assert {n: float(t.total) for n, t in terms.items()} == {
        name: pytest.approx(float(term.total)) for name, term in wide.items()
    }
    far = divergence(de, ce, valid, config)
    assert np.isfinite(far.total)


def test_in_batch_against_numpy():
    rng = np.random.default_rng(7)
    queries, passages = rng.normal(size=(3, 8)), rng.normal(size=(12, 8))
    positive, valid = np.array([0, 4, 8]), np.ones(12, bool)
    valid[[5, 8]] = False  # 8 is the third query's positive: that query does not count
    term = jax.jit(in_batch_cross_entropy)(
        jnp.float32(queries),
        jnp.float32(passages),
        jnp.array(valid),
        jnp.array(positive),
        jnp.array(np.eye(12, dtype=bool)[positive]),
    )
    p = softmax(np.where(valid, queries @ passages.T, -np.inf))
    assert float(term.count) == 2
    assert float(term.total) == pytest.approx(-np.log(p[0, 0]) - np.log(p[1, 4]), rel=1e-5)


def test_what_the_retriever_puts_far_above_the_positive_is_masked_in_the_batch():
    rng = np.random.default_rng(11)
    queries, passages = rng.normal(size=(3, 4)), rng.normal(size=(9, 4))
    positive = np.array([0, 3, 6])
    scores = queries @ passages.T
    own = scores[np.arange(3), positive]
    for above in (0.0, 1.0):
        likely = jax.jit(likely_in_batch)(
            jnp.float32(queries), jnp.float32(passages), jnp.array(positive), above
        )
        np.testing.assert_array_equal(likely, scores > own[:, None] + above)
        assert np.any(likely) and not np.any(np.asarray(likely)[np.arange(3), positive])


def test_queries_without_a_label_do_not_count_in_the_batch():
    rng = np.random.default_rng(12)
    queries, passages = rng.normal(size=(3, 4)), rng.normal(size=(6, 4))
    positive, valid = np.array([0, 2, 4]), np.ones(6, bool)
    own = np.eye(6, dtype=bool)[positive]
    arrays = map(jnp.asarray, (np.float32(queries), np.float32(passages), valid, positive, own))
    term = in_batch_cross_entropy(*arrays, labelled=jnp.array([True, False, True]))
    p = softmax(queries @ passages.T)
    assert float(term.count) == 2
    assert float(term.total) == pytest.approx(-np.log(p[0, 0]) - np.log(p[2, 4]), rel=1e-5)


def test_what_answers_a_query_is_not_its_negative():
    """Whosever list it stands in; its own positive counts, and no gradient reaches the others."""
    rng = np.random.default_rng(9)
    queries, passages = rng.normal(size=(4, 8)), rng.normal(size=(8, 8))
    positive, valid = jnp.array([0, 2, 4, 6]), jnp.ones(8, bool)
    rows = [[0, 1, 2, 5, 7], [2, 0, 1, 3, 4, 5, 6, 7], [4, 1, 2, 5, 7], [6, 0, 1, 2, 5, 7]]
    relevant = np.ones((4, 8), bool)  # the positive and all that is not named above
    for query, (_, *negatives) in enumerate(rows):
        relevant[query, negatives] = False

    def total(passages):
        queries_ = jnp.float32(queries)
        return in_batch_cross_entropy(queries_, passages, valid, positive, relevant).total

    got, grad = jax.jit(jax.value_and_grad(total))(np.float32(passages))
    scores, want, gradient = queries @ passages.T, 0.0, np.zeros((8, 8))
    for query, own in enumerate(rows):  # the positive first
        p = softmax(scores[query, own])
        want -= np.log(p[0])
        gradient[own] += (p - np.eye(len(own))[0])[:, None] * queries[query]
    assert float(got) == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(grad, gradient, atol=1e-5)


@pytest.mark.parametrize("preset", ["default", "paper", "released", "distilled"])
def test_how_far_apart_both_are_is_one_number_whatever_is_distilled(preset):
    rng = np.random.default_rng(0)
    de, ce = rng.normal(size=(2, 3, 4))
    valid = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
    config = dataclasses.replace(PRESETS[preset], retriever_temperature=0.5)
    term = jax.jit(divergence, static_argnums=3)(de, ce, valid, config)
    want = []
    for s, t in ((de[0] / 0.5, ce[0]), (de[1, :3] / 0.5, ce[1, :3])):
        p, q = (np.exp(x) / np.exp(x).sum() for x in (t, s))
        want.append(float(np.sum(p * np.log(p / q))))
    assert float(term.total / term.count) == pytest.approx(np.mean(want), rel=1e-5)
