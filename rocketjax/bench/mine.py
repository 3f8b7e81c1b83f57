"""Mining as a whole: queries to written lists, with the corpus' vectors at hand."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocketjax.bench.measure import Result, asked, compare
from rocketjax.bench.work import Ours
from rocketjax.config.schema import IndexConfig, ListConfig
from rocketjax.data.collection import Collection, Split, relevant
from rocketjax.mining.mine import mine
from rocketjax.retrieval.encode import encode_corpus
from rocketjax.retrieval.model import Model
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
        split: its judged queries are mined for, all of them.
        folder: of the corpus' vectors, which both sides search; those that are there stay.
    """
    queries = {query: split.queries[query] for query in split.qrels}
    name = ours.work.weights
    vectors = encode_corpus(ours.retriever, name, collection, IndexConfig(), folder, watch)
    assert vectors is not None  # one process has encoded them all
    sample = ours.retriever.encode_query(list(queries.values()), steady=True)
    index = build_index(vectors, IndexConfig(), sample, min(LISTS.depth, len(vectors)), say)
    model = Model(ours.retriever, ours.reranker)
    with tempfile.TemporaryDirectory() as place:
        runs = iter(range(10**9))

        def run() -> None:
            to = Path(place) / str(next(runs))  # a folder that is there is taken up again
            passages = collection.by_id
            mine(model, index, queries, split.qrels, passages, LISTS, SEED, to, unwatched)

        work = Path(place) / "work.json"
        work.write_text(json.dumps(_work(ours, collection, queries, split, folder)), "utf-8")
        with asked("rocketjax.bench.rivals.texts.mining", work) as rival:
            return compare("mine", "queries", len(queries), run, rival, rounds)


def _work(
    ours: Ours, collection: Collection, queries: Mapping[str, str], split: Split, folder: Path
) -> dict[str, Any]:
    """What the rival needs to do the same."""
    return {
        "weights": ours.work.weights,
        "query_length": ours.work.query_length,
        "pair_length": ours.work.pair_length,
        "vectors": str(folder.resolve()),
        "passages": [passage.whole for passage in collection.passages],
        "queries": queries,
        "positives": {query: relevant(split.qrels[query]) for query in queries},
        "depth": LISTS.depth,
        "scored": LISTS.scored,
        "top_n": LISTS.top_n,
        "length": LISTS.length,
        "low": LISTS.low,
        "seed": SEED,
    }
