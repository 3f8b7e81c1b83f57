"""How texts are dealt to devices: every one once, in few shapes, with little room left over.

However they are dealt, what comes out is the same.
"""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from on_disk import WORDS

from rocketjax.config.schema import (
    ComputeConfig,
    RerankerConfig,
    RetrieverConfig,
    TextConfig,
    TextOptions,
)
from rocketjax.inference import start
from rocketjax.inference.batching import BATCHING, Batching, of_every_shape, plan
from rocketjax.inference.folder import (
    load_reranker,
    load_retriever,
    open_retriever,
    save_reranker,
    save_retriever,
)
from rocketjax.inference.start import (
    make_batching,
    make_compute,
    pretrained_reranker,
    pretrained_retriever,
    pretrained_tokenizer,
)
from rocketjax.runtime.errors import InputError
from rocketjax.text.rows import NARROW, WIDE

LIMIT = 128
CPU, ACCELERATOR = BATCHING, Batching(256, WIDE, coarse=True)


def lengths(kind, count, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "short":
        return rng.integers(2, 20, count)
    if kind == "full":
        return np.full(count, LIMIT)
    return rng.integers(2, LIMIT + 1, count)


@pytest.mark.parametrize("kind", ["short", "full", "mixed"])
@pytest.mark.parametrize("count", [0, 1, 7, 300])
@pytest.mark.parametrize("steady", [True, False])
@pytest.mark.parametrize("batching", [CPU, ACCELERATOR])
def test_every_text_is_in_one_unit_that_has_room_for_it(kind, count, steady, batching):
    length = lengths(kind, count).tolist()
    units = plan(length, LIMIT, batching, steady)
    assert sorted(index for unit in units for index in unit.texts) == list(range(count))
    for unit in units:
        rows, width, texts = unit.shape
        assert len(unit.rows) <= rows and len(unit.texts) <= texts
        assert all(sum(length[i] for i in row) <= width for row in unit.rows)
    widths = [unit.shape[1] for unit in units]
    assert widths == sorted(widths, reverse=True)
    shapes = {unit.shape for unit in of_every_shape(LIMIT, batching)}
    if steady:
        assert {unit.shape for unit in units} <= shapes


@pytest.mark.parametrize(("batching", "most"), [(CPU, 30), (ACCELERATOR, 12)])
def test_shapes_are_few_whatever_comes(batching, most):
    shapes = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        length = lengths(("short", "full", "mixed")[seed % 3], int(rng.integers(1, 400)), seed)
        shapes |= {unit.shape for unit in plan(length.tolist(), LIMIT, batching, False)}
    assert len(shapes) <= most  # widths; sizes, for few rows; few long texts or many short ones
    assert shapes <= {unit.shape for unit in of_every_shape(LIMIT, batching, steady=False)}
    assert len(list(of_every_shape(LIMIT, batching))) <= 12


def test_the_docs_say_how_many_shapes_there_are():
    cpu, other = (len({*map(str, of_every_shape(256, b, False))}) for b in (CPU, ACCELERATOR))
    page = Path(__file__).parents[2] / "docs" / "usage.md"
    said = f"(for texts of up to 256 tokens {cpu} on a CPU, {other} on a GPU or a TPU)"
    assert said in " ".join(page.read_text().split())


@pytest.mark.parametrize("kind", ["short", "mixed", "full"])
@pytest.mark.parametrize("batching", [CPU, ACCELERATOR])
def test_little_room_is_left_over(kind, batching):
    """Real texts' spread: less than a twentieth of what is computed is not text."""
    length = lengths(kind, 5_000)
    units = plan(length.tolist(), LIMIT, batching, False)
    assert length.sum() / sum(unit.shape[0] * unit.shape[1] for unit in units) > 0.95


@pytest.mark.parametrize(
    ("platform", "want"),
    [("cpu", CPU), ("gpu", ACCELERATOR._replace(widths=NARROW)), ("tpu", ACCELERATOR)],
)
def test_each_platform_has_its_batches(monkeypatch, platform, want):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert make_batching(ComputeConfig()) == want
    assert make_batching(ComputeConfig(batch=4)) == want._replace(size=4, slots=0)


def test_a_gpus_rows_are_wide_where_attention_is_one_kernel():
    wide = make_batching(ComputeConfig(attention="cudnn"), "gpu")
    assert wide == make_batching(ComputeConfig(), "tpu") == ACCELERATOR


@pytest.mark.parametrize(
    ("attention", "dtype", "platform", "message"),
    [
        ("cudnn", "auto", "cpu", "attention is cudnn, and this is a cpu"),
        ("cudnn", "bfloat16", "tpu", "attention is cudnn, and this is a tpu"),
        ("cudnn", "float32", "gpu", "cudnn, which takes no compute.dtype float32"),
        ("tpu", "auto", "gpu", "attention is tpu, and this is a gpu"),
    ],
)
def test_attention_that_a_platform_has_not_is_refused(attention, dtype, platform, message):
    with pytest.raises(InputError, match=message):
        make_compute(ComputeConfig(dtype, attention), platform=platform)
    assert make_compute(ComputeConfig(attention="cudnn"), platform="gpu").attention == "cudnn"


@pytest.mark.parametrize(
    ("libtpu", "want"), [("0.0.21.1", "xla"), ("0.0.23", "tpu"), ("0.1.0", "tpu"), (None, "tpu")]
)
def test_a_libtpu_that_takes_no_kernels_is_named(monkeypatch, weights, libtpu, want):
    monkeypatch.setattr(start, "find_spec", lambda name: libtpu)
    monkeypatch.setattr(start, "version", lambda name: libtpu)
    assert make_compute(ComputeConfig(), platform="tpu").attention == want
    assert make_compute(ComputeConfig(), platform="gpu").attention == "xla"
    with pytest.raises(InputError, match="attention is tpu, and this is a cpu"):
        make_compute(ComputeConfig(attention="tpu"), platform="cpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    found = pretrained_retriever(
        RetrieverConfig(str(weights)), TextConfig(8, 8, 8), ComputeConfig()
    )
    assert any("pip install libtpu==0.0.23" in note for note in found.notes) == (want == "xla")


def test_batches_of_accelerators_change_no_vector_and_no_score(weights):
    """Rows of 256, as accelerators have them."""
    rng = np.random.default_rng(0)
    queries, passages = (
        [" ".join(rng.choice(WORDS, n)) for n in rng.integers(1, most, 70)] for most in (10, 60)
    )
    text = TextConfig(query_length=12, passage_length=64, pair_length=32)
    compute = ComputeConfig(batch=4)
    retriever = pretrained_retriever(RetrieverConfig(str(weights)), text, compute)
    reranker = pretrained_reranker(RerankerConfig(str(weights)), text, compute, 1)

    def outputs(batching):
        one, other = (dataclasses.replace(x, batching=batching) for x in (retriever, reranker))
        vectors = one.encode_passage(passages, steady=True)
        return vectors, other.score(queries, passages, steady=True)

    usual = retriever.batching
    for got, wanted in zip(outputs(ACCELERATOR._replace(size=4)), outputs(usual), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_saved_model_is_loaded_with_the_dropout_it_is_trained_with(weights, tmp_path):
    text, compute = TextConfig(query_length=12, passage_length=12, pair_length=24), ComputeConfig()
    retriever = pretrained_retriever(RetrieverConfig(str(weights), dropout=0.1), text, compute)
    reranker = pretrained_reranker(RerankerConfig(str(weights), dropout=0.2), text, compute, 1)
    save_retriever(tmp_path / "retriever", retriever)
    save_reranker(tmp_path / "reranker", reranker)
    for model, load in ((retriever, load_retriever), (reranker, load_reranker)):
        folder = tmp_path / load.__name__.removeprefix("load_")
        again = load(folder, compute, model.module.compute.dropout)
        assert again.module == model.module and again.fingerprint == model.fingerprint
        assert load(folder, compute).module.compute.dropout == 0.0


def test_the_tokenizer_of_a_start_needs_no_weights_and_is_checked_as_theirs(weights, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    (folder / "model.safetensors").unlink()
    text = TextConfig(query_length=0, passage_length=12, pair_length=24)
    want = pretrained_retriever(RetrieverConfig(str(weights)), text, ComputeConfig()).tokenizer
    assert pretrained_tokenizer(str(folder), text).description == want.description
    with pytest.raises(InputError, match=r"text\.pair_length is 96, .* positions for 64"):
        pretrained_tokenizer(str(folder), dataclasses.replace(text, pair_length=96))


def differing_towers(weights):
    text = TextConfig(query_length=12, passage_length=12, pair_length=24)
    start = RetrieverConfig(str(weights), towers="separate", pooling="mean")
    model = pretrained_retriever(start, text, ComputeConfig())
    other = jax.tree.map(lambda x: x * 1.5, model.params["passage"])
    return dataclasses.replace(model, params={**model.params, "passage": other})


def test_two_towers_are_opened_by_hub_name_and_trained_further_or_refused(
    weights, tmp_path, monkeypatch
):
    model, folder = differing_towers(weights), tmp_path / "retriever"
    save_retriever(folder, model)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: folder)
    again = pretrained_retriever(
        RetrieverConfig(str(folder), towers="separate"), TextOptions(), ComputeConfig()
    )
    for found in (open_retriever("org/retriever"), again):
        assert found.fingerprint == model.fingerprint
    with pytest.raises(InputError, match=r"retriever: .*give --retriever.towers separate"):
        pretrained_retriever(RetrieverConfig(str(folder)), TextOptions(), ComputeConfig())
    with pytest.raises(InputError, match="starts from one encoder; export it"):
        pretrained_reranker(RerankerConfig(str(folder)), TextOptions(), ComputeConfig(), seed=1)


def test_plain_weights_are_found_in_a_runs_place_and_by_name_and_their_errors_say_only_theirs(
    weights, tmp_path, monkeypatch
):
    shutil.copytree(weights, tmp_path / "run" / "retriever")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: weights)
    assert open_retriever(tmp_path / "run").fingerprint == open_retriever("org/name").fingerprint
    with pytest.raises(InputError, match=r"^text\.query_length is 96, but"):
        open_retriever("org/name", text=TextOptions(query_length=96))
    monkeypatch.undo()
    with pytest.raises(
        InputError, match=r"^runs/none: no such folder .*; as a hub name: runs/none"
    ):
        open_retriever("runs/none")
