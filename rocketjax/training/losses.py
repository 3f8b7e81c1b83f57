"""The losses of joint training, as functions of score arrays.

Scores are [B, L] with the positive in slot 0 and `valid` [B, L] marking real passages (see
batch.py). Every loss comes as a `Term`: a sum over this device's lists and the number it is to be
divided by. The train step adds the numbers up over the devices before it divides, so that devices
with unequally many valid lists weigh in rightly.

Equations are those of RocketQAv2 (arXiv 2110.07367); de is the retriever, ce the re-ranker.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rocketjax.config.loss import PRESETS, LossConfig, resolve_loss
from rocketjax.config.options import validated
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import Array, TeacherScores


class Term(NamedTuple):
    """A part of a loss: total / count, each summed over all devices."""

    total: jax.Array  # [] float32
    count: jax.Array | None  # [] float32; None: nothing to divide by


def list_log_softmax(scores: Array, valid: Array) -> jax.Array:
    """Log of the softmax over each list, equations 2 and 3; empty slots get no probability.

    Args:
        scores: [B, L], any float type.
        valid: [B, L] bool. A row without any valid slot yields finite numbers of no meaning.

    Returns:
        [B, L] float32. Empty slots hold 0, not -inf: callers weigh them by 0, and 0 * -inf is NaN.
    """
    lowest = jnp.finfo(jnp.float32).min
    scores = jnp.where(valid, scores.astype(jnp.float32), lowest)
    return jnp.where(valid, jax.nn.log_softmax(scores, axis=-1), 0.0)


def with_labels(valid: Array, labelled: Array | None) -> Array:
    """`valid` [B, L] of the lists that have a label, which is all that a loss of labels may see.

    Args:
        valid: [B, L] bool.
        labelled: [B] bool; None: all are.
    """
    return valid if labelled is None else valid & jnp.asarray(labelled)[:, None]


def without_likely(valid: Array, scores: Array, above: float | None) -> Array:
    """`valid` [B, L] without the negatives that score more than `above` over their positive.

    Such a negative may well answer the query, though nobody said so: m_i = [s_i <= s_0 + above],
    and the sum of a softmax is over m. No gradient goes through the choice.

    Args:
        valid: [B, L] bool, the positive in slot 0.
        scores: [B, L], the re-ranker's.
        above: in units of the scores; below 0, negatives that score nearly as high go too. None:
            all stay.
    """
    if above is None:
        return valid
    is_positive = jnp.arange(valid.shape[1]) == 0
    return valid & (is_positive | ~(jnp.asarray(scores) > scores[:, :1] + above))


def listwise_cross_entropy(scores: Array, valid: Array) -> Term:
    """-log softmax of the positive, equation 5: one number a list, counted over lists.

    The same form trains the re-ranker and, in the default preset, the retriever. The gradient of
    a list with respect to its scores is softmax(scores) - onehot(0).
    """
    is_list = valid[:, 0]
    loss = -list_log_softmax(scores, valid)[:, 0]
    return Term(jnp.sum(loss, where=is_list), _number(is_list))


def pointwise_cross_entropy(scores: Array, valid: Array) -> Term:
    """Cross-entropy of sigmoid(score) with 1 for the positive and 0 for the others, over passages.

    How cross-encoders are usually trained, each passage by itself; the paper compares its listwise
    loss with this one. The gradient of a passage with respect to its score is sigmoid(score) - 1
    or sigmoid(score).
    """
    counted = valid & valid[:, :1]
    sign = jnp.where(jnp.arange(valid.shape[1]) == 0, -1.0, 1.0)
    # Empty slots before the softplus, not after: NaN * 0 in the gradient would be NaN.
    scores = jnp.where(counted, scores.astype(jnp.float32), 0.0)
    loss = jax.nn.softplus(sign * scores)
    return Term(jnp.sum(loss, where=counted), _number(counted))


def reranker_loss(scores: Array, valid: Array, config: LossConfig) -> Term:
    """The re-ranker's own loss, as `config.reranker_loss` says."""
    if config.reranker_loss == "pointwise":
        return pointwise_cross_entropy(scores, valid)
    return listwise_cross_entropy(scores, valid)


def distillation(
    retriever_scores: Array,
    reranker_scores: Array,
    valid: Array,
    config: LossConfig,
    stored: TeacherScores | None = None,
) -> Term:
    """KL divergence between the two models' list distributions: dynamic listwise distillation.

    The re-ranker teaches the retriever: as `direction` says, it is KL(teacher || student) =
    sum ce (log ce - log de), or equation 4's KL(student || teacher) = sum de (log de - log ce).
    "Dynamic" because the teacher is the re-ranker as it stands, in training itself.

    `stop_gradient` names the side this term does not move. With the re-ranker stopped and
    `teacher_student`, the gradient with respect to the retriever's scores is
    (softmax(de) - softmax(ce)) / temperature. The loss is not rescaled by temperature^2.

    The re-ranker's temperature may be another (`teacher_temperature`). With `distill_loss`
    margin_mse it is, instead, the sum over negatives of ((ce_0 - ce_i) - (de_0 - de_i))^2, of
    scores divided by their temperatures (MarginMSE, arXiv 2010.02666).

    With `teacher` stored or both, ce is another distribution (`targets`): constant scores' own, or
    its mean with the re-ranker's.

    `reduction` is what the sum over lists is divided by: "list" the lists, "element" the valid
    slots, "sum" nothing (equation 4 as printed).

    No label is asked for: KL takes a list as a whole. Margins are taken from its first passage,
    whatever that is.

    Raises:
        InputError: no such option, a preset whose values `config` does not hold, or no stored
            scores where they are to teach.
    """
    _check(config)
    if config.stop_gradient == "reranker":
        reranker_scores = jax.lax.stop_gradient(reranker_scores)
    elif config.stop_gradient == "retriever":
        retriever_scores = jax.lax.stop_gradient(retriever_scores)
    student_scores = _divided(retriever_scores, config.distill_temperature)
    counted = valid & valid[:, :1]
    teacher, taught = targets(reranker_scores, counted, config, stored)
    counted = counted & taught[:, None]
    if config.distill_loss == "margin_mse":
        apart = teacher - _margins(student_scores, counted)
        parts = apart**2
    else:
        student = list_log_softmax(student_scores, valid)
        if config.direction == "teacher_student":
            parts = jnp.exp(teacher) * (teacher - student)
        else:
            parts = jnp.exp(student) * (student - teacher)
    count = {
        "list": _number(counted[:, 0]),
        "element": _number(counted),
        "sum": None,
    }[config.reduction]
    return Term(jnp.sum(parts, where=counted), count)


def targets(
    live: Array, counted: Array, config: LossConfig, stored: TeacherScores | None
) -> tuple[Array, Array]:
    """What is taught [B, L], log-probabilities or margins as `distill_loss` says, and which lists
    [B] are.

    With t the temperatures, p_live = softmax(ce / t), p_stored = softmax(stored / t_stored):

        live     p = p_live
        stored   p = p_stored, of lists with a score of each passage; no other list is taught
        both     p = (p_live + p_stored) / 2; p_live of the other lists

    KL(teacher || student) is moved by p alone: with `both`, its gradient with respect to the
    student's scores, softmax(de) - p, is the mean of both teachers'. KL(student || teacher) is
    moved by log p, and no such mean. Margins are averaged, and so are their gradients.

    Args:
        live: [B, L], the re-ranker's scores.
        counted: [B, L] bool, the passages of lists that are there.
        config: a resolved one.
        stored: [B, L] scores and which are there; needed where `teacher` is stored or both.

    Raises:
        InputError: stored scores are to teach, and there are none.
    """
    of = _margins if config.distill_loss == "margin_mse" else list_log_softmax
    temperature = config.teacher_temperature or config.distill_temperature
    everyone = counted[:, 0]
    if config.teacher == "live":
        return of(_divided(live, temperature), counted), everyone
    if stored is None:
        raise InputError(
            f"loss.teacher is {config.teacher}, but the batch holds no stored scores; give lists "
            "that have some (lists.teacher), or take loss.teacher live"
        )
    has_all = jnp.all(stored.there | ~counted, axis=1) & everyone
    kept = of(_divided(stored.scores, config.stored_temperature or temperature), counted)
    if config.teacher == "stored":
        return kept, has_all
    now = of(_divided(live, temperature), counted)
    mean = (now + kept) / 2 if of is _margins else jnp.logaddexp(now, kept) - jnp.log(2.0)
    return jnp.where(has_all[:, None], jnp.where(counted, mean, 0.0), now), everyone


def _margins(scores: Array, counted: Array) -> Array:
    """By how much the positive is above each passage, [B, L] float32; 0 in empty slots."""
    scores = jnp.where(counted, scores.astype(jnp.float32), 0.0)
    return jnp.where(counted, scores[:, :1] - scores, 0.0)


def divergence(
    retriever_scores: Array, reranker_scores: Array, valid: Array, config: LossConfig
) -> Term:
    """How far apart both models are: KL(re-ranker || retriever), the mean of a list in nats.

    The same number whatever is distilled, and nothing to train on.
    """
    retriever_scores = _divided(retriever_scores, _temperature(config))
    return distillation(retriever_scores, reranker_scores, valid, PRESETS["default"])


def in_batch_scores(queries: Array, passages: Array) -> jax.Array:
    """Queries [B, D] and passages [M, D] -> [B, M] float32, as exactly as search computes them."""
    queries, passages = queries.astype(jnp.float32), passages.astype(jnp.float32)
    return jnp.matmul(queries, passages.T, precision=jax.lax.Precision.HIGHEST)


def likely_in_batch(queries: Array, passages: Array, positive: Array, above: float) -> jax.Array:
    """Which passages score more than `above` over each query's positive, [B, M] bool.

    By the retriever itself, as in Qwen3-Embedding (arXiv 2506.05176: 0.1, of cosines); GISTEmbed
    (arXiv 2402.16829) has another model say so. The re-ranker has scored no passage of other
    lists.

    Args:
        queries: [B, D].
        passages: [M, D].
        positive: [B] int32, the row of `passages` that holds each query's positive.
        above: in units of the scores.
    """
    scores = jax.lax.stop_gradient(in_batch_scores(queries, passages))
    return scores > jnp.take_along_axis(scores, positive[:, None], axis=1) + above


def in_batch_cross_entropy(
    queries: Array,
    passages: Array,
    valid: Array,
    positive: Array,
    relevant: Array,
    labelled: Array | None = None,
) -> Term:
    """Cross-entropy of each query's positive among all passages at hand, the others' as negatives.

    The retriever's warm-up (RocketQA's cross-batch negatives, when `passages` were gathered from
    all devices).

    Args:
        queries: [B, D], this device's.
        passages: [M, D], of all devices; M >= B.
        valid: [M] bool; padding passages are nobody's negative.
        positive: [B] int32, the row of `passages` that holds each query's positive; a query whose
            positive is not valid does not count.
        relevant: [B, M] bool, what answers a query: its positive, which counts, and others, which
            are none of its negatives.
        labelled: [B] bool, queries that have a positive at all; None: all have.
    """
    scores = in_batch_scores(queries, passages)
    other = relevant & (jnp.arange(len(valid)) != positive[:, None])
    log_probability = list_log_softmax(scores, valid & ~other)
    is_query = valid[positive] if labelled is None else valid[positive] & labelled
    loss = -jnp.take_along_axis(log_probability, positive[:, None], axis=1)[:, 0]
    return Term(jnp.sum(loss, where=is_query), _number(is_query))


def joint_terms(
    retriever_scores: Array,
    reranker_scores: Array,
    valid: Array,
    config: LossConfig,
    labelled: Array | None = None,
    stored: TeacherScores | None = None,
) -> dict[str, Term]:
    """All terms of the joint loss, unweighted, by name: retriever, reranker, distill.

    With `config.mask_by_reranker`, "masked_negatives" too: the share that it leaves out.

    Args:
        retriever_scores: [B, L] dot products, not yet divided by the retriever's temperature.
        reranker_scores: [B, L].
        valid: [B, L] bool.
        config: what `rocketjax.config.resolve_loss` makes of one with a preset.
        labelled: [B] bool, the lists whose slot 0 holds a positive; the others count in "distill"
            alone. None: all.
        stored: [B, L], a stored teacher's scores, where `config.teacher` has one.

    Raises:
        InputError: what `distillation` raises.
    """
    retriever_scores = _divided(retriever_scores, _temperature(config))
    own = with_labels(valid, labelled)
    kept = without_likely(own, reranker_scores, config.mask_by_reranker)
    terms = {
        "retriever": listwise_cross_entropy(retriever_scores, kept),
        "reranker": reranker_loss(reranker_scores, own, config),
        "distill": distillation(retriever_scores, reranker_scores, valid, config, stored),
    }
    if config.mask_by_reranker is not None:
        terms["masked_negatives"] = Term(_number(own & ~kept), _number(own[:, 1:]))
    return terms


def joint_weights(config: LossConfig) -> dict[str, float]:
    """The weight of each of `joint_terms`; raises what it raises."""
    _check(config)
    return {
        "retriever": config.retriever_weight,
        "reranker": config.reranker_weight,
        "distill": config.distill_weight,
    }


def _divided(scores: Array, temperature: float) -> jax.Array:
    """In float32: a small temperature takes float16 to infinity."""
    return jnp.asarray(scores, jnp.float32) / temperature


def _temperature(config: LossConfig) -> float:
    if config.retriever_temperature is None:
        raise InputError(
            "loss.retriever_temperature is None, which the retriever decides; pass "
            "rocketjax.training.matryoshka.settled(loss, retriever)"
        )
    return config.retriever_temperature


def _check(config: LossConfig) -> None:
    """Refuses unknown options, and a preset whose values are others."""
    validated(LossConfig, dataclasses.asdict(config), lambda name: f"loss.{name}")
    if config != resolve_loss(config):
        raise InputError(
            f"LossConfig(preset={config.preset!r}) does not hold that preset's values; pass "
            "rocketjax.config.loss.resolve_loss(config), or preset='custom' for its own"
        )


def _number(mask: Array) -> jax.Array:
    return jnp.sum(mask).astype(jnp.float32)
