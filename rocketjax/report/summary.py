"""A run in sentences: what was trained on what, how long it took, and the outcome."""

import dataclasses
from collections.abc import Iterator

from rocketjax.config.changes import differences
from rocketjax.config.loss import resolve_loss
from rocketjax.config.schema import Config
from rocketjax.evaluation.results import MODELS, Report, shown_p
from rocketjax.report.record import Record
from rocketjax.report.speed import duration

TRAINING_STAGES = {  # and the section of the config that sets each one's steps
    "warm-retriever": "retriever_warmup",
    "warm-reranker": "reranker_warmup",
    "joint": "joint",
}
NAMED_STEPS = 8  # skipped steps that are listed by number


def summary(record: Record) -> str:
    """One paragraph."""
    sentences = [_setup(record.config)]
    if record.seconds:
        sentences.append(_time(record))
    if record.report:
        sentences.append(_outcome(record.report))
    else:
        sentences += _progress(record)
    return " ".join(sentences)


def _setup(config: Config) -> str:
    data, joint = config.data, config.joint
    return (
        f"A retriever (from {_without_revision(config.retriever.weights)}) and a re-ranker (from "
        f"{_without_revision(config.reranker.weights)}) are trained jointly on split "
        f"{data.train_split} of {data.collection}: {joint.steps:,} steps of {joint.batch} lists of "
        f"up to {config.lists.length} passages, after {config.retriever_warmup.steps:,} steps of "
        f"the retriever alone and {config.reranker_warmup.steps:,} of the re-ranker alone."
    )


def _without_revision(weights: str) -> str:
    return weights.partition("@")[0]


def _time(record: Record) -> str:
    subject = "The run" if record.report else "The finished stages"
    total = f"{subject} took {duration(sum(record.seconds.values()))}"
    joint = record.seconds.get("joint")
    return f"{total}, joint training {duration(joint)} of it." if joint else f"{total}."


def _outcome(report: Report) -> str:
    clauses = [
        f"the {MODELS[row.model]}'s {row.measure} is {row.after:.3f}"
        if row.before is None or row.p is None
        else f"the {MODELS[row.model]}'s {row.measure} went from {row.before:.3f} to "
        f"{row.after:.3f} (p {shown_p(row.p)})"
        for row in report.rows
        if row.measure == "MRR@10" and row.model in ("retriever", "reranker")
    ]
    return f"On {report.queries:,} held-out queries, {' and '.join(clauses)}."


def _progress(record: Record) -> Iterator[str]:
    finished = ", ".join(record.seconds) or "none"
    yield f"The run is not finished. Finished stages: {finished}."
    for stage, log in record.log.items():
        if stage in TRAINING_STAGES and stage not in record.seconds:
            total = getattr(record.config, TRAINING_STAGES[stage]).steps
            yield f"{stage} has made {len(log['step']):,} of {total:,} steps."


def skipped_steps(record: Record) -> Iterator[str]:
    """A sentence for each stage with steps that were not applied."""
    for stage, steps in record.skipped.items():
        if steps:
            named = ", ".join(map(str, steps[:NAMED_STEPS]))
            more = ", .." if len(steps) > NAMED_STEPS else ""
            yield f"{stage}: non-finite steps skipped: {len(steps):,} ({named}{more})"


def not_drawn(record: Record) -> Iterator[str]:
    """Which pictures of joint training are missing, and why."""
    if record.log.get("joint") and not len(record.held_out["step"]):
        every = record.config.evaluate.every
        why = "no passages were retrieved before it" if every else "evaluate.every is 0"
        yield f"held-out measures during training, scores of positives and negatives ({why})"
    if record.mined and not any(mined.report.scored for mined in record.mined):
        yield "what denoising removed (the re-ranker scored no candidate)"


def changed_options(config: Config) -> list[str]:
    """The options that differ from the demo's; those that a loss preset overrules are left out."""
    in_effect = dataclasses.replace(config, loss=resolve_loss(config.loss))
    return differences(Config(), in_effect)
