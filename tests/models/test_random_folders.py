"""Random model folders of others, opened here and by the reference: none silently different."""

import random
import shutil
from collections import Counter

import numpy as np
import pytest
from others import TEXTS, bert, dense, edit, modular, write

import rocketjax
from rocketjax import InputError

NAMES = (None, ["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"])
CLASSES = ("PreTrainedTokenizerFast", "BertTokenizerFast", "TokenizersBackend", "BertTokenizer")


def maybe(rng, chance, value):
    return value if rng.random() < chance else None


def random_bert(rng, folder, labels=None):
    """Weights and tokenizer; always a length, as the reference fails beyond RoBERTa's positions."""
    family = rng.choice(["Bert", "Bert", "Roberta", "XLMRoberta", "Ernie"])
    options = {"truncation_side": rng.choice(["right", "right", "left"])}
    names = None if "Roberta" in family else rng.choice(NAMES)
    if names:
        options["model_input_names"] = names
    positions, lower = rng.choice([16, 32, 64]), rng.random() < 0.3
    bert(folder, labels, positions, lower=lower, family=family, **options)
    named = maybe(rng, 0.3, rng.choice(CLASSES)) if "Roberta" not in family else None
    if named:
        edit(folder / "tokenizer_config.json", tokenizer_class=named)
    longest = rng.choice([9, 14, positions])
    edit(folder / "tokenizer_config.json", model_max_length=longest)
    return positions


def random_retriever(rng, folder):
    """Whether it has a modules.json."""
    inner = rng.choice(["", "", "0_Transformer"])
    positions = random_bert(rng, folder / inner)
    if not inner and rng.random() < 0.2:
        return False
    settings = {
        "similarity_fn_name": rng.choice([None, "cosine", "dot", "euclidean"]),
        "prompts": maybe(rng, 0.6, {"query": "query : ", "document": rng.choice(["", "the "])}),
    }
    if rng.random() < 0.2:
        settings |= {"prompts": {"query": "what "}, "default_prompt_name": "query"}
    settings = {name: value for name, value in settings.items() if value is not None}
    names = rng.choice([["Pooling"], ["Pooling", "Normalize"]])
    modular(folder, names, rng.choice(["cls", "mean", "mean", "max"]), inner, **settings)
    limits = {"max_seq_length": rng.choice([8, 10, positions])}
    if rng.random() < 0.4:
        limits["do_lower_case"] = True
    if rng.random() < 0.3:
        limits["query_length"] = 9
    write(folder / inner / "sentence_bert_config.json", limits)
    return True


def random_cross_encoder(rng, folder):
    """The number of its labels."""
    labels = rng.choice([None, 1, 1, 2])
    random_bert(rng, folder, labels)
    if labels is None:
        names = rng.choice([["Pooling", "Dense"], ["Pooling", "Dense", "Dense"]])
        modular(folder, names, rng.choice(["cls", "cls", "mean"]), model_type="CrossEncoder")
        if len(names) == 3:
            dense(folder / "2_Dense", 32, "activation.Tanh")
        dense(folder / f"{len(names)}_Dense", 1, "linear.Identity")
    elif rng.random() < 0.4:
        modular(folder, [], model_type="CrossEncoder")
        limits = {"transformer_task": "sequence-classification", "max_seq_length": 12}
        limits["do_lower_case"] = rng.random() < 0.5
        write(folder / "sentence_bert_config.json", limits)
    return labels


def vectors_differ(library, rng, folder):
    """The notes, and how far vectors are apart."""
    told = {} if random_retriever(rng, folder) else {"pooling": "mean"}
    ours = rocketjax.open_retriever(folder, say=lambda line: None, **told)
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    apart = 0.0
    for mine, other in (
        (ours.encode_query(TEXTS), theirs.encode_query(TEXTS)),
        (ours.encode_passage(TEXTS), theirs.encode_document(TEXTS)),
    ):
        if ours.module.normalize and theirs.similarity_fn_name == "cosine":
            other = other / np.linalg.norm(other, axis=1, keepdims=True)
        apart = max(apart, float(abs(mine - other).max()))
    return ours.notes, apart


def scores_differ(library, rng, folder):
    """The notes, and how far scores are apart."""
    from torch.nn import Identity

    labels = random_cross_encoder(rng, folder)
    ours = rocketjax.open_reranker(folder, say=lambda line: None)
    theirs = library.CrossEncoder(str(folder), device="cpu")
    queries = [rng.choice(TEXTS) * rng.choice([1, 3]) for _ in range(6)]
    passages = [rng.choice(TEXTS) * rng.choice([1, 3]) for _ in range(6)]
    raw = theirs.predict(list(zip(queries, passages, strict=True)), activation_fn=Identity())
    raw = raw[:, 1] - raw[:, 0] if labels == 2 else raw
    return ours.notes, float(abs(ours.score(queries, passages) - raw).max())


# What a note must say where results are allowed to differ.
EXCUSES = ("are taken for queries and passages",)


def compare(library, seeds, folder):
    """Counts of what became of the folders; fails at the first that is silently different."""
    counts = Counter()
    for seed in seeds:
        rng = random.Random(seed)
        how = vectors_differ if seed % 2 else scores_differ
        try:
            notes, apart = how(library, rng, folder)
        except InputError:
            counts["refused"] += 1
        else:
            named = any(excuse in note for note in notes for excuse in EXCUSES)
            assert apart < 1e-4 or named, (seed, apart, notes)
            counts["equal" if apart < 1e-4 else "named"] += 1
        shutil.rmtree(folder)
    print(dict(counts))
    return counts


@pytest.fixture
def library():
    pytest.importorskip("torch", reason="the extra `parity` brings torch")
    return pytest.importorskip(  # version 5 knows neither modules of cross-encoders nor all keys
        "sentence_transformers", "6", reason="the extra `parity` brings sentence-transformers"
    )


def test_a_few(library, tmp_path):
    assert compare(library, range(6), tmp_path / "m")["equal"] >= 3


@pytest.mark.slow
def test_hundreds(library, tmp_path):
    counts = compare(library, range(1_000, 1_520), tmp_path / "m")
    assert counts["equal"] > 300
