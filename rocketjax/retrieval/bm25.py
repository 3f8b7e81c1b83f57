"""BM25 over a collection: what any learned model has to beat. The only importer of bm25s."""

import logging
from collections.abc import Mapping

from rocketjax.data.collection import Collection
from rocketjax.retrieval.ranking import Rankings
from rocketjax.runtime.errors import InputError


def bm25_run(collection: Collection, queries: Mapping[str, str], top_k: int) -> Rankings:
    """The `top_k` best passages (title and text) of every query, of those that hold a word of it.

    Lucene's BM25 with k1 1.5 and b 0.75, English stop words left out, words stemmed (Snowball).

    Raises:
        InputError: bm25s or its stemmer is not installed.
    """
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise InputError(f"{error}; pip install 'rocketjax[ablation]'") from error
    passages = list(collection.passages)
    stemmer = Stemmer.Stemmer("english")
    words = bm25s.tokenize(
        [passage.whole for passage in passages],
        stopwords="en",
        stemmer=stemmer,
        show_progress=False,
    )
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets it to DEBUG
    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index(words, show_progress=False)
    tokens = bm25s.tokenize(
        list(queries.values()), stopwords="en", stemmer=stemmer, show_progress=False
    )
    rows, scores = index.retrieve(tokens, k=min(top_k, len(passages)), show_progress=False)
    return {
        query: [(passages[row].id, score) for row, score in zip(*found, strict=True) if score > 0]
        for query, *found in zip(queries, rows.tolist(), scores.tolist(), strict=True)
    }
