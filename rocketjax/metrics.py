"""Retrieval quality: thin over ir-measures, with the definitions MS MARCO's papers use."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import ir_measures
import numpy as np
from scipy import stats

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
Run: TypeAlias = Mapping[str, Sequence[str]]  # query id -> passage ids, best first

# Not parsed from names: ir-measures' parser needs what Python 3.12 deprecates and 3.14 lacks.
MEASURES = {
    "MRR@10": ir_measures.RR @ 10,
    "recall@50": ir_measures.R @ 50,
    "nDCG@10": ir_measures.nDCG @ 10,
}


def per_query(qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Each measure's value for every judged query: measure -> query id -> value in [0, 1].

    All queries of the qrels count; one that the run leaves out has 0. The run's order is what is
    judged: ties of scores are the searcher's affair, not the metric's.
    """
    scored = {
        query: {pid: float(-rank) for rank, pid in enumerate(ranked)}
        for query, ranked in run.items()
    }
    names = {measure: name for name, measure in MEASURES.items()}
    values = {ours: dict.fromkeys(qrels, 0.0) for ours in MEASURES}
    graded = {query: dict(grades) for query, grades in qrels.items()}
    for metric in ir_measures.iter_calc(list(names), graded, scored):
        values[names[metric.measure]][metric.query_id] = metric.value
    return values


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
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
