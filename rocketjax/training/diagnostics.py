"""What distillation has to work with: measures of a step's scores, for the log and the report.

Each is a number a list, of scores that the step holds already; nothing is trained on them. How to
read them: docs/losses.md.
"""

import jax
import jax.numpy as jnp

from rocketjax.config.loss import LossConfig
from rocketjax.text.batch import Array
from rocketjax.training.losses import (
    Term,
    distillation,
    list_log_softmax,
    listwise_cross_entropy,
    with_labels,
    without_likely,
)

SHORTEST = 1e-6  # the gradient of a list's scores; a shorter one is rounding and has no direction


def diagnostics(
    retriever_scores: Array,
    reranker_scores: Array,
    valid: Array,
    config: LossConfig,
    lists: int,
    labelled: Array | None = None,
) -> dict[str, Term]:
    """Measures of a joint step, as means over lists.

    Args:
        retriever_scores: [B, L], divided by the retriever's temperature.
        reranker_scores: [B, L], as the re-ranker gives them.
        valid: [B, L] bool.
        config: what `rocketjax.config.resolve_loss` makes of one with a preset.
        lists: of the whole batch, on all devices.
        labelled: [B] bool, the lists whose slot 0 holds a positive; None: all.

    Returns:
        "teacher_entropy": of the re-ranker's distribution as it is distilled, in nats.
        "uniform_entropy": log of the list's length, the most that it could be.
        "teacher_disagrees": share of lists of which the re-ranker puts no label first.
        "distill_cosine": between the gradients of distillation and of the label with respect to
            the retriever's scores of a list; lists without a gradient do not count. Not there
            where the distillation does not move the retriever.
        "retriever_cosine": between the weighted sum of both gradients and the label's.
        "labelled": share of lists that have a label, where `labelled` says which.
    """
    de, ce = jax.lax.stop_gradient((retriever_scores, reranker_scores))
    own = with_labels(valid, labelled)
    size = jnp.maximum(jnp.sum(valid, axis=1, keepdims=True), 1)
    measures = {
        "teacher_entropy": teacher_entropy(ce, valid, config),
        "uniform_entropy": _mean(jnp.log(size[:, 0]), valid[:, 0]),
        "teacher_disagrees": _mean(~_positive_first(ce, own), own[:, 0]),
    }
    if labelled is not None:
        measures["labelled"] = _mean(own[:, 0], valid[:, 0])
    if config.stop_gradient == "retriever":
        return measures
    kept = without_likely(own, ce, config.mask_by_reranker)
    label = jax.grad(lambda scores: listwise_cross_entropy(scores, kept).total)(de)
    taught = jax.grad(lambda scores: distillation(scores, ce, valid, config).total)(de)
    of_a_list = {"list": 1.0, "element": 1 / size, "sum": lists}[config.reduction]
    both = config.retriever_weight * label + config.distill_weight * of_a_list * taught
    return measures | {
        "distill_cosine": _cosine(taught, label),
        "retriever_cosine": _cosine(both, label),
    }


def teacher_entropy(scores: Array, valid: Array, config: LossConfig) -> Term:
    """Entropy of the re-ranker's distribution over each list, in nats: -sum p log p.

    0: it is certain; the log of the list's length: it tells nothing apart.
    """
    temperature = config.teacher_temperature or config.distill_temperature
    log_p = list_log_softmax(jnp.asarray(scores) / temperature, valid)
    return _mean(-jnp.sum(jnp.exp(log_p) * log_p, axis=1), valid[:, 0])


def accuracy(scores: Array, valid: Array) -> Term:
    """Share of lists whose positive scores above every other passage."""
    return _mean(_positive_first(scores, valid), valid[:, 0])


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
