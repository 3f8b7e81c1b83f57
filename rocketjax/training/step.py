"""The train step, as every device runs it: objective, gradient, update.

A step is a pure function of the state and a batch. It runs inside an axis of devices, each with
its own rows of the batch.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rocketjax.config.loss import LossConfig
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.dropout import fold_in
from rocketjax.models.layer import Params
from rocketjax.runtime.devices import AXIS
from rocketjax.text.batch import Array, ListBatch, Rows
from rocketjax.training.diagnostics import accuracy, diagnostics
from rocketjax.training.losses import (
    Term,
    divergence,
    in_batch_cross_entropy,
    joint_terms,
    joint_weights,
    likely_in_batch,
    reranker_loss,
    with_labels,
    without_likely,
)
from rocketjax.training.matryoshka import at_widths, narrower, settled, shortened


@flax.struct.dataclass
class TrainState:
    """A value: a step makes a new one and the old one's memory is taken back."""

    step: jax.Array  # [] int32, steps done, skipped ones counted
    skipped: jax.Array  # [] int32, steps of them whose update was not finite and left out
    seed: jax.Array  # [] uint32
    params: Params  # {"retriever": .., "reranker": ..}, or the one that is trained
    opt_state: optax.OptState


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """A state before its first step.

    The parameters are copied: the train step is given the state's memory, and the caller may
    still need the arrays it started from.
    """
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
        params=params,
        opt_state=optimizer.init(params),
    )


def row_keys(
    state: TrainState, first: jax.Array, rows: int, place: Array | None = None
) -> jax.Array:
    """A random key for each of the rows first .. first + rows - 1 of this step's global batch [B].

    Keys depend on seed, step and row alone, not on the number of devices or on a resume. Rows that
    were dealt to devices have the keys of their `place` before that.
    """
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    numbers = first + jnp.arange(rows) if place is None else jnp.asarray(place)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(numbers)


# Of (params, batch, keys [B]); no keys: no dropout.
TermsOf: TypeAlias = Callable[[Params, ListBatch, jax.Array | None], dict[str, Term]]
Metrics: TypeAlias = dict[str, jax.Array]


class Objective(NamedTuple):
    """What a stage minimises."""

    terms_of: TermsOf  # the loss terms, as sums over this device's rows
    weights: Mapping[str, float]  # of the terms in the loss; others are only reported


def train_step(
    state: TrainState,
    batch: ListBatch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """One optimizer step; runs inside an `AXIS` of devices, each with its rows of the batch.

    Where a metric or the gradient is not finite, parameters and optimizer stay as they are, and
    the step counts as skipped: the batch is used up, the learning rate's schedule waits.

    Returns:
        The next state and, for the whole batch, the loss, every term and the gradient's norm, of
        each model too.
    """
    rows = batch.valid.shape[0]
    keys = row_keys(state, jax.lax.axis_index(AXIS) * rows, rows, batch.place)
    grads, metrics = loss_gradient(state.params, batch, keys, objective)
    metrics |= {"gradient_norm": optax.tree.norm(grads)}
    metrics |= {f"{name}_gradient_norm": optax.tree.norm(grads[name]) for name in grads}
    finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    keep = partial(jnp.where, finite)
    next_state = state.replace(  # pyright: ignore[reportAttributeAccessIssue]
        step=state.step + 1,
        skipped=state.skipped + ~finite,
        params=jax.tree.map(keep, params, state.params),
        opt_state=jax.tree.map(keep, opt_state, state.opt_state),
    )
    return next_state, metrics


def loss_gradient(
    params: Params, batch: ListBatch, keys: jax.Array | None, objective: Objective
) -> tuple[Params, Metrics]:
    """The gradient of the global batch's loss, the same on every device, and its metrics.

    A device's share of a term is its own sum over *everyone's* count, so shares add up to the
    mean over the whole batch whatever each device holds; hence psum, not pmean. The gradient is
    summed outside the differentiated function: inside, jax's transpose of a collective would see
    to it that replicas part ways or count twice.
    """

    grads, shares = jax.grad(share_of_loss, has_aux=True)(params, batch, keys, objective)
    return jax.lax.psum((grads, shares), AXIS)


def share_of_loss(
    params: Params, batch: ListBatch, keys: jax.Array | None, objective: Objective
) -> tuple[jax.Array, Metrics]:
    """This device's share of the global batch's loss [], and of every term; shares add up to it."""
    terms = objective.terms_of(params, batch, keys)
    counts = _everyones_counts(terms)
    shares = {name: term.total / counts.get(name, 1.0) for name, term in terms.items()}
    weighted = (weight * shares[name] for name, weight in objective.weights.items())
    loss = sum(weighted, jnp.float32(0))
    return loss, shares | {"loss": loss}


def joint_objective(retriever: BiEncoder, reranker: CrossEncoder, loss: LossConfig) -> Objective:
    """Joint training: both models score the same lists, each text encoded once.

    Raises:
        InputError: `loss.matryoshka` does not fit the retriever.
    """
    loss = settled(loss, retriever)

    def terms_of(params: Params, batch: ListBatch, keys: jax.Array | None) -> dict[str, Term]:
        query, passage = encode_lists(retriever, params["retriever"], batch, keys)
        ce = reranker_scores(reranker, params["reranker"], batch, keys)

        def of_vectors(query: jax.Array, passage: jax.Array) -> dict[str, Term]:
            de = list_scores(query, passage)
            terms = joint_terms(de, ce, batch.valid, loss, batch.labelled, batch.stored)
            if loss.retriever_negatives == "batch":
                above = loss.mask_by_reranker
                likely = None if above is None else ~without_likely(batch.valid, ce, above)
                terms |= in_batch_terms(query, passage, batch, loss, likely)
            return terms

        de = list_scores(query, passage)
        terms = of_vectors(query, passage)
        counts = _everyones_counts({name: terms[name] for name in ("retriever", "distill")})
        terms |= at_widths(of_vectors, (query, passage), loss, retriever)
        own = with_labels(batch.valid, batch.labelled)
        for width in narrower(loss, retriever):
            scores = list_scores(*shortened((query, passage), width, retriever))
            terms[f"retriever_accuracy_{width}"] = accuracy(scores, own)
        scaled = de / (loss.retriever_temperature or 1.0)  # a settled one has it
        return (
            terms
            | {
                "kl": divergence(de, ce, batch.valid, loss),
                "retriever_accuracy": accuracy(de, own),
                "reranker_accuracy": accuracy(ce, own),
            }
            | diagnostics(scaled, ce, batch.valid, loss, counts, batch.labelled, batch.stored)
        )

    return Objective(terms_of, joint_weights(loss))


def reranker_objective(reranker: CrossEncoder, loss: LossConfig) -> Objective:
    """The re-ranker's warm-up: on lists, alone."""

    def terms_of(params: Params, batch: ListBatch, keys: jax.Array | None) -> dict[str, Term]:
        ce = reranker_scores(reranker, params["reranker"], batch, keys)
        return {
            "reranker": reranker_loss(ce, batch.valid, loss),
            "reranker_accuracy": accuracy(ce, batch.valid),
        }

    return Objective(terms_of, {"reranker": 1.0})


def retriever_objective(retriever: BiEncoder, loss: LossConfig) -> Objective:
    """The retriever's warm-up: the passages of all devices are negatives.

    Raises:
        InputError: `loss.matryoshka` does not fit the retriever.
    """
    loss = settled(loss, retriever)

    def terms_of(params: Params, batch: ListBatch, keys: jax.Array | None) -> dict[str, Term]:
        vectors = encode_lists(retriever, params["retriever"], batch, keys)

        def of_vectors(query: jax.Array, passage: jax.Array) -> dict[str, Term]:
            return in_batch_terms(query, passage, batch, loss)

        whole = of_vectors(*vectors)
        return whole | at_widths(of_vectors, vectors, loss, retriever)

    return Objective(terms_of, {"retriever": 1.0})


def in_batch_terms(
    query: jax.Array,
    passage: jax.Array,
    batch: ListBatch,
    loss: LossConfig,
    likely: Array | None = None,
) -> dict[str, Term]:
    """Every passage on every device is a negative of every query that it does not answer.

    The gather is differentiated: its transpose brings each passage the gradients of all devices.

    Args:
        query: [B, D], this device's.
        passage: [B, L, D], likewise.
        batch: B lists.
        loss: a settled one; its temperature counts, and what it masks.
        likely: [B, L] bool, passages of a query's own list that are none of its negatives either;
            None: nobody says so (`mask_by_reranker` needs the re-ranker's scores).

    Returns:
        "retriever", and with a mask "masked_negatives": the share of negatives that it leaves out.
    """
    b, slots = batch.valid.shape
    own = (passage.reshape(b * slots, -1), batch.valid.reshape(-1))
    passages, valid = jax.lax.all_gather(own, AXIS, tiled=True)
    rows = jax.lax.axis_index(AXIS) * b + jnp.arange(b)
    relevant, temperature = jnp.asarray(batch.relevant), loss.retriever_temperature or 1.0
    query = query / temperature  # a settled one has it
    masked = jnp.zeros_like(relevant)
    if likely is not None:
        is_own = jnp.arange(len(valid)) // slots == rows[:, None]
        masked |= is_own & jnp.tile(likely, len(valid) // slots)
    if loss.mask_by_retriever is not None:
        above = loss.mask_by_retriever / temperature
        masked |= likely_in_batch(query, passages, rows * slots, above)
    answers = relevant | masked
    term = in_batch_cross_entropy(query, passages, valid, rows * slots, answers, batch.labelled)
    if likely is None and loss.mask_by_retriever is None:
        return {"retriever": term}
    negatives = valid & ~relevant & with_labels(batch.valid, batch.labelled)[:, :1]
    share = Term(*(jnp.sum(x, dtype=jnp.float32) for x in (negatives & masked, negatives)))
    return {"retriever": term, "masked_negatives": share}


def encode_lists(
    retriever: BiEncoder, params: Params, batch: ListBatch, keys: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Vectors of a batch's queries [B, D] and passages [B, L, D]; `keys` [B]."""
    b, slots = batch.valid.shape

    def encode(method: str, texts: Rows, count: int, keys: jax.Array | None) -> jax.Array:
        def program(some: Rows, keys: jax.Array | None) -> jax.Array:
            return retriever.apply({"params": params}, some, keys, method=method)  # pyright: ignore

        return in_chunks(program, texts, count, keys)

    query = encode("encode_query", batch.query, b, fold_in(keys, 0))
    passage_keys = _slot_keys(fold_in(keys, 1), slots)
    passage = encode("encode_passage", batch.passage, b * slots, passage_keys)
    return query, passage.reshape(b, slots, -1)


def retriever_scores(
    retriever: BiEncoder, params: Params, batch: ListBatch, keys: jax.Array | None
) -> jax.Array:
    """s_de [B, L], equation 1. A query is encoded once, however many passages its list has."""
    return list_scores(*encode_lists(retriever, params, batch, keys))


def list_scores(query: jax.Array, passage: jax.Array) -> jax.Array:
    """Queries [B, D] and their lists' passages [B, L, D], float32 -> s_de [B, L].

    As exactly as search computes them, on accelerators too.
    """
    return jnp.einsum("bd,bld->bl", query, passage, precision=jax.lax.Precision.HIGHEST)


def reranker_scores(
    reranker: CrossEncoder, params: Params, batch: ListBatch, keys: jax.Array | None
) -> jax.Array:
    """s_ce [B, L]."""

    def program(some: Rows, keys: jax.Array | None) -> jax.Array:
        return reranker.apply({"params": params}, some, keys)  # pyright: ignore

    b, slots = batch.valid.shape
    pair_keys = _slot_keys(fold_in(keys, 2), slots)
    return in_chunks(program, batch.pair, b * slots, pair_keys).reshape(b, slots)


def in_chunks(
    program: Callable[[Rows, jax.Array | None], jax.Array],
    texts: Rows,
    count: int,
    keys: jax.Array | None,
) -> jax.Array:
    """program(rows, keys) over a device's `count` texts, a chunk after the other.

    This is gradient caching (Gao et al. 2021). The losses see vectors and scores only, so no more
    than those are kept for all texts; the backward pass runs each chunk again, from the same tokens
    and dropout keys, and adds its gradient up. Memory is one chunk's, for one more forward pass.

    Args:
        texts: [K, ...], the device's chunks, N texts in each; in some, perhaps, fewer.
        keys: [count] random keys for dropout, or None.
    """
    chunks, size = texts.first.shape
    if chunks == 1:
        return program(jax.tree.map(lambda x: x[0], texts), keys)
    there = jnp.asarray(texts.first).reshape(-1) >= 0
    if keys is not None:  # a text that is not there needs one too
        keys = keys[jnp.maximum(jnp.cumsum(there) - 1, 0)].reshape(chunks, size)
    outputs = jax.lax.map(lambda part: jax.checkpoint(program)(*part), (texts, keys))
    outputs = outputs.reshape(chunks * size, *outputs.shape[2:])
    return outputs[jnp.nonzero(there, size=count)[0]]


def _everyones_counts(terms: Mapping[str, Term]) -> dict[str, jax.Array]:
    """Of the terms that have one; 1 where nobody has anything, whose sum is then 0."""
    counts = {name: term.count for name, term in terms.items() if term.count is not None}
    together = jax.lax.psum(jnp.stack([*counts.values()]), AXIS)  # one collective for all
    return dict(zip(counts, jnp.maximum(together, 1.0), strict=True))


def _slot_keys(keys: jax.Array | None, slots: int) -> jax.Array | None:
    """Keys of lists [B] -> keys of their slots [B * L]; slot i's key does not depend on L."""
    if keys is None:
        return None
    return fold_in(jnp.repeat(keys, slots), jnp.tile(jnp.arange(slots), len(keys)))
