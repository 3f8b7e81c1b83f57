"""How texts are dealt to devices: every one once, in few shapes, with little room left over.

However they are dealt, what comes out is the same.
"""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from on_disk import WORDS

from rocketjax.config.schema import ComputeConfig, RerankerConfig, RetrieverConfig, TextConfig
from rocketjax.inference.batching import Batching, plan
from rocketjax.inference.folder import (
    load_reranker,
    load_retriever,
    save_reranker,
    save_retriever,
)
from rocketjax.inference.start import (
    make_batching,
    pretrained_reranker,
    pretrained_retriever,
    pretrained_tokenizer,
)
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import bucket

LIMIT = 128


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
@pytest.mark.parametrize("skip", [True, False])
def test_every_text_is_in_one_unit_that_has_room_for_it(kind, count, steady, skip):
    length = lengths(kind, count)
    units = plan(length.tolist(), LIMIT, Batching(16, skip), steady)
    rows = [row for unit in units for row in unit.rows]
    assert sorted(rows) == list(range(count))
    for unit in units:
        assert len(unit.rows) <= unit.texts
        assert all(bucket(length[row], LIMIT) == unit.width for row in unit.rows)
        assert length[unit.rows].sum() <= unit.room
        if not skip:
            assert unit.texts * unit.width <= unit.room  # padded, they fit as well
    widths = [unit.width for unit in units]
    assert widths == sorted(widths, reverse=True)
    if steady:
        assert len({(unit.width, unit.room) for unit in units}) == len(set(widths))


def test_shapes_are_few_whatever_comes():
    shapes = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        length = lengths(("short", "full", "mixed")[seed % 3], int(rng.integers(1, 400)), seed)
        shapes |= {unit.shape for unit in plan(length.tolist(), LIMIT, Batching(), False)}
    assert len(shapes) <= 4 * 6  # padded lengths; three sizes, for few long or many short ones


@pytest.mark.parametrize("steady", [True, False])
def test_coarse_shapes_are_few(steady):
    """For a GPU, whose compiler takes seconds over each."""
    shapes = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        length = lengths(("short", "full", "mixed")[seed % 3], int(rng.integers(1, 400)), seed)
        units = plan(length.tolist(), LIMIT, Batching(coarse=True), steady)
        assert sorted(row for unit in units for row in unit.rows) == list(range(len(length)))
        for unit in units:
            assert len(unit.rows) <= unit.texts
            assert length[unit.rows].max() <= unit.width
            assert length[unit.rows].sum() <= unit.room
        shapes |= {unit.shape for unit in units}
    assert {width for _, width, _ in shapes} == {LIMIT // 2, LIMIT}
    assert len(shapes) == (2 if steady else 4)  # two sizes, where few texts may come alone


def test_little_room_is_left_over():
    """Real texts' spread: less than a tenth of what is computed is not text."""
    length = lengths("mixed", 5_000)
    units = plan(length.tolist(), LIMIT, Batching(), False)
    assert length.sum() / sum(unit.room for unit in units) > 0.9
    padded = plan(length.tolist(), LIMIT, Batching(skip_padding=False), False)
    assert length.sum() / sum(unit.room for unit in padded) < 0.85


@pytest.mark.parametrize(
    ("platform", "padding", "want"),
    [
        ("cpu", "auto", Batching(16, True, False)),
        ("gpu", "auto", Batching(256, True, True)),
        ("gpu", "keep", Batching(256, False, False)),
        ("tpu", "auto", Batching(256, False, False)),
        ("tpu", "skip", Batching(256, True, True)),
    ],
)
def test_each_platform_has_its_batches(monkeypatch, platform, padding, want):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert make_batching(ComputeConfig(padding=padding)) == want
    assert make_batching(ComputeConfig(padding=padding, batch=4)) == want._replace(size=4)


def test_batches_of_accelerators_change_no_vector_and_no_score(weights):
    """Padded texts, as a TPU has them by default, and coarse shapes, as a GPU has them."""
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
    want = outputs(usual)
    keep = make_batching(dataclasses.replace(compute, padding="keep"))
    for batching in (keep, usual._replace(coarse=True)):
        assert batching != usual
        for got, wanted in zip(outputs(batching), want, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)


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
