"""What distillation has to work with: a run's diagnostics, each with how to read it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rocketjax.config.loss import resolve_loss
from rocketjax.config.schema import Config
from rocketjax.report import figures
from rocketjax.report.elements import Picture, Table, captioned
from rocketjax.report.record import Columns, Record

WINDOW = 10  # steps at least that a value is the mean of
MEASURE = "MRR@10"


@dataclass(frozen=True)
class Measure:
    """A column of the log: its name, its form in the table, its range, and how to read it."""

    column: str
    name: str
    form: str
    reading: str


SHARE, NUMBER, SIGNED = "{:.1%}", "{:.2f}", "{:+.3f}"
MEASURES = (
    Measure(
        "teacher_entropy",
        "Teacher's entropy, nats",
        NUMBER,
        "Near 0 the teacher is certain and says no more than a label; near the entropy of equal "
        "scores it tells nothing apart; what a label cannot say lies between.",
    ),
    Measure(
        "uniform_entropy",
        "Entropy of equal scores, nats",
        NUMBER,
        "The logarithm of the number of passages in a list: the most that the entropy can be.",
    ),
    Measure(
        "teacher_disagrees",
        "Lists where the teacher's first is not the label",
        SHARE,
        "Near 0 the teacher repeats the label: the lists are too easy for it to add anything. Many "
        "are worth having only from a teacher that ranks better than the retriever.",
    ),
    Measure(
        "distill_cosine",
        "Cosine of the distillation's gradient with the label's",
        NUMBER,
        "With respect to the retriever's scores of a list. Near 1 distillation pulls where the "
        "label pulls already; near 0 it adds something of its own; below 0 they disagree.",
    ),
    Measure(
        "retriever_cosine",
        "Cosine of the retriever's gradient with the label's",
        NUMBER,
        "Of both terms by their weights. Near 1 the retriever moves as if there were only the "
        "label: more loss.distill_weight or less loss.retriever_weight changes that.",
    ),
    Measure(
        "labelled",
        "Lists with a label",
        SHARE,
        "The retriever learns from the others by distillation alone (lists.unlabelled distill).",
    ),
    Measure(
        "masked_negatives",
        "Negatives that are masked",
        SHARE,
        "Of the retriever's own cross-entropy, as too likely to answer (loss.mask_by_reranker, "
        "loss.mask_by_retriever). If it is far above a few percent, useful hard "
        "negatives are masked as well.",
    ),
    Measure(
        "retriever_clipped",
        "Steps in which the retriever's gradient is clipped",
        SHARE,
        "By optimizer.clip. {clip}",
    ),
    Measure(
        "reranker_clipped",
        "Steps in which the re-ranker's gradient is clipped",
        SHARE,
        "Likewise.",
    ),
)
LEAD = Measure(
    "lead",
    f"Re-ranker's lead over the retriever on the pool, {MEASURE}",
    SIGNED,
    "Above 0 the teacher ranks better than its student and has something to teach; at 0 or below "
    "it teaches its own errors.",
)
CLIP_BY = {
    "all": "The norm is that of both models together, so one model's large gradient shortens the "
    "other's step too (optimizer.clip_by model takes each by itself).",
    "model": "The norm is each model's own (optimizer.clip_by model).",
}


@dataclass(frozen=True)
class Distillation:
    """The page's section on distillation."""

    table: Table
    readings: list[tuple[str, str]]  # a measure's name, and how to read it
    pictures: list[Picture]


def distillation_section(record: Record) -> Distillation | None:
    """None before the first joint step, or where its log has none of the measures."""
    log = record.log.get("joint", {})
    shown = [measure for measure in MEASURES if measure.column in log]
    if not shown:
        return None
    rows = [[m.name, *_ends(log[m.column], m.form)] for m in shown]
    reranker_teaches = record.config.loss.teacher != "stored"
    if reranker_teaches and len(lead := _lead(record)):
        shown.append(LEAD)
        rows.append([LEAD.name, LEAD.form.format(lead[0]), LEAD.form.format(lead[-1])])
    clip = CLIP_BY[record.config.joint.optimizer.clip_by]
    return Distillation(
        Table(["joint training", "first steps", "last steps"], rows),
        [(measure.name, measure.reading.format(clip=clip)) for measure in shown],
        list(_pictures(log, record.config)),
    )


def _ends(values: np.ndarray, form: str) -> tuple[str, str]:
    """The means of the first and of the last tenth, of `WINDOW` steps at least."""
    values = values[np.isfinite(values)]
    size = max(WINDOW, len(values) // 10)
    parts = values[:size], values[-size:]
    first, last = (form.format(np.mean(part)) if len(part) else "" for part in parts)
    return first, last


def _lead(record: Record) -> np.ndarray:
    """The re-ranker's measure less the retriever's, each time they were judged."""
    names = [f"{model} {MEASURE}" for model in ("reranker", "retriever")]
    if not all(name in record.held_out for name in names):
        return np.array([])
    reranker, retriever = (record.held_out[name] for name in names)
    return (reranker - retriever)[np.isfinite(reranker - retriever)]


def _pictures(log: Columns, config: Config) -> Iterator[Picture]:
    loss = resolve_loss(config.loss)
    live = loss.teacher_temperature or loss.distill_temperature
    who = {
        "live": f"the re-ranker's scores, divided by {live:g}",
        "stored": f"the stored scores, divided by {loss.stored_temperature or live:g}",
        "both": f"the re-ranker's scores, divided by {live:g}, and of the stored ones, divided by "
        f"{loss.stored_temperature or live:g}",
    }
    if {"teacher_entropy", "uniform_entropy"} <= log.keys():
        yield captioned(
            figures.entropy(log),
            "How certain the teacher is",
            f"Entropy of the distribution over a list that is distilled: of {who[loss.teacher]}.",
        )
    if {"teacher_disagrees", "distill_cosine", "retriever_cosine"} <= log.keys():
        yield captioned(
            figures.agreement(log),
            "What distillation adds to the label",
            "Cosines with the label's gradient, with respect to the retriever's scores of a list: "
            "of the distillation, and of both terms by their weights "
            f"({loss.retriever_weight:g} label, {loss.distill_weight:g} distillation).",
        )
