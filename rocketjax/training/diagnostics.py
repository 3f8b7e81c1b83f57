"""What distillation has to work with: measures of a step's scores, for the log and the report.

Each is a number a list, of scores that the step holds already; nothing is trained on them. How to
read them: docs/losses.md.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rocketjax.config.loss import LossConfig
from rocketjax.text.batch import Array, TeacherScores
from rocketjax.training.losses import (
    Term,
    distillation,
    list_log_softmax,
    listwise_cross_entropy,
    targets,
    with_labels,
    without_likely,
)

SHORTEST = 1e-6  # the gradient of a list's scores; a shorter one is rounding and has no direction


def diagnostics(
    retriever_scores: Array,
    reranker_scores: Array,
    valid: Array,
    config: LossConfig,
    counts: Mapping[str, Array],
    labelled: Array | None = None,
    stored: TeacherScores | None = None,
) -> dict[str, Term]:
    """Measures of a joint step, as means over lists.

    Args:
        retriever_scores: [B, L], divided by the retriever's temperature.
        reranker_scores: [B, L], as the re-ranker gives them.
        valid: [B, L] bool.
        config: what `rocketjax.config.resolve_loss` makes of one with a preset.
        counts: what the terms "retriever" and "distill" are divided by, summed over all devices
            and at least 1; nothing where `reduction` divides by nothing.
        labelled: [B] bool, the lists whose slot 0 holds a positive; None: all.
        stored: [B, L], as `distillation` takes them.

    Returns:
        "teacher_entropy": of the distribution that is distilled (`config.teacher` says whose it
            is), in nats; of lists that are taught.
        "uniform_entropy": log of the list's length, the most that it could be; of the same lists.
        "teacher_disagrees": share of those with a label whose label that distribution does not
            rank first.
        "distill_cosine": between the gradients of distillation and of the label with respect to
            the retriever's scores of a list; lists without a gradient do not count. Not there
            where the distillation does not move the retriever.
        "retriever_cosine": between the gradient of the step's weighted loss, which is of both
            terms, and the label's.
        "labelled": share of lists that have a label, where `labelled` says which.

    Raises:
        InputError: what `distillation` raises.
    """
    de, ce = jax.lax.stop_gradient((retriever_scores, reranker_scores))
    own = with_labels(valid, labelled)
    log_p, taught = _distilled(ce, valid, config, stored)
    judged = own[:, 0] & taught
    measures = {
        "teacher_entropy": _mean(-jnp.sum(jnp.exp(log_p) * log_p, axis=1), taught),
        "uniform_entropy": _mean(jnp.log(jnp.maximum(jnp.sum(valid, axis=1), 1)), taught),
        "teacher_disagrees": _mean(~_positive_first(log_p, own), judged),
    }
    if labelled is not None:
        measures["labelled"] = _mean(own[:, 0], valid[:, 0])
    if config.stop_gradient == "retriever":
        return measures
    kept = without_likely(own, ce, config.mask_by_reranker)
    label = jax.grad(lambda scores: listwise_cross_entropy(scores, kept).total)(de)
    teach = jax.grad(lambda scores: distillation(scores, ce, valid, config, stored).total)(de)
    # Each term has its own divisor. Times the label's, which the direction does not depend on.
    share = counts["retriever"] / counts.get("distill", 1.0)
    both = config.retriever_weight * label + config.distill_weight * share * teach
    return measures | {
        "distill_cosine": _cosine(teach, label),
        "retriever_cosine": _cosine(both, label),
    }


def accuracy(scores: Array, valid: Array) -> Term:
    """Share of lists whose positive scores above every other passage."""
    return _mean(_positive_first(scores, valid), valid[:, 0])


def _distilled(
    scores: Array, valid: Array, config: LossConfig, stored: TeacherScores | None
) -> tuple[Array, Array]:
    """The log-probabilities [B, L] that are distilled, and which lists [B] are taught."""
    target, taught = targets(scores, valid & valid[:, :1], config, stored)
    margins = config.distill_loss == "margin_mse"
    return list_log_softmax(-target, valid) if margins else target, taught


def _positive_first(scores: Array, valid: Array) -> jax.Array:
    scores = jnp.where(valid, scores, -jnp.inf)
    return jnp.all(scores[:, :1] > scores[:, 1:], axis=1)


def _cosine(a: jax.Array, b: jax.Array) -> Term:
    """Of each list's [L] numbers; only of lists where neither is shorter than `SHORTEST`."""
    lengths = jnp.linalg.norm(a, axis=1), jnp.linalg.norm(b, axis=1)
    counted = jnp.minimum(*lengths) > SHORTEST
    product = jnp.where(counted, lengths[0] * lengths[1], 1.0)
    return _mean(jnp.sum(a * b, axis=1) / product, counted)


def _mean(values: Array, counted: Array) -> Term:
    """Of the counted lists; values [B] of others may be anything, NaN too."""
    total = jnp.sum(values, where=counted, dtype=jnp.float32)
    return Term(total, jnp.sum(counted, dtype=jnp.float32))
