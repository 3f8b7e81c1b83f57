"""report.html: a run on one page, pictures and all, for a browser without a network.

Whatever a collection, an option or a folder is called, the page shows as text.
"""

import dataclasses
import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rocketjax.config.changes import differences
from rocketjax.config.loss import resolve_loss
from rocketjax.config.schema import Config
from rocketjax.evaluation.results import HEADS, MODELS, SHOWN, Report, shown_p
from rocketjax.report import figures as figures_module
from rocketjax.report.figures import BLACK, BLUE, ORANGE
from rocketjax.report.record import Columns, Mined, Record, read
from rocketjax.runtime.files import write_text

STEPS_OF = {  # stages that train
    "warm-retriever": "retriever_warmup",
    "warm-reranker": "reranker_warmup",
    "joint": "joint",
}


# What losses are, in nats: the re-ranker's own the mean of a list or a passage, and distillation.
PER = {"listwise": "list", "pointwise": "passage"}


REDUCED = {
    "list": "the mean of a list",
    "element": "the mean of a passage",
    "sum": "the sum over a step's lists",
}


HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
  padding: 0 16px 48px; max-width: 1040px; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6em; margin: 24px 0 8px; }} h2 {{ font-size: 1.2em; margin: 32px 0 4px; }}
p {{ max-width: 46em; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr));
  gap: 20px 28px; }}
figure {{ margin: 8px 0 0; }} figure img {{ width: 100%; height: auto; }}
figcaption {{ font-size: 0.85em; color: #444; }} figcaption b {{ color: #1a1a1a; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 12px 0;
  display: block; overflow-x: auto; max-width: 100%; }}
th, td {{ text-align: right; padding: 3px 10px 3px 0; white-space: nowrap; }}
th {{ font-weight: 600; border-bottom: 1px solid #999; }}
.text {{ text-align: left; }}
.note {{ font-size: 0.85em; color: #444; }} li {{ margin-bottom: 8px; }}
</style>
</head>
<body>
"""


def write(folder: Path) -> Path:
    """Writes report.html of the run in `folder`, as far as it is: whole, or not at all.

    Raises:
        InputError: no run here, or one of its files is damaged.
    """
    path = folder / "report.html"
    write_text(path, page(read(folder)))
    return path


def page(record: Record) -> str:
    """The page of a run."""
    title = f"{record.config.name}: training report"
    parts = [HEAD.format(title=escape(title)), f"<h1>{escape(title)}</h1>", _summary(record)]
    if record.report:
        parts.append(_results(record.report))
    parts += [*_training(record), *_denoising(record), *_scores(record), *_speed(record)]
    parts += _not_drawn(record)
    parts.append(_options(record.config))
    return "\n".join([*parts, "</body>", "</html>", ""])


def _summary(record: Record) -> str:
    """One paragraph: what was trained, on what, how long, and what came of it."""
    config, data = record.config, record.config.data
    joint = config.joint
    sentences = [
        f"A retriever (from {_plain(config.retriever.weights)}) and a re-ranker (from "
        f"{_plain(config.reranker.weights)}) are trained jointly on split {data.train_split} of "
        f"{data.collection}: {joint.steps:,} steps of {joint.batch} lists of up to "
        f"{config.lists.length} passages, after {config.retriever_warmup.steps:,} steps of the "
        f"retriever alone and {config.reranker_warmup.steps:,} of the re-ranker alone."
    ]
    if record.seconds:
        what = "It" if record.report else "The stages that are done"
        whole = f"{what} took {_duration(sum(record.seconds.values()))}"
        alone = record.seconds.get("joint")
        sentences.append(
            f"{whole}, joint training {_duration(alone)} of it." if alone else f"{whole}."
        )
    if record.report:
        sentences.append(_outcome(record.report))
    else:
        done = ", ".join(record.seconds) or "none"
        sentences.append(f"The run is not finished: stages done: {done}.")
        for stage, log in record.log.items():
            if stage not in record.seconds and stage in STEPS_OF:
                whole = getattr(config, STEPS_OF[stage]).steps
                sentences.append(f"{stage} has made {len(log['step']):,} of {whole:,} steps.")
    return f"<p>{escape(' '.join(sentences))}</p>"


def _plain(weights: str) -> str:
    """Without the revision."""
    return weights.partition("@")[0]


def _outcome(report: Report) -> str:
    told = [
        f"the {MODELS[row.model]}'s {row.measure} is {row.after:.3f}"
        if row.before is None or row.p is None
        else f"the {MODELS[row.model]}'s {row.measure} went from {row.before:.3f} to "
        f"{row.after:.3f} (p {shown_p(row.p)})"
        for row in report.rows
        if row.measure == "MRR@10" and row.model in ("retriever", "reranker")
    ]
    return f"On {report.queries:,} held-out queries, {' and '.join(told)}."


def _results(report: Report) -> str:
    rows = [row for row in report.rows if row.measure in SHOWN]
    table = _table(HEADS, [row.cells() for row in rows], texts=2)
    return (
        f"<h2>Before and after</h2>{table}"
        '<p class="note">p: paired randomisation test over queries, two-sided. The re-ranker '
        "orders the retriever's first candidates anew; the oracle is a perfect re-ranker of them. "
        "All measures: report.json.</p>"
    )


def _training(record: Record) -> Iterator[str]:
    figures = [*_joint_figures(record)]
    for stage, colour in (("warm-reranker", ORANGE), ("warm-retriever", BLUE)):
        log = record.log.get(stage)
        if log and "loss" in log:
            guess, per = None, "query"
            if stage == "warm-reranker":
                guess = _guess(record.config)
                per = PER[resolve_loss(record.config.loss).reranker_loss]
            drawn = figures_module.losses(log, {"loss": ("loss", colour)}, guess)
            note = f"One model alone, before joint training: the mean of a {per}."
            figures.append(_figure(drawn, f"Loss of {stage}", note))
    if figures:
        yield '<h2>Training</h2><p class="note">Faint: every step. Strong: running mean.</p>'
        yield _grid(figures)
    for stage, steps in record.skipped.items():
        if steps:
            named = ", ".join(map(str, steps[:8])) + (", .." if len(steps) > 8 else "")
            told = f"{stage}: steps that were not finite and not applied: {len(steps):,} ({named})"
            yield f"<p>{escape(told)}</p>"


def _guess(config: Config) -> float | None:
    """What putting all passages of a list alike costs; None where the loss is not over a list."""
    listwise = resolve_loss(config.loss).reranker_loss == "listwise"
    return math.log(config.lists.length) if listwise else None


def _joint_figures(record: Record) -> Iterator[str]:
    log, config = record.log.get("joint"), record.config
    refresh, made = config.lists.refresh, int(max(log["step"], default=0)) if log else 0
    rounds = range(refresh, made + 1, refresh) if refresh else ()
    marked = partial(figures_module.mined_anew, steps=rounds)
    if log and "loss" in log:
        names = {
            "retriever": ("retriever", BLUE),
            "reranker": ("re-ranker", ORANGE),
            "loss": ("whole loss", BLACK),
        }
        loss = resolve_loss(config.loss)
        yield _figure(
            marked(
                figures_module.losses(
                    log, names, _guess(config) if loss.retriever_negatives == "list" else None
                )
            ),
            "Losses of joint training",
            "Each model's cross-entropy with the label (the retriever's the mean of a list, the "
            f"re-ranker's of a {PER[loss.reranker_loss]}), and the whole loss: "
            f"{loss.retriever_weight:g} retriever + {loss.reranker_weight:g} re-ranker + "
            f"{loss.distill_weight:g} distillation ({REDUCED[loss.reduction]}).",
        )
    if log and "kl" in log:
        yield _figure(
            marked(figures_module.divergence(log)),
            "How far apart both models are",
            "KL(re-ranker || retriever) of their distributions over a list: 0 where they agree.",
        )
    if log and "retriever_accuracy" in log:
        yield _figure(
            marked(figures_module.accuracies(log)),
            "Positive put first",
            "Share of a step's lists, before it is learnt from.",
        )
    for measure in ("MRR@10", "nDCG@10"):
        names = [f"{model} {measure}" for model in ("retriever", "reranker")]
        if all(name in record.judged for name in names):
            yield _figure(
                marked(figures_module.held_out(record.judged, measure)),
                f"Held-out {measure} on the way",
                f"Of at most {config.evaluate.every_queries} queries, on a small pool each (what "
                "the retriever ranked first before, and the judged passages): for comparing "
                f"steps, not with the table.{_delivered(config, 'retriever')}",
            )


def _delivered(config: Config, model: str) -> str:
    """What joint training ends with, where that is not the model as it trains, which is drawn."""
    told: list[str] = []
    if config.checkpoint.take == "best":
        told.append("the best checkpoint is taken (checkpoint.take best)")
    if config.retriever.keep and model == "retriever":
        keep = f"retriever.keep {config.retriever.keep:g}"
        told.append(f"the retriever is averaged with its start ({keep})")
    return f" Not drawn, but in the table: in the end {' and '.join(told)}." if told else ""


def _denoising(record: Record) -> Iterator[str]:
    mined = [item for item in record.mined if item.report.scored]
    if not mined:
        return
    first, low = mined[0], record.config.lists.low
    round_ = "In round 0: " if len(mined) > 1 else ""
    yield f"<h2>Denoising</h2><p>{escape(round_ + _dropped(first, record.config))}</p>"
    figures = [
        _figure(
            figures_module.dropped(mined, low),
            "False negatives removed",
            "Candidates: share of what the retriever found that no denoised list takes. Known "
            "positives: share that the same rule would have caught, had nobody judged them.",
        )
    ]
    if len(first.candidates) and len(first.positives):
        figures.append(
            _figure(
                figures_module.probabilities(first, low),
                "What the re-ranker thought when mining",
                f"{round_}Undenoised negatives come from all candidates, denoised ones from those "
                "left of the dashed line or from deeper ranks.",
            )
        )
    yield _grid(figures)
    yield _examples(first)


def _dropped(mined: Mined, config: Config) -> str:
    found, low, high = mined.report, config.lists.low, config.lists.high
    unsure = found.dropped > 0.9 * found.scored
    return (
        f"Of {found.scored:,} candidates that the re-ranker scored, {found.dropped:,} "
        f"({found.dropped / found.scored:.1%}) have a probability of {low:g} or more and are kept "
        f"out of denoised lists; {found.likely_positives:,} of them are above {high:g}. "
        f"{found.pseudo_positives:,} became positives of lists of their own; {found.topped_up:,} "
        f"negatives of {found.denoised:,} denoised lists came from deeper ranks instead."
        + (" That is nearly all: so unsure a re-ranker clears hardly any candidate." * unsure)
    )


def _examples(mined: Mined) -> str:
    if not mined.texts:
        return ""
    items = [
        f"<li>{probability:.2f} <b>{escape(query)}</b><br>{escape(passage)}</li>"
        for (_, _, probability), (query, passage) in zip(
            mined.report.examples, mined.texts, strict=False
        )
    ]
    return (
        "<details><summary>The likeliest of them, to read: probability, query, passage"
        f"</summary><ul>{''.join(items)}</ul></details>"
    )


def _scores(record: Record) -> Iterator[str]:
    known = {
        step: found
        for step, found in record.scores.items()
        if all(any(found.get(model, {}).values()) for model in ("retriever", "reranker"))
    }
    if not known:
        return
    yield "<h2>Scores of positives and negatives</h2>"
    yield _grid(
        _figure(
            figures_module.scores(known, model),
            f"Scores of the {MODELS[model]}",
            "The same training lists each time: positives, and the negatives of both kinds of "
            f"lists.{_delivered(record.config, model)}",
        )
        for model in ("retriever", "reranker")
    )


def _speed(record: Record) -> Iterator[str]:
    timing = record.timing
    if timing:
        yield "<h2>Speed</h2>"
        stage = "joint" if "joint" in timing else [*timing][-1]
        note = "Wall clock from step to step; saving and compiling count, mining does not."
        yield _grid([_figure(figures_module.speed(timing[stage]), f"Steps of {stage}", note)])
        cells = [[stage, *_pace(rows)] for stage, rows in timing.items()]
        heads = ["stage", "steps", "median step", "tokens a step", "tokens a second"]
        yield _table(heads, cells, texts=1)
    if record.seconds:
        cells = [[stage, _duration(value)] for stage, value in record.seconds.items()]
        table = _table(["stage", "time"], cells, texts=1)
        yield f"<details><summary>Where the time went</summary>{table}</details>"


def _pace(rows: Columns) -> list[str]:
    seconds, tokens = float(np.median(rows["seconds"])), float(np.mean(rows["tokens"]))
    pace = float(np.median(rows["tokens"] / np.maximum(rows["seconds"], 1e-9)))
    return [f"{len(rows['step']):,}", f"{seconds:.3g} s", f"{tokens:,.0f}", f"{pace:,.0f}"]


def _not_drawn(record: Record) -> Iterator[str]:
    """Which pictures of a joint training the page lacks, and what brings them."""
    told, config = [], record.config
    if record.log.get("joint") and not len(record.judged["step"]):
        why = "no passages were found before it" if config.evaluate.every else "evaluate.every is 0"
        told.append(f"held-out measures on the way, scores of positives and negatives ({why})")
    if record.mined and not any(item.report.scored for item in record.mined):
        told.append("what denoising removed (the re-ranker scored no candidate)")
    if told:
        yield f'<p class="note">Not drawn: {escape("; ".join(told))}.</p>'


def _options(config: Config) -> str:
    told = dataclasses.replace(config, loss=resolve_loss(config.loss))  # not what it overrules
    changed = differences(Config(), told)
    if not changed:
        return "<p>All options are those of the demo.</p>"
    items = "".join(f"<li>{escape(change)}</li>" for change in changed)
    return f"<details><summary>Options, where not the demo's</summary><ul>{items}</ul></details>"


def _figure(figure: Figure, title: str, note: str) -> str:
    data = b64encode(figures_module.svg(figure)).decode()
    told = [text.get_text() for axes in figure.axes for text in axes.texts]  # ends of lines, bars
    alt = " ".join(f"{title}: {', '.join(told)}".split()) if told else title
    return (
        f"<figure><figcaption><b>{escape(title)}.</b> {escape(note)}</figcaption>"
        f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}"></figure>'
    )


def _grid(figures: Iterator[str] | Sequence[str]) -> str:
    return f'<div class="grid">{"".join(figures)}</div>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """`texts`: so many columns, the first, hold no numbers."""

    def row(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"' if i < texts else "" for i in range(len(cells))]
        inner = (f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    return f"<table>{row('th', heads)}{''.join(row('td', cells) for cells in rows)}</table>"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
