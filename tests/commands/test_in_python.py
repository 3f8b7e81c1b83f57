"""What a caller in Python may get wrong: one clear error each, and nothing lost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from on_disk import untrained_pair
from tiny import vectors, vectors_folder

import rocketjax
from rocketjax.config.loss import LossConfig, resolve_loss
from rocketjax.config.schema import ComputeConfig, TextConfig
from rocketjax.data.runs import read_run, write_run
from rocketjax.evaluation.metrics import per_query
from rocketjax.inference.folder import save_reranker, save_retriever
from rocketjax.inference.start import make_compute
from rocketjax.retrieval.exact import ExactIndex, _few, _search_piece
from rocketjax.retrieval.model import Corpus
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import pad
from rocketjax.training import losses

TEXT = TextConfig(query_length=10, passage_length=10, pair_length=18)


@pytest.fixture(scope="module")
def pair(weights):
    return untrained_pair(weights, TEXT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode_query("cat"), "queries: a single text"),
        (lambda m: m.encode_passage("cat"), "passages: a single text"),
        (lambda m: m.encode_passage(["cat"], "dog"), "titles: a single text"),
        (lambda m: m.encode_passage(["cat"], [None]), r"titles\[0\] is None, not a string"),
        (lambda m: m.encode_passage(["cat"], [float("nan")]), r"titles\[0\] is nan"),
        (lambda m: m.encode_passage(["cat", b"dog"]), r"passages\[1\] is b'dog'"),
        (lambda m: m.encode_passage(["cat", "dog"], []), "got 0 titles for 2 passages"),
        (lambda m: m.encode_query([3]), r"queries\[0\] is 3"),
        (lambda m: m.score("cat", "dog"), "a single text"),
        (lambda m: m.score(["cat"], ["cat", "dog"]), "got 1 queries and 2 passages"),
        (lambda m: m.score(["cat"], ["dog"], ["a", "b"]), "got 2 titles for 1 passages"),
        (lambda m: m.rerank("cat", "dog"), "passages: a single text"),
        (lambda m: m.rerank(["cat"], ["dog"]), r"queries\[0\] is \['cat'\]"),
        (lambda m: m.rerank("cat", ["dog"], top_k=0), "top_k is 0"),
        (lambda m: m.search("cat", top_k=-1), "top_k is -1 and depth 50"),
        (lambda m: m.search("cat", depth=-1), "top_k is 10 and depth -1"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(pair, call, message):
    model = dataclasses.replace(pair, open_corpus=lambda: Corpus(None, {}))
    with pytest.raises(InputError, match=message):
        call(model)


def test_inside_a_jit_texts_are_refused_and_the_model_goes_on(pair):
    """Parameters placed during a trace would be tracers, and every later call would fail."""
    fresh = dataclasses.replace(
        pair,
        retriever=dataclasses.replace(pair.retriever),
        reranker=dataclasses.replace(pair.reranker),
    )

    @jax.jit
    def reward(x):
        return x * fresh.score(["cat"], ["dog"])[0]

    with pytest.raises(InputError, match=r"cannot run inside jax\.jit: call it outside"):
        reward(1.0)
    np.testing.assert_array_equal(fresh.score(["cat"], ["dog"]), pair.score(["cat"], ["dog"]))
    assert fresh.encode_query(["cat"]).shape == (1, 32)


@pytest.mark.parametrize("devices", [[1], [0, 1]])
def test_parameters_work_beside_arrays_of_any_device_or_mesh(pair, devices):
    tokens = pad(pair.reranker.tokenizer.pair(["cat"] * 2, None, ["dog", "sun"]), 2, 18, 0)
    mesh = Mesh(np.array(jax.devices())[devices], ("own",))
    placed = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec("own")))
    scores = jax.jit(pair.reranker.module.apply)({"params": pair.reranker.params}, placed)
    np.testing.assert_allclose(scores, pair.score(["cat"] * 2, ["dog", "sun"]), atol=1e-5)


def test_any_iterable_of_texts_will_do(pair):
    words = ["cat", "dog", "sun"]
    wanted = pair.encode_query(words)
    for given in (iter(words), tuple(words), np.array(words), (word for word in words)):
        np.testing.assert_array_equal(pair.encode_query(given), wanted)
    titled = pair.encode_passage(words, np.array(["a", "", "c"]))
    np.testing.assert_array_equal(titled, pair.encode_passage(words, ["a", "", "c"]))
    scores = pair.score(words, words)
    np.testing.assert_array_equal(pair.score(iter(words), iter(words)), scores)


def test_saving_replaces_a_model_of_its_kind_and_nothing_else(pair, tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years")
    for save, model in ((save_retriever, pair.retriever), (save_reranker, pair.reranker)):
        for place in (thesis, thesis / "chapter.txt"):
            with pytest.raises(InputError, match="holds something other than a re"):
                save(place, model)
    assert (thesis / "chapter.txt").read_text() == "years"
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # the second replaces the first
        save_retriever(str(tmp_path / "empty"), pair.retriever)
    with pytest.raises(InputError, match="holds something other than a reranker"):
        save_reranker(tmp_path / "empty", pair.reranker)
    opened = rocketjax.open_retriever(tmp_path / "empty")
    np.testing.assert_array_equal(opened.encode_query(["cat"]), pair.encode_query(["cat"]))


def test_models_can_be_keys_and_say_little(pair):
    assert {pair.retriever: 1, pair.reranker: 2, pair: 3}[pair.reranker] == 2
    assert pair.retriever in [pair.retriever] and len(repr(pair.retriever)) < 2_000


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (ComputeConfig(padding="skipp"), r"compute\.padding: .*'skipp'"),
        (ComputeConfig(dtype="bf16"), r"compute\.dtype: .*'bf16'"),
        (ComputeConfig(batch=-3), r"compute\.batch: .*-3"),
        ("bfloat16", r"compute is 'bfloat16'; give a rocketjax\.ComputeConfig"),
    ],
)
def test_options_built_in_python_are_checked_as_those_of_a_file_are(compute, message):
    with pytest.raises(InputError, match=message):
        make_compute(compute)


def test_losses_refuse_options_that_there_are_not_and_presets_that_are_but_a_name():
    scores, valid = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    for wrong in (LossConfig(direction="forward"), LossConfig(stop_gradient="teacher")):
        with pytest.raises(InputError, match=r"loss\.(direction|stop_gradient): "):
            losses.distillation(scores, scores, valid, wrong)
    for preset in ("paper", "released"):
        named = LossConfig(preset=preset)
        for call in (
            lambda c: losses.joint_terms(scores, scores, valid, c),
            losses.joint_weights,
        ):
            with pytest.raises(InputError, match=r"pass rocketjax\.config\.resolve_loss"):
                call(named)
            call(resolve_loss(named))


def test_what_stands_in_an_empty_slot_moves_no_gradient_of_the_pointwise_loss():
    valid = jnp.array([[True, True, False], [True, False, False]])
    scores = jnp.where(valid, 0.5, jnp.nan)

    def loss(scores):
        return losses.pointwise_cross_entropy(scores, valid).total

    wanted = jax.grad(loss)(jnp.where(valid, 0.5, 0.0))
    np.testing.assert_array_equal(jax.grad(loss)(scores), wanted)


def test_searches_of_any_top_k_share_a_few_programs(tmp_path):
    queries, passages = vectors("random", passages=101)
    index = ExactIndex(vectors_folder(tmp_path, passages))
    rows, scores = index.rows(queries, 101)
    before = _search_piece._cache_size()
    for top_k in range(1, 101):
        found = index.rows(queries, top_k)
        np.testing.assert_array_equal(found[0], rows[:, :top_k])
        np.testing.assert_array_equal(found[1], scores[:, :top_k])
    assert _search_piece._cache_size() - before <= 8  # 8, 12, 16, 24, 32, 48, 64, 96


def test_what_is_searched_for_is_at_most_half_as_much_again():
    for top_k in range(8, 5_000):
        assert top_k <= _few(top_k, 10**6) <= 1.5 * top_k
        assert _few(top_k, top_k) == top_k
    assert len({_few(top_k, 10**6) for top_k in range(1, 1_025)}) == 15


def test_a_ranking_is_a_list_of_ids():
    for wrong in ({"p1": 0.1, "p2": 0.9}, [("p1", 0.9), ("p2", 0.1)]):
        with pytest.raises(InputError, match="no list of passage ids, best first"):
            per_query({"q": {"p1": 1}}, {"q": wrong})
    assert per_query({"q": {"p1": np.int64(1)}}, {"q": ["p2", "p1"]})["MRR@10"] == {"q": 0.5}


def test_a_run_of_a_folder_with_a_blank_in_its_name_is_read_again(tmp_path):
    run = {"q": [("p1", 0.5), ("p2", 0.25)]}
    write_run(tmp_path / "a.trec", run, "rocketjax my run")
    assert read_run(tmp_path / "a.trec") == run


def test_the_package_says_what_it_is():
    assert rocketjax.__version__ and {"load", "ComputeConfig"} <= {*dir(rocketjax)}
    with pytest.raises(AttributeError):
        rocketjax.nothing  # noqa: B018
