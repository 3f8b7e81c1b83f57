"""Distillation from scores that lists keep: closed-form gradients, gaps, any number of devices."""

import dataclasses

import jax
import numpy as np
import pytest
from test_step import assert_trees_close, gradient, list_batch, words

from rocketjax.config.loss import LossConfig
from rocketjax.config.options import parse
from rocketjax.data.lists import TrainingList
from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import TeacherScores
from rocketjax.training.loader import Collator
from rocketjax.training.losses import distillation, joint_terms
from rocketjax.training.step import joint_objective

B, L = 4, 5
CUSTOM = {"preset": "custom", "retriever_temperature": 1.0}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def scores():
    """Of the retriever, of the re-ranker and of a stored teacher, [B, L]."""
    return np.random.default_rng(0).normal(size=(3, B, L)).astype(np.float32)


def gradients(scores, config, there=None, valid=None):
    """The loss, and its gradients with respect to both models' scores."""
    de, ce, kept = scores
    valid = np.ones((B, L), bool) if valid is None else valid
    there = valid if there is None else there
    stored = TeacherScores(np.where(there, kept, 0.0), there)

    def mean(de, ce):
        term = distillation(de, ce, valid, config, stored)
        return term.total / term.count

    value, grads = jax.value_and_grad(mean, (0, 1))(de, ce)
    return float(value), *map(np.asarray, grads)


def test_a_stored_teacher_is_constant_and_has_a_temperature_of_its_own(scores):
    """d KL / d de = (softmax(de / t) - softmax(stored / t_stored)) / t."""
    de, ce, kept = scores
    config = LossConfig(
        **CUSTOM,
        teacher="stored",
        stop_gradient="none",
        distill_temperature=2.0,
        teacher_temperature=9.0,
        stored_temperature=0.5,
    )
    value, grad_de, grad_ce = gradients(scores, config)
    p, q = softmax(kept / 0.5), softmax(de / 2.0)
    assert value == pytest.approx(np.mean(np.sum(p * np.log(p / q), 1)), rel=1e-5)
    np.testing.assert_allclose(grad_de, (q - p) / 2.0 / B, atol=1e-6)
    assert not grad_ce.any()  # whatever it says of the lists, though nothing is stopped
    other = gradients((de, -ce, kept), config)
    assert other[0] == value and np.array_equal(other[1], grad_de)
    shared = dataclasses.replace(config, stored_temperature=None)
    _, grad_de, _ = gradients(scores, shared)
    np.testing.assert_allclose(grad_de, (q - softmax(kept / 9.0)) / 2.0 / B, atol=1e-6)


def test_both_teach_by_the_mean_of_their_distributions(scores):
    """p = (p_live + p_stored) / 2, so the gradient is the mean of both teachers' gradients."""
    de, ce, kept = scores
    config = LossConfig(**CUSTOM, teacher="both", stored_temperature=0.5)
    value, grad_de, grad_ce = gradients(scores, config)
    p, q = (softmax(ce) + softmax(kept / 0.5)) / 2, softmax(de)
    assert value == pytest.approx(np.mean(np.sum(p * np.log(p / q), 1)), rel=1e-5)
    np.testing.assert_allclose(grad_de, (q - p) / B, atol=1e-6)
    assert not grad_ce.any()
    configs = [dataclasses.replace(config, teacher=who) for who in ("live", "stored")]
    alone = [gradients(scores, one)[1] for one in configs]
    np.testing.assert_allclose(grad_de, np.mean(alone, 0), atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    # The other way round, KL(student || teacher), log p is that of the mean, too.
    other = dataclasses.replace(config, direction="student_teacher", stop_gradient="none")
    value, _, grad_ce = gradients(scores, other)
    assert value == pytest.approx(np.mean(np.sum(q * np.log(q / p), 1)), rel=1e-5)
    share = softmax(ce) / 2 / p * q  # d/d ce of -sum q log p
    want = softmax(ce) * share.sum(1, keepdims=True) - share
    np.testing.assert_allclose(grad_ce, want / B, atol=1e-6)


@pytest.mark.parametrize("who", ["stored", "both"])
def test_margins_are_those_of_the_stored_scores(scores, who):
    de, ce, kept = scores
    config = LossConfig(**CUSTOM, teacher=who, distill_loss="margin_mse", stored_temperature=0.5)
    value, _, grad_ce = gradients(scores, config)
    margin = kept[:, :1] / 0.5 - kept / 0.5
    if who == "both":
        margin = (margin + ce[:, :1] - ce) / 2
    want = np.mean(np.sum((margin - (de[:, :1] - de)) ** 2, 1))
    assert value == pytest.approx(want, rel=1e-5) and not grad_ce.any()


@pytest.mark.parametrize("reduction", ["list", "element", "sum"])
@pytest.mark.parametrize("loss", ["kl", "margin_mse"])
def test_a_list_that_lacks_a_score_is_left_out_or_taught_by_the_re_ranker(scores, loss, reduction):
    valid = np.ones((B, L), bool)
    valid[0, 3:] = valid[3] = False  # a short list whose passages have all scores, and none
    there = valid.copy()
    there[1, 2] = False
    settings = {**CUSTOM, "distill_loss": loss, "reduction": reduction}

    def term(who, rows, there=there):
        config = LossConfig(**settings, teacher=who)
        kept = np.where(there, scores[2], np.nan if who == "live" else 0.0)
        some = [x[rows] for x in (*scores[:2], valid, kept, there)]
        found = distillation(*some[:3], config, TeacherScores(*some[3:]))
        return float(found.total), float(0.0 if found.count is None else found.count)

    whole, other = [0, 2, 3], [1]
    assert term("stored", slice(None)) == pytest.approx(term("stored", whole), rel=1e-6)
    assert term("stored", other)[0] == 0
    total, count = term("both", slice(None))
    parts = term("both", whole), term("live", other)
    assert total == pytest.approx(parts[0][0] + parts[1][0], rel=1e-6)
    assert count == parts[0][1] + parts[1][1] == term("live", slice(None))[1]
    assert term("stored", slice(None))[1] == parts[0][1]


def test_garbage_where_nothing_is_stored_reaches_no_gradient(scores):
    there = np.ones((B, L), bool)
    there[1] = False
    for who in ("stored", "both"):
        config = LossConfig(**CUSTOM, teacher=who)
        _, first, _ = gradients(scores, config, there)
        for value in (1e30, -1e30):
            kept = np.where(there, scores[2], value)
            stored = TeacherScores(kept, there)

            def total(de, config=config, stored=stored):
                term = distillation(de, scores[1], np.ones((B, L), bool), config, stored)
                return term.total / term.count

            np.testing.assert_array_equal(jax.grad(total)(scores[0]), first)
        assert np.isfinite(first).all() and (who == "both") == first[1].any()


def test_a_batch_without_scores_is_refused(scores):
    valid = np.ones((B, L), bool)
    for who in ("stored", "both"):
        config = LossConfig(**CUSTOM, teacher=who)
        with pytest.raises(InputError, match=f"loss.teacher is {who}, but the batch holds no"):
            joint_terms(*scores[:2], valid, config)
    with pytest.raises(InputError, match=r"^--loss.teacher: stored scores can only teach the re"):
        options = "--loss.preset custom --loss.teacher stored --loss.stop-gradient retriever"
        options += " --lists.teacher run.trec"
        parse(options.split(), "rocket", "Trains.")


@pytest.mark.parametrize("who", ["stored", "both"])
def test_any_number_of_devices_gives_the_same_gradients(who):
    retriever, reranker, params = words()
    loss = LossConfig(**CUSTOM, teacher=who, stored_temperature=0.3, reranker_weight=0.0)
    objective = joint_objective(retriever, reranker, loss)
    batch = list_batch()
    rng = np.random.default_rng(5)
    there = batch.valid.copy()
    there[2] &= np.arange(5) < 1  # unequally many lists on two devices have scores
    kept = TeacherScores(rng.normal(size=there.shape).astype(np.float32) * there, there)
    batch = batch._replace(stored=kept)
    one, values = gradient(params, batch, objective, 1)
    for backend in ("pmap", "shard_map"):
        two, same = gradient(params, batch, objective, 2, backend)
        assert_trees_close(one, two)
        assert same == pytest.approx(values, rel=1e-4)
    assert (who == "both") or not any(x.any() for x in jax.tree.leaves(one["reranker"]))
    other = batch._replace(stored=kept._replace(scores=-kept.scores))
    assert gradient(params, other, objective, 1)[1]["distill"] != pytest.approx(values["distill"])


def test_the_loader_lays_scores_out_beside_their_passages(tokenizer):
    queries = {"q": "cat", "r": "dog"}
    passages = {pid: Passage(pid, "", text) for pid, text in zip("pabc", WORDS, strict=True)}
    passages["copy"] = Passage("copy", "", WORDS[0])  # says what the positive says: left out
    lists = [
        TrainingList("q", "p", ("copy", "a", "b"), scores=(3.0, 2.9, 1.0, None)),
        TrainingList("r", "c", ("a",)),
    ]
    collate = Collator(queries, passages, tokenizer, tokenizer, 4, stored=True)
    batch = collate(lists)
    assert batch.stored.scores.tolist() == [[3.0, 0.0, 1.0, 0.0], [0.0] * 4]
    assert batch.stored.there.tolist() == [[True, False, True, False], [False] * 4]
    assert dataclasses.replace(collate, stored=False)(lists).stored is None


WORDS = ["cat purr", "dog bark", "sun ray", "sea wave"]


@pytest.fixture(scope="module")
def tokenizer(weights):
    from rocketjax.config.schema import TextConfig
    from rocketjax.inference.start import pretrained_tokenizer

    return pretrained_tokenizer(str(weights), TextConfig(10, 10, 18))
