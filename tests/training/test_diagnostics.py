"""What distillation has to work with, against numpy in float64 and by hand."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from rocketjax.config.loss import PRESETS, LossConfig
from rocketjax.config.schema import OptimizerConfig
from rocketjax.text.batch import TeacherScores
from rocketjax.training.diagnostics import diagnostics
from rocketjax.training.losses import joint_terms, joint_weights
from rocketjax.training.optimizer import clipped


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@partial(jax.jit, static_argnums=3)
def measured(de, ce, valid, config, labelled, stored):
    terms = joint_terms(de, ce, valid, config, labelled, stored)
    counts = {name: terms[name].count for name in ("retriever", "distill")}
    counts = {name: count for name, count in counts.items() if count is not None}
    found = diagnostics(de, ce, valid, config, counts, labelled, stored)
    return {name: term.total / term.count for name, term in found.items()}


def measures(de, ce, config, valid=None, labelled=None, stored=None):
    valid = np.ones(de.shape, bool) if valid is None else valid
    found = measured(np.float32(de), np.float32(ce), valid, config, labelled, stored)
    return {name: float(value) for name, value in found.items()}


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


CONFIGS = {
    **PRESETS,
    "paper and label": dataclasses.replace(
        PRESETS["paper"], preset="custom", retriever_weight=1.0, distill_weight=0.2
    ),
    "elements and label": LossConfig(preset="custom", reduction="element", distill_weight=2.0),
    "margins": LossConfig(preset="custom", distill_loss="margin_mse", distill_temperature=3.0),
    "temperatures": LossConfig(
        preset="custom", distill_temperature=2.0, teacher_temperature=0.5, distill_weight=3.0
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_measures_are_those_of_each_list_by_itself(name):
    """Closed forms of both gradients; short lists, and rows that are none, whatever they hold."""
    config = CONFIGS[name]
    rng = np.random.default_rng(0)
    de, ce = 2 * rng.normal(size=(2, 6, 5))
    lengths = [5, 3, 5, 0, 1, 2]
    valid = np.arange(5) < np.array(lengths)[:, None]
    de[~valid], ce[~valid] = np.nan, np.inf
    entropies, cosines, of_both = [], [], []
    t, t_teacher = config.distill_temperature, config.teacher_temperature
    t_teacher = t_teacher or t
    for row, size in enumerate(lengths):
        if size == 0:
            continue
        s, c = de[row, :size], ce[row, :size]
        teacher, student = softmax(c / t_teacher), softmax(s / t)
        entropies.append(-(teacher * np.log(teacher)).sum())
        if size == 1:
            continue  # nothing to tell apart: neither has a gradient
        label = softmax(s) - np.eye(size)[0]
        if config.distill_loss == "margin_mse":
            apart = (c[0] - c) / t_teacher - (s[0] - s) / t
            taught = 2 * apart / t
            taught[0] = -taught.sum()
        elif config.direction == "teacher_student":
            taught = (student - teacher) / t
        else:
            ratio = np.log(student / teacher)
            taught = student * (ratio - student @ ratio) / t
        scale = {"list": 1 / 5, "element": 1 / sum(lengths), "sum": 1}[config.reduction]
        both = config.retriever_weight * label / 5 + config.distill_weight * scale * taught
        cosines.append(cosine(taught, label))
        of_both.append(cosine(both, label))
    found = measures(de, ce, config, valid)
    first = [np.argmax(ce[row, :size]) != 0 for row, size in enumerate(lengths) if size]
    sizes = [size for size in lengths if size]
    assert found == pytest.approx(
        {
            "teacher_entropy": np.mean(entropies),
            "uniform_entropy": np.mean(np.log(sizes)),
            "teacher_disagrees": np.mean(first),
            "distill_cosine": np.mean(cosines),
            "retriever_cosine": np.mean(of_both),
        },
        rel=1e-4,
    )
    assert 0 < found["teacher_disagrees"] < 1


@pytest.mark.parametrize(
    ("reduction", "teacher"), [("list", "live"), ("element", "stored"), ("sum", "both")]
)
def test_the_retrievers_cosine_is_that_of_the_gradient_it_gets(reduction, teacher):
    """Few lists have a label, and few have scores: each term is divided by a number of its own."""
    config = LossConfig(preset="custom", reduction=reduction, teacher=teacher)
    de, ce, kept = np.random.default_rng(1).normal(size=(3, 16, 4)).astype(np.float32)
    valid = np.arange(4) < np.where(np.arange(16) % 3, 4, 3)[:, None]
    labelled, scored = np.arange(16) < 3, np.arange(16) % 2 == 0
    stored = TeacherScores(kept, np.repeat(scored[:, None], 4, axis=1))

    def loss(de, weights):
        terms = joint_terms(de, ce, valid, config, labelled, stored)
        shares = {n: t.total / (1.0 if t.count is None else t.count) for n, t in terms.items()}
        return sum(weight * shares[name] for name, weight in weights.items())

    whole = jax.grad(loss)(de, joint_weights(config))
    label = jax.grad(loss)(de, {"retriever": 1.0})
    found = measures(de, ce, config, valid, labelled, stored)
    want = [cosine(a, b) for a, b in zip(whole[labelled], label[labelled], strict=True)]
    assert found["retriever_cosine"] == pytest.approx(np.mean(want), rel=1e-5)


def test_entropy_and_disagreement_are_those_of_who_teaches():
    """Stored scores: of lists that have all of them, whatever the re-ranker says."""
    config = LossConfig(preset="custom", teacher="stored", stored_temperature=0.5)
    kept = np.array([[0.0, 1, 2], [2, 0, 1], [9, 9, 9]], np.float32)
    stored = TeacherScores(kept, np.array([[True] * 3, [True] * 3, [True, False, True]]))
    found = measures(np.zeros((3, 3)), np.eye(3)[[0, 1, 1]], config, stored=stored)
    p = softmax(kept[0] / 0.5)
    assert found["teacher_entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert found["uniform_entropy"] == pytest.approx(np.log(3))
    assert found["teacher_disagrees"] == 0.5


def test_a_teacher_that_repeats_the_label_adds_nothing():
    """A teacher certain of the label, one certain of another passage, one that knows nothing."""
    de = np.zeros((1, 4))
    sure = measures(de, np.array([[50.0, 0, 0, 0]]), LossConfig())
    assert sure["teacher_entropy"] == pytest.approx(0, abs=1e-6)
    assert sure["distill_cosine"] == pytest.approx(1) and sure["teacher_disagrees"] == 0
    other = measures(de, np.array([[0, 50.0, 0, 0]]), LossConfig())
    assert other["teacher_disagrees"] == 1
    assert other["distill_cosine"] == pytest.approx(-1 / 3, rel=1e-5)
    blank = measures(np.array([[1.0, 0, 0, 0]]), np.zeros((1, 4)), LossConfig())
    assert blank["teacher_entropy"] == pytest.approx(blank["uniform_entropy"], rel=1e-6)
    assert blank["uniform_entropy"] == pytest.approx(np.log(4), rel=1e-6)


def test_a_distillation_that_moves_the_re_ranker_alone_has_no_gradient_to_compare():
    config = LossConfig(preset="custom", stop_gradient="retriever")
    found = measures(*np.zeros((2, 1, 3)), config)
    assert {*found} == {"teacher_entropy", "uniform_entropy", "teacher_disagrees"}


@pytest.mark.parametrize("by", ["all", "model"])
def test_which_models_step_was_clipped(by):
    config = OptimizerConfig(clip=2.0, clip_by=by)
    norms = {"gradient_norm": 2.5, "retriever_gradient_norm": 0.7, "reranker_gradient_norm": 2.4}
    assert clipped(config, {"loss": 9.0, **norms}) == {
        "retriever_clipped": float(by == "all"),
        "reranker_clipped": 1.0,
    }
    alone = {"gradient_norm": 0.5, "reranker_gradient_norm": 0.5}
    assert clipped(config, alone) == {"reranker_clipped": 0.0}
