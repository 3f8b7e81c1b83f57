"""What a run ends with: both models on the held-out queries, before and after training."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pydantic

from rocketjax.config.schema import Depths
from rocketjax.data.collection import Collection, Split
from rocketjax.evaluation import metrics
from rocketjax.evaluation.answers import answer_recall
from rocketjax.retrieval.ranking import Rankings, Runs
from rocketjax.runtime.files import read_json, valid, write_json

PerQuery = dict[str, dict[str, float]]  # measure -> query id -> value
SHOWN = ("MRR@10", "nDCG@10", "recall@50")  # the others are in report.json
MODELS = {"retriever": "retriever", "reranker": "re-ranker", "oracle": "oracle"}  # as people read
HEADS = ("model", "measure", "before", "after", "gain", "p")


@pydantic.dataclasses.dataclass(frozen=True)
class Row:
    """One measure of one model, its mean over the queries."""

    model: str
    measure: str
    before: float | None  # None: the starting models were not judged
    after: float
    p: float | None  # two-sided, paired over queries

    def cells(self) -> tuple[str, ...]:
        """As tables show it, under `HEADS`."""
        name, after = MODELS.get(self.model, self.model), f"{self.after:.3f}"
        before, gain, p = "", "", "" if self.p is None else shown_p(self.p)
        if self.before is not None:
            before, gain = f"{self.before:.3f}", f"{self.after - self.before:+.3f}"
        return name, self.measure, before, after, gain, p


def shown_p(p: float) -> str:
    """With three digits."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


@pydantic.dataclasses.dataclass(frozen=True)
class Report:
    """Every measure of both models, and of a perfect re-ranker of the same candidates."""

    folder: str
    queries: int
    rows: list[Row]
    # By stage. Not in report.json, which is the same to the byte whenever a run was stopped.
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def measure_run(
    split: Split, collection: Collection, run: Rankings, depth: int, relevant: int = 1
) -> PerQuery:
    """Every measure of one run whose cut-off is within `depth`; see `metrics.per_query`.

    Answer recall (DPR) is among them where the queries have answers.
    """
    ids = {query: [pid for pid, _ in ranked] for query, ranked in run.items()}
    values = metrics.per_query(split.qrels, ids, depth, relevant)
    if split.answers:
        cutoffs = [k for k in (5, 20, 50, 100) if k <= depth]
        values |= answer_recall(split.answers, ids, lambda pid: collection.by_id[pid].text, cutoffs)
    return values


def measure(
    split: Split, collection: Collection, runs: Runs, config: Depths
) -> dict[str, PerQuery]:
    """Every measure of both models' runs, and of the oracle's."""
    return {
        "retriever": measure_run(split, collection, runs.retriever, config.top_k, config.relevant),
        "reranker": measure_run(split, collection, runs.reranker, config.top_k, config.relevant),
        "oracle": oracle_of(split, runs.retriever, config),
    }


def oracle_of(split: Split, found: Rankings, config: Depths) -> PerQuery:
    """What a perfect re-ranker of the first `rerank_depth` candidates gives: the ceiling.

    Without answer recall: it knows judgements only.
    """
    ids = {query: [pid for pid, _ in ranked] for query, ranked in found.items()}
    ideal = metrics.oracle(split.qrels, ids, config.rerank_depth)
    return metrics.per_query(split.qrels, ideal, config.top_k, config.relevant)


def write(
    folder: Path,
    split: Split,
    collection: Collection,
    before: Runs | None,
    after: Runs,
    config: Depths,
    name: str,
) -> Report:
    """Measures, compares, and writes runs/*.per_query.tsv and report.json, which names the run."""
    new = measure(split, collection, after, config)
    old = measure(split, collection, before, config) if before else None
    for model, values in new.items():
        metrics.write_per_query(folder / "runs" / f"{model}.per_query.tsv", values)
    rows = [
        _row(model, key, old[model][key] if old else None, values)
        for model, measures in new.items()
        for key, values in measures.items()
    ]
    result = Report(name, len(split.qrels), rows)
    save(result, folder)
    return result


def add_widths(folder: Path, report: Report, found: Mapping[int, PerQuery]) -> None:
    """Adds measures of vectors cut to fewer numbers to report.json: width -> what was measured."""
    rows = [
        _row(f"retriever, {width} numbers", key, None, values)
        for width, measures in found.items()
        for key, values in measures.items()
    ]
    save(dataclasses.replace(report, rows=[*report.rows, *rows]), folder)


def save(report: Report, folder: Path) -> None:
    """Writes report.json."""
    values = pydantic.TypeAdapter(Report).dump_python(report, exclude={"seconds"})
    write_json(folder / "report.json", values)


def load(folder: Path) -> Report:
    """Reads report.json. Raises InputError where it is missing or damaged."""
    path = folder / "report.json"
    return valid(Report, read_json(path), path, "--from evaluate writes it again")


def _row(model: str, name: str, before: dict[str, float] | None, after: dict[str, float]) -> Row:
    if before is None:
        return Row(model, name, None, metrics.mean(after), None)
    p = metrics.p_value(before, after)
    return Row(model, name, metrics.mean(before), metrics.mean(after), p)
