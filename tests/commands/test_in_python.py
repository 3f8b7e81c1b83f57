"""What a caller in Python may get wrong: one clear error each, and nothing lost."""

import copy
import dataclasses
import io
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from on_disk import WORDS, untrained_pair
from tiny import vectors, vectors_folder

import rocketjax
from rocketjax import encode
from rocketjax.config.loss import LossConfig, resolve_loss
from rocketjax.config.options import dump
from rocketjax.config.schema import ComputeConfig, Config, DataConfig, TextConfig
from rocketjax.data.passages import Passage
from rocketjax.data.runs import read_run, write_run
from rocketjax.evaluation.metrics import per_query
from rocketjax.inference.folder import save_reranker, save_retriever
from rocketjax.inference.start import make_compute
from rocketjax.retrieval.exact import ExactIndex, few, search_piece
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


class Backwards:
    """An index whose best passage is the last, whatever the query."""

    vectors = range(9)

    def search(self, queries, top_k):
        ids = np.array([[f"p{8 - i}" for i in range(top_k)]])
        return ids, np.linspace(1, 0, top_k)[None]


def searched(pair, **options):
    passages = {f"p{i}": Passage(f"p{i}", "", WORDS[i]) for i in range(9)}
    model = dataclasses.replace(pair, open_corpus=lambda: Corpus(Backwards(), passages))
    return model.search("cat", **options)


def test_a_hit_keeps_the_rank_that_the_retriever_gave_it(pair):
    for hits in (searched(pair, top_k=2, depth=9), searched(pair, top_k=9, depth=4)):
        assert [hit.retriever_rank for hit in hits] == [9 - int(hit.passage.id[1]) for hit in hits]
    shown = searched(pair, top_k=2, depth=9)
    cells = re.findall(r"<td[^>]*>(\d+)</td>", shown._repr_html_())
    assert cells == [cell for i, hit in enumerate(shown, 1) for cell in (str(i), str(hit[2]))]


def test_scores_that_are_not_finite_are_refused_not_sorted(pair):
    damaged = jax.tree.map(lambda x: x * np.nan, pair.reranker.params)
    model = dataclasses.replace(pair, reranker=dataclasses.replace(pair.reranker, params=damaged))
    with pytest.raises(InputError, match=r"score of pair 0 is nan \('cat' and '[a-z]+'\): its wei"):
        searched(model)


def test_other_parameters_are_not_searched_with_the_old_ones_vectors(pair):
    model = dataclasses.replace(pair, open_corpus=lambda: Corpus(Backwards(), {}))
    params = {"retriever": pair.retriever.params, "reranker": pair.reranker.params}
    with pytest.raises(InputError, match="no index to search"):
        model.with_params(params).search("cat")


def table_of_pandas(texts):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"text": texts})


def table_of_datasets(texts):
    datasets = pytest.importorskip("datasets", reason="the extra `hub` brings datasets")
    return datasets.Dataset.from_dict({"text": texts})


NO_LISTS = {
    "dict": (lambda texts: dict(enumerate(texts)), r"dict is no list .*list\(it\.values"),
    "set": (set, "set is in no order"),
    "frozen set": (frozenset, "frozenset is in no order"),
    "bytes": (lambda texts: texts[0].encode(), "a single text"),
    "bytearray": (lambda texts: bytearray(texts[0].encode()), r"\[0\] is 99, not a string"),
    "file": (lambda texts: io.StringIO("\n".join(texts)), "StringIO is a file; pass its lines"),
    "a number": (len, "int is no list of texts"),
    "nothing": (lambda _: None, "NoneType is no list of texts"),
    "a text of numpy": (lambda texts: np.array(texts[0]), "ndarray is 0-dimensional"),
    "a table of numpy": (lambda texts: np.array([texts]), "ndarray is 2-dimensional"),
    "bytes of numpy": (lambda texts: np.array(texts, "S"), r"\[0\] is np.bytes_\(b'cat'\)"),
    "a table of arrow": (lambda texts: pa.table({"text": texts}), "Table is no list of texts"),
    "rows of arrow": (lambda texts: pa.record_batch({"text": texts}), "RecordBatch is no list"),
    "nulls of arrow": (lambda texts: pa.array([*texts, None]), r"\[3\] is None, not a string"),
    "a table of pandas": (table_of_pandas, "DataFrame is 2-dimensional"),
    "a column with a gap": (
        lambda texts: table_of_pandas([texts[0], None]).text,
        r"\[1\] is (None|nan)",
    ),
    "a table of datasets": (table_of_datasets, "Dataset is no list of texts; pass .*a single col"),
}


@pytest.mark.parametrize("kind", NO_LISTS)
def test_what_iterates_but_is_no_list_of_texts_is_refused(pair, kind):
    """Iterated, a table gives its columns' names and a dict its keys: texts, but not the right."""
    make, message = NO_LISTS[kind]
    wrong = make(["cat", "dog", "sun"])
    for call in (
        pair.encode_query,
        pair.encode_passage,
        lambda texts: pair.encode_passage(["cat"] * 3, titles=texts),
        lambda texts: pair.score(texts, ["cat"] * 3),
        lambda texts: pair.score(["cat"] * 3, texts),
        lambda texts: pair.rerank("cat", texts),
    ):
        if kind == "nothing" and call not in (pair.encode_query, pair.encode_passage):
            continue  # titles may be None
        with pytest.raises(InputError, match=rf"(queries|passages|titles).*{message}"):
            call(wrong)


COLUMNS = {
    "arrow": pa.array,
    "large strings of arrow": lambda texts: pa.array(texts, pa.large_string()),
    "a dictionary of arrow": lambda texts: pa.array(texts).dictionary_encode(),
    "chunks of arrow": lambda texts: pa.chunked_array([texts[:1], texts[1:]]),
    "a column of arrow": lambda texts: pa.table({"text": texts})["text"],
    "numpy": np.array,
    "objects of numpy": lambda texts: np.array(texts, object),
    "strings of numpy": lambda texts: np.array(texts, np.dtypes.StringDType()),
    "pandas": lambda texts: table_of_pandas(texts).text,
    "part of a column": lambda texts: table_of_pandas(["sea", *texts]).text[1:],
    "categories of pandas": lambda texts: table_of_pandas(texts).text.astype("category"),
    "an index of pandas": lambda texts: table_of_pandas(texts).set_index("text").index,
    "datasets": lambda texts: table_of_datasets(texts)["text"],
    "datasets in numpy": lambda texts: table_of_datasets(texts).with_format("numpy")["text"],
    "datasets in arrow": lambda texts: table_of_datasets(texts).with_format("arrow")["text"],
    "values of a dict": lambda texts: dict(enumerate(texts)).values(),
    "deque": deque,
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_texts_is_a_list_of_texts(pair, kind):
    words = ["cat", "dog", "sun"]
    given = COLUMNS[kind](words)
    np.testing.assert_array_equal(pair.encode_query(given), pair.encode_query(words))
    titled = pair.encode_passage(given, given)
    np.testing.assert_array_equal(titled, pair.encode_passage(words, words))
    assert pair.rerank("cat", given) == pair.rerank("cat", words)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_a_query_vector_that_is_not_finite_is_refused(wrong, tmp_path):
    queries, passages = vectors("random", passages=101)
    index = ExactIndex(vectors_folder(tmp_path, passages))
    queries = queries.astype(np.float64)
    queries[2, 5] = wrong
    with pytest.raises(InputError, match=r"queries\[2\] is not finite"):
        index.search(queries, 5)
    assert (index.search(queries[:2], 5)[0] != "").all()


def test_a_passage_whose_vector_is_not_finite_is_named(tmp_path):
    queries, passages = vectors("random", passages=101)
    passages[40] = 1e5
    with pytest.raises(InputError, match=r"passage p40: .* not finite in float16; take --index"):
        vectors_folder(tmp_path / "half", passages, dtype="float16")
    index = ExactIndex(vectors_folder(tmp_path / "whole", passages))
    found = np.load(tmp_path / "whole" / "00005.npy")  # 7 a shard
    found[5] = np.nan
    np.save(tmp_path / "whole" / "00005.npy", found)
    with pytest.raises(InputError, match="the vector of passage p40 is not finite"):
        index.search(queries, 5)


@pytest.fixture
def run(pair, collection, tmp_path):
    """A run as it ends, untrained."""
    folder = tmp_path / "run"
    save_retriever(folder / "retriever", pair.retriever)
    save_reranker(folder / "reranker", pair.reranker)
    (folder / "config.yaml").write_text(dump(Config(data=DataConfig(str(collection)))))
    args = ["--model", str(folder), "--collection", str(collection), "--index.kind", "exact"]
    assert encode.main([*args, "--output", str(folder / "index")]) == 0
    return folder


def by_cloudpickle(model):
    cloudpickle = pytest.importorskip("cloudpickle")
    return pickle.loads(cloudpickle.dumps(model))


@pytest.mark.parametrize(
    "copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, by_cloudpickle]
)
def test_a_loaded_model_can_be_pickled_and_copied(run, copied):
    model = rocketjax.load(run)
    model.retriever.tokenizer.remember()
    fresh = len(pickle.dumps(model))
    hits, ranked = model.search("cat purr", 5), model.rerank("cat", ["dog bark", "cat purr"])
    vectors, prints = model.encode_query(["sun ray"]), model.retriever.fingerprint
    size = len(pickle.dumps(model))
    assert size == fresh, "what was placed on devices or opened is not pickled"
    for again in (copied(model), copied(copied(model))):
        assert again.retriever.fingerprint == prints
        assert again.reranker.fingerprint == model.reranker.fingerprint
        assert again.search("cat purr", 5) == hits
        assert again.rerank("cat", ["dog bark", "cat purr"]) == ranked
        np.testing.assert_array_equal(again.encode_query(["sun ray"]), vectors)
    opened = rocketjax.open_retriever(run)
    np.testing.assert_array_equal(copied(opened).encode_query(["sun ray"]), vectors)


@pytest.mark.slow
def test_a_pickled_model_works_in_a_process_of_its_own(run, tmp_path):
    model = rocketjax.load(run)
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    code = "import pickle, sys; m = pickle.load(open(sys.argv[1], 'rb'));"
    code += "print(m.search('cat purr', 3)[0].passage.id, m.encode_query(['sun'])[0, :3].tolist())"
    args = [sys.executable, "-c", code, str(tmp_path / "model")]
    said = subprocess.run(args, capture_output=True, text=True, timeout=300, check=True).stdout
    best = model.search("cat purr", 3)[0].passage.id
    assert said.strip() == f"{best} {model.encode_query(['sun'])[0, :3].tolist()}"


def in_a_fork(work):
    """What `work` returns, or the message of its InputError, in a forked process."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def main():
        try:
            theirs.send(work())
        except InputError as error:
            theirs.send(str(error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jax warns of what is refused here
        process = fork.Process(target=main, daemon=True)
        process.start()
    try:
        assert ours.poll(30), "it hangs"
        return ours.recv()
    finally:
        process.kill()
        process.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_forked_after_jax_started_is_told_so(pair, weights, tmp_path):
    queries, passages = vectors("random", passages=101)
    index, pickled = ExactIndex(vectors_folder(tmp_path, passages)), pickle.dumps(pair)
    for work in (
        lambda: pair.encode_query(["cat"]),
        lambda: pair.score(["cat"], ["dog"]),
        lambda: rocketjax.open_retriever(weights),
        lambda: index.search(queries, 3),
        lambda: pickle.loads(pickled),
    ):
        assert "multiprocessing.get_context('spawn')" in in_a_fork(work)
    # What needs no device goes on there, as in the workers of a loader.
    counted = in_a_fork(lambda: len(pair.retriever.tokenizer.query(["cat purr"])[0].ids))
    assert counted == len(pair.retriever.tokenizer.query(["cat purr"])[0].ids)
    assert pair.encode_query(["cat"]).shape == (1, 32)


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
        (ComputeConfig(remat="skipp"), r"compute\.remat: .*'skipp'"),
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
    for preset in ("paper", "released", "distilled"):
        named = LossConfig(preset=preset)
        for call in (
            lambda c: losses.joint_terms(scores, scores, valid, c),
            losses.joint_weights,
        ):
            with pytest.raises(InputError, match=r"pass rocketjax\.config\.loss\.resolve_loss"):
                call(named)
            call(resolve_loss(named))
    with pytest.raises(InputError, match=r"preset='default'\) does not hold .* preset='custom'"):
        losses.joint_weights(LossConfig(distill_weight=0.9))


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
    before = search_piece._cache_size()
    for top_k in range(1, 101):
        found = index.rows(queries, top_k)
        np.testing.assert_array_equal(found[0], rows[:, :top_k])
        np.testing.assert_array_equal(found[1], scores[:, :top_k])
    assert search_piece._cache_size() - before <= 8  # 8, 12, 16, 24, 32, 48, 64, 96


def test_what_is_searched_for_is_at_most_half_as_much_again():
    for top_k in range(8, 5_000):
        assert top_k <= few(top_k, 10**6) <= 1.5 * top_k
        assert few(top_k, top_k) == top_k
    assert len({few(top_k, 10**6) for top_k in range(1, 1_025)}) == 15


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
