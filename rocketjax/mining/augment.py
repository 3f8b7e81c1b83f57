"""Hybrid data augmentation: training lists from what the retriever finds and the re-ranker says.

Undenoised lists: a positive, and a uniform sample of the retriever's best passages. Some of those
do answer the query, nobody judged them. Denoised lists: only passages that the re-ranker finds
unlikely to answer it. RocketQAv2 trains on both.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from rocketjax.config.schema import ListConfig
from rocketjax.data.lists import Candidates, TrainingList, hash_bits
from rocketjax.mining.calibrate import Calibration
from rocketjax.mining.known import Known
from rocketjax.mining.report import MiningReport, make_report
from rocketjax.runtime.errors import InputError


def undenoised_lists(
    candidates: Iterable[Candidates], config: ListConfig, seed: int
) -> list[TrainingList]:
    """One list a (query, positive), its negatives a uniform sample of the `top_n` candidates.

    Of many positives, `config.positives` are drawn.

    The draw depends on seed, query and positive alone, so other queries, devices or orders do not
    change it. Unlabelled queries have none.
    """
    lists = []
    for row in candidates:
        pool = row.passages[: config.top_n]
        for positive in _drawn(row, config, seed):
            negatives = _sample(pool, config.length - 1, seed, row, positive)
            lists.append(TrainingList(row.query, positive, negatives))
    return lists


def unlabelled_lists(row: Candidates, config: ListConfig, seed: int) -> list[TrainingList]:
    """One list without a label, for distillation alone; none of fewer than two passages.

    The retriever's best passage stands where the positive would, for it is the likeliest to answer;
    the others are a uniform sample of the `top_n`, as in an undenoised list.
    """
    best, pool = row.passages[:1], row.passages[1 : config.top_n]
    passages = (*best, *_sample(pool, config.length - 1, seed, row, "", "unlabelled"))
    return [TrainingList(row.query, "", passages, "unlabelled")] if len(passages) > 1 else []


def given_lists(known: Known, config: ListConfig, seed: int) -> tuple[list[TrainingList], int]:
    """One list a (query, positive), its negatives a sample of those the query came with.

    Those that answer the query (`Known`) are left out; also returns how many. Queries that came
    without any have no list. Raises InputError where that leaves no list.
    """
    candidates, copies = [], 0
    for query in known.split.queries:
        if (found := known.split.negatives.get(query)) and (positives := known.positives(query)):
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


def hybrid_lists(
    candidates: Sequence[Candidates],
    calibration: Calibration | None,
    config: ListConfig,
    seed: int,
) -> tuple[list[TrainingList], MiningReport]:
    """Undenoised and denoised lists, `config.denoised` of them denoised (in expectation).

    Which positives have a list of which kind (`lists_per_positive`) is drawn by seed, query and
    positive. Pseudo-positives have denoised lists alone, and come on top, or unlabelled queries
    have a list without a label each. `calibration` may be None where nothing is to be denoised.
    """
    undenoised, denoised = lists_per_positive(config)
    lists: list[TrainingList] = []
    dropped: list[tuple[float, str, str]] = []
    for row in candidates:
        if is_distilled(row, config):
            lists += unlabelled_lists(row, config, seed)
            continue
        plain = undenoised_lists([row], config, seed)
        clean: list[TrainingList] = []
        if config.denoised and calibration is not None:
            p = _probabilities(row, calibration)
            clean = _denoised(row, p, config, seed)
            named = zip(row.passages, p.tolist(), strict=False)
            dropped += [(value, row.query, pid) for pid, value in named if value >= config.low]
        lists += [item for item in plain if _kept(item, undenoised, seed)]
        lists += [item for item in clean if item.pseudo or _kept(item, denoised, seed)]
    return lists, make_report(candidates, lists, dropped, calibration, config)


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


def _denoised(row: Candidates, p: np.ndarray, config: ListConfig, seed: int) -> list[TrainingList]:
    """A query's lists whose negatives have a probability below `low`; p: of its scored passages.

    Negatives are a uniform sample of those; where there are too few, the passages ranked behind
    the scored ones follow in the retriever's order (as RocketQA does), down to what was mined.
    Besides the positives, the likeliest passages above `high`, at most `pseudo_positives` of them,
    have lists.
    """
    likely = sorted((i for i in range(len(p)) if p[i] > config.high), key=lambda i: -p[i])
    pseudo = [row.passages[i] for i in likely[: config.pseudo_positives]]
    pool = [pid for pid, value in zip(row.passages, p, strict=False) if value < config.low]
    deeper = row.passages[len(p) :]
    size = config.length - 1
    lists = []
    for positive in (*_drawn(row, config, seed), *pseudo):
        drawn = _sample(pool, size, seed, row, positive, "denoised")
        negatives = (*drawn, *deeper[: size - len(drawn)])
        is_pseudo = positive not in row.positives
        lists.append(TrainingList(row.query, positive, negatives, "denoised", is_pseudo))
    return lists


def _probabilities(row: Candidates, calibration: Calibration) -> np.ndarray:
    # Rounded: what another number of devices changes in a score's last digits changes no list.
    return calibration.probability([float(f"{score:.5g}") for score in row.scores])


def _sample(
    pool: Sequence[str], size: int, seed: int, row: Candidates, positive: str, *kind: str
) -> tuple[str, ...]:
    rng = np.random.default_rng([seed, *map(hash_bits, (row.query, positive, *kind))])
    size = min(size, len(pool))
    drawn: list[int] = rng.choice(len(pool), size=size, replace=False).tolist() if size else []
    return tuple(pool[i] for i in drawn)


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
