"""Search: ScaNN through our interface beside ScaNN itself and faiss, exact search beside torch."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from rocketjax.bench.measure import Ask, Result, asked, compare, seconds
from rocketjax.config.schema import ComputeConfig, IndexConfig, RetrieverConfig, TextConfig
from rocketjax.data.collection import Collection
from rocketjax.data.passages import InMemory, Passage
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.start import pretrained_retriever
from rocketjax.retrieval.encode import encode_corpus
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.index import recall
from rocketjax.retrieval.scann import ScannIndex, build_scann
from rocketjax.retrieval.vectors import Vectors
from rocketjax.runtime.progress import Say, Watch

TOP_K = 10


RECALL = 0.95  # at TOP_K, that both sides are tuned for on one half of the queries


BATCHES = (1, 32, 512)


SINGLE = 256  # queries of a run where they come one by one


AT_ONCE = 256  # queries of a run of exact search


def measure(
    vectors: Vectors, queries: np.ndarray, threads: Sequence[int], rounds: int, say: Say
) -> Iterator[Result]:
    """All of it, over the same vectors; speeds in queries a second.

    Args:
        queries: [Q, D] real ones; what is tuned for is measured on the other half.
        threads: how many threads both sides may have, one comparison each.
    """
    half = len(queries) // 2
    tuning, measured = queries[:half], queries[half:]
    index = build_scann(vectors, IndexConfig(target_recall=RECALL), tuning, TOP_K, say)
    for batch in BATCHES:
        some = np.resize(measured, (batch, vectors.width))
        yield _through_interface(index, some, rounds)
    exact = ExactIndex(vectors)
    truth, _ = exact.rows(queries, TOP_K)
    with _rival("rocketjax.bench.rivals.texts.faiss", vectors, queries, truth) as faiss:
        for number in threads:
            index.use_threads(number)
            yield _beside_faiss(index, measured, truth[half:], faiss, number, rounds)
    some = measured[:AT_ONCE]
    with _rival("rocketjax.bench.rivals.texts.search", vectors, some, truth) as torch:
        run = partial(exact.search, some, TOP_K)
        yield compare("search exact", "queries", len(some), run, torch, rounds)


def _through_interface(index: ScannIndex, queries: np.ndarray, rounds: int) -> Result:
    """Ids and scores by `ScannIndex.search`, beside what a user of scann gets: rows and scores."""
    batch = len(queries)
    turns = max(1, SINGLE // batch)
    width = {
        "final_num_neighbors": TOP_K,
        "pre_reorder_num_neighbors": index.settings.reorder or -1,
        "leaves_to_search": index.settings.leaves_to_search or -1,
    }
    many = batch > 1
    direct = index.searcher.search_batched_parallel if many else index.searcher.search
    theirs = _repeated(partial(direct, queries if many else queries[0], **width), turns)
    ours = _repeated(partial(index.search, queries, TOP_K), turns)
    result = compare(
        f"search by {batch}",
        "queries",
        batch * turns,
        ours,
        lambda _: {"seconds": seconds(theirs), "setting": "scann called directly"},
        8 * rounds,  # short runs
    )
    return result


def _beside_faiss(
    index: ScannIndex, queries: np.ndarray, truth: np.ndarray, rival: Ask, threads: int, rounds: int
) -> Result:
    run = partial(index.search, queries, TOP_K)
    result = compare(f"{threads}", "queries", len(queries), run, rival, rounds)
    found = index.rows(queries, TOP_K)[0]
    width = index.settings
    ours = f"{width.leaves_to_search} of {width.leaves} leaves, {width.reorder} reordered, "
    ours += f"recall {recall(found, truth):.3f}"
    return result._replace(
        task=f"search, {threads} threads" if threads > 1 else "search, 1 thread",
        setting=f"{ours}; {result.setting}",
    )


def _repeated(run: Callable[[], object], turns: int) -> Callable[[], None]:
    def runs() -> None:
        for _ in range(turns):
            run()

    return runs


@contextmanager
def _rival(module: str, vectors: Vectors, queries: np.ndarray, truth: np.ndarray) -> Iterator[Ask]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "truth.npy", truth)
        values = {"vectors": str(vectors.folder.resolve()), "top_k": TOP_K, "recall": RECALL}
        (folder / "work.json").write_text(json.dumps(values), encoding="utf-8")
        with asked(module, folder) as ask:
            yield ask


QUERY_LENGTH = 32  # longest query in tokens


TOKENS = 2  # so many of a piece for each word, its special tokens counted


def cut(collection: Collection, words: int, count: int) -> Collection:
    """The first `count` pieces of `words` words; they overlap as much as it takes to have so many.

    Where not even pieces that start at every word are so many, there are fewer.
    """
    texts = [passage.text.split() for passage in collection.passages]
    stride = next((s for s in range(words, 1, -1) if _pieces(texts, words, s) >= count), 1)

    def pieces() -> Iterator[Passage]:
        for passage, text in zip(collection.passages, texts, strict=True):
            for start in range(0, max(1, len(text) - words + stride), stride):
                piece = " ".join(text[start : start + words])
                yield Passage(f"{passage.id}:{start}", "", piece)

    some = [piece for piece, _ in zip(pieces(), range(count), strict=False)]
    return Collection(f"{collection.name}, {words} words", InMemory(some), collection.splits)


def encoded(
    pieces: Collection, words: int, weights: str, folder: Path, compute: ComputeConfig, watch: Watch
) -> tuple[Retriever, Vectors]:
    """The model, and all pieces' vectors of length 1 in `folder`; those that are there stay."""
    length = max(8, TOKENS * words)
    config = RetrieverConfig(weights, pooling="mean", normalize=True)
    text = TextConfig(QUERY_LENGTH, length, QUERY_LENGTH + length)
    retriever = pretrained_retriever(config, text, compute)
    vectors = encode_corpus(retriever, weights, pieces, IndexConfig(), folder, watch)
    assert vectors is not None  # one process has encoded them all
    return retriever, vectors


def _pieces(texts: Sequence[Sequence[str]], words: int, stride: int) -> int:
    return sum(max(1, -(-(len(text) - words) // stride) + 1) for text in texts)
