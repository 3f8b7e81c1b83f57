"""A corpus large enough for approximate search: a collection's passages, cut into pieces."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rocketjax.config import ComputeConfig, IndexConfig, RetrieverConfig, TextConfig
from rocketjax.corpus import encode_corpus
from rocketjax.data.collection import Collection
from rocketjax.data.passages import InMemory, Passage
from rocketjax.inference import Retriever
from rocketjax.model_folder import start_retriever
from rocketjax.progress import Watch
from rocketjax.retrieval.vectors import Vectors

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
    retriever = start_retriever(config, text, compute)
    vectors = encode_corpus(retriever, weights, pieces, IndexConfig(), folder, watch)
    assert vectors is not None  # one process has encoded them all
    return retriever, vectors


def _pieces(texts: Sequence[Sequence[str]], words: int, stride: int) -> int:
    return sum(max(1, -(-(len(text) - words) // stride) + 1) for text in texts)
