"""Hybrid data augmentation: training lists from what the retriever finds and the re-ranker says.

Undenoised lists: a positive, and a uniform sample of the retriever's best passages. Some of those
do answer the query, nobody judged them. Denoised lists: only passages that the re-ranker finds
unlikely to answer it. RocketQAv2 trains on both.
"""

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import pydantic

from rocketjax.calibrate import Calibration
from rocketjax.config import ListConfig
from rocketjax.data.lines import BadRows, lines
from rocketjax.data.qrels import relevant
from rocketjax.errors import InputError
from rocketjax.files import read_object, valid, write_json, write_text

EXAMPLES = 6
# Kept once, however many lists it is in: of half a million queries with a thousand candidates each,
# ids would take 30 GB.
Id: TypeAlias = Annotated[str, pydantic.AfterValidator(sys.intern)]


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class TrainingList:
    """A query, its positive passage and its negatives, all by id."""

    query: str
    positive: str
    negatives: tuple[Id, ...]
    kind: Literal["undenoised", "denoised"] = "undenoised"
    pseudo: bool = False  # the positive is one by the re-ranker's word, not by a judgement


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Candidates:
    """What mining found for a query, best first; known positives are not among `passages`."""

    query: str
    positives: tuple[str, ...]  # empty: nobody judged the query
    passages: tuple[Id, ...]
    scores: tuple[float, ...] = ()  # the re-ranker's, of the first len(scores) passages
    positive_scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class MiningReport:
    """What was dropped, added and topped up."""

    queries: int
    unlabelled: int  # of them without a judgement
    undenoised: int  # lists
    denoised: int  # lists, those of pseudo-positives counted
    pseudo_positives: int
    scored: int  # candidates the re-ranker scored
    dropped: int  # of them too likely to be positives for a denoised list
    likely_positives: int  # of those above `high`
    topped_up: int  # negatives taken from deeper ranks
    short: int  # lists with fewer passages than asked for
    lost: int  # unlabelled queries without a pseudo-positive
    scale: float | None  # of the calibration
    shift: float | None
    examples: list[tuple[str, str, float]]  # query, its likeliest dropped passage, probability


def undenoised_lists(
    candidates: Iterable[Candidates], config: ListConfig, seed: int
) -> list[TrainingList]:
    """One list a (query, positive), its negatives a uniform sample of the `top_n` candidates.

    Of many positives, `config.positives` are drawn.

    The draw hangs on seed, query and positive alone, so other queries, devices or orders do not
    change it. Unlabelled queries have none.
    """
    return [
        TrainingList(row.query, positive, _sample(pool, config.length - 1, seed, row, positive))
        for row in candidates
        for pool in [row.passages[: config.top_n]]
        for positive in _drawn(row, config, seed)
    ]


def given_lists(
    queries: Iterable[str],
    qrels: Mapping[str, Mapping[str, int]],
    negatives: Mapping[str, Sequence[str]],
    config: ListConfig,
    seed: int,
) -> list[TrainingList]:
    """One list a (query, positive), its negatives a sample of those the query came with.

    Queries that came without any have none. Raises InputError where that leaves no list.
    """
    candidates = [
        Candidates(query, tuple(relevant(judged)), tuple(found))
        for query in queries
        if (found := negatives.get(query)) and (judged := qrels.get(query))
    ]
    whole = dataclasses.replace(config, top_n=max((len(c.passages) for c in candidates), default=1))
    lists = undenoised_lists(candidates, whole, seed)
    if not lists:
        raise InputError(
            "lists.source is given, but no training query came with a positive and a hard "
            "negative; --lists.source mined finds negatives"
        )
    return lists


def hybrid_lists(
    candidates: Sequence[Candidates],
    calibration: Calibration | None,
    config: ListConfig,
    seed: int,
) -> tuple[list[TrainingList], MiningReport]:
    """Undenoised and denoised lists, `config.denoised` of them denoised (in expectation).

    Which positives have a list of which kind (`lists_per_positive`) is drawn by seed, query and
    positive. Pseudo-positives have denoised lists alone, and come on top. `calibration` may be
    None where nothing is to be denoised.
    """
    undenoised, denoised = lists_per_positive(config)
    lists: list[TrainingList] = []
    dropped: list[tuple[float, str, str]] = []
    for row in candidates:
        plain = undenoised_lists([row], config, seed)
        clean: list[TrainingList] = []
        if config.denoised and calibration is not None:
            p = _probabilities(row, calibration)
            clean = _denoised(row, p, config, seed)
            named = zip(row.passages, p.tolist(), strict=False)
            dropped += [(value, row.query, pid) for pid, value in named if value >= config.low]
        lists += [item for item in plain if _kept(item, undenoised, seed)]
        lists += [item for item in clean if item.pseudo or _kept(item, denoised, seed)]
    return lists, _report(candidates, lists, dropped, calibration, config)


def lists_per_positive(config: ListConfig) -> tuple[float, float]:
    """How many undenoised and denoised lists a positive has in expectation, each at most one.

    The kind that is asked for more has a list for every positive, and the other one for a part of
    them: at a share of 0.5 every positive has one of either kind.
    """
    share = config.denoised
    most = max(share, 1 - share)
    return (1 - share) / most, share / most


def describe(
    report: MiningReport, query_text: Callable[[str], str], passage_text: Callable[[str], str]
) -> str:
    """The report as lines for people, with a few dropped candidates to read."""
    lines = [
        f"{report.queries:,} queries ({report.unlabelled:,} unlabelled, {report.lost:,} of them "
        f"dropped): {report.undenoised:,} undenoised and {report.denoised:,} denoised lists, "
        f"{report.short:,} of them short",
    ]
    if report.scored:
        lines += [
            f"{report.scored:,} candidates scored: {report.dropped:,} too likely to be negatives, "
            f"of those {report.likely_positives:,} likely positives; {report.pseudo_positives:,} "
            f"pseudo-positives added, {report.topped_up:,} negatives topped up",
        ]
    for query, pid, probability in report.examples:
        lines.append(f"  {probability:.2f}  {query_text(query)[:100]}")
        lines.append(f"        {pid}: {' '.join(passage_text(pid).split())[:100]}")
    return "\n".join(lines)


def write_lists(path: Path, lists: Sequence[TrainingList]) -> None:
    """One JSON object a line, whole or not at all."""
    _write_rows(path, lists)


def read_lists(path: Path) -> list[TrainingList]:
    """The lists of `write_lists`.

    Raises:
        InputError: a line is no such object, or a list without a positive; the line is named.
    """
    lists = []
    for place, item in _read_rows(path, TrainingList):
        if not item.positive:
            raise InputError(f"{place}: positive: the list of {item.query!r} has none")
        lists.append(item)
    return lists


def write_candidates(path: Path, candidates: Sequence[Candidates]) -> None:
    """One JSON object a line, whole or not at all."""
    _write_rows(path, candidates)


def read_candidates(path: Path) -> list[Candidates]:
    """The candidates of `write_candidates`.

    Raises:
        InputError: a line is no such object, scores and passages do not fit, a passage stands
            twice or is a known positive, or a score is not finite; the line is named.
    """
    rows = []
    for place, row in _read_rows(path, Candidates):
        if len(row.scores) > len(row.passages):
            raise InputError(f"{place}: scores: {len(row.scores)} for {len(row.passages)} passages")
        if row.positive_scores and len(row.positive_scores) != len(row.positives):
            raise InputError(f"{place}: positive_scores: not one for each of the positives")
        if len({*row.passages, *row.positives}) < len(row.passages) + len(row.positives):
            raise InputError(f"{place}: passages: one stands twice, or is a known positive")
        if not all(map(math.isfinite, (*row.scores, *row.positive_scores))):
            raise InputError(f"{place}: scores: one is not finite; mine again")
        rows.append(row)
    return rows


def write_report(path: Path, report: MiningReport, texts: Sequence[tuple[str, str]]) -> None:
    """The report, and what its examples' queries and passages say."""
    write_json(path, dataclasses.asdict(report) | {"texts": texts})


def read_report(path: Path) -> tuple[MiningReport, list[tuple[str, str]]]:
    """The report and the texts of `write_report`. Raises InputError where it is damaged."""
    values = read_object(path)
    names = {field.name for field in dataclasses.fields(MiningReport)}
    known = {name: value for name, value in values.items() if name in names}
    report = valid(MiningReport, known, path, "mine again")
    return report, valid(list[tuple[str, str]], values.get("texts", []), path, "mine again")


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
    rng = np.random.default_rng([seed, *map(_number, (row.query, positive, *kind))])
    size = min(size, len(pool))
    drawn: list[int] = rng.choice(len(pool), size=size, replace=False).tolist() if size else []
    return tuple(pool[i] for i in drawn)


def _drawn(row: Candidates, config: ListConfig, seed: int) -> Sequence[str]:
    """The positives that have lists, in their order."""
    if not 0 < config.positives < len(row.positives):
        return row.positives
    rng = np.random.default_rng([seed, *map(_number, (row.query, "positives"))])
    drawn = rng.choice(len(row.positives), size=config.positives, replace=False)
    return [row.positives[i] for i in sorted(drawn.tolist())]


def _kept(item: TrainingList, share: float, seed: int) -> bool:
    """Whether the list is among the `share` of its kind that is made."""
    if share >= 1:
        return True
    numbers = map(_number, (item.query, item.positive, "kind"))
    return np.random.default_rng([seed, *numbers]).random() < share


def _report(
    candidates: Sequence[Candidates],
    lists: Sequence[TrainingList],
    dropped: list[tuple[float, str, str]],
    calibration: Calibration | None,
    config: ListConfig,
) -> MiningReport:
    by_query = {row.query: row for row in candidates}
    clean = [item for item in lists if item.kind == "denoised"]
    unlabelled = {row.query for row in candidates if not row.positives}
    likeliest: dict[str, tuple[float, str, str]] = {}  # one a query
    for item in sorted(dropped, reverse=True):
        likeliest.setdefault(item[1], item)
    return MiningReport(
        queries=len(candidates),
        unlabelled=len(unlabelled),
        undenoised=len(lists) - len(clean),
        denoised=len(clean),
        pseudo_positives=sum(item.pseudo for item in lists),
        scored=sum(len(row.scores) for row in candidates),
        dropped=len(dropped),
        likely_positives=sum(p > config.high for p, _, _ in dropped),
        topped_up=sum(_topped_up(item, by_query[item.query]) for item in clean),
        short=sum(len(item.negatives) < config.length - 1 for item in lists),
        lost=len(unlabelled - {item.query for item in lists}),
        scale=calibration.scale if calibration else None,
        shift=calibration.shift if calibration else None,
        examples=[(q, pid, round(p, 4)) for p, q, pid in list(likeliest.values())[:EXAMPLES]],
    )


def _topped_up(item: TrainingList, row: Candidates) -> int:
    """How many negatives are of the ranks behind the scored ones."""
    return len({*item.negatives}.intersection(row.passages[len(row.scores) :]))


def _write_rows(path: Path, rows: Sequence[Any]) -> None:
    write_text(path, "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))


def _read_rows(path: Path, cls: type) -> Iterator[tuple[str, Any]]:
    """Each line's place ("file:line") and row."""
    adapter = pydantic.TypeAdapter(cls)
    fields = ", ".join(field.name for field in dataclasses.fields(cls))
    for place, line in lines(path, BadRows()):
        try:
            yield place, adapter.validate_json(line, strict=True)
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise InputError(
                f"{place}: {where}: {first['msg']}; expected an object of {fields}"
            ) from error


def _number(text: str) -> int:
    """A number that is the same in every process, unlike hash()."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
