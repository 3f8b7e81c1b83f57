"""Hybrid data augmentation: training lists from what the retriever finds and the re-ranker says.

Undenoised lists: a positive, and a sample of the retriever's best passages, uniform unless the
config has other rules (rules.py). Some of those do answer the query, nobody judged them. Denoised
lists: only passages that the re-ranker finds unlikely to answer it. RocketQAv2 trains on both.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rocketjax.config.schema import ListConfig
from rocketjax.data.lists import Candidates, TrainingList, hash_bits
from rocketjax.data.passages import Passage
from rocketjax.mining.calibrate import Calibration
from rocketjax.mining.known import Known
from rocketjax.mining.report import Tally
from rocketjax.mining.rules import Eligible, draw, eligible, rounded
from rocketjax.runtime.errors import InputError


def undenoised_lists(
    candidates: Iterable[Candidates], config: ListConfig, seed: int
) -> list[TrainingList]:
    """One list a (query, positive), its negatives a uniform sample of the `top_n` candidates.

    Of many positives, `config.positives` are drawn.

    The draw depends on seed, query and positive alone, so other queries, devices or orders do not
    change it. Unlabelled queries have none. Rules by score are those of `lists_of` alone.
    """
    return [
        item
        for row in candidates
        for item in _undenoised(row, _eligible(row, config, None, seed), config, seed)
    ]


def easy_lists(
    lists: Iterable[TrainingList], passages: Sequence[Passage], length: int, seed: int
) -> list[TrainingList]:
    """The same positives, with a uniform sample of the whole corpus for negatives.

    What else is known to answer is left out where lists become batches. The draw depends on seed,
    query and positive alone.
    """
    easy = []
    for item in lists:
        rng = np.random.default_rng([seed, *map(hash_bits, (item.query, item.positive, "easy"))])
        rows = rng.choice(len(passages), min(length, len(passages)), replace=False)
        drawn = (passages[row].id for row in rows.tolist())
        negatives = tuple(pid for pid in drawn if pid != item.positive)[: length - 1]
        easy.append(TrainingList(item.query, item.positive, negatives))
    return easy


def unlabelled_lists(row: Candidates, config: ListConfig, seed: int) -> list[TrainingList]:
    """One list without a label, for distillation alone; none of fewer than two passages.

    The retriever's best passage stands where the positive would, for it is the likeliest to answer;
    the others are drawn from the `top_n` behind it (and behind `range_min`) as in an undenoised
    list. Rules by probability are not asked: these passages are no negatives.
    """
    if not row.passages:
        return []
    best = row.passages[0]
    ranks = np.arange(max(1, config.range_min), min(config.top_n, len(row.passages)))
    passages = (best, *_sample(ranks, seed, row, best, config, "unlabelled"))
    return [TrainingList(row.query, "", passages, "unlabelled")] if len(passages) > 1 else []


def given_lists(known: Known, config: ListConfig, seed: int) -> tuple[list[TrainingList], int]:
    """One list a (query, positive), its negatives a sample of those the query came with.

    Those that answer the query (`Known`) are left out; also returns how many. Queries that came
    without any have no list. Raises InputError where that leaves no list.
    """
    candidates, copies = [], 0
    for query in known.split.queries:
        # A query is no negative of its own (ArguAna), which is no copy.
        found = [pid for pid in known.split.negatives.get(query, ()) if pid != query]
        if found and (positives := known.positives(query)):
            left = known.left(query, found, len(found)).passages
            copies += len(found) - len(left)
            candidates += [Candidates(query, positives, left)] if left else []
    whole = dataclasses.replace(config, top_n=max((len(c.passages) for c in candidates), default=1))
    lists = undenoised_lists(candidates, whole, seed)
    if not lists:
        others = f" ({copies:,} say what a positive says)" if copies else ""
        raise InputError(
            "lists.source is given, but no training query came with a positive and a hard "
            f"negative{others}; --lists.source mined finds negatives"
        )
    return lists, copies


def lists_of(
    row: Candidates,
    calibration: Calibration | None,
    config: ListConfig,
    seed: int,
    tally: Tally,
) -> list[TrainingList]:
    """A query's undenoised and denoised lists, `config.denoised` of them denoised (in expectation).

    Which positives have a list of which kind (`lists_per_positive`) is drawn by seed, query and
    positive. Pseudo-positives have denoised lists alone, and come on top, or an unlabelled query
    has a list without a label. So a query's lists do not depend on other queries, but for the
    calibration.

    Args:
        calibration: may be None where nothing is to be denoised.
        tally: counts the query.
    """
    if is_distilled(row, config):
        lists = unlabelled_lists(row, config, seed)
        tally.add(row, lists)
        return lists
    undenoised, denoised = lists_per_positive(config)
    allowed = _eligible(row, config, calibration, seed)
    plain, clean = _undenoised(row, allowed, config, seed), []
    dropped: dict[str, float] = {}
    if config.denoised and calibration is not None:
        p = calibration.probability(rounded(row.scores)).tolist()
        clean = _denoised(row, allowed, calibration, config, seed)
        named = zip(row.passages, p, strict=False)
        dropped = {pid: value for pid, value in named if value >= config.low}
    lists = [item for item in plain if _kept(item, undenoised, seed)]
    lists += [item for item in clean if item.pseudo or _kept(item, denoised, seed)]
    tally.add(row, lists, dropped, [*allowed.values()])
    return lists


def is_distilled(row: Candidates, config: ListConfig) -> bool:
    """Whether a query's one list has no label."""
    return config.unlabelled == "distill" and not row.positives


def lists_per_positive(config: ListConfig) -> tuple[float, float]:
    """How many undenoised and denoised lists a positive has in expectation, each at most one.

    The more frequent kind has a list for every positive, the other one for a part of them: at a
    share of 0.5 every positive has one of either kind.
    """
    share = config.denoised
    most = max(share, 1 - share)
    return (1 - share) / most, share / most


def _eligible(
    row: Candidates, config: ListConfig, calibration: Calibration | None, seed: int
) -> dict[str, Eligible]:
    """The candidates that the rules leave, by positive that has lists."""
    return {
        positive: eligible(row, positive, config, calibration)
        for positive in _drawn(row, config, seed)
    }


def _undenoised(
    row: Candidates, allowed: Mapping[str, Eligible], config: ListConfig, seed: int
) -> list[TrainingList]:
    return [
        TrainingList(row.query, positive, _sample(left.ranks, seed, row, positive, config))
        for positive, left in allowed.items()
    ]


def _denoised(
    row: Candidates,
    allowed: Mapping[str, Eligible],
    calibration: Calibration,
    config: ListConfig,
    seed: int,
) -> list[TrainingList]:
    """A query's lists whose negatives have a probability below `low`.

    Negatives are a sample of those; where there are too few, the passages ranked behind
    the scored ones follow in the retriever's order (as RocketQA does), down to what was mined.
    Besides the positives, the likeliest passages above `high`, at most `pseudo_positives` of them,
    have lists.
    """
    p = calibration.probability(rounded(row.scores))
    likely = sorted((i for i in range(len(p)) if p[i] > config.high), key=lambda i: -p[i])
    pseudo = [row.passages[i] for i in likely[: config.pseudo_positives]]
    unlikely = np.flatnonzero(p < config.low)
    deeper = row.passages[max(len(p), config.range_min) :]
    size = config.length - 1
    lists = []
    for positive in (*allowed, *pseudo):
        left = allowed.get(positive) or eligible(row, positive, config, calibration)
        pool = np.intersect1d(left.ranks, unlikely)
        drawn = _sample(pool, seed, row, positive, config, "denoised")
        negatives = (*drawn, *deeper[: size - len(drawn)])
        is_pseudo = positive not in row.positives
        lists.append(TrainingList(row.query, positive, negatives, "denoised", is_pseudo))
    return lists


def _sample(
    ranks: np.ndarray, seed: int, row: Candidates, positive: str, config: ListConfig, *kind: str
) -> tuple[str, ...]:
    rng = np.random.default_rng([seed, *map(hash_bits, (row.query, positive, *kind))])
    drawn = draw(ranks, config.length - 1, rng, row, positive, config)
    return tuple(row.passages[i] for i in drawn)


def _drawn(row: Candidates, config: ListConfig, seed: int) -> Sequence[str]:
    """The positives that have lists, in their order."""
    if not 0 < config.positives < len(row.positives):
        return row.positives
    rng = np.random.default_rng([seed, *map(hash_bits, (row.query, "positives"))])
    drawn = rng.choice(len(row.positives), size=config.positives, replace=False)
    return [row.positives[i] for i in sorted(drawn.tolist())]


def _kept(item: TrainingList, share: float, seed: int) -> bool:
    """Whether the list is among the `share` of its kind that is made."""
    if share >= 1:
        return True
    numbers = map(hash_bits, (item.query, item.positive, "kind"))
    return np.random.default_rng([seed, *numbers]).random() < share
