"""Many threads, several models in one process, many calls: the same bits, and nothing grows."""

import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from on_disk import WORDS, make_topics, make_weights, untrained_pair
from tiny import vectors_folder

from rocketjax.config.schema import ComputeConfig, RetrieverConfig, TextConfig
from rocketjax.data.load import load_collection
from rocketjax.inference.start import pretrained_retriever
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.load import Once
from rocketjax.retrieval.model import Corpus, Model

COMPILED = "/jax/core/compile/backend_compile_duration"
THREADS = 8
SHORT = 500  # calls of the short soak
LONG = 30_000  # of the long one
GROWTH = 32 * 2**20  # bytes: what the allocators leave about; no leak of every call
TEXT = TextConfig(query_length=8, passage_length=16, pair_length=16)
LONGEST = 30  # words: beyond what the models take

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(seconds) if event == COMPILED else None
)


def make_pair(weights, folder):
    """A pair of models, and a corpus to search that the retriever encoded."""
    pair = untrained_pair(weights, TEXT, ComputeConfig(batch=4))
    passages = load_collection(str(make_topics(folder / "topics"))).passages
    array = pair.retriever.encode_passage([p.text for p in passages])
    vectors = vectors_folder(folder / "index", array, [p.id for p in passages])
    corpus = Corpus(ExactIndex(vectors), passages.by_id)
    return Model(pair.retriever, pair.reranker, Once(lambda: corpus))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"), layers=1)


@pytest.fixture(scope="module")
def pair(weights, tmp_path_factory):
    return make_pair(weights, tmp_path_factory.mktemp("pair"))


def jobs(model, count, seed=0, most=40):
    """Calls of every kind on texts of mixed sizes."""
    rng = np.random.default_rng(seed)

    def texts(n, longest):
        return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(n)]

    def job(kind):
        n = int(rng.integers(1, most))
        queries, passages = texts(n, 12), texts(n, LONGEST)
        return {
            0: lambda: model.encode_query(queries),
            1: lambda: model.encode_passage(passages),
            2: lambda: model.score(queries, passages),
            3: lambda: np.array([hit[1:] for hit in model.search(queries[0], 5, 8)]),
            4: lambda: np.array(model.rerank(queries[0], passages)),
        }[kind]

    return [job(i % 5) for i in range(count)]


def together(calls):
    """The results of calls, made by many threads that start at once."""
    start = threading.Barrier(THREADS)

    def some(first):
        start.wait()
        return [calls[i]() for i in range(first, len(calls), THREADS)]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(some, range(THREADS), timeout=300))
    return [parts[i % THREADS][i // THREADS] for i in range(len(calls))]


def test_threads_give_the_bits_that_one_gives(pair):
    calls = jobs(pair, 40, most=20)
    wanted = [call() for call in calls]
    for found, want in zip(together(calls), wanted, strict=True):
        np.testing.assert_array_equal(found, want)


def test_a_corpus_is_placed_on_the_devices_once(pair, monkeypatch):
    index, read, placed = ExactIndex(pair.corpus.index.vectors), type(pair.corpus.index)._place, []

    def place(self, start):
        if self._resident is None:
            placed.append(start)
            time.sleep(0.1)  # the others come meanwhile
        return read(self, start)

    monkeypatch.setattr(ExactIndex, "_place", place)
    query = pair.encode_query(["cat"])
    together([lambda: index.search(query, 3)] * THREADS)
    assert placed == [0]


def test_an_index_is_opened_once_however_many_ask(pair):
    opened = []

    def open_corpus():
        opened.append(pair.corpus)
        return opened[-1]

    model = Model(pair.retriever, pair.reranker, Once(open_corpus))
    together([lambda: model.search("cat", 1, 0)] * THREADS)
    assert len(opened) == 1


def test_models_in_one_process_do_not_meet(pair, weights, tmp_path):
    """One of another width under the same names, and the same folder again."""
    small = make_pair(make_weights(tmp_path / "small", width=16, layers=1), tmp_path)
    again = pretrained_retriever(RetrieverConfig(str(weights)), TEXT, ComputeConfig(batch=4))
    calls = jobs(pair, 5, most=4), jobs(small, 5, most=4)  # few programs
    alone = [[call() for call in some] for some in calls]
    both = together([call for two in zip(*calls, strict=True) for call in two])
    for found, want in zip(both, (r for two in zip(*alone, strict=True) for r in two), strict=True):
        np.testing.assert_array_equal(found, want)
    assert small.encode_query(["cat"]).shape == (1, 16)
    np.testing.assert_array_equal(again.encode_query(WORDS), pair.encode_query(WORDS))
    assert again.fingerprint == pair.retriever.fingerprint != small.retriever.fingerprint


# ---- soak


def resident():
    """Bytes this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def held():
    """Numbers of arrays on the devices and of Python's objects: no allocator blurs them."""
    gc.collect()
    return np.array([len(jax.live_arrays()), sys.getallocatedblocks()])


def call(model, rng):
    """One call of a random kind and size."""

    def texts(n, longest=LONGEST):
        return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(n)]

    n = int(rng.integers(1, 40))
    kind = rng.integers(5)
    if kind == 0:
        model.encode_query(texts(n))
    elif kind == 1:
        model.encode_passage(texts(n), texts(n, 4))
    elif kind == 2:
        model.score(texts(n), texts(n))
    elif kind == 3:
        model.rerank(texts(1)[0], texts(n), top_k=3)
    else:
        model.search(texts(1)[0], *map(int, rng.choice([(3, 0), (5, 10), (10, 5)])))


def warm_up(model):
    """Texts of every length, few and many: each shape that a batch may have is met.

    How many those are is bounded in test_inference.py.
    """
    for words in (*range(1, TEXT.passage_length - 1), LONGEST):  # longer ones are cut to one length
        for n in (1, 2, 3, 5, 9, 14, 20, 30, 41):
            texts = [" ".join(WORDS[:1] * words)] * n
            model.encode_query(texts)
            model.encode_passage(texts)
            model.score(texts, texts)
            model.score(WORDS[:1] * n, texts)
    rng = np.random.default_rng(0)
    for _ in range(100):
        call(model, rng)


def soak(model, calls):
    """Neither programs nor memory grow, however many calls come."""
    warm_up(model)
    assert compiled  # else nobody listens
    before, programs = resident(), len(compiled)
    kept = held()
    rng = np.random.default_rng(1)
    for _ in range(calls):
        call(model, rng)
    programs, memory = len(compiled) - programs, resident() - before
    arrays, objects = held() - kept
    print(
        f"{calls:,} calls, {programs} programs more, {arrays} arrays, {objects} objects, "
        f"{memory / 2**20:+.1f} MB"
    )
    assert programs == 0
    assert memory < GROWTH
    assert arrays == 0 and objects < calls  # a result is one at least


@linux
def test_nothing_grows_in_a_short_soak(pair):
    soak(pair, SHORT)


@linux
@pytest.mark.soak
def test_nothing_grows_in_a_long_soak(pair):
    soak(pair, LONG)


def test_threads_that_meet_cold_programs_give_the_same_bits(pair):
    """Nothing is compiled, and no corpus placed on the devices, when they start."""
    corpus = pair.corpus._replace(index=ExactIndex(pair.corpus.index.vectors))
    model = Model(pair.retriever, pair.reranker, Once(lambda: corpus))
    query, some = WORDS[0], WORDS[:5]
    calls = [lambda: model.score([query] * 5, some), lambda: model.encode_query(some)] * THREADS
    calls += [lambda: np.array([hit[1] for hit in model.search(query, 5, 0)])] * THREADS
    jax.clear_caches()
    found = together(calls)
    for one, call in zip(found, calls, strict=True):
        np.testing.assert_array_equal(one, call())
