"""python -m rocketjax.evaluate: judges TREC runs, or a trained pair, on a split's queries."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from rocketjax.cli.command import command, console, say, watch
from rocketjax.config.fields import Count, OnBadRows, PathName, Share, TruncateOption
from rocketjax.config.schema import ComputeConfig, Depths, HostsConfig

if TYPE_CHECKING:
    from rocketjax.data.collection import Collection, Split
    from rocketjax.evaluation.results import PerQuery
    from rocketjax.retrieval.ranking import Rankings


@dataclass(frozen=True)
class Evaluate:
    """Judges a trained pair, or TREC runs, by the relevance judgements of a split.

    With --model: what its retriever finds, how its re-ranker orders it, and the ceiling of
    re-ranking. With --bm25: BM25. With --runs A.trec B.trec: each of them.

    In this order, and whether they differ from the first by more than chance. All judged queries
    count; one that a run leaves out has 0.

    Example: python -m rocketjax.evaluate --collection demo --split dev --runs a.trec b.trec
    """

    collection: str
    """The collection, of any format that training takes."""
    on_bad_rows: OnBadRows = "fail"
    split: str = "dev"
    """Split whose judgements count."""
    hold_out: Share = 0.0
    """Of it, those queries that a training with `--data.hold-out` of this share held out."""
    model: str = ""
    """Folder of a finished run."""
    index: str = ""
    """Folder of vectors of that collection by that model, searched by ScaNN where that was built
    there, else exactly; empty: the run's index."""
    truncate: TruncateOption = None
    """Keep the first N numbers of the retriever's vectors (Matryoshka), 0: all; None: as the
    model's folder says."""
    runs: tuple[PathName, ...] = ()
    """TREC runs."""
    bm25: bool = False
    """BM25 over the collection, too (extra `ablation`)."""
    max_queries: Count = 0
    """Judge on this many queries of the split, the same that training draws; 0: all."""
    per_query: PathName = ""
    """Folder for each run's values by query, as TSV."""
    evaluate: Depths = field(default_factory=lambda: Depths(100, 50))
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)


def _evaluate(options: Evaluate) -> None:
    from rocketjax.config.checks import check_depths
    from rocketjax.config.options import option
    from rocketjax.data.collection import hold_out, sample_queries
    from rocketjax.data.load import load_collection
    from rocketjax.evaluation import metrics
    from rocketjax.evaluation.judged import as_judged
    from rocketjax.evaluation.results import measure_run, oracle_of
    from rocketjax.retrieval.ranking import without_own
    from rocketjax.runtime import processes
    from rocketjax.runtime.errors import InputError

    if options.model:
        check_depths(options.evaluate, option)
    if not (options.model or options.runs or options.bm25):
        raise InputError("nothing to judge; give --model, --runs or --bm25")
    _refuse_unread(options)
    said = [f"{name}: {value}" for name, value in vars(options).items() if name != "hosts"]
    processes.check_same("options", "\n".join(said))
    # What may be refused comes before the model's hours of work.
    files = _value_files(options) if options.per_query else {}
    collection = processes.main_first(
        lambda: load_collection(options.collection, options.on_bad_rows, say)
    )
    split = collection.split(options.split)
    if options.hold_out:
        _, split = hold_out(split, options.hold_out)
    split = sample_queries(split, options.max_queries)
    split = as_judged(split, collection, options.evaluate, say)
    others = _bm25(options, collection, split) | _read(options, collection, split)
    judged = _judge(options, collection, split) if options.model else {}
    runs = judged | others
    depths = dict.fromkeys((*judged, "bm25"), options.evaluate.top_k)  # what they retrieve
    depths = {name: depths.get(name) or _deepest(run) for name, run in runs.items()}
    if options.evaluate.skip_own:
        runs = {
            name: {query: without_own(query, found, depths[name]) for query, found in run.items()}
            for name, run in runs.items()
        }
    least = options.evaluate.relevant
    values = {
        name: measure_run(split, collection, run, depths[name], least) for name, run in runs.items()
    }
    if judged:
        values["oracle"] = oracle_of(split, judged["retriever"], options.evaluate)
    for name in files if processes.is_main() else ():
        metrics.write_per_query(files[name], values[name])
    console.print(_table(values, _title(options.evaluate, len(split.qrels))))


def _refuse_unread(options: Evaluate) -> None:
    """Raises InputError for options of a model, or of what retrieves, where there is none."""
    from rocketjax.config.options import option
    from rocketjax.runtime.errors import InputError

    computes = [f"compute.{each.name}" for each in dataclasses.fields(ComputeConfig)]
    readers = dict.fromkeys(["index", "truncate", "evaluate.rerank_depth", *computes], "--model")
    readers["evaluate.top_k"] = "--model or --bm25"
    usual = Evaluate(options.collection)
    for name, reader in readers.items():
        is_read = options.model or (options.bm25 and "--bm25" in reader)
        if not is_read and attrgetter(name)(options) != attrgetter(name)(usual):
            raise InputError(f"{option(name)}: only {reader} reads it; leave it out")


def _judge(options: Evaluate, collection: "Collection", split: "Split") -> "dict[str, Rankings]":
    from rocketjax.retrieval.load import load, open_corpus
    from rocketjax.retrieval.ranking import retrieve_and_rerank
    from rocketjax.text.cut import cut_line

    model = load(options.model, options.compute)
    if options.truncate is not None:
        retriever = model.retriever.truncated(options.truncate)
        model = dataclasses.replace(model, retriever=retriever)
    tokenizers = (model.retriever.tokenizer, model.reranker.tokenizer)
    if line := cut_line(options.split, split, collection.passages, *tokenizers):
        say(line)
    corpus = open_corpus(Path(options.model), model.retriever, collection, options.index, say)
    runs = retrieve_and_rerank(model, corpus, split.queries, options.evaluate, watch)
    return runs._asdict()


def _bm25(options: Evaluate, collection: "Collection", split: "Split") -> "dict[str, Rankings]":
    from rocketjax.retrieval.bm25 import bm25_run

    if not options.bm25:
        return {}
    deep = options.evaluate.top_k + options.evaluate.skip_own
    return {"bm25": bm25_run(collection, split.queries, deep)}


def _read(options: Evaluate, collection: "Collection", split: "Split") -> "dict[str, Rankings]":
    """The runs.

    Raises:
        InputError: none of a run's ids is known, or answers are sought in a passage that is not
            there.
    """
    from rocketjax.data.runs import read_run
    from rocketjax.evaluation.judged import check_run
    from rocketjax.runtime.errors import InputError

    runs = {path: read_run(Path(path), say) for path in options.runs}
    for path, run in runs.items():
        check_run(path, run, split, collection, say)
        for query in split.answers:
            for pid, _ in run.get(query, ()):
                if pid not in collection.by_id:
                    raise InputError(
                        f"{path}: passage {pid!r} of query {query!r} is not in {collection.name}, "
                        "so that no answer can be sought in it"
                    )
    return runs


def _deepest(run: "Rankings") -> int:
    """The most passages that a run holds for a query: what it was cut to."""
    return max(map(len, run.values()), default=1)


def _value_files(options: Evaluate) -> dict[str, Path]:
    """By run, the file of its values by query; no two may be the same."""
    from rocketjax.retrieval.ranking import Runs
    from rocketjax.runtime.errors import InputError
    from rocketjax.runtime.files import ensure_parent

    names = [*((*Runs._fields, "oracle") if options.model else ()), *options.runs]
    names += ["bm25"] if options.bm25 else []
    files: dict[str, Path] = {}
    for name in names:
        file = Path(options.per_query) / f"{Path(name).stem}.per_query.tsv"
        if same := [other for other, taken in files.items() if taken == file]:
            raise InputError(
                f"--per-query: {same[0]} and {name} would both be {file.name}; rename one"
            )
        files[name] = file
    for file in files.values():
        ensure_parent(file)
    return files


def _title(depths: Depths, queries: int) -> str:
    """How many queries are judged, and by which rules where these are not the usual ones."""
    rules = [f"relevant from grade {depths.relevant}"] if depths.relevant > 1 else []
    rules += ["copies count"] if depths.copies else []
    rules += ["without the query's own passage"] if depths.skip_own else []
    return ", ".join([f"{queries} queries", *rules])


def _table(values: "Mapping[str, PerQuery]", title: str) -> Table:
    """A column a run; below each further one's mean, its p against the first.

    A measure that goes deeper than a run does has no value there.
    """
    from rocketjax.evaluation import metrics

    first, *others = values
    measures = dict.fromkeys(name for found in values.values() for name in found)
    table = Table(title=title, caption="p: paired randomisation test over queries")
    table.add_column("measure")
    for name in values:
        table.add_column(name, justify="right", overflow="fold")
    for measure in measures:
        base = values[first].get(measure)
        cells = [measure, "" if base is None else f"{metrics.mean(base):.4f}"]
        for name in others:
            other = values[name].get(measure)
            cells.append("" if other is None else f"{metrics.mean(other):.4f}")
            if base is not None and other is not None:
                cells[-1] += f"\np {metrics.p_value(base, other):.4f}"
        table.add_row(*cells)
    return table


main = command(Evaluate, _evaluate)

if __name__ == "__main__":
    sys.exit(main())
