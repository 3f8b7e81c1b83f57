"""python -m rocketjax.bench: rocketjax and its rivals in turn, on the same texts."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from rocketjax.cli.command import command, console, say, watch
from rocketjax.config.fields import Count, Length, PathName, Size
from rocketjax.config.schema import MINILM, ComputeConfig
from rocketjax.runtime.errors import InputError

if TYPE_CHECKING:
    from rocketjax.bench.latency import Latency
    from rocketjax.bench.measure import Fact, Result
    from rocketjax.bench.work import Ours
    from rocketjax.data.collection import Collection

Task = Literal["encode", "rerank", "train", "mine", "search", "serve", "facts", "families"]
Runtime = Literal["torch", "compiled", "onnx", "openvino", "flag"]
Figure = TypeVar("Figure", bound=tuple)


@dataclass(frozen=True)
class Bench:
    """Measures rocketjax against what one would use instead, in turn, in two processes.

    encode: sentence-transformers' encode; rerank: its CrossEncoder.predict; both at the batch size
    that is fastest for them, tokenising included.

    train: the joint step, written plainly in PyTorch.

    mine: queries to written lists, beside the same with sentence-transformers.

    search: ScaNN through our interface beside ScaNN itself, and beside faiss' IVFFlat, both tuned
    to a recall@10 of 0.95; exact search beside torch.

    serve: milliseconds until 1, 8 and 32 clients have 50 passages retrieved and re-ranked, beside
    sentence-transformers, and beside its re-ranker in int8.

    facts: rocketjax alone, beside what it should reach; takes minutes.

    families: encode and rerank in tokens a second, ModernBERT's and MiniLM's shapes with random
    weights; --weights gives the tokenizer alone. By the clock, and by the processors' time of each
    side, which tells more where other jobs run.

    Speeds are medians over rounds, the ratio is the median of the rounds' ratios; from six rounds
    on with an interval. Needs the extra `bench`.

    Example: python -m rocketjax.bench --quick --against docs/bench.json
    """

    tasks: tuple[Task, ...] = ("encode", "rerank", "train")
    """What to measure."""
    runtimes: tuple[Runtime, ...] = ("torch",)
    """What sentence-transformers' models run by in encode and rerank: compiled is torch.compile;
    onnx and openvino export them (its own backends of these names need an older transformers); flag
    is FlagEmbedding's re-ranker instead, for rerank only (pip install FlagEmbedding)."""
    collection: str = "demo"
    """Texts to measure on, of any format that training takes."""
    split: str = "dev"
    """Split of the queries."""
    weights: str = MINILM
    """Of all models: a folder or a hub name."""
    passages: Size = 256
    """Passages to encode, and pairs to score, in a run."""
    lists: Size = 8
    """Lists in a train step."""
    length: Size = 8
    """Passages in a list."""
    query_length: Length = 32
    """Longest query in tokens."""
    passage_length: Length = 128
    """Longest passage in tokens."""
    pair_length: Length = 158
    """Longest pair in tokens."""
    mined: Size = 32
    """Queries to mine for."""
    searched: Size = 2_000
    """Queries to search for; one half tunes both sides, the other is measured."""
    vectors: Size = 300_000
    """Vectors to search, of pieces of the collection's passages; fewer where there are fewer."""
    piece: Size = 8
    """Words in a piece; pieces overlap if there would be too few otherwise."""
    vectors_folder: PathName = "runs/bench"
    """Where vectors are kept between runs; encoding resumes where it was stopped."""
    threads: Count = 0
    """Threads of both sides' search; 0: one per core, and then a single one."""
    rounds: Size = 5
    """Rounds, each a run of both sides."""
    quick: bool = False
    """A hundred passages, two lists, six rounds: some five minutes for encode, rerank and train."""
    json: PathName = ""
    """File for the figures."""
    against: PathName = ""
    """Figures of an earlier run (--json), maybe of another machine: fails where a ratio's interval
    ends below nine tenths of the ratio there. Needs six rounds."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)


def _bench(options: Bench) -> None:
    from rocketjax.bench.latency import latencies_table
    from rocketjax.bench.measure import facts_table, lost, machine, read_results, results_table
    from rocketjax.bench.work import Ours, make_work
    from rocketjax.data.load import load_collection
    from rocketjax.models.pretrained import resolve_weights
    from rocketjax.runtime.files import ensure_parent, write_json

    if options.quick:
        options = replace(options, passages=100, lists=2, rounds=6)
    earlier = read_results(Path(options.against)) if options.against else []
    if options.json:
        ensure_parent(Path(options.json))  # refused now, and not after all rounds
    collection = load_collection(options.collection)
    work = make_work(
        collection,
        collection.split(options.split),
        str(resolve_weights(options.weights)),
        options.passages,
        options.lists,
        options.length,
        (options.query_length, options.passage_length, options.pair_length),
    )
    ours = Ours(work, options.compute)
    results = list(_said(_results(options, collection, ours)))
    facts = list(_said(_facts(options, ours)))
    latencies = list(_said(_latencies(options, collection, ours)))
    if results:
        console.print(results_table(results))
    if facts:
        console.print(facts_table(facts))
    if latencies:
        console.print(latencies_table(latencies))
    if options.json:
        figures = {
            "machine": machine(),
            "results": [result._asdict() for result in results],
            "facts": [fact._asdict() for fact in facts],
            "latencies": [latency._asdict() for latency in latencies],
        }
        write_json(Path(options.json), figures)
    if fallen := list(lost(results, earlier)):
        raise InputError(f"slower than in {options.against}: {'; '.join(fallen)}")


def _results(options: Bench, collection: "Collection", ours: "Ours") -> "Iterator[Result]":
    from rocketjax.bench import families, mine
    from rocketjax.data.collection import sample_queries

    yield from _texts(options, ours)
    split = collection.split(options.split)
    if "mine" in options.tasks:
        queries = sample_queries(split, options.mined, seed=0)
        folder = Path(options.vectors_folder) / "passages"
        yield mine.measure(ours, collection, queries, folder, options.rounds, say, watch)
    if "families" in options.tasks:
        yield from families.measure(ours.work, options.compute, options.rounds, say)
    if "search" in options.tasks:
        queries = sample_queries(split, options.searched, seed=0)
        yield from _searches(options, collection, list(queries.queries.values()))


def _latencies(options: Bench, collection: "Collection", ours: "Ours") -> "Iterator[Latency]":
    from rocketjax.bench import latency

    if "serve" in options.tasks:
        split, folder = collection.split(options.split), Path(options.vectors_folder) / "passages"
        yield from latency.measure(ours, collection, split, folder, say, watch)


def _texts(options: Bench, ours: "Ours") -> "Iterator[Result]":
    from rocketjax.bench.measure import compare
    from rocketjax.bench.work import rival_process

    plans = {
        "encode": ("passages", len(ours.work.passages), lambda: ours.encode),
        "rerank": ("pairs", len(ours.work.pairs), lambda: ours.rerank),
        "train": ("passages", options.lists * options.length, ours.train),
    }
    tasks = [task for task in options.tasks if task in plans]
    if not tasks:
        return
    with rival_process(ours.work) as rival:
        for task in tasks:
            unit, units, ready = plans[task]
            run = ready()
            for runtime in options.runtimes if task != "train" else ("torch",):
                if (task, runtime) == ("encode", "flag"):
                    say("encode flag: nothing to compare, FlagEmbedding is a rival of rerank only")
                    continue
                asked = task if runtime == "torch" else f"{task} {runtime}"
                say(f"{asked}: {units} {unit} a run, {options.rounds} rounds")
                yield compare(asked, unit, units, run, rival, options.rounds)


def _searches(
    options: Bench, collection: "Collection", queries: Sequence[str]
) -> "Iterator[Result]":
    from rocketjax.bench import search
    from rocketjax.models.pretrained import resolve_weights
    from rocketjax.runtime.threads import cores

    weights, folder = str(resolve_weights(options.weights)), Path(options.vectors_folder) / "pieces"
    pieces = search.cut(collection, options.piece, options.vectors)
    retriever, vectors = search.encoded(
        pieces, options.piece, weights, folder, options.compute, watch
    )
    all_and_one = sorted({cores(), 1}, reverse=True)
    threads = [options.threads] if options.threads else all_and_one
    encoded = retriever.encode_query(queries)
    yield from search.measure(vectors, encoded, threads, options.rounds, say)


def _facts(options: Bench, ours: "Ours") -> "Iterator[Fact]":
    from rocketjax.bench import facts

    if "facts" in options.tasks:
        yield from facts.measure(
            ours, options.collection, options.split, options.compute, options.rounds
        )


def _said(figures: Iterator[Figure]) -> Iterator[Figure]:
    """The same figures, each printed as soon as it is measured: all of them take minutes."""
    for figure in figures:
        say("  ".join(f"{x:,.3f}" if isinstance(x, float) else str(x) for x in figure))
        yield figure


main = command(Bench, _bench, "rocketjax.bench")

if __name__ == "__main__":
    sys.exit(main())
