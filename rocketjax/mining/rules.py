"""Which of a query's candidates may be negatives of a positive, and which of those are drawn.

With p the probability that a candidate is relevant and p_pos that of the list's positive, by the
re-ranker's (or the teacher's) calibrated scores, a candidate is left out where

    rank <= range_min
    p > max_score,  p < min_score
    p + absolute_margin > p_pos                 TopK-MarginPos
    p > p_pos - relative_margin * p_pos         TopK-PercPos, with a share of 1 - relative_margin

The last two are NV-Retriever's (arXiv 2407.15831), all are called as in sentence-transformers'
mine_hard_negatives. Draws are seeded by the caller, and scores rounded, so that neither the number
of devices nor that of processes changes a list.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rocketjax.config.composition import Composition
from rocketjax.config.schema import ListConfig
from rocketjax.data.lists import Candidates
from rocketjax.mining.calibrate import Calibration

_THRESHOLDS = ("max_score", "min_score", "absolute_margin", "relative_margin")


def has_thresholds(config: Composition) -> bool:
    """Whether probabilities rule candidates out."""
    return any(getattr(config, name) is not None for name in _THRESHOLDS)


def draws_by_score(config: Composition) -> bool:
    """Whether scores say which of the allowed candidates are likely to be drawn."""
    return config.sampling in ("stratified", "simans")


def has_rules(config: Composition) -> bool:
    """Whether lists are composed by scores: then all of `top_n` are scored."""
    return has_thresholds(config) or draws_by_score(config)


def scored_depth(config: ListConfig) -> int:
    """How many of a query's best passages the re-ranker scores; 0: it is not used.

    Denoised lists draw from `scored` of them behind `range_min`.
    """
    if has_rules(config) or (config.denoised and not config.scored):
        return config.top_n
    return min(config.range_min + config.scored, config.top_n) if config.denoised else 0


def unread_line(config: ListConfig) -> str:
    """Which options are set that only denoised lists read, where there are none; "" for none.

    They are named, not refused: a config laid over another one may take its denoising away.
    """
    if config.denoised or config.source == "given":
        return ""
    names = ("low", "high", "depth", "scored", *["calibration"] * (not has_thresholds(config)))
    default = ListConfig()
    unread = [f"lists.{n}" for n in names if getattr(config, n) != getattr(default, n)]
    return f"lists.denoised 0: no list reads {', '.join(unread)}" if unread else ""


class Eligible(NamedTuple):
    """The candidates that may be negatives of a positive."""

    ranks: np.ndarray  # [N] from 0, ascending
    taken: dict[str, int]  # by rule: how many it took of those the rules before it left
    pool: int  # candidates before any rule


def rounded(scores: Sequence[float]) -> list[float]:
    """What another number of devices changes in a score's last digits changes no list."""
    return [float(f"{score:.5g}") for score in scores]


def eligible(
    row: Candidates, positive: str, config: ListConfig, calibration: Calibration | None
) -> Eligible:
    """Of a query's `top_n` candidates those that the rules leave for a list of this positive."""
    ranks = np.arange(min(config.top_n, len(row.passages)))
    pool, taken = len(ranks), {}
    if config.range_min:
        taken["range_min"] = min(config.range_min, pool)
        ranks = ranks[config.range_min :]
    if has_thresholds(config) and calibration is not None:
        p = calibration.probability(rounded(row.scores[: config.top_n]))
        (own,) = calibration.probability(rounded([score_of(row, positive)]))
        for name, out in _left_out(p, float(own), config).items():
            gone = out[ranks]
            taken[name] = int(gone.sum())
            ranks = ranks[~gone]
    return Eligible(ranks, taken, pool)


def _left_out(p: np.ndarray, own: float, config: Composition) -> dict[str, np.ndarray]:
    """By rule, which candidates [N] it leaves out."""
    rules = {}
    if config.max_score is not None:
        rules["max_score"] = p > config.max_score
    if config.min_score is not None:
        rules["min_score"] = p < config.min_score
    if config.absolute_margin is not None:
        rules["absolute_margin"] = p + config.absolute_margin > own
    if config.relative_margin is not None:
        rules["relative_margin"] = p > own - config.relative_margin * own
    return rules


def score_of(row: Candidates, positive: str) -> float:
    """The raw score of a list's positive, which may be a pseudo-positive."""
    if positive in row.positives:
        return row.positive_scores[row.positives.index(positive)]
    return row.scores[row.passages.index(positive)]


def draw(
    ranks: np.ndarray,
    size: int,
    rng: np.random.Generator,
    row: Candidates,
    positive: str,
    config: Composition,
) -> list[int]:
    """`size` of the ranks [N], each once, by `config.sampling`; all, if there are fewer."""
    size = min(size, len(ranks))
    if not size:
        return []
    if config.sampling == "top":
        return ranks[:size].tolist()
    if config.sampling == "uniform":
        return ranks[rng.choice(len(ranks), size=size, replace=False)].tolist()
    scores = np.array(rounded(row.scores))[ranks]
    if config.sampling == "stratified":
        ordered = ranks[np.argsort(-scores, kind="stable")]
        return [int(rng.choice(stratum)) for stratum in np.array_split(ordered, size)]
    (own,) = rounded([score_of(row, positive)])
    log_p = -config.simans_a * (scores - own - config.simans_b) ** 2
    # Drawing one after the other by these weights is ordering them with Gumbel noise added; where
    # all weights underflow, the nearest passages are still the likeliest.
    order = np.argsort(-(log_p + rng.gumbel(size=len(ranks))), kind="stable")
    return ranks[order[:size]].tolist()
