"""Batches of lists: each list once an epoch, the same on a resume, and the right texts in them."""

import dataclasses
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rocketjax.config.schema import Config, TextConfig
from rocketjax.data.collection import Collection, Split
from rocketjax.data.copies import shared_positives
from rocketjax.data.lists import TrainingList
from rocketjax.data.passages import InMemory, Passage
from rocketjax.pipeline.batches import make_collator
from rocketjax.pipeline.context import Run
from rocketjax.pipeline.lists import judged_split
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched
from rocketjax.text.tokenizer import Tokenizer
from rocketjax.training.loader import Collator, Shape, Shapes, list_batches

LISTS = [TrainingList(f"q{i}", f"p{i}", ()) for i in range(12)]
WORDS = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "a",
    *(f"{kind}{i}" for kind in "qpt" for i in range(12)),
    "[UNK]",
]


def names(batch):
    return [item.query for item in batch]


def first(count, batch=4, seed=1, start=0, lists=LISTS):
    return list(islice(list_batches(lists, names, batch, seed, start), count))


def test_every_list_comes_once_an_epoch_in_ever_other_order():
    epochs = np.array(first(15)).reshape(5, 12)
    for epoch in epochs:
        assert sorted(epoch) == sorted(item.query for item in LISTS)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert list(epochs[0]) != [item.query for item in LISTS]


def test_epochs_need_not_end_with_a_batch():
    seen = list(chain(*first(12, batch=5)))  # 60 = 5 epochs
    assert all(len(batch) == 5 for batch in first(12, batch=5))
    for epoch in range(5):
        assert len(set(seen[12 * epoch : 12 * epoch + 12])) == 12


def test_a_batch_may_be_a_single_list():
    seen = [name for batch in first(12, batch=1) for name in batch]
    assert sorted(seen) == sorted(names(LISTS))


def test_a_batch_may_be_larger_than_the_lists():
    (batch,) = first(1, batch=5, lists=LISTS[:2])
    assert len(batch) == 5 and set(batch[:2]) == set(batch[2:4]) == {"q0", "q1"}


def test_batches_hang_on_the_seed():
    assert first(9) == first(9)
    assert first(9) != first(9, seed=2)


@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_start_skips_exactly_what_was_seen(start):
    assert first(6, batch=5, start=start) == first(6 + start, batch=5)[start:]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A word is a token."""
    folder = tmp_path_factory.mktemp("tokenizer")
    backend = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(str(folder))
    return Tokenizer(folder, TextConfig(query_length=12, passage_length=40, pair_length=64))


def texts_of(rows):
    """The texts of rows by their numbers, part by part: ids and types, and none twice."""
    found = []
    for ids, types, text, position, first in zip(*rows, strict=True):
        for number, start in enumerate(first):
            own = text == number
            if own.any():
                assert position[own].tolist() == list(range(own.sum()))
                assert (text.reshape(-1)[start], position.reshape(-1)[start]) == (number, 0)
                found.append((ids[own], types[own]))
    assert sum(len(ids) for ids, _ in found) == (rows.text >= 0).sum()
    return found


def read(rows, number):
    """The words of one text."""
    return " ".join(WORDS[i] for i in texts_of(rows)[number][0])


def collator(tokenizer, slots):
    queries = {f"q{i}": f"a q{i}" for i in range(12)}
    passages = {f"p{i}": Passage(f"p{i}", f"t{i}" * (i % 2), f"p{i} a") for i in range(12)}
    return Collator(queries, passages, tokenizer, tokenizer, slots)


def test_a_batch_holds_the_right_texts(tokenizer):
    lists = [
        TrainingList("q3", "p0", ("p5", "p2")),
        TrainingList("q1", "p7", ()),
        TrainingList("q0", "p4", ("p6", "p8", "p9", "p10")),  # one more than there is room for
    ]
    batch = collator(tokenizer, slots=4)(lists)
    assert batch.query.first.shape == (1, 3)  # each query once
    assert batch.passage.first.shape == batch.pair.first.shape == (1, 12)
    assert batch.valid.tolist() == [[True] * 3 + [False], [True] + [False] * 3, [True] * 4]
    for row, item in enumerate(lists):
        query = item.query
        assert read(batch.query, row) == f"[CLS] a {query} [SEP]"
        for slot, pid in enumerate([item.positive, *item.negatives][:4]):
            i = int(pid[1:])
            text = f"t{i} p{i} a" if i % 2 else f"p{i} a"
            number = 4 * row + slot
            assert read(batch.passage, number) == f"[CLS] {text} [SEP]"
            assert read(batch.pair, number) == f"[CLS] a {query} [SEP] {text} [SEP]"
            types = texts_of(batch.pair)[number][1]
            assert types.tolist() == [0] * 4 + [1] * (len(text.split()) + 1)


def relevant(batch):
    """By row, the slots (row, slot) of the batch that answer its query."""
    slots = batch.valid.shape[1]
    return [[divmod(int(i), slots) for i in np.flatnonzero(row)] for row in batch.relevant]


def test_what_the_lists_say_of_a_query_holds_in_the_whole_batch(tokenizer):
    lists = [
        TrainingList("q3", "p0", ("p5", "p2")),
        TrainingList("q1", "p7", ("p0",)),
        TrainingList("q3", "p4", ()),
        TrainingList("q5", "p7", ("p4",)),
    ]
    batch = collator(tokenizer, slots=3)(lists)
    assert batch.relevant.shape == (4, 12)
    q3, q1 = [(0, 0), (1, 1), (2, 0), (3, 1)], [(1, 0), (3, 0)]
    assert relevant(batch) == [q3, q1, q3, q1]


def test_a_list_without_a_label_answers_nothing(tokenizer):
    """Its passages take all slots, the first among them, and are negatives of other queries."""
    some = dataclasses.replace(collator(tokenizer, slots=3), unlabelled=True)
    some.queries["again"] = "a q1"  # asked with a label too
    lists = [
        TrainingList("q0", "", ("p0", "p5", "p2"), "unlabelled"),
        TrainingList("q1", "p7", ("p0",)),
        TrainingList("again", "", ("p4", "p7"), "unlabelled"),
    ]
    batch = some(lists)
    assert batch.labelled.tolist() == [False, True, False]
    assert batch.valid.sum(1).tolist() == [3, 2, 2]
    assert read(batch.passage, 0) == "[CLS] p0 a [SEP]"
    assert relevant(batch) == [[], [(1, 0), (2, 1)], [(1, 0), (2, 1)]]
    assert collator(tokenizer, slots=3)(lists[1:2]).labelled is None


def test_judgements_count_beyond_what_the_batch_holds(tokenizer):
    """q0 has no list of p1 here, nor has q2 one of p5, which a copy of it stands for."""
    some = collator(tokenizer, slots=2)
    some.passages["copy"] = Passage("copy", "", "T5 p5\u00a0 a")
    some.passages["gone"] = some.passages.pop("p11")
    qrels = {"q0": {"p0": 1, "p1": 2, "p3": 0}, "q2": {"p4": 1, "p5": 1, "p11": 1}}
    judged = dataclasses.replace(some, slots=3, judged=Split(some.queries, qrels))
    lists = [
        TrainingList("q0", "p0", ("p3",)),
        TrainingList("q1", "p1", ("p6",)),
        TrainingList("q2", "p4", ("p7",)),
        TrainingList("q3", "p3", ("copy",)),
    ]
    assert relevant(some(lists)) == [[(0, 0)], [(1, 0)], [(2, 0)], [(0, 1), (3, 0)]]
    assert relevant(judged(lists)) == [
        [(0, 0), (1, 0)],
        [(1, 0)],
        [(2, 0), (3, 1)],
        [(0, 1), (3, 0)],
    ]


def test_queries_of_one_text_are_one_query(tokenizer):
    """What one of them has as its positive is no negative of the other, in a list or in none."""
    some = collator(tokenizer, slots=2)
    some.queries["again"] = "A  \uff510"  # q0's text, spelled otherwise
    lists = [TrainingList("q0", "p0", ("p3",)), TrainingList("again", "p1", ("p4",))]
    both = [(0, 0), (1, 0)]
    assert relevant(some(lists)) == [both, both]
    qrels = {"q0": {"p0": 1}, "again": {"p1": 1, "p6": 1}}
    shared = shared_positives(some.queries, qrels)
    assert shared == {key: ["p0", "p1", "p6"] for key in ("q0", "again")}
    judged = dataclasses.replace(some, slots=3, judged=Split(some.queries, qrels, shared=shared))
    batch = judged([TrainingList("q0", "p0", ("p6", "p3")), TrainingList("q2", "p6", ("p1",))])
    assert batch.valid.tolist() == [[True, False, True], [True, True, False]]  # p6 is none
    assert read(batch.passage, 2) == "[CLS] t3 p3 a [SEP]"
    assert relevant(batch) == [[(0, 0), (1, 0), (1, 1)], [(1, 0)]]


def test_a_run_hands_its_judgements_to_its_batches(tokenizer):
    """And to what is mined: here of q0, which is asked again as q1."""
    known = collator(tokenizer, slots=1)
    queries = {"q0": "a q0", "q1": "A q0", "q2": "a q2"}
    train = Split(queries, {"q0": {"p0": 1, "p3": 1}, "q1": {"p1": 1}, "q2": {"p2": 1}})
    collection = Collection("some", InMemory(known.passages.values()), {"train": train})
    run = Run(Config(), Path(), collection, train, train, print, unwatched)
    batch = make_collator(run, 1, tokenizer, tokenizer)(
        [TrainingList(*names, ()) for names in (("q0", "p0"), ("q2", "p2"), ("q2", "p1"))]
        + [TrainingList("q1", "p3", ())]
    )
    place = batch.place.tolist()  # the lists are dealt out to two devices
    found = {
        place[i]: sorted(place[row] for row, _ in some) for i, some in enumerate(relevant(batch))
    }
    assert found == {0: [0, 2, 3], 1: [1, 2], 2: [1, 2], 3: [0, 2, 3]}
    asked = judged_split(run, ["q1"])
    assert [*asked.queries] == ["q1"] and asked.positives("q1") == ["p1", "p0", "p3"]


def test_a_copy_of_the_positive_is_no_negative_of_it(tokenizer):
    """Under another id, it would be told apart from itself."""
    some = collator(tokenizer, slots=3)
    some.passages["copy"] = some.passages["p3"]._replace(id="copy")
    batch = some([TrainingList("q3", "p3", ("copy", "p5")), TrainingList("q1", "copy", ("p4",))])
    assert batch.valid.tolist() == [[True, False, True], [True, True, False]]
    assert read(batch.passage, 2) == "[CLS] t5 p5 a [SEP]"
    assert relevant(batch) == [[(0, 0), (1, 0)]] * 2


def test_thousands_of_positives_are_read_once(tokenizer):
    """Not for every batch that has a list of them."""
    some, asked = collator(tokenizer, slots=1), Counter()

    class Passages(dict):
        def get(self, pid):
            asked[pid] += 1
            return super().get(pid)

    qrels = {"q0": dict.fromkeys(some.passages, 1)}
    some = dataclasses.replace(
        some, passages=Passages(some.passages), judged=Split(some.queries, qrels)
    )
    for pid in ("p1", "p2", "p3"):
        assert relevant(some([TrainingList("q0", pid, ()), LISTS[5]])) == [
            [(0, 0), (1, 0)],
            [(1, 0)],
        ]
    assert set(asked.values()) == {1}


def test_empty_slots_hold_a_text_all_the_same(tokenizer):
    batch = collator(tokenizer, slots=3)([TrainingList("q3", "p0", ())])
    assert batch.valid.tolist() == [[True, False, False]]
    for rows in (batch.passage, batch.pair):
        texts = [ids.tolist() for ids, _ in texts_of(rows)]
        assert len(texts) == 3 and texts[1:] == [[WORDS.index("[CLS]")]] * 2  # one token each


def test_batches_of_texts_come_out_of_the_loader(tokenizer):
    batches = list_batches(LISTS, collator(tokenizer, slots=2), 4, seed=1)
    rows = [read(batch.query, row) for batch in islice(batches, 3) for row in range(4)]
    assert rows == [f"[CLS] a {query} [SEP]" for query in chain(*first(3))]


@pytest.mark.parametrize(
    ("item", "what"),
    [
        (TrainingList("q1", "p1", ("p99",)), "passage 'p99'"),
        (TrainingList("q1", "p98", ()), "passage 'p98'"),
        (TrainingList("q97", "p1", ()), "query 'q97'"),
    ],
)
def test_what_the_collection_has_not_is_named(tokenizer, item, what):
    some = collator(tokenizer, slots=2)
    with pytest.raises(InputError, match=f"{what}, which the collection has not; mine again"):
        some([LISTS[0], item])
    with pytest.raises(InputError, match=what):  # out of the loader's thread, too
        next(list_batches([item], some, 1, seed=1))


def laid(tokenizer, **options):
    """A collator of lists of two whose texts have from one to nine words."""
    queries = {f"q{i}": " ".join(["a"] * (1 + i % 9)) for i in range(12)}
    passages = {f"p{i}": Passage(f"p{i}", "", " ".join(["a"] * (1 + 5 * i % 9))) for i in range(12)}
    lists = [TrainingList(f"q{i}", f"p{i}", (f"p{(i + 1) % 12}",) * (i % 2)) for i in range(12)]
    return Collator(queries, passages, tokenizer, tokenizer, 2, **options), lists


@pytest.mark.parametrize(("devices", "chunk"), [(1, 0), (2, 0), (2, 3), (4, 1)])
def test_rows_hold_the_texts_of_each_devices_each_chunk(tokenizer, devices, chunk):
    """In order, as the train step reads them, and in one shape."""
    collate, lists = laid(tokenizer, devices=devices, chunk=chunk)
    collate = collate.fitted(lists, 4)
    apart, shapes = laid(tokenizer)[0], set()
    for start in range(0, 12, 4):
        batch, whole = (some(lists[start : start + 4]) for some in (collate, apart))
        for rows, plain in zip(batch[:3], whole[:3], strict=True):
            got, want = ([ids.tolist() for ids, _ in texts_of(each)] for each in (rows, plain))
            assert got == want
            assert len(rows.first) % devices == 0
            assert chunk or len(rows.first) == devices
        shapes.add(tuple(rows.ids.shape for rows in batch[:3]))
    assert len(shapes) == 1
    assert collate.fitted(lists, 4).shapes == collate.shapes  # by the lists alone


@pytest.mark.parametrize(("devices", "chunk"), [(2, 0), (3, 2)])
def test_lists_are_dealt_so_that_all_devices_have_as_much_to_do(tokenizer, devices, chunk):
    """What else a batch holds comes along; unless they may be dealt, lists stay in their places."""
    plain, lists = laid(tokenizer, devices=devices, chunk=chunk)
    batch = dataclasses.replace(plain, deals=True).fitted(lists, 12)(lists)
    assert plain(lists).place is None and sorted(batch.place) == list(range(12))
    moved = laid(tokenizer)[0]([lists[row] for row in batch.place])
    assert np.array_equal(batch.valid, moved.valid)
    assert np.array_equal(batch.relevant, moved.relevant)
    for rows, want in zip(batch[:3], moved[:3], strict=True):
        assert [ids.tolist() for ids, _ in texts_of(rows)] == [
            ids.tolist() for ids, _ in texts_of(want)
        ]

    def loads(some):
        return (some.pair.text >= 0).reshape(devices, -1).sum(axis=1)

    assert np.ptp(loads(batch)) < 0.25 * np.ptp(loads(plain(lists)))


def test_a_batch_that_does_not_fit_gets_room(tokenizer):
    collate, lists = laid(tokenizer, devices=2)
    lists = [item for item in lists if len(collate.queries[item.query]) > 9]
    fitted = collate.fitted(lists[:1], 2)
    fitted = dataclasses.replace(fitted, shapes=Shapes(*(Shape(1, 1, 16) for _ in range(3))))
    assert [rows.ids.shape[1:] for rows in fitted(lists[:2])[:3]] == [(1, 16), (1, 16), (1, 32)]
    batch = fitted(lists[:8])
    assert batch.query.ids.shape[1] > fitted.shapes.query.rows
    for rows, plain in zip(batch[:3], laid(tokenizer)[0](lists[:8])[:3], strict=True):
        assert (rows.text >= 0).sum() == (plain.text >= 0).sum()
