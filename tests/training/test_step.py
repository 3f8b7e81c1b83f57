"""The train step: the same gradients on any number of devices, the right ones, and learning."""

import dataclasses
import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import KINDS, apart, list_batch, models, own_positives, packed, tokens

from rocketjax.config.loss import PRESETS, LossConfig
from rocketjax.config.schema import (
    Config,
    OptimizerConfig,
    RerankerConfig,
    RetrieverConfig,
    StageConfig,
    TextConfig,
)
from rocketjax.inference.folder import save_reranker, save_retriever
from rocketjax.models.bi_encoder import mean
from rocketjax.models.dropout import dropout, fold_in
from rocketjax.models.encoder import Compute
from rocketjax.pipeline.context import Run
from rocketjax.pipeline.models import (
    start_reranker,
    start_retriever,
    warmed_reranker,
    warmed_retriever,
)
from rocketjax.runtime.devices import AXIS, check_divisible, data_parallel
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched
from rocketjax.text.batch import ListBatch
from rocketjax.training.losses import joint_terms
from rocketjax.training.optimizer import decay_mask, make_optimizer, make_schedule
from rocketjax.training.step import (
    Objective,
    encode_lists,
    init_state,
    joint_objective,
    loss_gradient,
    reranker_objective,
    reranker_scores,
    retriever_objective,
    retriever_scores,
    row_keys,
    train_step,
)

# An optimizer that moves nothing and holds on to the last gradient.
KEEPS = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, _, params: (jax.tree.map(jnp.zeros_like, params), grads),
)


class Words:
    """A model of one dense layer, with the dropout and the layout of the real ones.

    A train step of it compiles in a tenth of their time, and holds all that is the step's own.
    """

    width, normalize = 8, False  # of the retriever's vectors

    def __init__(self, rate):
        self.rate = rate

    def apply(self, variables, rows, keys=None, method=None):
        params = variables["params"]
        tower = params if method is None else params[method.removeprefix("encode_")]
        if keys is not None:
            keys = fold_in(rows.per_token(keys), rows.position.reshape(-1))
        x = dropout(jnp.asarray(tower["word_embedding"])[rows.ids.reshape(-1)], keys, self.rate)
        x = mean(jnp.tanh(x @ tower["kernel"]).reshape(*rows.ids.shape, -1), rows)
        return x if method else x @ tower["out"]


def words(rate=0.0):
    """A retriever, a re-ranker and their parameters."""
    rng = np.random.default_rng(1)

    def tower(**more):
        shapes = {"word_embedding": (50, 8), "kernel": (8, 8), **more}
        return {name: rng.normal(size=size).astype(np.float32) for name, size in shapes.items()}

    params = {
        "retriever": {"query": tower(), "passage": tower()},
        "reranker": tower(out=(8,)),
    }
    return Words(rate), Words(rate), params


@cache
def program_of(terms_of, weights, devices, backend):
    step = partial(train_step, objective=Objective(terms_of, dict(weights)), optimizer=KEEPS)
    return data_parallel(step, jax.devices()[:devices], backend)


def gradient(params, batch, objective, devices, backend="pmap", chunk=0, width=32):
    """The very gradient the train step gives to optax, and its metrics, on some devices.

    `width`: of the rows in which the batch's texts are packed; 0: each has one of its own.

    Gradients and not updated parameters: Adam would hide one that is N times too large.
    """
    weights = tuple(objective.weights.items())
    program = program_of(objective.terms_of, weights, devices, backend)
    batch = packed(batch, devices, chunk, width) if width else apart(batch)
    state, metrics = program(init_state(params, KEEPS, seed=3), batch)
    assert state.skipped == 0  # or it would be that of no step
    values = {name: float(value) for name, value in metrics.items()}
    return jax.tree.map(np.asarray, state.opt_state), values


def assert_trees_close(a, b, tolerance=1e-4):
    """Leaf by leaf, relative to the leaf's largest entry (or a share of the whole's, where the
    true gradient is 0: a softmax does not feel the head's bias)."""
    leaves_a, leaves_b = jax.tree.leaves_with_path(a), jax.tree.leaves(b)
    assert len(leaves_a) == len(leaves_b)
    whole = max(np.abs(y).max() for y in leaves_b)
    for (path, x), y in zip(leaves_a, leaves_b, strict=True):
        scale = max(np.abs(y).max(), 1e-3 * whole)
        difference = np.abs(x - y).max() / scale
        assert difference < tolerance, f"{jax.tree_util.keystr(path)}: off by {difference:.1e}"


def assert_same(got, want):
    """Of gradients and metrics."""
    assert_trees_close(got[0], want[0])
    assert got[1] == pytest.approx(want[1], rel=1e-4, abs=1e-6)


def test_two_devices_give_the_gradients_of_one():
    """Over every parameter, with uneven lists, a row that is none, and with dropout on.

    Of the real models; pmap and chunks below.
    """
    retriever, reranker, params = models(dropout=0.1)
    batch, config = list_batch(rows=8), PRESETS["default"]
    objective = joint_objective(retriever, reranker, config)
    one = gradient(params, batch, objective, 1)
    two = gradient(params, batch, objective, 2, "shard_map")
    assert_same(two, one)


@pytest.mark.parametrize(
    ("preset", "rate", "backend"),
    [
        ("default", 0.1, "pmap"),
        ("default", 0.0, "shard_map"),
        ("paper", 0.0, "pmap"),
        ("released", 0.1, "shard_map"),
    ],
)
def test_two_devices_give_the_gradients_of_one_in_every_preset(preset, rate, backend):
    retriever, reranker, params = words(rate)
    objective = joint_objective(retriever, reranker, PRESETS[preset])
    batch = list_batch(rows=8)
    one = gradient(params, batch, objective, 1)
    assert_same(gradient(params, batch, objective, 2, backend), one)


def test_the_gradient_is_that_of_the_plain_loss():
    """Against jax.grad of a straightforward, unmapped function of the same batch."""
    retriever, reranker, params = models(shared=True)
    batch = list_batch(rows=4)
    config = PRESETS["default"]

    def plain(params):
        b, slots = batch.valid.shape
        flat = jax.tree.map(
            lambda x: x.reshape(b * slots, *x.shape[2:]), (batch.passage, batch.pair)
        )
        query = retriever.apply({"params": params["retriever"]}, batch.query, method="encode_query")
        passage = retriever.apply(
            {"params": params["retriever"]}, flat[0], method="encode_passage"
        ).reshape(b, slots, -1)
        ce = reranker.apply({"params": params["reranker"]}, flat[1]).reshape(b, slots)
        de = jnp.sum(query[:, None] * passage, -1)
        terms = joint_terms(de, ce, batch.valid, config)
        weights = {"retriever": 1.0, "reranker": 1.0, "distill": config.distill_weight}
        return sum(weights[name] * term.total / term.count for name, term in terms.items())

    want = jax.jit(jax.grad(plain))(params)
    got, _ = gradient(params, batch, joint_objective(retriever, reranker, config), 2)
    assert_trees_close(got, jax.tree.map(np.asarray, want))
    with pytest.raises(AssertionError, match="off by"):  # and the comparison can tell
        assert_trees_close(jax.tree.map(lambda x: x * 1.01, got), want)


def test_stopped_teacher_gets_no_gradient_from_distillation():
    retriever, reranker, params = words()
    config = LossConfig(preset="custom", retriever_weight=0.0, reranker_weight=0.0)
    objective = joint_objective(retriever, reranker, config)
    got, _ = gradient(params, list_batch(), objective, 2)
    assert not any(leaf.any() for leaf in jax.tree.leaves(got["reranker"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(got["retriever"]["query"]))


def test_joint_training_with_the_negatives_of_all_lists():
    """The same on one device and on two, whole and in chunks; and more to tell apart."""
    retriever, reranker, params = words(0.1)
    config = LossConfig(retriever_negatives="batch", retriever_temperature=0.5)
    batch = list_batch(rows=8)
    objective = joint_objective(retriever, reranker, config)
    one = gradient(params, batch, objective, 1)
    metrics = one[1]
    assert_same(gradient(params, batch, objective, 2, "pmap"), one)
    assert_same(gradient(params, batch, objective, 2, "shard_map", chunk=3), one)

    own = dataclasses.replace(config, retriever_negatives="list")
    listed = joint_objective(retriever, reranker, own)
    _, metrics_listed = gradient(params, batch, listed, 1)
    assert metrics["retriever"] > metrics_listed["retriever"]
    for same in ("reranker", "distill", "kl"):
        assert metrics[same] == pytest.approx(metrics_listed[same], rel=1e-5)
    warm = gradient(
        {"retriever": params["retriever"]},
        batch,
        retriever_objective(retriever, config),
        1,
    )[1]
    assert metrics["retriever"] == pytest.approx(warm["retriever"], rel=1e-5)


@pytest.mark.parametrize(("chunk", "backend"), [(0, "pmap"), (3, "shard_map")])
def test_what_answers_a_query_is_its_negative_on_no_device(chunk, backend):
    """As if its vector were nowhere: by the loss and the gradient, on one device and on two."""
    retriever, _, params = words()
    params = {"retriever": params["retriever"]}
    objective = retriever_objective(retriever, LossConfig(retriever_temperature=20.0))
    batch = list_batch(rows=8, slots=2, uneven=False)
    relevant = batch.relevant.copy()
    relevant[1, [3, 12, 13]] = relevant[6, 2] = True  # of either device's lists

    def wanted(params):
        query, passage = encode_lists(retriever, params["retriever"], packed(batch), None)
        scores = query @ passage.reshape(16, -1).T / 20.0
        rows = jnp.arange(8)
        others = relevant & (jnp.arange(16) != 2 * rows[:, None])
        return -jax.nn.log_softmax(jnp.where(others, -jnp.inf, scores))[rows, 2 * rows].mean()

    loss, grads = jax.jit(jax.value_and_grad(wanted))(params)
    one, metrics = gradient(params, batch._replace(relevant=relevant), objective, 1)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert_trees_close(one, grads)
    two = gradient(params, batch._replace(relevant=relevant), objective, 2, backend, chunk)
    assert_same(two, (one, metrics))
    assert loss < gradient(params, batch, objective, 1)[1]["loss"]  # else all is none's negative


@pytest.mark.parametrize("negatives", ["list", "batch"])
@pytest.mark.parametrize("normalize", [False, True])
def test_losses_at_several_widths_have_the_gradient_of_their_sum(negatives, normalize):
    """Matryoshka: against a plain computation from the whole vectors, width by width."""
    retriever, reranker, params = words()
    retriever.normalize = normalize
    widths, weights, temperature = (8, 4, 1), (1.0, 0.5, 0.25), 0.7
    loss = LossConfig(
        retriever_temperature=temperature,
        retriever_negatives=negatives,
        matryoshka=widths,
        matryoshka_weights=weights,
    )
    batch = list_batch(rows=8, uneven=False)

    def plain(params):
        query, passage = encode_lists(retriever, params["retriever"], packed(batch), None)
        ce = jax.nn.log_softmax(reranker_scores(reranker, params["reranker"], packed(batch), None))
        teacher = jax.lax.stop_gradient(ce)
        total = -ce[:, 0].mean()
        for width, weight in zip(widths, weights, strict=True):
            q, p = query[:, :width], passage[..., :width]
            if normalize and width < 8:
                q, p = (x / jnp.sqrt((x**2).sum(-1, keepdims=True)) for x in (q, p))
            de = jax.nn.log_softmax(jnp.einsum("bd,bld->bl", q, p) / temperature)
            own = -de[:, 0]
            if negatives == "batch":
                scores = jax.nn.log_softmax(q @ p.reshape(-1, width).T / temperature)
                own = -scores[jnp.arange(8), 5 * jnp.arange(8)]
            kl = (jnp.exp(teacher) * (teacher - de)).sum(1)
            total += weight * (own.mean() + 0.3 * kl.mean())
        return total

    value, want = jax.jit(jax.value_and_grad(plain))(params)
    objective = joint_objective(retriever, reranker, loss)
    one = gradient(params, batch, objective, 1)
    assert one[1]["loss"] == pytest.approx(float(value), rel=1e-5)
    assert_trees_close(one[0], want)
    assert_same(gradient(params, batch, objective, 2, "shard_map", chunk=3), one)
    # The share of lists that each narrower width gets right is logged.
    query, passage = encode_lists(retriever, params["retriever"], packed(batch), None)
    for width in widths[1:2] if normalize else widths[1:]:  # all cosines of one number are 1
        scale = (1 / np.linalg.norm(x[..., :width], axis=-1) for x in (query, passage))
        by_query, by_passage = scale if normalize else (np.ones(8), np.ones((8, 5)))
        scores = np.einsum("bd,bld->bl", query[:, :width], passage[..., :width])
        scores = scores * by_query[:, None] * by_passage
        right = np.mean((scores[:, :1] > scores[:, 1:]).all(1))
        assert one[1][f"retriever_accuracy_{width}"] == pytest.approx(right)
    assert f"retriever_accuracy_{widths[0]}" not in one[1]


def test_masks_and_lists_without_a_label_are_the_same_on_two_devices():
    """Against a plain computation of the masked in-batch loss; and on any number of devices."""
    retriever, reranker, params = words()
    margin, above, temperature, b, slots = 0.05, 0.1, 0.7, 8, 3
    loss = LossConfig(
        retriever_temperature=temperature,
        retriever_negatives="batch",
        mask_by_reranker=margin,
        mask_by_retriever=above,
    )
    labelled = np.array([True, True, False, True, True, True, False, True])
    batch = list_batch(rows=b, slots=slots, uneven=False)._replace(labelled=labelled)
    rows = np.arange(b)

    def plain(params):
        query, passage = encode_lists(retriever, params["retriever"], packed(batch), None)
        ce = reranker_scores(reranker, params["reranker"], packed(batch), None)
        scores = query @ passage.reshape(b * slots, -1).T
        own = scores[rows, slots * rows]
        masked = scores > own[:, None] + above
        for row in range(b):
            likely = ce[row] > ce[row, 0] + margin
            place = slice(row * slots, (row + 1) * slots)
            masked = masked.at[row, place].set(masked[row, place] | likely)
        masked &= np.arange(b * slots) != slots * rows[:, None]
        log_p = jax.nn.log_softmax(jnp.where(masked, -jnp.inf, scores) / temperature)
        label = -log_p[rows, slots * rows] @ labelled / 6
        de = jnp.einsum("bd,bld->bl", query, passage) / temperature
        teacher = jax.lax.stop_gradient(jax.nn.log_softmax(ce))
        kl = (jnp.exp(teacher) * (teacher - jax.nn.log_softmax(de))).sum(1).mean()
        own_ce = -jax.nn.log_softmax(ce)[:, 0] @ labelled / 6
        return label + own_ce + 0.3 * kl, jnp.mean(masked[labelled].sum(1) / (b * slots - 1))

    (value, share), want = jax.jit(jax.value_and_grad(plain, has_aux=True))(params)
    objective = joint_objective(retriever, reranker, loss)
    one = gradient(params, batch, objective, 1)
    assert one[1]["loss"] == pytest.approx(float(value), rel=1e-5)
    assert_trees_close(one[0], want)
    assert one[1]["masked_negatives"] == pytest.approx(float(share), rel=1e-5)
    assert 0 < share < 1 and one[1]["labelled"] == 0.75
    assert_same(gradient(params, batch, objective, 2, "shard_map", chunk=3), one)


def test_the_warm_up_has_the_same_widths():
    """The mean of each width's loss by itself, where no weights are given."""
    retriever, _, params = words()
    params, batch = {"retriever": params["retriever"]}, list_batch(rows=8, slots=3)
    loss = LossConfig(matryoshka=(2, 8))
    _, both = gradient(params, batch, retriever_objective(retriever, loss), 2)
    _, whole = gradient(params, batch, retriever_objective(retriever, LossConfig()), 1)
    short = {
        tower: {**own, "kernel": np.where(np.arange(8) < 2, own["kernel"], 0)}
        for tower, own in params["retriever"].items()
    }
    short = {"retriever": short}
    _, first = gradient(short, batch, retriever_objective(retriever, LossConfig()), 1)
    assert both["loss"] == pytest.approx((whole["loss"] + first["loss"]) / 2, rel=1e-5)


def test_widths_that_do_not_fit_the_retriever_are_refused():
    retriever, reranker, _ = words()
    for make in (
        lambda loss: joint_objective(retriever, reranker, loss),
        lambda loss: retriever_objective(retriever, loss),
    ):
        for widths in ((4, 2), (16, 8)):
            with pytest.raises(InputError, match=r"vectors have 8 numbers: its widest must be 8"):
                make(LossConfig(matryoshka=widths))


def products(jaxpr):
    """All matrix products of a program, those of its parts too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if hasattr(part, "eqns"):
                    yield from products(part)


@pytest.mark.parametrize("attention", ["plain", "xla"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_of_float32_are_float32_on_every_device(dtype, attention):
    """Accelerators compute them from bfloat16 or TF32 unless each is asked not to."""
    compute = Compute(dtype=dtype, attention=attention, dropout=0.1)
    retriever, reranker, params = models(compute=compute)
    loss, batch = LossConfig(retriever_negatives="batch"), packed(list_batch())
    objective = joint_objective(retriever, reranker, loss)

    def total(params):
        keys = jax.random.split(jax.random.key(0), len(batch.valid))
        return sum(term.total for term in objective.terms_of(params, batch, keys).values())

    spread = jax.vmap(jax.grad(total), axis_name=AXIS, axis_size=1, in_axes=None)
    found = list(products(jax.make_jaxpr(spread)(params).jaxpr))
    exact = [one for one in found if {x.aval.dtype for x in one.invars} == {jnp.dtype("float32")}]
    assert len(found) > 40 and (len(exact) == len(found)) == (dtype == jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    assert all(set(one.params["precision"] or ()) == {highest} for one in exact)


@pytest.mark.parametrize(("rate", "chunk", "devices"), [(0.1, 3, 1), (0.0, 16, 1), (0.1, 1, 2)])
def test_chunks_give_the_gradients_of_the_whole(rate, chunk, devices):
    """Gradient caching: the same dropout in both passes, uneven lists, N that chunks don't divide.

    One device has 8 queries and 40 passages and pairs.
    """
    params, batch, objective, want = of_words(rate)
    assert_same(gradient(params, batch, objective, devices, chunk=chunk), want)


@cache
def of_words(rate):
    """Small models, a batch, and the gradient of one device that sees it all, nothing packed."""
    retriever, reranker, params = words(rate)
    batch, config = list_batch(rows=8), PRESETS["default"]
    objective = joint_objective(retriever, reranker, config)
    return params, batch, objective, gradient(params, batch, objective, 1, width=0)


class Drawn:
    """A model whose vectors or scores are drawn by each text's key alone."""

    def __init__(self, *width):
        self.width = width

    def apply(self, variables, rows, keys, method=None):
        if keys is None:
            return jnp.zeros((*rows.first.shape, *self.width))
        return variables["params"] * jax.vmap(lambda key: jax.random.uniform(key, self.width))(keys)


def dealt_out(batch):
    """The same lists in other places, as they are dealt out to devices."""
    order, slots = np.array([5, 0, 7, 2, 1, 6, 3, 4], np.int32), batch.valid.shape[1]
    at = (order[:, None] * slots + np.arange(slots)).ravel()
    moved = jax.tree.map(lambda x: x[order], batch)
    return moved._replace(relevant=moved.relevant[:, at], place=order)


@pytest.mark.parametrize("stage", ["retriever", "reranker", "joint"])
def test_dropout_hangs_on_seed_and_step_and_not_on_devices(stage):
    """Of the train step itself, in every stage; nothing is trained, so dropout alone moves it."""
    config, batch, still = LossConfig(), list_batch(rows=8), optax.set_to_zero()
    objective = {
        "retriever": retriever_objective(Drawn(4), LossConfig(retriever_temperature=0.5)),
        "reranker": reranker_objective(Drawn(), config),
        "joint": joint_objective(Drawn(4), Drawn(), config),
    }[stage]
    params = {"retriever": jnp.ones(()), "reranker": jnp.ones(())}

    def losses(devices, batch=batch):
        step = partial(train_step, objective=objective, optimizer=still)
        program, found = data_parallel(step, jax.devices()[:devices]), []
        for seed, number in ((3, 0), (3, 1), (4, 0)):
            state = init_state(params, still, seed).replace(step=jnp.int32(number))
            metrics = program(state, packed(batch, devices))[1]
            found.append([float(metrics[name]) for name in objective.weights])
        return np.array(found)

    one = losses(1)
    np.testing.assert_allclose(losses(2), one, rtol=1e-5)
    np.testing.assert_allclose(losses(2, dealt_out(batch)), one, rtol=1e-5)
    assert np.diff(np.sort(one, axis=0), axis=0).min() > 1e-3  # no two draws give one loss


def test_no_two_texts_share_a_dropout_key():
    """Over seeds, steps, rows, the kinds of texts and the slots of a list."""

    def drawn(rows, slots):
        batch, params = packed(list_batch(rows=4, slots=slots)), jnp.ones(())
        query, passage = encode_lists(Drawn(), params, batch, rows)
        return query, passage.reshape(4, slots), reranker_scores(Drawn(), params, batch, rows)

    found = []
    for seed, step in itertools.product((3, 4), (0, 1)):
        state = init_state({}, optax.identity(), seed).replace(step=jnp.int32(step))
        rows = row_keys(state, jnp.int32(0), 4)
        assert jnp.array_equal(row_keys(state, jnp.int32(2), 2), rows[2:])
        texts = drawn(rows, slots=5)
        found += texts
        for short, long in zip(drawn(rows, slots=3)[1:], texts[1:], strict=True):
            assert jnp.array_equal(short, long[:, :3])  # a slot's key, however long the list
    numbers = np.concatenate([some.ravel() for some in found])
    assert len(np.unique(numbers)) == len(numbers) == 4 * 4 * (1 + 5 + 5)


def test_models_train_with_the_dropout_of_their_config(weights, tmp_path):
    """A warmed model too, though its folder knows of none."""
    stage = StageConfig(1)
    config = Config(
        text=TextConfig(query_length=12, passage_length=32, pair_length=48),
        retriever=RetrieverConfig(str(weights), dropout=0.1),
        reranker=RerankerConfig(str(weights), dropout=0.2),
        retriever_warmup=stage,
        reranker_warmup=stage,
    )
    run = Run(config, tmp_path, None, None, None, print, unwatched)
    retriever, reranker = start_retriever(run), start_reranker(run)
    (tmp_path / "warmup").mkdir()
    save_retriever(tmp_path / "warmup" / "retriever", retriever)
    save_reranker(tmp_path / "warmup" / "reranker", reranker)
    retrievers = retriever, warmed_retriever(run)
    assert [model.module.compute.dropout for model in retrievers] == [0.1, 0.1]
    rerankers = reranker, warmed_reranker(run)
    assert [model.module.compute.dropout for model in rerankers] == [0.2, 0.2]


@pytest.mark.parametrize(
    ("rate", "chunk", "devices", "backend"), [(0.1, 0, 2, "pmap"), (0.0, 16, 1, "shard_map")]
)
@pytest.mark.parametrize("width", [16, 64])
def test_packed_rows_give_the_gradients_of_padded_texts(rate, chunk, devices, backend, width):
    """Over every parameter, on any number of devices, whole or in chunks, with the same dropout."""
    params, batch, objective, want = of_words(rate)
    got = gradient(params, batch, objective, devices, backend, chunk, width)
    assert_same(got, want)


def test_lists_laid_out_for_several_devices_are_right_on_one():
    """In parts that are not full, the first ones among them."""
    retriever, reranker, params = words(0.1)
    batch, keys = list_batch(rows=8), jax.random.split(jax.random.key(0), 8)

    @jax.jit
    def scores(rows):
        query, passage = encode_lists(retriever, params["retriever"], rows, keys)
        return query, passage, reranker_scores(reranker, params["reranker"], rows, keys)

    for got, want in zip(scores(packed(batch, 2, 3)), scores(apart(batch)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "modernbert" else pytest.mark.slow) for k in KINDS]
)
def test_every_kind_of_encoder_gives_one_gradient(kind):
    """On two devices, in chunks, with dropout: that of one device, nothing packed."""
    retriever, reranker, params = models(0.1, shared=True, scale=1.0, encoder=KINDS[kind])
    objective = joint_objective(retriever, reranker, PRESETS["default"])
    batch = list_batch(rows=4, slots=2)
    want = gradient(params, batch, objective, 1, width=0)
    assert_same(gradient(params, batch, objective, 2, chunk=2), want)


def test_chunks_work_for_the_warm_ups():
    retriever, reranker, params = words(0.1)
    batch = list_batch(rows=8, slots=3)
    for name, objective in (
        ("retriever", retriever_objective(retriever, LossConfig(retriever_temperature=0.5))),
        ("reranker", reranker_objective(reranker, LossConfig())),
    ):
        own = {name: params[name]}
        want, _ = gradient(own, batch, objective, 1)
        got, _ = gradient(own, batch, objective, 2, chunk=2)
        assert_trees_close(got, want)


def test_memory_follows_the_chunk_not_the_batch():
    """Bytes that the compiled gradient needs besides its inputs and outputs."""
    _, reranker, params = models()
    params = {"reranker": params["reranker"]}

    def bytes_of(rows, chunk):
        objective = reranker_objective(reranker, LossConfig())
        step = partial(loss_gradient, objective=objective)
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), (AXIS,))
        mapped = jax.shard_map(
            lambda params, batch: step(params, batch, None),
            mesh=mesh,
            in_specs=jax.sharding.PartitionSpec(),
            out_specs=jax.sharding.PartitionSpec(),
            check_vma=False,
        )
        batch = packed(list_batch(rows=rows, slots=8), chunk=chunk)
        compiled = jax.jit(mapped).lower(params, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(32, 0) > 3 * bytes_of(8, 0)
    assert bytes_of(32, 8) < 1.5 * bytes_of(8, 8)
    assert bytes_of(32, 8) < 0.2 * bytes_of(32, 0)


def test_other_lists_do_not_reach_a_lists_scores_but_its_dropout_does():
    retriever, reranker, params = models(dropout=0.5)
    batch, others = (list_batch(seed, rows=4, uneven=False) for seed in (0, 1))
    keys, other_keys = (jax.random.split(jax.random.key(seed), 4) for seed in (0, 1))
    mixed, mixed_keys = jax.tree.map(
        lambda own, other: jnp.asarray(other).at[2].set(own[2]), (batch, keys), (others, other_keys)
    )

    @jax.jit
    def both(batch, keys):
        return (
            retriever_scores(retriever, params["retriever"], batch, keys),
            reranker_scores(reranker, params["reranker"], batch, keys),
        )

    batch, mixed = apart(batch), apart(mixed)
    for got, among_others, drawn_anew in zip(
        both(batch, keys), both(mixed, mixed_keys), both(batch, other_keys), strict=True
    ):
        np.testing.assert_allclose(among_others[2], got[2], rtol=1e-5)
        assert np.abs(drawn_anew - got).min() > 1e-4


def topical_batch(seed, rows=8, slots=4, topics=5):
    """A query and its positive draw their words from one topic, the negatives from others."""
    rng = np.random.default_rng(seed)
    topic = np.array([rng.permutation(topics)[:slots] for _ in range(rows)])
    words = 50 // topics

    def texts(topic):
        text = tokens(rng, *topic.shape, length=8)
        ids = topic[..., None] * words + rng.integers(0, words, text.ids.shape)
        return text._replace(ids=ids.astype(np.int32))

    query, passage = texts(np.repeat(topic[:, :1], slots, axis=1)), texts(topic)
    pair = passage._replace(length=np.full(topic.shape, 8, np.int32))
    batch = ListBatch(
        texts(topic[:, 0]),
        texts(topic),
        pair._replace(ids=np.concatenate([query.ids, passage.ids], -1)[..., 4:12]),
        np.ones((rows, slots), bool),
        own_positives(rows, slots),
    )
    return apart(batch)


def test_training_raises_held_out_accuracy_of_both_models():
    """Fresh batches throughout, judged on batches never trained on."""
    retriever, reranker, params = models(dropout=0.1)
    params = jax.tree.map(lambda x: x / 2, params)  # as a fresh model has them
    config = LossConfig()
    optimizer = make_optimizer(OptimizerConfig(retriever_lr=1e-2, reranker_lr=1e-2), 200)
    objective = joint_objective(retriever, reranker, config)
    step = partial(train_step, objective=objective, optimizer=optimizer)
    program = data_parallel(step, jax.devices()[:1])
    judge = jax.vmap(  # in an axis of one device
        lambda params, batch: objective.terms_of(params, batch, None),
        in_axes=None,
        axis_name=AXIS,
        axis_size=1,
    )
    judge = jax.jit(judge)
    held_out = topical_batch(10**6, rows=128)

    def accuracy(params):
        terms = jax.device_get(judge(params, held_out))
        return [
            float(terms[f"{name}_accuracy"].total[0]) / 128 for name in ("retriever", "reranker")
        ]

    before = accuracy(params)
    state = init_state(params, optimizer, seed=0)
    for step in range(200):
        state, _ = program(state, topical_batch(step, rows=32))
    after = accuracy(jax.device_get(state.params))
    assert all(value < 0.6 for value in before)
    assert all(value > 0.9 for value in after), (before, after)
    assert int(state.step) == 200


def test_each_model_follows_its_own_learning_rate():
    retriever, reranker, params = words()
    optimizer = make_optimizer(OptimizerConfig(retriever_lr=1e-3, reranker_lr=0.0, warmup=0.0), 10)
    config = LossConfig()
    step = partial(
        train_step,
        objective=joint_objective(retriever, reranker, config),
        optimizer=optimizer,
    )
    state, _ = data_parallel(step)(init_state(params, optimizer, seed=0), packed(list_batch(), 2))
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), params, state.params)
    assert all(jax.tree.leaves(same["reranker"]))
    assert not any(jax.tree.leaves(same["retriever"]["query"]))


def test_warm_up_trains_the_reranker_alone():
    _, reranker, params = words()
    params = {"reranker": params["reranker"]}
    optimizer = make_optimizer(OptimizerConfig(warmup=0.0), 5)
    step = partial(
        train_step,
        objective=reranker_objective(reranker, LossConfig()),
        optimizer=optimizer,
    )
    state, metrics = data_parallel(step)(init_state(params, optimizer, 0), packed(list_batch(), 2))
    assert set(state.params) == {"reranker"}
    assert float(metrics["loss"]) == pytest.approx(float(metrics["reranker"]))


def test_weight_decay_spares_biases_and_norms_of_stacked_layers():
    _, _, params = models()
    mask = decay_mask(params)
    layers = mask["reranker"]["encoder"]["layers"]
    assert layers["qkv"] == {"kernel": True, "bias": False}
    assert layers["mlp_norm"] == {"scale": False, "bias": False}
    assert mask["retriever"]["query"]["word_embedding"] is True


def test_schedules():
    config = OptimizerConfig(warmup=0.2, schedule="linear")
    rate = make_schedule(config, 1.0, 10)
    assert [round(float(rate(i)), 3) for i in (0, 1, 2, 6, 10)] == [0.5, 1.0, 1.0, 0.5, 0.0]
    constant = make_schedule(OptimizerConfig(warmup=0.0, schedule="constant"), 2.0, 10)
    assert [float(constant(i)) for i in (0, 9, 99)] == [2.0, 2.0, 2.0]


def test_a_batch_the_devices_cannot_share_is_refused():
    with pytest.raises(InputError, match=r"joint.batch is 12, which 8 devices .* take 8 or 16"):
        check_divisible(12, 8, "joint.batch")
    check_divisible(16, 8, "joint.batch")
