"""Search, measured: ScaNN through our interface beside ScaNN itself and beside faiss; exact search
beside torch. The vectors are those of pieces of passages, of which there can be many.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from rocketjax.bench.measure import Ask, Result, compare, seconds, worker_process
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

QUERY_LENGTH = 32  # longest query in tokens
TOKENS_PER_WORD = 2  # of a piece, its special tokens included

TOP_K = 10
TARGET_RECALL = 0.95  # at TOP_K; both sides are tuned for it on one half of the queries
BATCHES = (1, 32, 512)  # queries searched for at once through our interface
QUERIES = 256  # of a run: searched for in batches of BATCHES, or all at once by exact search
ROUNDS_TIMES = 8  # more rounds where runs are short


def cut(collection: Collection, words: int, count: int) -> Collection:
    """The first `count` pieces of `words` words; they overlap only as much as that takes.

    There are fewer where even pieces that start at every word are not enough.
    """
    texts = [passage.text.split() for passage in collection.passages]
    strides = range(words, 1, -1)
    stride = next((s for s in strides if _count_pieces(texts, words, s) >= count), 1)

    def pieces() -> Iterator[Passage]:
        for passage, text in zip(collection.passages, texts, strict=True):
            for start in range(0, max(1, len(text) - words + stride), stride):
                piece = " ".join(text[start : start + words])
                yield Passage(f"{passage.id}:{start}", "", piece)

    passages = [piece for piece, _ in zip(pieces(), range(count), strict=False)]
    return Collection(f"{collection.name}, {words} words", InMemory(passages), collection.splits)


def _count_pieces(texts: Sequence[Sequence[str]], words: int, stride: int) -> int:
    return sum(max(1, -(-(len(text) - words) // stride) + 1) for text in texts)


def encoded(
    pieces: Collection, words: int, weights: str, folder: Path, compute: ComputeConfig, watch: Watch
) -> tuple[Retriever, Vectors]:
    """The model, and all pieces' vectors of length 1 in `folder`; those that are there stay."""
    length = max(8, TOKENS_PER_WORD * words)
    config = RetrieverConfig(weights, pooling="mean", normalize=True)
    text = TextConfig(QUERY_LENGTH, length, QUERY_LENGTH + length)
    retriever = pretrained_retriever(config, text, compute)
    vectors = encode_corpus(retriever, weights, pieces, IndexConfig(), folder, watch)
    assert vectors is not None  # a single process has encoded all of them
    return retriever, vectors


def measure(
    vectors: Vectors, queries: np.ndarray, threads: Sequence[int], rounds: int, say: Say
) -> Iterator[Result]:
    """All searches over the same vectors; speeds in queries a second.

    Args:
        queries: [Q, D] of real queries; one half tunes both sides, the other is measured.
        threads: how many threads both sides may use, one comparison each.
    """
    half = len(queries) // 2
    tuning, measured = queries[:half], queries[half:]
    index = build_scann(vectors, IndexConfig(target_recall=TARGET_RECALL), tuning, TOP_K, say)
    for size in BATCHES:
        yield _through_interface(index, np.resize(measured, (size, vectors.width)), rounds)
    exact = ExactIndex(vectors)
    truth, _ = exact.rows(queries, TOP_K)
    with _rival("rocketjax.bench.rivals.faiss", vectors, queries, truth) as faiss:
        for number in threads:
            index.use_threads(number)
            yield _beside_faiss(index, measured, truth[half:], faiss, number, rounds)
    measured = measured[:QUERIES]
    with _rival("rocketjax.bench.rivals.search", vectors, measured, truth) as torch:
        search = partial(exact.search, measured, TOP_K)
        yield compare("search exact", "queries", len(measured), search, torch, rounds)


def _through_interface(index: ScannIndex, queries: np.ndarray, rounds: int) -> Result:
    """Ids and scores by `ScannIndex.search`, beside what a user of scann gets: rows and scores."""
    batch = len(queries)
    turns = max(1, QUERIES // batch)
    width = {
        "final_num_neighbors": TOP_K,
        "pre_reorder_num_neighbors": index.settings.reorder or -1,
        "leaves_to_search": index.settings.leaves_to_search or -1,
    }
    if batch > 1:
        direct = partial(index.searcher.search_batched_parallel, queries, **width)
    else:
        direct = partial(index.searcher.search, queries[0], **width)
    theirs = _repeated(direct, turns)
    return compare(
        f"search by {batch}",
        "queries",
        batch * turns,
        _repeated(partial(index.search, queries, TOP_K), turns),
        lambda _: {"seconds": seconds(theirs), "setting": "scann called directly"},
        ROUNDS_TIMES * rounds,
    )


def _repeated(run: Callable[[], object], turns: int) -> Callable[[], None]:
    def runs() -> None:
        for _ in range(turns):
            run()

    return runs


def _beside_faiss(
    index: ScannIndex, queries: np.ndarray, truth: np.ndarray, rival: Ask, threads: int, rounds: int
) -> Result:
    search = partial(index.search, queries, TOP_K)
    result = compare(f"{threads}", "queries", len(queries), search, rival, rounds)
    rows, _ = index.rows(queries, TOP_K)
    settings = index.settings
    ours = (
        f"{settings.leaves_to_search} of {settings.leaves} leaves, {settings.reorder} reordered, "
        f"recall {recall(rows, truth):.3f}"
    )
    return result._replace(
        task=f"search, {threads} threads" if threads > 1 else "search, 1 thread",
        setting=f"{ours}; {result.setting}",
    )


@contextmanager
def _rival(module: str, vectors: Vectors, queries: np.ndarray, truth: np.ndarray) -> Iterator[Ask]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "truth.npy", truth)
        work = {"vectors": str(vectors.folder.resolve()), "top_k": TOP_K, "recall": TARGET_RECALL}
        (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
        with worker_process(module, folder) as ask:
            yield ask
