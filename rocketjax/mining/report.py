"""What mining dropped, added and topped up, with examples to read."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import chain
from pathlib import Path

from rocketjax.config.schema import ListConfig
from rocketjax.data.lists import Candidates, TrainingList
from rocketjax.mining.calibrate import Calibration
from rocketjax.mining.rules import Eligible
from rocketjax.runtime.files import read_object, valid, write_json

EXAMPLES = 6
FEW = 0.5  # of the positives; docs/method.md has what comes of fewer


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
    positives: int = 0  # that the retriever looked for
    found: int = 0  # of them before the candidates that undenoised negatives are drawn from end


class Tally:
    """Counts what hybrid augmentation does, a query at a time: no more than a few are in memory."""

    def __init__(self, calibration: Calibration | None, config: ListConfig) -> None:
        self._calibration, self._config = calibration, config
        self._counts: Counter[str] = Counter()
        self._taken: dict[str, int] = {}
        self._likeliest: list[tuple[float, str, str]] = []  # one a query, in falling order

    def add(
        self,
        row: Candidates,
        lists: Sequence[TrainingList],
        dropped: Mapping[str, float] = {},
        allowed: Sequence[Eligible] = (),
    ) -> None:
        """Counts a further query.

        Args:
            row: its candidates.
            lists: made of them.
            dropped: probabilities of candidates, those at or above `low`.
            allowed: what the rules left, for each positive that they were applied to.
        """
        clean = [item for item in lists if item.kind == "denoised"]
        distilled = sum(item.kind == "unlabelled" for item in lists)
        # Of lists without a label denoising drops nothing: the share would be too small.
        is_counted = bool(row.positives) or self._config.unlabelled != "distill"
        self._counts += Counter(
            queries=1,
            unlabelled=int(not row.positives),
            undenoised=len(lists) - len(clean) - distilled,
            denoised=len(clean),
            pseudo_positives=sum(item.pseudo for item in lists),
            scored=len(row.scores) if is_counted else 0,
            dropped=len(dropped),
            likely_positives=sum(p > self._config.high for p in dropped.values()),
            topped_up=sum(_topped_up(item, row) for item in clean),
            short=sum(len(item.passages) < self._config.length for item in lists),
            alone=sum(not item.negatives for item in lists),
            distilled=distilled,
            copies=row.copies,
            positives=len(row.positives) if row.above is not None else 0,
            found=sum(rank < self._config.top_n for rank in row.above or ()),
            lost=int(not row.positives and not lists),
            ruled=len(allowed),
            pool=sum(one.pool for one in allowed),
        )
        for name, count in chain.from_iterable(one.taken.items() for one in allowed):
            self._taken[name] = self._taken.get(name, 0) + count
        if dropped:
            likeliest = max((p, row.query, pid) for pid, p in dropped.items())
            self._likeliest = nlargest(EXAMPLES, [*self._likeliest, likeliest])

    def report(self) -> MiningReport:
        """All counts so far, with some examples."""
        names = [item.name for item in dataclasses.fields(MiningReport) if item.type is int]
        return MiningReport(
            **{name: self._counts[name] for name in names},
            scale=self._calibration.scale if self._calibration else None,
            shift=self._calibration.shift if self._calibration else None,
            examples=[(query, pid, round(p, 4)) for p, query, pid in self._likeliest],
            taken=dict(self._taken),
            sampling=self._config.sampling,
        )


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
    if line := reach(report):
        lines.append(line)
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


def reach(report: MiningReport) -> str:
    """How many positives are found where negatives come from; "" where nobody looked."""
    if not report.positives:
        return ""
    share = report.found / report.positives
    line = (
        f"{report.found:,} of {report.positives:,} positives ({share:.0%}) are among the "
        "retriever's best top_n, which undenoised negatives are drawn from"
    )
    if share >= FEW:
        return line
    return (
        f"{line}; all others are less similar to their query than every negative, which is what "
        "models may learn: raise lists.top_n, or warm up the retriever"
    )


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


def _topped_up(item: TrainingList, row: Candidates) -> int:
    """How many negatives come from ranks below the scored ones."""
    return len({*item.negatives}.intersection(row.passages[len(row.scores) :]))
