"""python -m rocketjax.search: a query, or a file of them, to ranked passages."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rocketjax.cli.command import (
    Words,
    command,
    console,
    keep_programs,
    say,
    watch,
)
from rocketjax.config.fields import (
    Count,
    NormalizeOption,
    OnBadRows,
    PathName,
    PoolingOption,
    Size,
    TruncateOption,
)
from rocketjax.config.schema import ComputeConfig, TextOptions

if TYPE_CHECKING:
    from rocketjax.inference.reranker import Reranker
    from rocketjax.inference.retriever import Retriever
    from rocketjax.retrieval.model import Corpus, Hit


@dataclass(frozen=True)
class Search:
    """Finds passages with the retriever and orders them with the re-ranker; shows both scores.

    Example: python -m rocketjax.search --model runs/demo "mean of an array"
    """

    query: Words = ""
    """What to search for; without it and without --queries, queries are read from the terminal."""
    model: str = "runs/demo"
    """Folder of a finished run; or, with --index, --collection and --reranker (or --depth 0), any
    retriever: its folder, or weights by folder or hub name."""
    reranker: str = ""
    """A re-ranker instead of the run's: a folder, or a cross-encoder's hub name."""
    collection: str = ""
    """The collection; empty: the run's."""
    on_bad_rows: OnBadRows = "fail"
    index: str = ""
    """Folder of vectors of that collection by that model, searched by ScaNN where that was built
    there, else exactly; empty: the run's index."""
    queries: PathName = ""
    """A file of queries (.tsv: id TAB text; .jsonl: _id, text; .txt: one a line), searched into
    --output."""
    output: PathName = ""
    """TREC run to write for --queries."""
    skip_own: bool = False
    """Leave the passage that has a query's own id out of its ranking in --output, as BEIR does for
    ArguAna and Quora, whose queries are passages of the corpus."""
    top_k: Size = 10
    """Passages shown, or written for each query."""
    depth: Count = 50
    """Passages the retriever finds and the re-ranker orders; 0: the retriever alone."""
    text: TextOptions = field(default_factory=TextOptions)
    """How both models read texts; what is not given is as the model's folder says."""
    pooling: PoolingOption = "auto"
    normalize: NormalizeOption = None
    truncate: TruncateOption = None
    compute: ComputeConfig = field(default_factory=ComputeConfig)


def _search(options: Search) -> None:
    from rocketjax.inference.folder import open_reranker, open_retriever
    from rocketjax.retrieval.load import collection_for, open_corpus
    from rocketjax.retrieval.model import search
    from rocketjax.runtime.errors import InputError
    from rocketjax.runtime.files import ensure_parent

    keep_programs()
    if bool(options.queries) != bool(options.output):
        raise InputError("--queries and --output go together: a file in, a TREC run out")
    if options.query and options.queries:
        raise InputError("--queries: there is a query beside it; give one of them")
    if options.skip_own and not options.queries:
        raise InputError("--skip-own: it is of a file's queries; give --queries, or leave it out")
    if options.reranker and not options.depth:
        raise InputError("--reranker: with --depth 0 nothing is re-ranked; leave one of them out")
    if options.output:
        ensure_parent(Path(options.output))
    retriever = open_retriever(
        options.model,
        options.compute,
        options.text,
        options.pooling,
        options.normalize,
        say,
        options.truncate,
    )
    reranker = None
    if options.depth:
        reranker = open_reranker(
            options.reranker or options.model, options.compute, options.text, say
        )
    folder = Path(options.model)
    collection = collection_for(folder, options.collection, options.on_bad_rows, say)
    corpus = open_corpus(folder, retriever, collection, options.index, say)
    size = len(corpus.index.vectors)
    if options.top_k > size:
        raise InputError(f"--top-k is {options.top_k}, but the corpus holds {size} passages")
    if options.queries:
        _search_file(options, retriever, reranker, corpus)
        return
    for query in [options.query] if options.query else _typed():
        _show(search(retriever, reranker, corpus, query, options.top_k, options.depth))


def _search_file(
    options: Search, retriever: "Retriever", reranker: "Reranker | None", corpus: "Corpus"
) -> None:
    """Writes each query's ranking as it comes: those of a million do not fit into the memory."""
    from rocketjax.data.collection import Split
    from rocketjax.data.load import read_queries
    from rocketjax.data.passages import InMemory
    from rocketjax.data.runs import write_rankings
    from rocketjax.evaluation.judged import own_passages
    from rocketjax.retrieval.ranking import rerank_in_parts, retrieve_in_parts, without_own
    from rocketjax.text.cut import cut_line

    index, texts, depth = corpus.index, corpus.passages, options.depth
    queries = read_queries(Path(options.queries))
    asked = Split(queries, {})
    if line := cut_line(options.queries, asked, InMemory([]), retriever.tokenizer, None):
        say(line)
    if not options.skip_own and (line := own_passages(queries, texts)):
        say(f"{options.queries}: {line}; --skip-own leaves this passage out")
    deep = max(options.top_k, depth)
    with ExitStack() as bars:
        advance = bars.enter_context(watch("retrieve", len(queries), "queries"))
        ranked = retrieve_in_parts(retriever, index, queries, deep + options.skip_own, advance)
        if options.skip_own:
            ranked = ((query, without_own(query, found, deep)) for query, found in ranked)
        if reranker:
            pairs = len(queries) * min(depth, len(index.vectors))  # ScaNN may find fewer
            advance = bars.enter_context(watch("re-rank", pairs, "pairs"))
            ranked = rerank_in_parts(reranker, ranked, queries, texts, depth, advance)
        best = ((query, found[: options.top_k]) for query, found in ranked)
        scored = depth if reranker else None
        count = write_rankings(Path(options.output), best, "rocketjax", scored)
    say(f"{count:,} queries in {options.output}")


def _typed() -> Iterator[str]:
    say("a query a line; an empty line ends")
    with suppress(EOFError):  # Ctrl-D, or the end of what is piped in
        while query := console.input("> ").strip():
            yield query


def _show(hits: "list[Hit]") -> None:
    say("rank  re-ranker  retriever  passage")
    for rank, hit in enumerate(hits, 1):
        score = "" if hit.reranker_score is None else f"{hit.reranker_score:.3f}"
        text = " ".join(hit.passage.whole.split())
        line = f"{rank:4}  {score:>9}  {hit.retriever_score:9.3f}  {hit.passage.id}  {text}"
        say(line[: max(60, console.width)])


main = command(Search, _search)

if __name__ == "__main__":
    sys.exit(main())
