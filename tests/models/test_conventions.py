"""Lengths and prompts of strangers' model folders: as sentence-transformers reads them, live."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_disk import make_weights

import rocketjax
from rocketjax import encode, rerank, search
from rocketjax.config.schema import Config
from rocketjax.data.runs import read_run
from rocketjax.inference.folder import save_retriever
from rocketjax.models.pretrained import resolve_weights
from rocketjax.models.sentence_transformers import Conventions, read_conventions
from rocketjax.runtime.errors import InputError

TEXTS = ["What is the capital of France?", "Paris, the capital. " * 80, "naïve 東京 don't", "a"]
FILES = ("config_sentence_transformers.json", "sentence_bert_config.json", "tokenizer_config.json")


@pytest.mark.parametrize(
    ("contents", "wanted"),
    [
        (({}, {}, {}), (None, "", "")),
        (({}, {"max_seq_length": 256}, {"model_max_length": 512}), (256, "", "")),
        (({}, {"max_seq_length": None}, {"model_max_length": 512}), (512, "", "")),
        (({}, {}, {"model_max_length": 1e30}), (None, "", "")),
        (({"prompts": {"query": "q: ", "document": "d: "}}, {}, {}), (None, "q: ", "d: ")),
        (({"prompts": {"passage": "p: ", "corpus": "c: "}}, {}, {}), (None, "", "p: ")),
        (({"prompts": {"x": "X "}, "default_prompt_name": "x"}, {}, {}), (None, "X ", "X ")),
        (
            ({"prompts": {"query": "", "x": "X "}, "default_prompt_name": "x"}, {}, {}),
            (None, "", "X "),
        ),
        (({"prompts": None, "default_prompt_name": None}, {}, {}), (None, "", "")),
    ],
)
def test_read(contents, wanted, tmp_path):
    for name, values in zip(FILES, contents, strict=True):
        (tmp_path / name).write_text(json.dumps(values))
    assert read_conventions(tmp_path) == Conventions(*wanted)


def test_prompts_that_are_not_pooled_are_refused(tmp_path):
    (tmp_path / FILES[0]).write_text('{"prompts": {"query": "q: "}}')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"include_prompt": false}')
    with pytest.raises(InputError, match=r"1_Pooling/config\.json: include_prompt is false"):
        read_conventions(tmp_path)


@given(
    st.sampled_from(FILES),
    st.binary(max_size=40)
    | st.dictionaries(
        st.sampled_from(["prompts", "default_prompt_name", "max_seq_length", "model_max_length"]),
        st.recursive(
            st.none() | st.floats() | st.integers() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
        ),
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_bytes_are_read_or_an_error_of_ours(tmp_path, name, data):
    for other in FILES:
        (tmp_path / other).unlink(missing_ok=True)
    (tmp_path / name).write_bytes(data)
    try:
        found = read_conventions(tmp_path)
    except InputError as error:
        assert str(tmp_path) in str(error)
    else:
        assert found.longest is None or found.longest >= 0
        assert isinstance(found.query_prompt + found.passage_prompt, str)


@pytest.fixture(scope="module")
def minilm():
    try:
        return str(resolve_weights(Config().retriever.weights))
    except InputError as error:
        pytest.skip(f"all-MiniLM-L6-v2 is not at hand: {error}")


@pytest.mark.parametrize("prompts", [{}, {"query": "search for: ", "document": "passage - "}])
def test_a_folder_is_read_as_it_reads_it(library, minilm, prompts, tmp_path):
    theirs = library.SentenceTransformer(minilm, device="cpu")
    theirs.prompts = prompts
    theirs.max_seq_length = 100 if prompts else 256
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = rocketjax.open_retriever(tmp_path / "theirs" if prompts else minilm)
    theirs = library.SentenceTransformer(str(tmp_path / "theirs"), device="cpu")
    assert ours.tokenizer.config.passage_length == theirs.max_seq_length
    assert ours.tokenizer.config.query_prompt == prompts.get("query", "")
    np.testing.assert_allclose(ours.encode_query(TEXTS), theirs.encode_query(TEXTS), atol=1e-4)
    documents = theirs.encode_document(TEXTS)
    np.testing.assert_allclose(ours.encode_passage(TEXTS), documents, atol=1e-4)
    # They travel with the model.
    save_retriever(tmp_path / "ours", ours)
    again = rocketjax.open_retriever(tmp_path / "ours")
    assert again.fingerprint == ours.fingerprint
    np.testing.assert_array_equal(again.encode_query(TEXTS), ours.encode_query(TEXTS))


def test_a_cross_encoder_scores_as_it_scores(library, minilm, tmp_path):
    theirs = library.CrossEncoder(minilm, num_labels=1, device="cpu", max_length=90)
    head = theirs.model.classifier.weight.data
    head *= 20
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = rocketjax.open_reranker(tmp_path / "theirs")
    assert ours.tokenizer.config.pair_length == 90
    queries, passages = ["who wrote it?", "the capital of France", "naïve?", "b"], TEXTS
    pairs = list(zip(queries, passages, strict=True))
    raw = ours.score(queries, passages)
    assert np.ptp(raw) > 0.1
    # It puts a sigmoid on one label's score, unless told not to; rocketjax never does.
    np.testing.assert_allclose(1 / (1 + np.exp(-raw)), theirs.predict(pairs), atol=1e-4)
    from torch.nn import Identity

    plain = theirs.predict(pairs, activation_fn=Identity())
    np.testing.assert_allclose(raw, plain, atol=1e-4)


def test_a_pickle_is_refused_with_the_command_that_converts_it(weights, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(weights, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for opened in (rocketjax.open_retriever, rocketjax.open_reranker):
        with pytest.raises(InputError, match=r"pytorch_model\.bin: a pickle .*python -c"):
            opened(folder)


def test_weights_without_a_head_are_no_cross_encoder(weights):
    with pytest.raises(InputError, match=r"no head that scores a pair \(classifier\.weight"):
        rocketjax.open_reranker(weights)


def test_a_prompt_changes_vectors_and_fingerprint_and_cuts_nothing_empty(weights, tmp_path):
    plain = rocketjax.open_retriever(weights)
    config = dataclasses.replace(plain.tokenizer.config, query_prompt="cat ", passage_prompt="dog ")
    tokenizer = type(plain.tokenizer)(weights, config)
    prompted = dataclasses.replace(plain, tokenizer=tokenizer)
    assert prompted.fingerprint != plain.fingerprint
    for method, prompt in (("encode_query", "cat "), ("encode_passage", "dog ")):
        want = getattr(plain, method)([f"{prompt}sun", f"{prompt}sea wave"])
        np.testing.assert_array_equal(getattr(prompted, method)(["sun", "sea wave"]), want)
        with pytest.raises(InputError, match="is empty"):
            getattr(prompted, method)([" "])
    titled = tokenizer.passage(["sun"], ["sea"])
    assert titled[0].ids.tolist() == plain.tokenizer.query(["dog sun sea"])[0].ids.tolist()
    told = make_weights(tmp_path, segments=True)
    split = type(tokenizer)(told, dataclasses.replace(config, title="segment"))
    _, types = split.passage(["sun", ""], ["sea", "sea"])[0]
    assert types.tolist() == [0, 0, 0, 0, 1, 1]  # CLS dog sun SEP sea SEP
    assert len(split.passage([""], ["sea"])[0].ids) == 4  # CLS dog sea SEP


def test_commands_take_weights_as_they_are(weights, collection, tmp_path, capsys):
    """A stranger's retriever: encode, search; a stranger's cross-encoder: rerank."""
    cross = tmp_path / "cross"
    shutil.copytree(weights, cross)
    rng = np.random.default_rng(0)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(cross / "model.safetensors")
    tensors["classifier.weight"] = rng.normal(size=(1, 32)).astype(np.float32)
    tensors["classifier.bias"] = np.zeros(1, np.float32)
    save_file(tensors, cross / "model.safetensors", {"format": "pt"})
    index, found, ordered = (str(tmp_path / name) for name in ("index", "a.trec", "b.trec"))
    common = ["--collection", str(collection)]
    given = ["--model", str(weights), *common]
    assert encode.main([*given, "--output", index, "--index.kind", "exact"]) == 0
    queries = tmp_path / "q.tsv"
    queries.write_text("q1\tcat purr\nq2\tsea wave\n")
    files = ["--index", index, "--queries", str(queries), "--output", found]
    assert search.main([*given, *files, "--depth", "0"]) == 0, capsys.readouterr().err
    assert all(len(ranked) == 10 for ranked in read_run(tmp_path / "a.trec").values())
    files = ["--queries", str(queries), "--run", found, "--output", ordered]
    assert rerank.main(["--model", str(cross), *common, *files]) == 0, capsys.readouterr().err
    assert rerank.main(["--model", str(cross), *common, *files, "--text.query-length", "8"]) == 2
    assert "--text.query-length: of this re-ranker's pairs" in capsys.readouterr().err
    both = [read_run(tmp_path / name) for name in ("a.trec", "b.trec")]
    for query in ("q1", "q2"):
        assert {p for p, _ in both[0][query]} == {p for p, _ in both[1][query]}
    assert both[0] != both[1]
