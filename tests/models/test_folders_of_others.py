"""Model folders of other people: as sentence-transformers and transformers read them, live."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from others import FAMILIES, TEXTS, bert, dense, edit, modular, pieces, write

import rocketjax
from rocketjax import ComputeConfig, InputError, TextOptions, encode, search
from rocketjax.config.loss import LossConfig
from rocketjax.config.schema import Config, RerankerConfig, RetrieverConfig, TextConfig
from rocketjax.inference.export import export
from rocketjax.inference.folder import save_retriever
from rocketjax.inference.start import pretrained_reranker, pretrained_retriever
from rocketjax.models import keys, pretrained
from rocketjax.pipeline.context import Run
from rocketjax.pipeline.models import start_reranker, start_retriever

QUERIES = ["what is a Dog", "the Cat is purring", "sun", "sea leaf"]
SHORT = TextConfig(query_length=12, passage_length=20, pair_length=32)


@pytest.fixture(scope="module")
def library():
    pytest.importorskip("torch", reason="the extra `parity` brings torch")
    return pytest.importorskip(  # version 5 knows neither modules of cross-encoders nor all keys
        "sentence_transformers", "6", reason="the extra `parity` brings sentence-transformers"
    )


def close(ours, theirs, apart=0.05):
    assert np.ptp(np.asarray(theirs)) > apart
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def same_vectors(library, folder):
    """Opens a retriever and compares it with SentenceTransformer, by every door."""
    ours = rocketjax.open_retriever(folder, say=lambda line: None)
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    close(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    close(ours.encode_passage(TEXTS), theirs.encode_document(TEXTS))
    return ours


def same_scores(library, folder, apart=0.05, **how):
    """Opens a re-ranker and compares its scores with CrossEncoder's raw ones."""
    from torch.nn import Identity

    ours = rocketjax.open_reranker(folder, say=lambda line: None)
    theirs = library.CrossEncoder(str(folder), device="cpu", **how)
    pairs = list(zip(QUERIES, TEXTS, strict=True))
    scores = theirs.predict(pairs, activation_fn=Identity())
    close(ours.score(QUERIES, TEXTS), scores, apart)
    return ours


def export_with(folder, reranker):
    weights = folder.parent / "plain"
    bert(weights)
    retriever = pretrained_retriever(RetrieverConfig(str(weights)), SHORT, ComputeConfig())
    export(folder, retriever, reranker, {"retriever": "", "reranker": ""})
    return folder / "reranker"


# ---- what a file says is heeded


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta", "Ernie", *FAMILIES])
def test_other_families_are_read_as_well(library, family, tmp_path):
    vectors = modular(bert(tmp_path / "de", family=family), similarity_fn_name="dot")
    write(vectors / "sentence_bert_config.json", {"max_seq_length": 20})
    assert not same_vectors(library, vectors).notes
    scores = bert(tmp_path / "ce", labels=1, family=family)
    edit(scores / "tokenizer_config.json", model_max_length=20)
    assert same_scores(library, scores).tokenizer.config.pair_length == 20


@pytest.mark.parametrize("family", ["XLMRoberta", "Camembert", "DebertaV2"])
def test_pieces_of_words_are_those_of_transformers(library, family, tmp_path):
    """The tokenizers of sentencepiece's models, in the class that the folder names."""
    import transformers

    tokenizer = getattr(transformers, f"{family}Tokenizer")(vocab=pieces(family))
    folder = modular(
        bert(tmp_path, family=family, fields={"vocab_size": len(tokenizer)}),
        similarity_fn_name="cosine",
        prompts={"query": "query: ", "document": "passage: "},
    )
    (folder / "vocab.txt").unlink()
    tokenizer.save_pretrained(folder)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 20})
    ours = rocketjax.open_retriever(folder, normalize=False)
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    close(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    close(ours.encode_passage(TEXTS), theirs.encode_document(TEXTS))


def test_pairs_of_pieces_score_as_in_cross_encoder(library, tmp_path):
    """DeBERTa's tokenizer gives segments; a version 3 has no embeddings of them, others may."""
    import transformers

    tokenizer = transformers.DebertaV2Tokenizer(vocab=pieces("DebertaV2"))
    for segments in (0, 2):
        fields = {"vocab_size": len(tokenizer), "type_vocab_size": segments}
        folder = bert(tmp_path / str(segments), labels=1, family="DebertaV2", fields=fields)
        (folder / "vocab.txt").unlink()
        tokenizer.save_pretrained(folder)
        ours = same_scores(library, folder)
        (text,) = ours.tokenizer.pair(["cat"], None, ["dog"])
        assert text.types.tolist() == [0, 0, 0, 1, 1]
        exported = export_with(tmp_path / f"out{segments}", ours)
        np.testing.assert_array_equal(
            same_scores(library, exported).score(QUERIES, TEXTS), ours.score(QUERIES, TEXTS)
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("labels", [1, None])
def test_other_families_are_exported_and_read_again(library, family, labels, tmp_path):
    """With the head that their weights have, or a fresh one; what is computed stays the same."""
    folder = bert(tmp_path / "m", labels=labels, family=family)
    retriever = pretrained_retriever(RetrieverConfig(str(folder)), SHORT, ComputeConfig())
    reranker = pretrained_reranker(RerankerConfig(str(folder)), SHORT, ComputeConfig(), seed=1)
    fresh = [note for note in reranker.notes if "a fresh one is drawn" in note]
    assert len(fresh) == (labels is None)
    export(tmp_path / "out", retriever, reranker, {"retriever": "", "reranker": ""})
    vectors = library.SentenceTransformer(str(tmp_path / "out" / "retriever"))
    close(retriever.encode_query(QUERIES), vectors.encode_query(QUERIES))
    again = same_scores(library, tmp_path / "out" / "reranker", apart=0.01)  # fresh ones are small
    for ours, saved in [
        (reranker, again),
        (retriever, rocketjax.open_retriever(tmp_path / "out" / "retriever")),
    ]:
        assert saved.module.config == ours.module.config
        jax.tree.map(np.testing.assert_array_equal, saved.params, ours.params)


def test_texts_are_lower_cased_where_the_folder_says_so(library, tmp_path):
    folder = modular(bert(tmp_path / "m"))
    plain = same_vectors(library, folder)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": True})
    lower = same_vectors(library, folder)
    assert lower.tokenizer.config.lower_case and lower.tokenizer.config.query_length == 20
    assert abs(lower.encode_query(TEXTS) - plain.encode_query(TEXTS)).max() > 0.01
    save_retriever(tmp_path / "ours", lower)  # it travels with the model
    again = rocketjax.open_retriever(tmp_path / "ours")
    np.testing.assert_array_equal(again.encode_query(TEXTS), lower.encode_query(TEXTS))
    assert again.fingerprint == lower.fingerprint and not again.notes
    asked = rocketjax.open_retriever(folder, text=TextOptions(lower_case=False))
    assert asked.encode_query(["Cat"])[0] @ lower.encode_query(["Cat"])[0] != pytest.approx(1)


def test_a_model_for_cosines_is_ranked_by_cosine(library, tmp_path):
    folder = modular(bert(tmp_path), similarity_fn_name="cosine")
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    ours = rocketjax.open_retriever(folder)
    scores = ours.encode_query(QUERIES) @ ours.encode_passage(TEXTS).T
    close(scores, theirs.similarity(theirs.encode_query(QUERIES), theirs.encode_document(TEXTS)))
    (note,) = ours.notes
    assert "similarity_fn_name is cosine: vectors are scaled to length 1" in note
    modular(folder, similarity_fn_name="dot")
    assert not same_vectors(library, folder).notes
    modular(folder)  # says nothing: the library's default is the cosine
    (note,) = same_vectors(library, folder).notes
    assert "no similarity_fn_name" in note and "--normalize True" in note
    modular(folder, similarity_fn_name="manhattan")
    with pytest.raises(InputError, match=r"config_sentence_transformers\.json: similarity_fn_name"):
        rocketjax.open_retriever(folder)


def test_weights_in_a_folder_of_their_own_are_found(library, tmp_path):
    bert(tmp_path / "0_Transformer")
    write(tmp_path / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 16})
    folder = modular(tmp_path, ["Pooling", "Normalize"], inner="0_Transformer")
    assert same_vectors(library, folder).tokenizer.config.passage_length == 16
    edited = (folder / "modules.json").read_text().replace("0_Transformer", "../0_Transformer")
    (folder / "modules.json").write_text(edited)
    with pytest.raises(InputError, match=r"modules\.json: path of Transformer is '\.\./0_Tr"):
        rocketjax.open_retriever(folder)


def test_queries_and_passages_have_lengths_of_their_own(library, tmp_path):
    folder = modular(bert(tmp_path), similarity_fn_name="dot")
    lengths = {"max_seq_length": 40, "query_length": 8, "document_length": 12}
    write(folder / "sentence_bert_config.json", lengths)
    text = same_vectors(library, folder).tokenizer.config
    assert (text.query_length, text.passage_length, text.pair_length) == (8, 12, 40)


def test_without_modules_the_files_of_the_library_do_not_count(library, tmp_path):
    """As with SentenceTransformer, which reads them only beside a modules.json."""
    folder = bert(tmp_path)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": True})
    write(folder / "config_sentence_transformers.json", {"prompts": {"query": "query : "}})
    ours = rocketjax.open_retriever(folder, pooling="mean")
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    close(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    (note,) = [note for note in ours.notes if "sentence_bert_config.json" in note]
    assert "config_sentence_transformers.json" in note and "modules.json" in note


@pytest.mark.parametrize(
    ("prompts", "default", "taken"),
    [
        ({"query": "what ", "passage": "the "}, None, ("what ", "the ")),
        ({"x": "what "}, "x", ("what ", "what ")),
        ({"query": "what ", "document": "the "}, "query", None),
    ],
)
def test_prompts_that_versions_of_the_library_read_otherwise_are_named(
    weights, prompts, default, taken, tmp_path
):
    shutil.copytree(weights, tmp_path / "m")
    folder = modular(
        tmp_path / "m", similarity_fn_name="dot", prompts=prompts, default_prompt_name=default
    )
    model = rocketjax.open_retriever(folder)
    text = model.tokenizer.config
    assert (text.query_prompt, text.passage_prompt) == (taken or ("what ", "the "))
    wanted = [f"prompts {taken[0]!r} and {taken[1]!r} are taken"] if taken else []
    assert [part for part in wanted if part in " ".join(model.notes)] == wanted
    assert len(model.notes) == len(wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_cut_on_the_side_that_the_folder_names(library, side, tmp_path):
    folder = modular(bert(tmp_path, truncation_side=side), similarity_fn_name="dot")
    write(folder / "sentence_bert_config.json", {"max_seq_length": 10})
    same_vectors(library, folder)


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], None])
def test_segments_are_as_the_folder_says(library, names, tmp_path):
    folder = bert(tmp_path / "m", labels=1)
    if names:
        edit(folder / "tokenizer_config.json", model_input_names=names)
    ours = same_scores(library, folder)
    assert ours.tokenizer.segments == (1 if names else 2)
    exported = export_with(tmp_path / "out", ours)
    again = same_scores(library, exported)  # a folder of ours
    np.testing.assert_array_equal(again.score(QUERIES, TEXTS), ours.score(QUERIES, TEXTS))


def test_a_class_that_leaves_out_segments_is_named(library, tmp_path):
    folder = bert(tmp_path, labels=1)
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    notes = same_scores(library, folder).notes
    (note,) = [note for note in notes if "model_input_names" in note]
    assert "both texts of a pair are of one" in note
    names = ["input_ids", "token_type_ids", "attention_mask"]
    edit(folder / "tokenizer_config.json", model_input_names=names)
    ours = same_scores(library, folder)
    assert ours.tokenizer.segments == 2 and not re.search("input_names", " ".join(ours.notes))


# ---- cross-encoders


def test_a_long_query_is_cut_as_well_as_its_passage(library, tmp_path):
    folder = bert(tmp_path / "m", labels=1)
    rng = np.random.default_rng(0)

    def words(count):
        return " ".join(rng.choice(["cat", "Dog", "sun", "sea", "tree", "wave"], count))

    queries = [words(80)] * 6 + [words(n) for n in rng.integers(1, 90, 30)]
    passages = [f"cat {words(20)}" for _ in range(6)] + [words(n) for n in rng.integers(1, 90, 30)]
    from torch.nn import Identity

    ours = rocketjax.open_reranker(folder)
    theirs = library.CrossEncoder(str(folder), device="cpu")
    pairs = list(zip(queries, passages, strict=True))
    scores = theirs.predict(pairs, activation_fn=Identity())
    close(ours.score(queries, passages), scores)
    assert len(set(ours.score(queries[:6], passages[:6]).tolist())) == 6
    passage_first = rocketjax.open_reranker(folder, text=TextOptions(pair_truncation="passage"))
    assert np.ptp(passage_first.score(queries[:6], passages[:6])) < 1e-5  # one token is left
    # What others trained is cut as they do in training, too, and in what is saved and exported.
    start = pretrained_reranker(RerankerConfig(str(folder)), SHORT, ComputeConfig(), seed=1)
    assert start.tokenizer.config.pair_truncation == "longest"
    exported = export_with(tmp_path / "out", ours)
    again = rocketjax.open_reranker(exported)
    np.testing.assert_array_equal(again.score(queries, passages), ours.score(queries, passages))
    theirs = library.CrossEncoder(str(exported), device="cpu")
    close(ours.score(queries, passages), theirs.predict(pairs))


@pytest.mark.parametrize("room", [3, 4, 5, 10])
def test_the_longer_text_is_cut_first_as_transformers_does(room, tmp_path):
    pytest.importorskip("torch", reason="the extra `parity` brings torch")
    folder = bert(tmp_path)
    from transformers import AutoTokenizer

    from rocketjax.text.tokenizer import Tokenizer

    size = room + 3
    text = TextConfig(8, 8, max(8, size), pair_truncation="longest")
    ours = Tokenizer(folder, dataclasses.replace(text, pair_length=size))
    theirs = AutoTokenizer.from_pretrained(folder)
    for a in range(1, 12):
        for b in range(1, 12):
            pair = " ".join(["cat"] * a), " ".join(["dog"] * b)
            want = theirs(*pair, truncation="longest_first", max_length=size)
            got = ours.pair([pair[0]], None, [pair[1]])[0]
            assert got.ids.tolist() == want["input_ids"], (a, b)
            assert got.types.tolist() == want["token_type_ids"]


def test_of_two_labels_the_second_is_the_positive_one(library, tmp_path):
    folder = bert(tmp_path, labels=2)
    ours = rocketjax.open_reranker(folder)
    theirs = library.CrossEncoder(str(folder), device="cpu")
    pairs = list(zip(QUERIES, TEXTS, strict=True))
    positive = theirs.predict(pairs, apply_softmax=True)[:, 1]
    scores = ours.score(QUERIES, TEXTS)
    close(1 / (1 + np.exp(-scores)), positive)
    assert "the score is the logit of 'LABEL_1' less that of 'LABEL_0'" in " ".join(ours.notes)
    edit(folder / "config.json", id2label={"0": "entailment", "1": "not_entailment"})
    with pytest.raises(InputError, match=r"config\.json: two labels, 'entailment' and 'not_ent"):
        rocketjax.open_reranker(folder)


@pytest.mark.parametrize("pooler", [False, True])
def test_a_head_in_modules_is_read(library, pooler, tmp_path):
    folder = bert(tmp_path)
    names = ["Pooling", *["Dense"] * (1 + pooler)]
    modular(folder, names, "cls", model_type="CrossEncoder")
    if pooler:
        dense(folder / "2_Dense", 32, "activation.Tanh")
    dense(folder / f"{2 + pooler}_Dense", 1, "linear.Identity")
    ours = same_scores(library, folder)
    assert ours.module.pooler == pooler
    modular(folder, names, "max", model_type="CrossEncoder")
    with pytest.raises(InputError, match=r"1_Pooling/config\.json: pooling_mode 'max'; supported"):
        rocketjax.open_reranker(folder)
    modular(folder, ["Pooling"], "cls", model_type="CrossEncoder")
    with pytest.raises(InputError, match=r"modules\.json: the modules are Transformer, Pooling;"):
        rocketjax.open_reranker(folder)
    modular(folder, ["Pooling", "Dense", "Dense"], "cls", model_type="CrossEncoder")
    dense(folder / "2_Dense", 32, "activation.Mish")
    dense(folder / "3_Dense", 1, "linear.Identity")
    with pytest.raises(InputError, match=r"2_Dense/config\.json: activation_function is .*Mish"):
        rocketjax.open_reranker(folder)


# Family, pooling, what is between pooling and the last Dense; whether its class has such a head.
HEADS = [
    ("ModernBert", "mean", ["GELU", "LayerNorm", "Dropout"], True),
    ("ModernBert", "cls", ["SiLU", "trained LayerNorm"], False),
    ("ModernBert", "mean", [], False),
    ("DistilBert", "cls", ["ReLU"], True),
    ("DistilBert", "cls", [], False),
    ("DebertaV2", "cls", ["Tanh"], True),
    ("Bert", "mean", ["GELU", "LayerNorm"], False),
]


@pytest.mark.parametrize(("family", "pooling", "between", "of_class"), HEADS)
def test_heads_of_modules_are_read_and_exported(
    library, family, pooling, between, of_class, tmp_path
):
    """As CrossEncoder saves them; in their class's form where that has such a head."""
    import torch
    from sentence_transformers import models

    torch.manual_seed(2)
    modules = [models.Transformer(str(bert(tmp_path / "m", family=family)))]
    modules.append(models.Pooling(32, pooling))
    for name in between:
        if name.endswith("LayerNorm"):
            modules.append(models.LayerNorm(32))
            if name != "LayerNorm":
                modules[-1].norm.bias.data += torch.randn(32)
        elif name == "Dropout":
            modules.append(models.Dropout(0.1))
        else:
            activation = getattr(torch.nn, name)()
            modules.append(models.Dense(32, 32, name != "SiLU", activation))
    modules.append(models.Dense(32, 1, True, torch.nn.Identity(), module_output_name="scores"))
    library.CrossEncoder(modules=modules, device="cpu").save_pretrained(str(tmp_path / "theirs"))
    ours = same_scores(library, tmp_path / "theirs")
    exported = export_with(tmp_path / "out", ours)
    assert (exported / "modules.json").exists() != of_class
    again = same_scores(library, exported)
    assert again.module.config == ours.module.config
    jax.tree.map(np.testing.assert_array_equal, again.params, ours.params)


def test_a_cross_encoder_of_the_librarys_own_saving_is_read(library, tmp_path):
    theirs = library.CrossEncoder(str(bert(tmp_path / "m", labels=1)), device="cpu", max_length=24)
    theirs.save_pretrained(str(tmp_path / "saved"))
    assert same_scores(library, tmp_path / "saved").tokenizer.config.pair_length == 24


def test_a_default_prompt_of_a_cross_encoder_is_refused(library, tmp_path):
    folder = bert(tmp_path, labels=1)
    prompts = {"prompts": {"x": "query : "}, "default_prompt_name": "x"}
    modular(folder, [], model_type="CrossEncoder", **prompts)
    with pytest.raises(InputError, match="a cross-encoder with a default prompt, 'query : '"):
        rocketjax.open_reranker(folder)


def test_a_cross_encoder_taken_for_a_retriever_is_named(library, tmp_path):
    folder = bert(tmp_path, labels=1)
    ours = rocketjax.open_retriever(folder, pooling="mean")
    assert any("a cross-encoder, taken for a retriever" in note for note in ours.notes)
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    close(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))


# ---- plain weights


def test_plain_weights_say_what_is_taken_and_take_what_is_asked(library, tmp_path, caplog):
    folder = bert(tmp_path)
    plain = rocketjax.open_retriever(folder)
    (note,) = plain.notes
    for part in ("pooling cls (the default)", "normalize False (the default)", "64 and 64"):
        assert part in note
    assert [record.getMessage() for record in caplog.records] == [note]  # Python users see it
    assert caplog.records[0].levelname == "WARNING"
    # e5: the mean, scaled, with prompts, 20 tokens
    text = TextOptions(20, 20, query_prompt="query : ", passage_prompt="passage : ")
    asked = rocketjax.open_retriever(folder, text=text, pooling="mean", normalize=True)
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = 20
    for method, prompt in (("encode_query", "query : "), ("encode_passage", "passage : ")):
        want = theirs.encode(TEXTS, prompt=prompt, normalize_embeddings=True)
        close(getattr(asked, method)(TEXTS), want)
    assert asked.notes[0].count("as given") == 4
    save_retriever(tmp_path / "own", asked)
    shorter = rocketjax.open_retriever(tmp_path / "own", text=TextOptions(query_length=8))
    assert shorter.tokenizer.config == dataclasses.replace(asked.tokenizer.config, query_length=8)
    # A run that starts from our own folder keeps what it says.
    start = pretrained_retriever(RetrieverConfig(str(tmp_path / "own")), SHORT, ComputeConfig())
    assert (start.module.pooling, start.module.normalize) == ("mean", True)
    assert start.tokenizer.config.query_prompt == "query : "
    with pytest.raises(InputError, match="pooling: Input should be"):
        rocketjax.open_retriever(folder, pooling="max")
    with pytest.raises(InputError, match="text is 'mean'"):
        rocketjax.open_retriever(folder, text="mean")


def test_commands_take_what_a_folder_does_not_say(weights, collection, tmp_path, capsys):
    given = ["--model", str(weights), "--collection", str(collection)]
    asked = ["--pooling", "mean", "--normalize", "True", "--text.query-prompt", "cat "]
    index = str(tmp_path / "index")
    assert encode.main([*given, *asked, "--output", index, "--index.kind", "exact"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "pooling mean (as given), normalize True (as given), prompts 'cat ' and ''" in said
    found = [*given, "--index", index, "--depth", "0", "dog bark"]
    assert search.main([*found, *asked, "--text.pair-length", "16"]) == 0
    assert search.main(found) == 2  # read otherwise, it is another model than the index's
    assert "index: made of model" in " ".join(capsys.readouterr().err.split())


def test_a_fresh_head_is_named(weights, tmp_path):
    start = pretrained_reranker(RerankerConfig(str(weights)), SHORT, ComputeConfig(), seed=7)
    assert start.notes == (
        f"{weights}: no head that scores a pair; a fresh one is drawn, by seed 7",
    )


def test_a_fresh_head_reads_the_mean_where_it_is_asked_to(library, weights, tmp_path):
    """It is exported in modules, as no class of transformers has such a BERT, and read back."""

    def start(pooling):
        config = RerankerConfig(str(weights), pooling=pooling)
        return pretrained_reranker(config, SHORT, ComputeConfig(), seed=7)

    ours, first = start("mean"), start("auto")
    jax.tree.map(np.testing.assert_array_equal, ours.params, first.params)
    scores = ours.score(QUERIES, TEXTS)
    assert np.abs(scores - first.score(QUERIES, TEXTS)).max() > 1e-3
    exported = export_with(tmp_path / "out", ours)
    np.testing.assert_array_equal(
        same_scores(library, exported, 1e-3).score(QUERIES, TEXTS), scores
    )


def test_a_head_that_was_trained_keeps_its_pooling(tmp_path):
    folder = bert(tmp_path, labels=1)
    for pooling in ("auto", "cls"):
        config = RerankerConfig(str(folder), pooling=pooling)
        assert (
            pretrained_reranker(config, SHORT, ComputeConfig(), 1).module.config.head.pooling
            == "cls"
        )
    config = RerankerConfig(str(folder), pooling="mean")
    with pytest.raises(
        InputError, match=r"reranker\.pooling is mean, but the head of .* was trained on cls"
    ):
        pretrained_reranker(config, SHORT, ComputeConfig(), 1)


def test_weights_of_16_bits_are_named(weights, tmp_path):
    shutil.copytree(weights, tmp_path / "m")
    folder = modular(tmp_path / "m", similarity_fn_name="dot")
    tensors = pretrained.load_tensors(folder)
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    config = pretrained.read_encoder_config(folder)
    pretrained.save_model(folder, config, halves, "Model")
    (note,) = rocketjax.open_retriever(folder).notes
    assert "weights are float16: read as float32" in note


def test_a_run_says_once_what_it_starts_from(weights, tmp_path):
    said = []
    config = Config(
        text=SHORT,
        retriever=RetrieverConfig(str(weights), "shared", "mean", False),
        reranker=RerankerConfig(str(weights)),
        loss=LossConfig(retriever_temperature=0.05),
    )
    run = Run(config, tmp_path, None, None, None, said.append, None)
    for _ in range(2):
        start_retriever(run)
        start_reranker(run)
    plain, steep, fresh = said
    assert "dot products of vectors that are not scaled to length 1 of 32 numbers" in steep
    assert "pooling mean (as given), normalize False (as given)" in plain
    assert "is 0.05, as given. That is for cosines" in steep
    assert "a fresh one is drawn" in fresh
    said.clear()
    scaled = dataclasses.replace(config.retriever, normalize=True)
    run = dataclasses.replace(run, config=dataclasses.replace(config, retriever=scaled))
    start_retriever(run)
    (flat,) = (line for line in said if "scores are cosines" in line)
    assert flat.endswith("loss.retriever_temperature is 0.05, as given")


@pytest.mark.parametrize(
    ("normalize", "given", "said"),
    [
        (True, None, "is 0.05, the default for those"),
        (False, None, "is 1, the default for those"),
        (True, 1.0, "Cosines divided by that hardly differ"),
        (False, 1.0, "is 1, as given"),
    ],
)
def test_the_temperature_is_by_the_kind_of_scores_and_said(
    weights, tmp_path, normalize, given, said
):
    lines = []
    retriever = RetrieverConfig(str(weights), "shared", "mean", normalize, truncate=8)
    loss = LossConfig(retriever_temperature=given, matryoshka=(8, 4))
    run = Run(
        Config(text=SHORT, retriever=retriever, loss=loss),
        *(tmp_path, None, None, None, lines.append, None),
    )
    start_retriever(run)
    line = lines[-1]
    assert (
        said in line and "of 8 numbers" in line and "losses are of 8 (0.5), 4 (0.5) numbers" in line
    )


# ---- weights that are not read


@pytest.mark.parametrize("labels", [None, 1])
def test_the_remedy_for_a_pickle_keeps_the_head(labels, tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `parity` brings torch")
    from safetensors.torch import load_file

    folder = bert(tmp_path, labels)
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    open_model = rocketjax.open_retriever if labels is None else rocketjax.open_reranker
    with pytest.raises(InputError, match=r"pytorch_model\.bin: a pickle") as refused:
        open_model(folder)
    command = re.search(r'python -c "(.*)"', str(refused.value))
    assert command
    exec(command[1])  # as the shell would run it
    found = pretrained.load_tensors(folder)
    assert ("classifier.weight" in found) == (labels is not None)
    np.testing.assert_array_equal(
        found[next(name for name in found if "word_emb" in name)],
        next(value for name, value in tensors.items() if "word_emb" in name).numpy(),
    )
    open_model(folder)


def test_a_repository_of_pickles_is_no_dead_end(monkeypatch, weights, tmp_path):
    shutil.copytree(weights, tmp_path / "repo")
    (tmp_path / "repo" / "model.safetensors").unlink()
    edit(tmp_path / "repo" / "config.json", architectures=["BertForSequenceClassification"])
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: tmp_path / "repo")
    with pytest.raises(InputError, match=r"no model\.safetensors") as refused:
        rocketjax.open_reranker("org/model@abc")
    assert "hf download org/model --revision abc --local-dir FOLDER && python -c" in str(
        refused.value
    )
    assert "AutoModelForSequenceClassification.from_pretrained('FOLDER'" in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "name"), [("xlm-roberta", "sentencepiece.bpe.model"), ("deberta-v2", "spm.model")]
)
def test_a_tokenizer_of_a_missing_library_is_named(kind, name, weights, tmp_path, monkeypatch):
    for copied in ("config.json", "model.safetensors"):
        shutil.copy(weights / copied, tmp_path)
    distances = {"relative_attention": True, "pos_att_type": "c2p"} if "deberta" in kind else {}
    edit(tmp_path / "config.json", model_type=kind, pad_token_id=1, **distances)
    (tmp_path / name).write_bytes(b"none of sentencepiece's")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\.model: a tokenizer of sentencepiece, .*pip"):
        rocketjax.open_retriever(tmp_path)


# ---- keys


FILES = [
    ("config.json", "config.json"),
    ("tokenizer_config.json", "tokenizer_config.json"),
    ("sentence_bert_config.json", "sentence_bert_config.json"),
    ("config_sentence_transformers.json", "config_sentence_transformers.json"),
    ("1_Pooling/config.json", "1_Pooling/config.json"),
]


def strange_folder(weights, folder):
    shutil.copytree(weights, folder)
    modular(folder, similarity_fn_name="dot")
    write(folder / "sentence_bert_config.json", {"max_seq_length": 20})
    return folder


def test_keys_that_nobody_knows_are_named_in_one_line(weights, tmp_path):
    folder = strange_folder(weights, tmp_path / "m")
    assert keys.unheeded(folder) == "" and not rocketjax.open_retriever(folder).notes
    for name, _ in FILES:
        edit(folder / name, lens={"factor": 2}, zoom=1)
    edit(folder / "tokenizer_config.json", padding_side="left")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["kwargs"] = ["task"]
    write(folder / "modules.json", modules)
    (note,) = rocketjax.open_retriever(folder).notes
    assert note.count("\n") == 0 and note.startswith(f"{folder}: not heeded: ")
    for name, shown in FILES:
        assert f"{shown}: " in note, name
    assert note.count("lens, zoom") == len(FILES)
    for part in ("padding_side 'left'", "kwargs \"['task']\""):
        assert part in note


def test_every_known_key_is_in_the_documentation_and_no_other():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \| [^|]* \|$", page, re.M)
    documented = {
        (file, key)
        for files, names in rows
        for file in re.findall(r"`([^`]+)`", files)
        for key in re.findall(r"`([^`]+)`", names)
    }
    known = {
        (file, key)
        for file, of_file in keys.FILES.items()
        for key in (*of_file.read.split(), *of_file.idle.split(), *of_file.only)
    }
    assert documented == known
