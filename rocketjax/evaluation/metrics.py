"""Retrieval quality: thin over ir-measures, with the definitions MS MARCO's papers use."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import ir_measures
import numpy as np
from scipy import stats

from rocketjax.data.collection import Qrels
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import write_text

Ranked: TypeAlias = Mapping[str, Sequence[str]]  # query id -> passage ids, best first
CUTOFFS = (5, 20, 50, 100, 1000)


# Name -> cut-off and measure. recall@k is the share of the relevant passages that are found;
# success@k the share of queries with at least one hit, which RocketQA's and DPR's papers call R@k.
# Not parsed from names: ir-measures' parser needs what Python 3.12 deprecates and 3.14 lacks.
def _measures(relevant: int) -> dict[str, tuple[int, ir_measures.Measure]]:
    """The measures, of which all but nDCG count passages with at least this grade."""
    return {
        "MRR@10": (10, ir_measures.RR(rel=relevant) @ 10),
        "nDCG@10": (10, ir_measures.nDCG @ 10),
        **{f"recall@{k}": (k, ir_measures.R(rel=relevant) @ k) for k in CUTOFFS},
        **{f"success@{k}": (k, ir_measures.Success(rel=relevant) @ k) for k in CUTOFFS},
    }


def per_query(
    qrels: Qrels, run: Ranked, depth: int = 1000, relevant: int = 1
) -> dict[str, dict[str, float]]:
    """Each measure's value for every judged query: measure -> query id -> value in [0, 1].

    All queries of the qrels count, as in MS MARCO's own evaluation; one that the run leaves out has
    0, and so has one without a relevant passage. Queries that are not judged do
    not count. The run's order is what is judged: ties of scores are the searcher's affair, not the
    metric's.

    Args:
        depth: how many passages the run holds for a query; recall and success beyond it would
            look worse than they are, and are left out. MRR@10 and nDCG@10 never are.
        relevant: the grade from which a passage is relevant (rel of ir-measures); nDCG has none.

    Raises:
        InputError: no query is judged, a duplicate passage in a query's ranking, or one is no
            list of passage ids.
    """
    if not qrels:
        raise InputError("no query is judged, so there is nothing to measure; choose another split")
    names = {
        measure: name
        for name, (cutoff, measure) in _measures(relevant).items()
        if cutoff <= depth or name in ("MRR@10", "nDCG@10")
    }
    scored = {query: _descending(query, run[query]) for query in qrels if query in run}
    values = {ours: dict.fromkeys(qrels, 0.0) for ours in names.values()}
    # ir-measures wants Python's own int.
    graded = {query: {pid: int(g) for pid, g in grades.items()} for query, grades in qrels.items()}
    for metric in ir_measures.iter_calc(list(names), graded, scored):
        values[names[metric.measure]][metric.query_id] = metric.value
    return values


def oracle(qrels: Qrels, run: Ranked, depth: int) -> dict[str, list[str]]:
    """What a perfect re-ranker of each query's first `depth` passages would make of the run."""
    ideal = {}
    for query, ranked in run.items():
        grades = qrels.get(query, {})
        head = sorted(ranked[:depth], key=lambda pid: -grades.get(pid, 0))  # stable
        ideal[query] = [*head, *ranked[depth:]]
    return ideal


def _descending(query: str, ranked: Sequence[str]) -> dict[str, float]:
    if isinstance(ranked, Mapping) or not all(isinstance(pid, str) for pid in ranked):
        raise InputError(
            f"the ranking of query {query!r} is no list of passage ids, best first; of pairs with "
            "scores in that order take [pid for pid, _ in ranked]"
        )
    scores = {pid: float(-rank) for rank, pid in enumerate(ranked)}
    if len(scores) < len(ranked):
        raise InputError(f"a duplicate passage in the ranking of query {query!r}")
    return scores


def mean(values: Mapping[str, float]) -> float:
    """Mean over queries."""
    return float(np.mean(list(values.values())))


def p_value(before: Mapping[str, float], after: Mapping[str, float], seed: int = 0) -> float:
    """Two-sided paired randomisation test on per-query values: is the mean difference chance?

    10,000 random swaps of before and after within queries; the smallest p it can give is 2e-4.
    """
    queries = sorted(before)
    a, b = (np.array([values[q] for q in queries]) for values in (before, after))
    if np.array_equal(a, b) or len(queries) < 2:
        return 1.0  # scipy refuses a single query, which proves nothing anyway
    result = stats.permutation_test(
        (b, a),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9_999,
        batch=max(1, 10_000_000 // len(queries)),  # bounds its memory
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def confidence_interval(
    before: Mapping[str, float], after: Mapping[str, float], seed: int = 0
) -> tuple[float, float]:
    """Low and high end of the 95% interval of mean(after) - mean(before).

    Paired percentile bootstrap: the queries' differences, redrawn 9,999 times. A single query
    has no interval: (nan, nan).
    """
    differences = np.array([after[query] - before[query] for query in sorted(before)])
    if len(differences) < 2:
        return float("nan"), float("nan")
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        method="percentile",
        batch=max(1, 10_000_000 // len(differences)),  # bounds its memory
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def write_per_query(path: Path, values: Mapping[str, Mapping[str, float]]) -> None:
    """A TSV of every query's values: a line a query, a column a measure.

    Raises:
        InputError: a query id that holds a tab or a line break.
    """
    lines = ["\t".join(["query", *values])]
    for query in dict.fromkeys(query for column in values.values() for query in column):
        if any(c in query for c in "\t\r\n"):
            raise InputError(f"query id {query!r}: tabs and line breaks do not fit into {path}")
        # Answer recall may know other queries than the judgements.
        cells = [f"{column[query]:.6g}" if query in column else "" for column in values.values()]
        lines.append("\t".join([query, *cells]))
    write_text(path, "\n".join(lines) + "\n")
