"""Vectors cut to their first numbers: read, asked for, saved and exported, as the library cuts."""

import json
import shutil

import numpy as np
import pytest
from on_disk import untrained_pair

import rocketjax
from rocketjax.config.schema import TextConfig
from rocketjax.inference.export import export, retriever_differences
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unsaid

TEXTS = ["alpha beta", "gamma", "beta beta delta alpha"]
TEXT = TextConfig(query_length=12, passage_length=12, pair_length=20)


def folder_of(weights, folder, normalize, **settings):
    shutil.copytree(weights, folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    kinds |= {"2_Normalize": "Normalize"} if normalize else {}
    for path in kinds:
        (folder / path).mkdir(exist_ok=True)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 32}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    return folder


def opened(folder, **options):
    return rocketjax.open_retriever(folder, text=TEXT, say=unsaid, **options)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("width", [5, 100])
def test_truncate_dim_is_heeded_as_the_library_does(library, weights, tmp_path, normalize, width):
    kind = "cosine" if normalize else "dot"
    folder = folder_of(
        weights, tmp_path / "m", normalize, truncate_dim=width, similarity_fn_name=kind
    )
    model = opened(folder)
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    want = theirs.encode(TEXTS, normalize_embeddings=normalize)
    got = model.encode_passage(TEXTS)
    assert got.shape == (3, min(width, 32)) and model.module.width == got.shape[1]
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(got @ got.T, theirs.similarity(want, want), atol=1e-4)
    told = library.SentenceTransformer(str(folder), device="cpu", truncate_dim=3)
    want = told.encode(TEXTS, normalize_embeddings=normalize)
    np.testing.assert_allclose(opened(folder, truncate=3).encode_query(TEXTS), want, atol=1e-5)
    noted = any("scaled to length 1 after that cut" in line for line in model.notes)
    assert noted == (normalize and width == 5)


@pytest.mark.parametrize("normalize", [False, True])
def test_an_export_carries_the_cut(library, weights, tmp_path, normalize):
    model = opened(weights, pooling="mean", normalize=normalize, truncate=7)
    export(tmp_path / "out", model, untrained_pair(weights, TEXT).reranker, {})
    folder = tmp_path / "out" / "retriever"
    again = opened(folder)
    assert again.fingerprint == model.fingerprint != opened(folder, truncate=6).fingerprint
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    want = theirs.encode(TEXTS, normalize_embeddings=normalize)
    got = model.encode_passage(TEXTS)
    np.testing.assert_allclose(got, want, atol=1e-5)
    plain = theirs.encode(TEXTS)
    np.testing.assert_allclose(got @ got.T, theirs.similarity(plain, plain), atol=1e-4)
    said = any("normalize_embeddings=True" in line for line in retriever_differences(model))
    assert said == normalize
    (folder / "rocketjax.json").unlink()  # what the library's own files say of it
    np.testing.assert_allclose(opened(folder).encode_passage(TEXTS), got, atol=1e-6)


def test_scaling_comes_after_the_cut_and_all_doors_see_the_width(weights, tmp_path):
    whole = opened(weights, pooling="mean", normalize=True)
    model = whole.truncated(9)
    vectors = model.encode_query(TEXTS)
    first = whole.encode_query(TEXTS)[:, :9]
    want = first / np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, want, atol=1e-6)
    assert model.truncated(0).module == whole.module == whole.truncated(32).module


def test_what_cannot_be_cut_so_is_refused(weights, tmp_path):
    with pytest.raises(InputError, match="truncate is 33, but this retriever's vectors have 32"):
        opened(weights, truncate=33)
    for value in (-1, 0, True, "8", 2.5):
        folder = folder_of(weights, tmp_path / repr(value), False, truncate_dim=value)
        with pytest.raises(InputError, match=r"transformers\.json: truncate_dim is .* at least 1"):
            opened(folder)
        assert opened(folder, truncate=4).module.width == 4
