"""Both models during training: a quick evaluation on a pool of passages, and scores to draw.

A full evaluation encodes the corpus. This one takes a pool instead: for some held-out queries, what
the retriever ranked first before joint training, and their judged passages. Both models re-order
each pool. Its measures are those of a small corpus: higher than the report's, blind to passages
that only a trained retriever finds, and good only for comparing steps of one run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rocketjax.data.collection import Split
from rocketjax.data.lists import TrainingList
from rocketjax.data.passages import Passage
from rocketjax.evaluation import metrics
from rocketjax.retrieval.model import Model
from rocketjax.retrieval.ranking import Rankings, score_pairs
from rocketjax.runtime.progress import unwatched

MEASURES = ("MRR@10", "nDCG@10")
LISTS = 12  # of each kind, whose scores are drawn
Pairs = list[tuple[str, str]]  # query id, passage id
Scores = dict[str, dict[str, list[float]]]  # model -> kind of passage -> scores


@dataclass(frozen=True)
class Pool:
    """Queries, and the passages to order for each."""

    split: Split
    passages: Mapping[str, Sequence[str]]
    relevant: int = 1  # see metrics.per_query


def draw_queries(split: Split, most: int, seed: int) -> Split:
    """`most` judged queries of a split, drawn by `seed`; all, if there are fewer."""
    names = sorted(split.qrels)
    places = np.random.default_rng(seed).permutation(len(names))[:most]
    return split.only([names[i] for i in sorted(places)])


def make_pool(split: Split, found: Rankings, depth: int, relevant: int = 1) -> Pool:
    """The first `depth` passages ranked for each query, and its judged ones."""
    passages = {
        query: list(
            dict.fromkeys([pid for pid, _ in found.get(query, [])[:depth]] + [*split.qrels[query]])
        )
        for query in split.qrels
    }
    return Pool(split, passages, relevant)


def evaluate_pool(model: Model, pool: Pool, passages: Mapping[str, Passage]) -> dict[str, float]:
    """MRR@10 and nDCG@10 of both models on a pool: "retriever MRR@10" and so on.

    "teacher lead MRR@10" is the re-ranker's less the retriever's.
    """
    pairs = [(query, pid) for query, pids in pool.passages.items() for pid in pids]
    scores = score_both(model, pairs, pool.split.queries, passages)
    measured = {
        name: metrics.per_query(pool.split.qrels, _ranked(pairs, found), relevant=pool.relevant)
        for name, found in scores.items()
    }
    means = {
        f"{name} {measure}": metrics.mean(values)
        for name, measures in measured.items()
        for measure, values in measures.items()
        if measure in MEASURES
    }
    means["teacher lead MRR@10"] = means["reranker MRR@10"] - means["retriever MRR@10"]
    return {name: round(value, 6) for name, value in means.items()}


def score_both(
    model: Model,
    pairs: Pairs,
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
) -> dict[str, np.ndarray]:
    """Each model's raw scores [N] of N pairs; every text is encoded once."""
    names = list(dict.fromkeys(query for query, _ in pairs))
    ids = list(dict.fromkeys(pid for _, pid in pairs))
    texts = [passages[pid] for pid in ids]
    q = model.retriever.encode_query([queries[name] for name in names], steady=True)
    p = model.retriever.encode_passage(
        [text.text for text in texts], [text.title for text in texts], steady=True
    )
    row, column = ({name: i for i, name in enumerate(some)} for some in (names, ids))
    left, right = [row[query] for query, _ in pairs], [column[pid] for _, pid in pairs]
    return {
        "retriever": np.einsum("nd,nd->n", q[left], p[right]),
        "reranker": np.array(score_pairs(model.reranker, pairs, queries, passages, unwatched)),
    }


def score_lists(
    model: Model,
    lists: Sequence[TrainingList],
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    seed: int,
) -> Scores:
    """Raw scores of both models on some lists of each kind: positives, and negatives by kind."""
    kinds: dict[str, Pairs] = {"positive": []}
    for kind in ("undenoised", "denoised"):
        some = [item for item in lists if item.kind == kind and not item.pseudo]
        drawn = np.random.default_rng(seed).permutation(len(some))[:LISTS]
        chosen = [some[i] for i in sorted(drawn)]
        kinds["positive"] += [(item.query, item.positive) for item in chosen]
        kinds[kind] = [(item.query, pid) for item in chosen for pid in item.negatives]
    kinds = {kind: list(dict.fromkeys(pairs)) for kind, pairs in kinds.items()}
    everything = list(dict.fromkeys(pair for pairs in kinds.values() for pair in pairs))
    place = {pair: i for i, pair in enumerate(everything)}
    return {
        name: {
            kind: [float(f"{scores[place[pair]]:.5g}") for pair in pairs]
            for kind, pairs in kinds.items()
        }
        for name, scores in score_both(model, everything, queries, passages).items()
    }


def _ranked(pairs: Pairs, scores: np.ndarray) -> dict[str, list[str]]:
    """Each query's passages, best first; ties in the pool's order."""
    found: dict[str, list[str]] = {}
    for i in np.argsort(-scores, kind="stable"):
        query, pid = pairs[i]
        found.setdefault(query, []).append(pid)
    return found
