"""Captioned pictures of training: losses, held-out measures, and scores of both models."""

import math
from collections.abc import Iterator, Sequence

from rocketjax.config.loss import resolve_loss
from rocketjax.config.schema import Config
from rocketjax.evaluation.results import MODELS
from rocketjax.report import figures
from rocketjax.report.drawing import BLACK, BLUE, ORANGE
from rocketjax.report.elements import Picture, captioned
from rocketjax.report.record import Columns, Record

BOTH = ("retriever", "reranker")
JOINT_LOSSES = {
    "retriever": ("retriever", BLUE),
    "reranker": ("re-ranker", ORANGE),
    "loss": ("total loss", BLACK),
}
# What losses are averaged over, in nats.
RERANKER_LOSS_PER = {"listwise": "list", "pointwise": "passage"}
DISTILLATION = {
    "list": "mean per list",
    "element": "mean per passage",
    "sum": "sum over a step's lists",
}


def training_pictures(record: Record) -> Iterator[Picture]:
    """Joint training's pictures, then the warm-ups'; as many as the run has data for so far."""
    log = record.log.get("joint")
    if log:
        yield from _joint(log, record.config)
    yield from _held_out(record)
    yield from _warm_ups(record)


def _joint(log: Columns, config: Config) -> Iterator[Picture]:
    refreshes = _refreshes(log, config)
    if "loss" in log:
        loss = resolve_loss(config.loss)
        guess = _guess(config) if loss.retriever_negatives == "list" else None
        yield captioned(
            figures.mark_refreshes(figures.losses(log, JOINT_LOSSES, guess), refreshes),
            "Losses of joint training",
            "Each model's cross-entropy with the label (mean per list for the retriever, per "
            f"{RERANKER_LOSS_PER[loss.reranker_loss]} for the re-ranker), and the total loss: "
            f"{loss.retriever_weight:g} retriever + {loss.reranker_weight:g} re-ranker + "
            f"{loss.distill_weight:g} distillation ({DISTILLATION[loss.reduction]}).",
        )
    if "kl" in log:
        yield captioned(
            figures.mark_refreshes(figures.divergence(log), refreshes),
            "How far apart the two models are",
            "KL(re-ranker || retriever) of their distributions over a list: 0 where they agree.",
        )
    if "retriever_accuracy" in log:
        yield captioned(
            figures.mark_refreshes(figures.accuracies(log), refreshes),
            "Positive ranked first",
            f"Share of a step's lists, before the models learn from them.{_by_width(config)}",
        )


def _held_out(record: Record) -> Iterator[Picture]:
    config, log = record.config, record.log.get("joint")
    refreshes = _refreshes(log, config) if log else ()
    for measure in ("MRR@10", "nDCG@10"):
        if all(f"{model} {measure}" in record.held_out for model in BOTH):
            yield captioned(
                figures.mark_refreshes(figures.held_out(record.held_out, measure), refreshes),
                f"Held-out {measure} during training",
                f"At most {config.evaluate.every_queries} queries, each on a small pool (the "
                "retriever's top passages before joint training, and the judged ones): for "
                "comparing steps with each other, not with the table."
                f"{_only_in_table(config, 'retriever')}",
            )


def _warm_ups(record: Record) -> Iterator[Picture]:
    reranker_per = RERANKER_LOSS_PER[resolve_loss(record.config.loss).reranker_loss]
    for stage, colour, guess, per in (
        ("warm-reranker", ORANGE, _guess(record.config), reranker_per),
        ("warm-retriever", BLUE, None, "query"),
    ):
        log = record.log.get(stage)
        if log and "loss" in log:
            yield captioned(
                figures.losses(log, {"loss": ("loss", colour)}, guess),
                f"Loss of {stage}",
                f"One model alone, before joint training: mean per {per}.",
            )


def score_pictures(record: Record) -> list[Picture]:
    """Scores of the same training lists, before joint training and after it; of each model."""
    by_step = {
        step: scores
        for step, scores in record.scores.items()
        if all(any(scores.get(model, {}).values()) for model in BOTH)
    }
    if not by_step:
        return []
    return [
        captioned(
            figures.scores(by_step, model),
            f"Scores of the {MODELS[model]}",
            "The same training lists each time: positives, and the negatives of both kinds of "
            f"lists.{_only_in_table(record.config, model)}",
        )
        for model in BOTH
    ]


def _refreshes(log: Columns, config: Config) -> Sequence[int]:
    """The steps so far before which lists were mined again."""
    every, steps = config.lists.refresh, int(max(log["step"], default=0))
    return range(every, steps + 1, every) if every else ()


def _guess(config: Config) -> float | None:
    """The loss of scoring all passages of a list alike; None where it is not over a list."""
    listwise = resolve_loss(config.loss).reranker_loss == "listwise"
    return math.log(config.lists.length) if listwise else None


def _by_width(config: Config) -> str:
    if not config.loss.matryoshka:
        return ""
    return " Of the retriever also by the first numbers of its vectors (loss.matryoshka)."


def _only_in_table(config: Config, model: str) -> str:
    """What happens to a model after joint training: the table has it, the pictures do not."""
    changes: list[str] = []
    if config.checkpoint.take == "best":
        changes.append("the best checkpoint is taken (checkpoint.take best)")
    if config.retriever.keep and model == "retriever":
        keep = f"retriever.keep {config.retriever.keep:g}"
        changes.append(f"the retriever is averaged with its start ({keep})")
    return f" Not drawn, but in the table: in the end {' and '.join(changes)}." if changes else ""
