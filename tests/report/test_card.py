"""Model cards: hubs' own reader takes them, and they state what is known and nothing else."""

import dataclasses
import re

import jax
import pytest
from huggingface_hub import ModelCard
from on_disk import untrained_pair

from rocketjax.config.schema import Config, DataConfig, RetrieverConfig, TextConfig
from rocketjax.evaluation.results import Report, Row
from rocketjax.report.card import Owner, reranker_card, retriever_card
from rocketjax.runtime.errors import InputError

TEXT = TextConfig(
    query_length=10, passage_length=12, pair_length=20, query_prompt="q: ", passage_prompt=""
)
ROWS = [Row("retriever", "MRR@10", 0.5, 0.6, 0.01), Row("reranker", "MRR@10", None, 0.7, None)]
REPORT = Report("run", 3, ROWS)


@pytest.fixture(scope="module")
def pair(weights):
    return untrained_pair(weights, TEXT)


def card(text):
    """As the hub's library reads it: it raises for front matter that is no valid metadata."""
    read = ModelCard(text, ignore_metadata_errors=False)
    return read.data.to_dict(), read.text


def facts(text):
    return dict(re.findall(r"^\| ([A-Z][\w ]+) \| (.*) \|$", text, re.M))


def test_what_is_not_known_is_not_stated(pair, weights):
    config = dataclasses.replace(
        Config(),
        retriever=dataclasses.replace(Config().retriever, weights=str(weights)),
    )
    data, text = card(retriever_card(pair.retriever, config, REPORT, Owner()))
    assert data == {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["rocketjax", "rocketqav2", "information-retrieval"],
    }
    found = facts(text)
    assert found["License"] == found["Languages"] == "not stated"


def test_both_cards_state_what_mteb_asks_for(pair):
    config = dataclasses.replace(Config(), data=DataConfig(collection="hf:ORG/NAME:part"))
    owner = Owner("apache-2.0", ["en", "deu"])
    for kind, make, model in (
        ("retriever", retriever_card, pair.retriever),
        ("reranker", reranker_card, pair.reranker),
    ):
        data, text = card(make(model, config, REPORT, owner))
        assert data["license"] == "apache-2.0" and data["language"] == ["en", "deu"]
        assert data["datasets"] == ["ORG/NAME"]
        assert data["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
        found = facts(text)
        size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
        assert found["Parameters"] == f"{size:,}"
        assert model.fingerprint in found["Revision"]
        assert found["Prompts"] == "'q: '"
        if kind == "retriever":
            assert found["Dimensions of a vector"] == str(model.module.config.hidden_size)
            assert found["Similarity"] == "dot product"
            assert found["Longest passage"] == "12 tokens"
        else:
            assert found["Longest pair"] == "20 tokens"


def test_a_card_states_what_is_trained_and_no_address_as_a_name(pair, tmp_path):
    module = pair.retriever.module.clone(truncate=8, normalize=True)
    cut = dataclasses.replace(pair.retriever, module=module)
    config = Config(
        data=DataConfig("gs://bucket/msmarco"), retriever=RetrieverConfig("gs://bucket/weights")
    )
    data, text = card(retriever_card(cut, config, REPORT, Owner()))
    assert facts(text)["Dimensions of a vector"] == "8" and facts(text)["Similarity"] == "cosine"
    assert "datasets" not in data and "base_model" not in data
    irds = dataclasses.replace(config, data=DataConfig("irds:msmarco-passage/train"))
    assert "datasets" not in card(retriever_card(cut, irds, REPORT, Owner()))[0]


def test_mteb_takes_the_cards_licence_and_languages(pair):
    meta = pytest.importorskip("mteb.models.model_meta", reason="the extra `mteb` brings mteb")
    owner = Owner("apache-2.0", ["en"])
    data, _ = card(retriever_card(pair.retriever, Config(), REPORT, owner))
    languages = meta._hf_langs_to_iso_lang_scripts(data["language"])
    made = meta.ModelMeta.create_empty(
        {"name": "a/b", "license": data["license"], "languages": languages}
    )
    assert made.languages == ["eng-Latn"] and made.license == "apache-2.0"


def test_a_language_is_a_code():
    with pytest.raises(InputError, match="language 'English': expected a code as en or deu"):
        Owner(languages=["English"])
