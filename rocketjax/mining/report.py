"""What mining dropped, added and topped up, with examples to read."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rocketjax.config.schema import ListConfig
from rocketjax.data.lists import Candidates, TrainingList
from rocketjax.mining.calibrate import Calibration
from rocketjax.mining.rules import Eligible
from rocketjax.runtime.files import read_object, valid, write_json

EXAMPLES = 6


@dataclass(frozen=True)
class MiningReport:
    """What was dropped, added and topped up."""

    queries: int
    unlabelled: int  # of them without a judgement
    undenoised: int  # lists
    denoised: int  # lists, those of pseudo-positives counted
    pseudo_positives: int
    scored: int  # candidates the re-ranker scored, those of lists without a label not counted
    dropped: int  # of them too likely to be positives for a denoised list
    likely_positives: int  # of those above `high`
    topped_up: int  # negatives taken from deeper ranks
    short: int  # lists with fewer passages than lists.length
    lost: int  # unlabelled queries without a pseudo-positive
    scale: float | None  # of the calibration
    shift: float | None
    examples: list[tuple[str, str, float]]  # query, its likeliest dropped passage, probability
    copies: int = 0  # candidates left out for saying what a positive of the same question says
    alone: int = 0  # lists without any negative, short ones all of them
    distilled: int = 0  # lists without a label, for distillation alone
    taken: dict[str, int] = field(default_factory=dict)  # candidates that each rule left out
    ruled: int = 0  # (query, positive) that the rules were applied to
    pool: int = 0  # candidates that they had
    sampling: str = "uniform"  # how negatives were drawn


class Ruled(NamedTuple):
    """What the rules left out, over all (query, positive)."""

    taken: Mapping[str, int] = {}
    number: int = 0  # of (query, positive)
    pool: int = 0  # their candidates

    def plus(self, more: Iterable[Eligible]) -> "Ruled":
        """With those of further ones."""
        taken, number, pool = dict(self.taken), self.number, self.pool
        for one in more:
            number, pool = number + 1, pool + one.pool
            for name, count in one.taken.items():
                taken[name] = taken.get(name, 0) + count
        return Ruled(taken, number, pool)


def describe(
    report: MiningReport, query_text: Callable[[str], str], passage_text: Callable[[str], str]
) -> str:
    """The report as lines for people, with a few dropped candidates to read."""
    lines = [
        f"{report.queries:,} queries ({report.unlabelled:,} unlabelled, {report.lost:,} of them "
        f"dropped): {report.undenoised:,} undenoised and {report.denoised:,} denoised lists, "
        f"{report.short:,} of them short"
        + (f" and {report.alone:,} without any negative" if report.alone else ""),
    ]
    if report.distilled:
        lines.append(f"{report.distilled:,} lists without a label, for distillation alone")
    if report.copies:
        lines.append(
            f"{report.copies:,} candidates left out: they say what a positive says, under another "
            "id, or answer another query of the same text"
        )
    if line := composed(report):
        lines.append(line)
    if report.scored:
        line = f"{report.scored:,} candidates scored"
        if report.denoised or report.dropped:  # else none were to be dropped
            line += (
                f": {report.dropped:,} too likely to be negatives, of those "
                f"{report.likely_positives:,} likely positives; {report.pseudo_positives:,} "
                f"pseudo-positives added, {report.topped_up:,} negatives topped up"
            )
        lines.append(line)
    for query, pid, probability in report.examples:
        lines.append(f"  {probability:.2f}  {query_text(query)[:100]}")
        lines.append(f"        {pid}: {' '.join(passage_text(pid).split())[:100]}")
    return "\n".join(lines)


def composed(report: MiningReport) -> str:
    """What each rule left out, and how negatives were drawn from the rest; "" without rules."""
    if not report.taken and report.sampling == "uniform":
        return ""
    number = max(report.ruled, 1)
    rules = [
        f"{name} took {count:,} ({count / number:.1f} a list)"
        for name, count in report.taken.items()
    ]
    left = report.pool - sum(report.taken.values())
    return (
        f"{report.pool / number:.1f} candidates a positive"
        + "".join(f"; {rule}" for rule in rules)
        + f"; negatives are drawn from the other {left / number:.1f} ({report.sampling})"
    )


def write_report(path: Path, report: MiningReport, texts: Sequence[tuple[str, str]]) -> None:
    """The report, and the texts of its examples' queries and passages."""
    write_json(path, dataclasses.asdict(report) | {"texts": texts})


def read_report(path: Path) -> tuple[MiningReport, list[tuple[str, str]]]:
    """The report and the texts of `write_report`. Raises InputError where it is damaged."""
    values = read_object(path)
    names = {field.name for field in dataclasses.fields(MiningReport)}
    known = {name: value for name, value in values.items() if name in names}
    report = valid(MiningReport, known, path, "mine again")
    return report, valid(list[tuple[str, str]], values.get("texts", []), path, "mine again")


def make_report(
    candidates: Sequence[Candidates],
    lists: Sequence[TrainingList],
    dropped: list[tuple[float, str, str]],
    ruled: Ruled,
    calibration: Calibration | None,
    config: ListConfig,
) -> MiningReport:
    """Counts what hybrid augmentation did, with some examples."""
    by_query = {row.query: row for row in candidates}
    clean = [item for item in lists if item.kind == "denoised"]
    distilled = sum(item.kind == "unlabelled" for item in lists)
    unlabelled = {row.query for row in candidates if not row.positives}
    likeliest: dict[str, tuple[float, str, str]] = {}  # one a query
    for item in sorted(dropped, reverse=True):
        likeliest.setdefault(item[1], item)
    return MiningReport(
        queries=len(candidates),
        unlabelled=len(unlabelled),
        undenoised=len(lists) - len(clean) - distilled,
        denoised=len(clean),
        pseudo_positives=sum(item.pseudo for item in lists),
        # Of lists without a label it drops nothing: the share would be too small.
        scored=sum(
            len(row.scores) for row in candidates if row.positives or config.unlabelled != "distill"
        ),
        dropped=len(dropped),
        likely_positives=sum(p > config.high for p, _, _ in dropped),
        topped_up=sum(_topped_up(item, by_query[item.query]) for item in clean),
        short=sum(len(item.passages) < config.length for item in lists),
        alone=sum(not item.negatives for item in lists),
        distilled=distilled,
        copies=sum(row.copies for row in candidates),
        taken=dict(ruled.taken),
        ruled=ruled.number,
        pool=ruled.pool,
        sampling=config.sampling,
        lost=len(unlabelled - {item.query for item in lists}),
        scale=calibration.scale if calibration else None,
        shift=calibration.shift if calibration else None,
        examples=[(q, pid, round(p, 4)) for p, q, pid in list(likeliest.values())[:EXAMPLES]],
    )


def _topped_up(item: TrainingList, row: Candidates) -> int:
    """How many negatives come from ranks below the scored ones."""
    return len({*item.negatives}.intersection(row.passages[len(row.scores) :]))
