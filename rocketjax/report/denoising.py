"""What denoising removed from a run's lists, in words, pictures and examples."""

from collections.abc import Iterator
from dataclasses import dataclass

from rocketjax.config.schema import Config
from rocketjax.mining.report import composed
from rocketjax.report import figures
from rocketjax.report.elements import Picture, captioned
from rocketjax.report.record import Mined, Record

NEARLY_ALL = 0.9  # of the scored candidates


@dataclass(frozen=True)
class Example:
    """A candidate that was dropped."""

    probability: str
    query: str
    passage: str


@dataclass(frozen=True)
class Denoising:
    """The page's section on denoising."""

    summary: str
    pictures: list[Picture]
    examples: list[Example]


def denoising_section(record: Record) -> Denoising | None:
    """None where the re-ranker has scored no candidates; no pictures if no list is denoised."""
    rounds = [mined for mined in record.mined if mined.report.scored]
    if not rounds:
        return None
    first, lists = rounds[0], record.config.lists
    prefix = "Round 0: " if len(rounds) > 1 else ""
    examples = zip(first.report.examples, first.texts, strict=False)
    return Denoising(
        prefix + _summary(first, record.config),
        list(_pictures(rounds, lists.low, prefix)) if lists.denoised else [],
        [
            Example(f"{probability:.2f}", query, passage)
            for (_, _, probability), (query, passage) in examples
        ],
    )


def _summary(mined: Mined, config: Config) -> str:
    report, low, high = mined.report, config.lists.low, config.lists.high
    rules = f" Lists are composed from {rules}." if (rules := composed(report)) else ""
    if not config.lists.denoised:
        return f"The re-ranker scored {report.scored:,} candidates. No list is denoised.{rules}"
    summary = (
        f"Of {report.scored:,} candidates that the re-ranker scored, {report.dropped:,} "
        f"({report.dropped / report.scored:.1%}) have a probability of {low:g} or more and are "
        f"kept out of denoised lists; {report.likely_positives:,} of them are above {high:g}. "
        f"{report.pseudo_positives:,} became positives of lists of their own; "
        f"{report.topped_up:,} negatives of {report.denoised:,} denoised lists came from deeper "
        "ranks instead."
    )
    if report.dropped > NEARLY_ALL * report.scored:
        summary += " That is nearly all: the re-ranker is too unsure to clear many candidates."
    return summary + rules


def _pictures(rounds: list[Mined], low: float, prefix: str) -> Iterator[Picture]:
    yield captioned(
        figures.dropped(rounds, low),
        "False negatives removed",
        "Candidates: the share of what the retriever ranked that no denoised list takes. Known "
        "positives: the share that the same rule would have caught, had nobody judged them.",
    )
    first = rounds[0]
    if len(first.candidates) and len(first.positives):
        yield captioned(
            figures.probabilities(first, low),
            "Re-ranker probabilities during mining",
            f"{prefix}Undenoised negatives come from all candidates, denoised ones from those "
            "left of the dashed line or from deeper ranks.",
        )
