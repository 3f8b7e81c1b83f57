"""Mining, measured as a whole: queries to written lists, with the corpus' vectors at hand."""

import json
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rocketjax.bench.measure import Result, compare, worker_process
from rocketjax.bench.work import Ours
from rocketjax.config.schema import IndexConfig, ListConfig
from rocketjax.data.collection import Collection, Split, relevant
from rocketjax.mining.mine import mine
from rocketjax.retrieval.encode import encode_corpus
from rocketjax.retrieval.index import Index, Sample
from rocketjax.retrieval.model import Corpus, Model
from rocketjax.retrieval.open import build_index
from rocketjax.runtime.progress import Say, Watch, unwatched

# sigmoid: a fresh head's scores cannot be calibrated, and so both sides do the same.
LISTS = ListConfig(length=16, top_n=50, scored=20, depth=100, calibration="sigmoid")
SEED = 1


def measure(
    ours: Ours,
    collection: Collection,
    split: Split,
    folder: Path,
    rounds: int,
    say: Say,
    watch: Watch,
) -> Result:
    """Queries a second, beside sentence-transformers at the same depth and as many pairs.

    Args:
        split: all of its judged queries are mined for.
        folder: of the corpus' vectors, which both sides search; those that are there stay.
    """
    judged = Split({query: split.queries[query] for query in split.qrels}, split.qrels)
    index = indexed(ours, collection, list(judged.queries.values()), folder, say, watch)
    model, corpus = Model(ours.retriever, ours.reranker), Corpus(index, collection.by_id)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        folders = (home / str(number) for number in count())  # in one folder, it would resume

        def run() -> None:
            mine(model, corpus, judged, LISTS, SEED, next(folders), unwatched)

        work = home / "work.json"
        work.write_text(json.dumps(_work(ours, collection, judged, folder)), "utf-8")
        with worker_process("rocketjax.bench.rivals.mining", work) as rival:
            return compare("mine", "queries", len(judged.queries), run, rival, rounds)


def indexed(
    ours: Ours,
    collection: Collection,
    queries: Sequence[str],
    folder: Path,
    say: Say,
    watch: Watch,
) -> Index:
    """An index over the corpus' vectors, which are kept in `folder`; queries measure its recall."""
    weights = ours.work.weights
    vectors = encode_corpus(ours.retriever, weights, collection, IndexConfig(), folder, watch)
    assert vectors is not None  # a single process has encoded all of them
    sample = Sample("queries", lambda: ours.retriever.encode_query(queries, steady=True))
    return build_index(vectors, IndexConfig(), sample, min(LISTS.depth, len(vectors)), say)


def _work(ours: Ours, collection: Collection, split: Split, folder: Path) -> dict[str, Any]:
    """What the rival needs to do the same."""
    return {
        "weights": ours.work.weights,
        "query_length": ours.work.query_length,
        "pair_length": ours.work.pair_length,
        "vectors": str(folder.resolve()),
        "passages": [passage.whole for passage in collection.passages],
        "queries": split.queries,
        "positives": {query: relevant(split.qrels[query]) for query in split.queries},
        "depth": LISTS.depth,
        "scored": LISTS.scored,
        "top_n": LISTS.top_n,
        "length": LISTS.length,
        "low": LISTS.low,
        "seed": SEED,
    }
