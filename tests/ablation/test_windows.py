"""A collection in which the truth is known: windows, labels that are hidden, shallow starts."""

import dataclasses

import numpy as np
import pytest
from on_disk import make_answered, make_topics, make_weights

from rocketjax.ablation import hidden
from rocketjax.ablation.sample import Sizes, describe, write_sample
from rocketjax.ablation.shallow import with_layers
from rocketjax.ablation.windows import cut, hide, windows_of
from rocketjax.config.schema import Config, RerankerConfig, RetrieverConfig
from rocketjax.data.collection import Collection, Split
from rocketjax.data.lists import TrainingList
from rocketjax.data.load import load_collection
from rocketjax.data.passages import InMemory, Passage
from rocketjax.models.pretrained import load_tensors, read_encoder_config
from rocketjax.runtime.errors import InputError


def texts(text):
    return [window.text for window in windows_of(Passage("p", "A title", text))]


def test_windows_overlap_and_have_no_title():
    text = 'One was. "Two came!" Then three? Four (of 5.) And five.'
    assert texts(text) == [
        'One was. "Two came!" Then three?',
        '"Two came!" Then three? Four (of 5.)',
        "Then three? Four (of 5.) And five.",
    ]
    windows = windows_of(Passage("p7", "A title", text))
    assert [(w.id, w.title) for w in windows] == [("p7.0", ""), ("p7.1", ""), ("p7.2", "")]


@pytest.mark.parametrize(
    "text",
    [
        "Only one",
        "One. Two. Three.",
        "Mr. J. R. Tolkien met St. George. He left the U.S. Army at approx. 9. It rained.",
        "It cost 3.5 pounds. no capital follows. Here it ends. And 4.",
    ],
)
def test_what_has_at_most_three_sentences_is_one_window(text):
    assert texts(text) == [text]


def many(queries=400):
    """Passages of six sentences; a query's answer is in three windows of its own."""
    passages, qrels, answers = [], {}, {}
    for i in range(queries):
        words = [f"Word{i}x{j} is here." for j in range(6)]
        passages.append(Passage(f"p{i}", "T", " ".join(words)))
        qrels[f"q{i}"], answers[f"q{i}"] = {f"p{i}": 1}, (f"word{i}X2", "is nowhere")
    splits = {
        name: Split(dict.fromkeys(qrels, f"what? {name}"), qrels, answers)
        for name in ("train", "dev", "unlabelled")
    }
    return Collection("many", InMemory(passages), splits)


def test_windows_that_hold_an_answer_are_relevant():
    made = cut(many())
    assert len(made.passages) == 1600 and made.by_id["p9.3"].text.startswith("Word9x3")
    for name in ("train", "dev", "unlabelled"):
        assert made.split(name).qrels["q9"] == {"p9.0": 1, "p9.1": 1, "p9.2": 1}


def test_of_what_is_relevant_a_share_is_hidden():
    truth, labels = cut(many()).split("train").qrels, {}
    for share in (0.0, 0.3, 0.7, 1.0):
        given = hide(truth, share, 1)
        assert given.keys() == truth.keys() and all(given.values())
        labels[share] = {(query, pid) for query, grades in given.items() for pid in grades}
        assert len(labels[share]) == pytest.approx(400 + 800 * (1 - share), abs=50)
    assert labels[1.0] < labels[0.7] < labels[0.3] < labels[0.0]
    assert len(labels[1.0]) == 400 and hide(truth, 0.0, 1) == truth
    # Any of a query's windows may be the one that is labelled.
    assert {pid.partition(".")[2] for _, pid in labels[1.0]} == {"0", "1", "2"}
    assert hide(truth, 0.3, 1) == hide(truth, 0.3, 1) != hide(truth, 0.3, 2)


def test_the_demo_is_judged_by_names(tmp_path):
    names = ["numpy.mean", "jax.numpy.mean", "numpy.ma.mean", "statistics.mean", "jax.lax.add"]
    names += ["numpy.add", "scipy.fft.fft", "jax.numpy.fft.fft", "scipy.fftpack.fft", "numpy.sum"]
    passages = InMemory([Passage(name, name, f"text of {name}") for name in names])

    def split(*judged):
        return Split({f"q:{j}": f"what is {j}" for j in judged}, {f"q:{j}": {j: 1} for j in judged})

    splits = {"train": split("numpy.mean", "numpy.sum", "scipy.fft.fft"), "dev": split("numpy.add")}
    write_sample(
        Collection("demo", passages, splits), tmp_path / "a", Sizes(0, 0, 0, 1, hidden=1.0)
    )
    made = load_collection(str(tmp_path / "a"))
    assert made.split("dev").qrels == {"q:numpy.add": {"numpy.add": 1, "jax.lax.add": 1}}
    assert len(made.passages) == len(names)
    assert {query: len(grades) for query, grades in made.split("train").qrels.items()} == {
        "q:numpy.mean": 1,
        "q:scipy.fft.fft": 1,
    }
    truth = read_truth(tmp_path / "a" / "truth" / "train.tsv")
    assert {pid for query, pid in truth if query == "q:numpy.mean"} == {*names[:3]}
    assert {pid for query, pid in truth if query == "q:scipy.fft.fft"} == {*names[6:9]}


@pytest.fixture
def answered(tmp_path):
    """A BEIR folder with answers."""
    return make_answered(tmp_path / "answered")


def read_truth(path):
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return {(query, pid) for query, pid, _ in rows}


def test_a_sample_of_windows_says_what_it_hides(answered, tmp_path):
    whole = load_collection(str(answered))
    sizes = Sizes(5, 4, 20, 1, unlabelled=6, hidden=1.0)
    write_sample(whole, tmp_path / "a", sizes)
    write_sample(whole, tmp_path / "a", sizes)  # is there
    made = load_collection(str(tmp_path / "a"))
    train, dev, unlabelled = (made.split(name) for name in ("train", "dev", "unlabelled"))
    assert (len(train.qrels), len(dev.qrels), len(unlabelled.queries)) == (5, 4, 6)
    assert not unlabelled.qrels and {len(grades) for grades in train.qrels.values()} == {1}
    assert {len(grades) for grades in dev.qrels.values()} == {3}
    assert len(made.passages) == 60  # 20 passages of three windows
    truth = read_truth(tmp_path / "a" / "truth" / "train.tsv")
    labels = {(query, pid) for query, grades in train.qrels.items() for pid in grades}
    assert labels < truth and len(truth) == 15
    others = read_truth(tmp_path / "a" / "truth" / "unlabelled.tsv")
    assert {query for query, _ in others} == unlabelled.queries.keys() and len(others) == 18
    assert {pid for _, pid in truth | others} <= made.by_id.keys()
    said = describe(tmp_path / "a")
    assert "relevant for them 15; of these labelled 5; of these hidden 10; unlabelled" in said
    assert "train queries passed over, with 0 to find" in said
    assert "train queries passed over, with 1 to find" in said

    for name, other in (
        ("b", sizes),
        ("c", dataclasses.replace(sizes, hidden=0.0)),
        ("d", dataclasses.replace(sizes, seed=2)),
    ):
        write_sample(whole, tmp_path / name, other)
    _, b, c, d = (load_collection(str(tmp_path / name)) for name in "abcd")
    assert b.splits == made.splits and b.fingerprint == made.fingerprint
    # Another share is another set of labels, and nothing else.
    assert c.fingerprint == made.fingerprint and c.split("dev") == dev
    assert c.split("train").queries == train.queries and c.split("train") != train
    assert d.split("train").queries != train.queries
    with pytest.raises(InputError, match=r"a sample of .*'hidden': 1.0.*not of .*'hidden': 0.0"):
        write_sample(whole, tmp_path / "a", dataclasses.replace(sizes, hidden=0.0))


def test_what_lists_hide_is_counted_and_kept(tmp_path):
    truth = {"q": {"a": 1, "b": 1, "c": 1, "x": 0}, "r": {"d": 1, "e": 1, "x": -1}}
    lists = [
        TrainingList("q", "a", ("b", "c", "x")),
        TrainingList("r", "d", ("x", "a", "y")),
        TrainingList("q", "a", ("x", "y", "c"), "denoised"),
        TrainingList("q", "b", ("x",), "denoised", pseudo=True),
        TrainingList("r", "x", ("y",), "denoised", pseudo=True),
    ]
    counts = hidden.count(lists, truth)
    for seed in (2, 1):
        hidden.record(tmp_path / "new" / "x.json", "lead", seed, counts, print)
    shown = hidden.table(tmp_path / "new" / "x.json").splitlines()
    row = "2 of 6 | 1 of 2 | 1 of 5 | 1 of 3 | 1 of 2 |"
    assert shown[2:] == [f"| lead 1 | {row}", f"| lead 2 | {row}"]
    assert hidden.table(tmp_path / "none.json") == ""


def test_labels_can_be_left_out_of_passages_as_they_are(tmp_path):
    whole = load_collection(str(make_topics(tmp_path / "whole")))
    write_sample(whole, tmp_path / "some", Sizes(30, 10, 0, 1, unlabelled=10))
    made = load_collection(str(tmp_path / "some"))
    assert len(made.split("train").qrels) == 30 and len(made.split("unlabelled").queries) == 10
    truth = read_truth(tmp_path / "some" / "truth" / "unlabelled.tsv")
    assert {query for query, _ in truth} == made.split("unlabelled").queries.keys()


def test_what_cannot_be_made_is_refused(answered, tmp_path):
    topics = load_collection(str(make_topics(tmp_path / "topics")))
    with pytest.raises(InputError, match=r"no query has answers.*--hidden needs .*answers\.jsonl"):
        write_sample(topics, tmp_path / "a", Sizes(5, 5, 0, 1, hidden=1.0))
    whole = load_collection(str(answered))
    with pytest.raises(InputError, match="--unlabelled 12 leaves none of 12 training queries"):
        write_sample(whole, tmp_path / "a", Sizes(5, 5, 0, 1, unlabelled=12, hidden=1.0))
    assert not (tmp_path / "a").exists()


def test_weights_with_fewer_layers_are_the_kept_ones(tmp_path):
    weights = make_weights(tmp_path / "weights", layers=3)
    base = dataclasses.replace(
        Config(), retriever=RetrieverConfig(str(weights)), reranker=RerankerConfig(str(weights))
    )
    assert with_layers({"a": base}, (), tmp_path / "cut") == {"a": base}
    made = with_layers({"a": base}, (2, 0), tmp_path / "cut")["a"]
    assert made.retriever.weights == made.reranker.weights != str(weights)
    folder = tmp_path / "cut" / made.retriever.weights.rpartition("/")[2]
    assert read_encoder_config(folder).num_layers == 2
    before, after = load_tensors(weights), load_tensors(folder)
    name = "encoder.layer.{}.attention.self.query.weight"
    for new, old in ((0, 2), (1, 0)):
        np.testing.assert_array_equal(after[name.format(new)], before[name.format(old)])
    rest = {key for key in before if ".layer." not in key}
    assert rest < after.keys() and name.format(2) not in after
    assert (folder / "tokenizer.json").read_bytes() == (weights / "tokenizer.json").read_bytes()
    with pytest.raises(InputError, match=r"--layers 3: the layers of .*weights are 0, 1, 2"):
        with_layers({"a": base}, (0, 3), tmp_path / "cut")
