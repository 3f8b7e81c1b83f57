"""python -m rocketjax.rerank: re-orders the passages of a TREC run."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rocketjax.cli.command import command, keep_programs, say, watch
from rocketjax.config.fields import OnBadRows, PathName, Size
from rocketjax.config.schema import ComputeConfig, TextOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rocketjax.data.collection import Collection
    from rocketjax.retrieval.ranking import Rankings


@dataclass(frozen=True)
class Rerank:
    """Orders each query's first passages of a TREC run by a trained re-ranker.

    Example: python -m rocketjax.rerank --model runs/demo --collection demo --queries dev
    --run bm25.trec --output reranked.trec
    """

    model: str
    """Folder of a run or of a re-ranker; or a cross-encoder by folder or hub name."""
    collection: str
    """The collection the run's passages are from."""
    queries: PathName
    """A split of the collection, or a file of queries (.tsv, .jsonl, .txt)."""
    run: PathName
    """TREC run, of any retriever."""
    output: PathName
    """TREC run to write; its scores can teach: `rocketjax.train --lists.teacher FILE`."""
    on_bad_rows: OnBadRows = "fail"
    depth: Size = 50
    """Passages of each query that are re-ordered; the rest follow in the run's order."""
    text: TextOptions = field(default_factory=TextOptions)
    """How it reads texts; what is not given is as the model's folder says."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)


def _rerank(options: Rerank) -> None:
    from rocketjax.config.checks import OF_RETRIEVER, check_text
    from rocketjax.config.options import option
    from rocketjax.data.collection import Split
    from rocketjax.data.load import load_collection, read_queries
    from rocketjax.data.runs import read_run, write_rankings
    from rocketjax.inference.folder import open_reranker
    from rocketjax.retrieval.ranking import rerank_in_parts
    from rocketjax.runtime.errors import InputError
    from rocketjax.runtime.files import ensure_parent
    from rocketjax.text.cut import cut_line

    keep_programs()
    check_text(options.text, OF_RETRIEVER, option)
    ensure_parent(Path(options.output))
    found = read_run(Path(options.run), say)
    collection = load_collection(options.collection, options.on_bad_rows, say)
    queries = (
        collection.splits[options.queries].queries
        if options.queries in collection.splits
        else read_queries(Path(options.queries))
    )
    _refuse_strangers(options, found, queries, collection)
    reranker = open_reranker(options.model, options.compute, options.text, say)
    if options.text.query_length and reranker.tokenizer.config.pair_truncation == "longest":
        raise InputError(
            "--text.query-length: of this re-ranker's pairs the longer text is cut, not the query "
            "by itself; leave it out, or give --text.pair-truncation passage"
        )
    heads = Split(queries, {query: {ranked[0][0]: 1} for query, ranked in found.items() if ranked})
    if line := cut_line(options.run, heads, collection.passages, None, reranker.tokenizer):
        say(line)
    texts, depth = collection.by_id, options.depth
    pairs = sum(min(depth, len(ranked)) for ranked in found.values())
    with watch("re-rank", pairs, "pairs") as advance:
        ranked = rerank_in_parts(reranker, found.items(), queries, texts, depth, advance)
        write_rankings(Path(options.output), ranked, "rocketjax-reranker", depth)
    say(f"{len(found):,} queries in {options.output}")


def _refuse_strangers(
    options: Rerank, found: "Rankings", queries: "Mapping[str, str]", collection: "Collection"
) -> None:
    """Raises InputError where the run has a query or a passage that is not there."""
    from rocketjax.runtime.errors import InputError

    with watch("check", len(found), "queries") as advance:
        for query, ranked in found.items():
            if query not in queries:
                raise InputError(f"{options.run}: query {query!r} is not in {options.queries}")
            for pid, _ in ranked:
                if pid not in collection.by_id:
                    raise InputError(
                        f"{options.run}: passage {pid!r} of query {query!r} is not in "
                        f"{collection.name}"
                    )
            advance(1)


main = command(Rerank, _rerank)

if __name__ == "__main__":
    sys.exit(main())
