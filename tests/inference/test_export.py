"""What leaves rocketjax scores the same in sentence-transformers, and comes back the same."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from on_disk import make_weights

from rocketjax import export as command
from rocketjax.config.options import dump
from rocketjax.config.schema import (
    ComputeConfig,
    Config,
    RerankerConfig,
    RetrieverConfig,
    TextConfig,
)
from rocketjax.evaluation import results as report
from rocketjax.evaluation.results import Report, Row
from rocketjax.inference import folder as model_folder
from rocketjax.inference import start as start_module
from rocketjax.inference.export import export
from rocketjax.models.pretrained import resolve_weights
from rocketjax.report.card import Owner, reranker_card, retriever_card
from rocketjax.retrieval import load
from rocketjax.retrieval.model import Model
from rocketjax.runtime.errors import InputError

# Some of their words are known to the tiny models of these tests.
QUERIES = ["who wrote of the cat and the sea?", "warm sun of a leaf"]
PASSAGES = ["The sea's salt was written of by a cat.", "sun.ray: the root of a warm leaf."]
TEXT = TextConfig(query_length=32, passage_length=48, pair_length=64)
REPORT = Report("run", 3, [Row("retriever", "MRR@10", 0.5, 0.6, 0.01)])


def export_pair(folder, model):
    """As the command does it, with the cards of a report that someone else wrote."""
    about = (Config(), REPORT, Owner())
    cards = {
        "retriever": retriever_card(model.retriever, *about),
        "reranker": reranker_card(model.reranker, *about),
    }
    export(folder, model.retriever, model.reranker, cards)


@pytest.fixture(scope="module")
def minilm():
    try:
        return str(resolve_weights(Config().retriever.weights))
    except InputError as error:
        pytest.skip(f"all-MiniLM-L6-v2 is not at hand: {error}")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(make_weights(tmp_path_factory.mktemp("tiny"), segments=True))


def plain(text):
    """In one line."""
    return " ".join(text.split())


def pair(weights, towers="shared", pooling="mean", normalize=True, title="joined"):
    text, compute = dataclasses.replace(TEXT, title=title), ComputeConfig()
    start = RetrieverConfig(weights, towers, pooling, normalize)
    retriever = start_module.pretrained_retriever(start, text, compute)
    if towers == "separate":
        query = jax.tree.map(lambda x: x * 1.01, retriever.params["query"])
        params = {"query": query, "passage": retriever.params["passage"]}
        retriever = dataclasses.replace(retriever, params=params)
    reranker = start_module.pretrained_reranker(RerankerConfig(weights), text, compute, seed=1)
    head = jax.tree.map(lambda x: x * 20, reranker.params["head"])
    params = reranker.params | {"head": head}
    return Model(retriever, dataclasses.replace(reranker, params=params))


@pytest.mark.parametrize(
    ("start", "towers", "pooling", "normalize"),
    [
        ("minilm", "shared", "mean", True),
        ("tiny", "shared", "cls", False),
        ("tiny", "separate", "mean", True),
    ],
)
def test_sentence_transformers_gives_the_same(
    library, start, towers, pooling, normalize, tmp_path, request
):
    model = pair(request.getfixturevalue(start), towers, pooling, normalize)
    export_pair(tmp_path / "out", model)
    folder = tmp_path / "out" / "retriever"
    places = [folder, folder] if towers == "shared" else [folder / "query", folder / "passage"]
    query, passage = (library.SentenceTransformer(str(p), device="cpu") for p in places)
    for ours, theirs in (
        (model.encode_query(QUERIES), query.encode(QUERIES)),
        (model.encode_passage(PASSAGES), passage.encode(PASSAGES)),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert query.similarity_fn_name == "dot" and passage.max_seq_length == TEXT.passage_length
    scores = library.CrossEncoder(str(tmp_path / "out" / "reranker"), device="cpu").predict(
        list(zip(QUERIES, PASSAGES, strict=True))
    )
    ours = model.score(QUERIES, PASSAGES)
    assert abs(ours).max() > 0.1
    np.testing.assert_allclose(ours, scores, atol=1e-4)


def test_a_pair_is_cut_at_its_length(library, tiny, tmp_path):
    model = pair(tiny)
    export_pair(tmp_path / "out", model)
    long = [" ".join(PASSAGES * 30)] * 2
    theirs = library.CrossEncoder(str(tmp_path / "out" / "reranker"), device="cpu")
    scores = theirs.predict(list(zip(QUERIES, long, strict=True)))
    np.testing.assert_allclose(model.score(QUERIES, long), scores, atol=1e-4)
    vectors = library.SentenceTransformer(str(tmp_path / "out" / "retriever"), device="cpu")
    np.testing.assert_allclose(model.encode_passage(long), vectors.encode(long), atol=1e-4)


@pytest.mark.parametrize("towers", ["shared", "separate"])
def test_out_and_in_again_is_exact(weights, towers, tmp_path):
    small = TextConfig(query_length=10, passage_length=12, pair_length=20, title="segment")
    model = pair_of_small(weights, towers, small)
    export_pair(tmp_path / "out", model)
    again = load.load_pair(tmp_path / "out")
    for ours, theirs in ((model.retriever, again.retriever), (model.reranker, again.reranker)):
        jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
        assert ours.fingerprint == theirs.fingerprint  # texts are read the same way, too


def pair_of_small(weights, towers, text):
    compute = ComputeConfig()
    start = RetrieverConfig(str(weights), towers, "cls", False)
    return Model(
        start_module.pretrained_retriever(start, text, compute),
        start_module.pretrained_reranker(RerankerConfig(str(weights)), text, compute, seed=1),
    )


def test_the_command(weights, tmp_path, capsys):
    text = TextConfig(query_length=10, passage_length=12, pair_length=20)
    model, run = pair_of_small(weights, "shared", text), tmp_path / "run"
    model_folder.save_retriever(run / "retriever", model.retriever)
    model_folder.save_reranker(run / "reranker", model.reranker)
    arguments = ["--model", str(run), "--output", str(tmp_path / "out"), "--license", "mit"]
    assert command.main(arguments) == 2  # never judged
    assert "config.yaml: missing" in capsys.readouterr().err
    config = Config(name="my run", retriever=RetrieverConfig("org/model@abc"))
    (run / "config.yaml").write_text(dump(config))
    report.save(REPORT, run)
    assert command.main(arguments) == 0
    said = plain(capsys.readouterr().out)
    assert "a query is cut to 12 tokens" in said
    assert "a pair is cut to 20 tokens, its longer text first; its query is not cut to 10" in said
    card = (tmp_path / "out" / "retriever" / "README.md").read_text()
    assert "What sentence-transformers does differently:\n\n- a query is cut to 12 tokens" in card
    for part in ("license: mit", "base_model: org/model\n", "# my run", "| MRR@10 | 0.500 | 0.600"):
        assert part in card
    modules = json.loads((tmp_path / "out" / "retriever" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling"]
    assert command.main(arguments) == 2  # what was exported stays
    assert "already exists" in capsys.readouterr().err


def test_a_card_names_no_difference_where_both_lengths_are_one(weights):
    for query, said in ((10, True), (12, False)):
        text = TextConfig(query_length=query, passage_length=12, pair_length=20)
        start = RetrieverConfig(str(weights))
        retriever = start_module.pretrained_retriever(start, text, ComputeConfig())
        card = retriever_card(retriever, Config(), REPORT, Owner())
        assert ("a query is cut to" in card, "does differently" in card) == (said, said)


def test_nothing_is_uploaded_unless_asked(weights, tmp_path, capsys, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, name, private, exist_ok):
            calls.append(("create", name, private))
            self.private = private and not name.startswith("known/")  # which is public already

        def repo_info(self, name):
            return self

        def upload_folder(self, repo_id, folder_path, commit_message):
            assert (folder_path / "README.md").is_file()
            calls.append(("upload", repo_id, folder_path.name))
            if repo_id.startswith("closed/"):
                raise OSError("no right to\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    text = TextConfig(query_length=10, passage_length=12, pair_length=20)
    model, run = pair_of_small(weights, "shared", text), tmp_path / "run"
    model_folder.save_retriever(run / "retriever", model.retriever)
    model_folder.save_reranker(run / "reranker", model.reranker)
    (run / "config.yaml").write_text(dump(Config()))
    report.save(REPORT, run)

    def main(name, *more):
        return command.main(["--model", str(run), "--output", str(tmp_path / name), *more])

    assert (main("a"), calls) == (0, [])
    assert main("b", "--push", "no-name") == 2
    assert not (tmp_path / "b").exists()
    assert main("c", "--push", "org/pair") == 0
    assert calls == [
        ("create", "org/pair-retriever", True),
        ("upload", "org/pair-retriever", "retriever"),
        ("create", "org/pair-reranker", True),
        ("upload", "org/pair-reranker", "reranker"),
    ]
    capsys.readouterr()
    assert main("d", "--push", "closed/pair", "--public") == 2
    assert calls[4] == ("create", "closed/pair-retriever", False)
    err = capsys.readouterr().err
    assert "could not be uploaded (no right to)" in err
    assert (tmp_path / "d" / "retriever" / "model.safetensors").is_file()
    assert main("e", "--push", "known/pair") == 2
    assert "already exists and is public, not private" in plain(capsys.readouterr().err)
    assert calls[-1] == ("create", "known/pair-retriever", True)  # nothing was uploaded


def test_prompts_leave_with_the_model(library, weights, tmp_path):
    prompts = {"query_prompt": "cat ", "passage_prompt": "dog sun "}
    text = TextConfig(query_length=12, passage_length=12, pair_length=20, **prompts)
    model = pair_of_small(weights, "shared", text)
    export_pair(tmp_path / "out", model)
    theirs = library.SentenceTransformer(str(tmp_path / "out" / "retriever"), device="cpu")
    texts = ["sea wave", "purr"]
    np.testing.assert_allclose(model.encode_query(texts), theirs.encode_query(texts), atol=1e-4)
    np.testing.assert_allclose(
        model.encode_passage(texts), theirs.encode_document(texts), atol=1e-4
    )
    assert abs(model.encode_query(texts) - model.encode_passage(texts)).max() > 0.01
