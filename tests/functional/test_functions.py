"""Both models as pure functions: what the models and the train step compute, in any program."""

import doctest
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from on_disk import make_weights, untrained_pair
from tiny import list_batch, models, packed

import rocketjax
from rocketjax.config.loss import LossConfig
from rocketjax.config.schema import TextConfig
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.retrieval.model import Model
from rocketjax.runtime.devices import AXIS, local_mesh
from rocketjax.runtime.errors import InputError
from rocketjax.training.step import joint_objective, loss_gradient

PAGE = (Path(__file__).parents[2] / "docs" / "functions.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Both models, untrained, which know the page's words."""
    words = sorted(set(re.findall(r"\w+", PAGE)))
    folder = make_weights(tmp_path_factory.mktemp("functions"), words=words)
    return untrained_pair(folder, TextConfig(query_length=12, passage_length=12, pair_length=24))


def test_every_example_of_the_page_runs(pair, monkeypatch):
    monkeypatch.setattr(rocketjax, "load", lambda folder: pair, raising=False)
    assert len(EXAMPLES) == 5
    exec("\n".join(EXAMPLES), {})


@pytest.mark.slow
def test_the_examples_on_a_mesh_run_on_eight_devices(tmp_path):
    program = f"""
import sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
import rocketjax
from on_disk import make_weights, untrained_pair
from rocketjax.config.schema import TextConfig

words = {sorted(set(re.findall(r"[a-z]+", PAGE)))!r}
folder = make_weights(Path(sys.argv[1]), words=words, layers=1)
pair = untrained_pair(folder, TextConfig(query_length=12, passage_length=12, pair_length=24))
rocketjax.load = lambda folder: pair
exec({EXAMPLES[0] + "".join(EXAMPLES[3:])!r}, names := {{}})
assert names["mesh"].size == 8
"""
    flags = "--xla_force_host_platform_device_count=8 --xla_llvm_disable_expensive_passes=true"
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, str(tmp_path)]
    subprocess.run(command, env=env, check=True)


def examples():
    """The examples of the class and of each of its public methods."""
    found = doctest.DocTestFinder(recurse=True).find(rocketjax.Functions, "Functions")
    return {test.name: test for test in found if not re.search(r"\._", test.name)}


def public():
    own = {name for name in vars(rocketjax.Functions) if name[0] != "_"}
    return {"Functions", *(f"Functions.{n}" for n in own - {"model", "loss", "chunk", "dropout"})}


def test_every_public_function_has_an_example():
    assert {name for name, test in examples().items() if test.examples} == public()
    assert len(public()) == 13


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """An untrained pair with vectors as long as the demo's."""
    words = sorted(set(re.findall(r"\w+", PAGE)))
    folder = make_weights(tmp_path_factory.mktemp("wide"), width=384, words=words, layers=1)
    return untrained_pair(folder, TextConfig(query_length=32, passage_length=64, pair_length=64))


@pytest.mark.parametrize("name", sorted(public()))
def test_every_example_of_a_function_runs(name, wide, monkeypatch):
    monkeypatch.setattr(rocketjax, "load", lambda folder: wide, raising=False)
    test = examples()[name]
    test.globs = {"functions": rocketjax.Functions(wide), "rocketjax": rocketjax}
    test.globs |= {"jax": jax, "jnp": jnp}
    said = []
    result = doctest.DocTestRunner().run(test, out=said.append)
    assert result.attempted and not result.failed, "".join(said)


def test_they_compute_what_the_models_do_for_texts(pair):
    functions, texts = rocketjax.Functions(pair), ["sort a list", "wait", "the largest average"]
    params = functions.params
    query = functions.encode_queries(params, functions.tokenize_queries(texts))
    np.testing.assert_allclose(query, pair.encode_query(texts), atol=2e-5)
    passage = functions.encode_passages(params, functions.tokenize_passages(texts))
    np.testing.assert_allclose(passage, pair.encode_passage(texts), atol=2e-5)
    pairs = functions.tokenize_pairs(texts, texts[::-1])
    wanted = pair.score(texts, texts[::-1])
    np.testing.assert_allclose(functions.score_pairs(params, pairs), wanted, atol=2e-5)
    lists = functions.tokenize_lists(texts[:2], [texts, texts[:1]])
    de, ce = functions.score_lists(params, lists)
    assert lists.valid.tolist() == [[True] * 3, [True, False, False]]
    vectors = pair.encode_query(texts[:1]), pair.encode_passage(texts)
    np.testing.assert_allclose(de[0], vectors[1] @ vectors[0][0], rtol=1e-5)
    np.testing.assert_allclose(ce[0], pair.score(texts[:1] * 3, texts), atol=2e-5)
    with pytest.raises(InputError, match="2 queries and 1 lists"):
        functions.tokenize_lists(texts[:2], [texts])
    with pytest.raises(InputError, match="no texts"):
        functions.tokenize_queries([])
    with pytest.raises(InputError, match="takes a pair"):
        rocketjax.Functions(pair.retriever)


def test_scores_stand_where_their_passages_were_given(pair):
    """A candidate that repeats the first one leaves a masked slot; those behind it do not move."""
    functions, query = rocketjax.Functions(pair), "sort a list"
    candidates = ["wait", "Wait", "the largest average", "sort a list"]
    lists = functions.tokenize_lists([query], [candidates], scores=[[4.0, 3.0, 2.0, 1.0]])
    assert lists.valid.tolist() == [[True, False, True, True]]
    assert lists.stored.scores[0, 2:].tolist() == [2.0, 1.0]
    _, ce = functions.score_lists(functions.params, lists)
    wanted = pair.score([query] * 2, candidates[2:])
    np.testing.assert_allclose(ce[0, 2:], wanted, atol=2e-5)


def test_lists_without_a_label_are_distilled_alone(pair):
    functions = rocketjax.Functions(pair)
    texts = ["sort a list", "wait", "the largest average"]
    lists = functions.tokenize_lists(texts[:2], [texts, texts[1:]], labelled=[False, True])
    assert lists.labelled.tolist() == [False, True]
    terms = functions.joint_terms(functions.params, lists)
    counts = {name: float(terms[name].count) for name in ("retriever", "reranker", "distill")}
    assert counts == {"retriever": 1, "reranker": 1, "distill": 2}
    whole = functions.joint_terms(functions.params, lists._replace(labelled=None))
    assert float(whole["retriever"].count) == 2
    np.testing.assert_allclose(terms["distill"].total, whole["distill"].total, rtol=1e-6)
    loss, parts = functions.joint_loss(functions.params, lists)
    assert float(parts["labelled"]) == 0.5 and np.isfinite(loss)
    with pytest.raises(InputError, match="labelled has 1 entries for 2 queries"):
        functions.tokenize_lists(texts[:2], [texts, texts], labelled=[True])


def test_keys_drop_what_they_are_told_and_are_one_a_text(pair):
    functions = rocketjax.Functions(pair, dropout=0.5)
    tokens = functions.tokenize_queries(["wait", "sort a list"])
    keys = jax.random.split(jax.random.key(0), 2)
    dropped = functions.encode_queries(functions.params, tokens, keys)
    assert not np.allclose(dropped, functions.encode_queries(functions.params, tokens), atol=1e-2)
    with pytest.raises(InputError, match=r"keys of shape \(3,\) .* for 2 texts"):
        three = jax.random.split(jax.random.key(0), 3)
        functions.encode_queries(functions.params, tokens, three)
    with pytest.raises(InputError, match="keys are for dropout, and there is none"):
        rocketjax.Functions(pair).encode_queries(functions.params, tokens, keys)


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(),
        LossConfig(preset="paper"),
        LossConfig(preset="custom", retriever_negatives="batch", retriever_temperature=0.5),
    ],
    ids=["default", "paper", "in batch"],
)
def test_the_gradient_is_that_of_the_train_step_on_all_devices(loss):
    retriever, reranker, params = models(dropout=0.3, scale=1.0)
    functions = rocketjax.Functions(
        Model(
            Retriever(retriever, params["retriever"], None),
            Reranker(reranker, params["reranker"], None),
        ),
        loss,
        dropout=0.3,
    )
    batch, keys = packed(list_batch(rows=8)), jax.random.split(jax.random.key(0), 8)
    objective = joint_objective(retriever, reranker, functions._pair.loss)
    specs = (P(), P(AXIS), P(AXIS))
    step = jax.shard_map(
        partial(loss_gradient, objective=objective),
        mesh=local_mesh(),
        in_specs=specs,
        out_specs=P(),
        check_vma=False,
    )
    wanted, metrics = jax.jit(step)(params, packed(list_batch(rows=8), devices=2), keys)
    (value, parts), grads = jax.value_and_grad(functions.joint_loss, has_aux=True)(
        functions.params, batch, keys
    )
    np.testing.assert_allclose(value, metrics["loss"], rtol=1e-5)
    assert parts.keys() == metrics.keys()
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale)


def test_another_teachers_scores_reach_the_loss(pair):
    queries, lists = ["mean of an array"], [["the average", "wait", "sum"]]
    loss = LossConfig(teacher="stored", stored_temperature=0.5, retriever_temperature=1.0)
    functions = rocketjax.Functions(pair, loss)
    batch = functions.tokenize_lists(queries, lists, scores=[[1.0, 0.0, -1.0]])
    retriever, _ = functions.score_lists(functions.params, batch)
    total, _ = functions.joint_terms(functions.params, batch)["distill"]
    p, q = jax.nn.softmax(jnp.array([2.0, 0.0, -2.0])), jax.nn.softmax(retriever[0])
    assert float(total) == pytest.approx(float(jnp.sum(p * jnp.log(p / q))), rel=1e-4)
    with pytest.raises(InputError, match=r"^scores: not one for each passage"):
        functions.tokenize_lists(queries, lists, scores=[[1.0, 0.0]])
    with pytest.raises(InputError, match=r"^loss.teacher is stored, but the batch holds no"):
        functions.joint_terms(functions.params, functions.tokenize_lists(queries, lists))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": LossConfig(distill_weight=0.9)}, r"loss: preset default overrules .*'custom'"),
        ({"loss": LossConfig(preset="custom", direction="x")}, r"loss\.direction: "),
        ({"loss": None}, r"loss: "),
        ({"dropout": 1.0}, r"dropout: "),
        ({"dropout": -0.1}, r"dropout: "),
        ({"chunk": -1}, r"chunk: "),
    ],
)
def test_an_option_that_would_not_count_or_fit_is_refused(pair, options, said):
    with pytest.raises(InputError, match=f"^{said}"):
        rocketjax.Functions(pair, **options)


def test_a_list_of_widths_is_taken_as_a_tuple(pair):
    loss = LossConfig(preset="custom", matryoshka=[8, 4])
    assert rocketjax.Functions(pair, loss).loss.matryoshka == (8, 4)


def test_keys_of_the_older_kind_are_taken(pair):
    functions = rocketjax.Functions(pair, dropout=0.5)
    batch = functions.tokenize_lists(["wait", "sum"], [["time"], ["sort a list"]])
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    shapes = jax.eval_shape(functions.score_lists, functions.params, batch, keys)
    assert [x.shape for x in shapes] == [(2, 1), (2, 1)]
    with pytest.raises(InputError, match=r"keys of shape \(2, 3\) and type uint32"):
        functions.score_lists(functions.params, batch, jnp.zeros((2, 3), jnp.uint32))


def test_negatives_of_lists_that_another_device_has_are_refused(pair):
    loss = LossConfig(preset="custom", retriever_negatives="batch")
    functions = rocketjax.Functions(pair, loss)
    batch = functions.tokenize_lists(["wait", "sum"], [["time"], ["sort a list"]], devices=2)
    half = jax.tree.map(lambda x: x[:1], batch)
    with pytest.raises(InputError, match=r"here are 1 lists of a batch of 2: .* shard_map"):
        functions.joint_loss(functions.params, half)


def test_a_teachers_score_may_be_missing_and_is_else_a_finite_number(pair):
    functions, queries = rocketjax.Functions(pair), ["mean of an array"] * 2
    lists = [["the average", "wait"], ["sum", "wait"]]
    batch = functions.tokenize_lists(queries, lists, scores=[[1.0, 2.0], [3.0, None]])
    assert batch.stored.there.tolist() == [[True, True], [True, False]]
    for wrong in (float("nan"), float("inf"), 1e39, "high"):
        with pytest.raises(InputError, match=r"^scores\[1\]\[0\]: .*; give finite numbers"):
            functions.tokenize_lists(queries, lists, scores=[[1.0, 2.0], [wrong, 1.0]])


def test_they_work_inside_vmap_and_scan(pair):
    functions = rocketjax.Functions(pair)
    both = [functions.params, functions.init(jax.random.key(3))]
    tokens = functions.tokenize_pairs(["wait", "sort a list"], ["time", "sorted in order"])
    wanted = np.stack([functions.score_pairs(params, tokens) for params in both])
    assert not np.allclose(*wanted)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *both)
    mapped = jax.vmap(functions.score_pairs, in_axes=(0, None))(stacked, tokens)
    np.testing.assert_allclose(mapped, wanted, atol=1e-5)
    _, scanned = jax.lax.scan(
        lambda _, params: (None, functions.score_pairs(params, tokens)), None, stacked
    )
    np.testing.assert_allclose(scanned, wanted, atol=1e-5)
