"""A run's figures, each a function from what it shows to a matplotlib figure."""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from rocketjax.report import drawing
from rocketjax.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, WIDTH, YELLOW
from rocketjax.report.record import Columns, Mined, Scores

COLOURS = {"retriever": BLUE, "reranker": ORANGE}
NAMES = {"retriever": "retriever", "reranker": "re-ranker"}
KINDS = {  # of passages whose scores are drawn
    "positive": ("positives", GREEN),
    "undenoised": ("undenoised negatives", YELLOW),
    "denoised": ("denoised negatives", BLUE),
}
BINS = 24
MIN_HALF_RANGE = 0.06  # of a measure's axis: a narrower one would make much of little
COLUMNS, COLOURS_OF_SHEET = 2, 64
OFF_SCALE = 4  # medians: what takes longer is counted, and not drawn


def losses(log: Columns, names: Mapping[str, tuple[str, str]], guess: float | None) -> Figure:
    """Losses over steps.

    Args:
        names: label and colour of each column to draw, where the log has it.
        guess: the loss of guessing, drawn as a line; None: no line.
    """
    figure, axes = drawing.new_figure()
    ends = [
        drawing.line(axes, log["step"], log[name], label, colour)
        for name, (label, colour) in names.items()
        if name in log
    ]
    if guess is not None:
        axes.axhline(guess, color=GREY, linewidth=0.9, linestyle=":")
        ends.append((guess, "guessing", GREY))
    drawing.label_over_steps(axes, "nats", ends)
    return figure


def divergence(log: Columns) -> Figure:
    """KL of the two list distributions over steps."""
    figure, axes = drawing.new_figure()
    end = drawing.line(axes, log["step"], log["kl"], "KL", BLACK)
    axes.set_ylim(bottom=0)
    drawing.label_over_steps(axes, "nats per list", [end])
    return figure


def accuracies(log: Columns) -> Figure:
    """Share of a step's lists whose positive each model ranks first.

    The retriever's once more for each width that its vectors are cut to in training.
    """
    figure, axes = drawing.new_figure()
    ends = [
        drawing.line(axes, log["step"], log[f"{model}_accuracy"], NAMES[model], colour)
        for model, colour in COLOURS.items()
        if f"{model}_accuracy" in log
    ]
    cuts = [name for name in log if re.fullmatch(r"retriever_accuracy_[0-9]+", name)]
    for name, colour in zip(cuts, cycle((GREEN, PURPLE, YELLOW)), strict=False):
        label = f"first {name.rpartition('_')[2]}"
        ends.append(drawing.line(axes, log["step"], log[name], label, colour))
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    drawing.label_over_steps(axes, "of the step's lists", ends, drawing.SHARE)
    return figure


def entropy(log: Columns) -> Figure:
    """The teacher's entropy over steps, below that of scoring all passages of a list alike."""
    figure, axes = drawing.new_figure()
    ends = [
        drawing.line(axes, log["step"], log["uniform_entropy"], "equal scores", GREY),
        drawing.line(axes, log["step"], log["teacher_entropy"], "teacher", ORANGE),
    ]
    axes.set_ylim(bottom=0)
    drawing.label_over_steps(axes, "nats per list", ends)
    return figure


def agreement(log: Columns) -> Figure:
    """Cosines with the label's gradient, and how often the teacher disagrees with the label."""
    figure, axes = drawing.new_figure()
    lines = {
        "retriever_cosine": ("both", BLUE),
        "distill_cosine": ("distillation", PURPLE),
        "teacher_disagrees": ("other first", ORANGE),
    }
    ends = [
        drawing.line(axes, log["step"], log[name], label, colour)
        for name, (label, colour) in lines.items()
    ]
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1)
    drawing.label_over_steps(axes, "cosine, or share of lists", ends)
    drawing.remark(axes, "other first: the teacher does not rank the label first")
    return figure


def held_out(measured: Columns, measure: str) -> Figure:
    """A measure of both models on the pool, at the steps at which they were evaluated."""
    figure, axes = drawing.new_figure()
    ends: list[drawing.LineEnd] = []
    for model, colour in COLOURS.items():
        values = measured[f"{model} {measure}"]
        axes.plot(measured["step"], values, "o-", color=colour, markersize=4, clip_on=False)
        ends.append((float(values[-1]), NAMES[model], colour))
    axes.set_xlim(0, max(1.0, float(np.nanmax(measured["step"]))))
    middle, half = np.mean(axes.get_ylim()), np.ptp(axes.get_ylim()) / 2
    axes.set_ylim(middle - max(half, MIN_HALF_RANGE), middle + max(half, MIN_HALF_RANGE))
    drawing.label_over_steps(axes, measure, ends)
    return figure


def mark_refreshes(figure: Figure, steps: Sequence[int]) -> Figure:
    """Marks the steps before which lists were mined again: a jump there is due to other lists."""
    axes = figure.axes[0]
    for step in steps:
        axes.axvline(step, color=GREY, linewidth=0.9, linestyle="--", zorder=0)
    if steps:
        drawing.remark(axes, "dashed: lists mined again")
    return figure


def probabilities(mined: Mined, low: float) -> Figure:
    """The re-ranker's probabilities of known positives and candidates, and denoising's limit."""
    figure, axes = drawing.new_figure()
    edges = np.linspace(0, 1, BINS + 1)
    axes.axvspan(low, 1, color=GREY, alpha=0.12, linewidth=0)
    drawing.outline(axes, mined.candidates, edges, PURPLE, "candidates")
    drawing.outline(axes, mined.positives, edges, GREEN, "known positives")
    axes.axvline(low, color=GREY, linewidth=1, linestyle="--")
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability of being relevant, by the re-ranker")
    axes.set_ylabel("share of each")
    drawing.in_percent(axes, 5)
    drawing.remark(axes, "grey: kept out of denoised lists")
    drawing.legend(figure, axes)
    return figure


def dropped(rounds: Sequence[Mined], low: float) -> Figure:
    """What denoising takes out, by round."""
    figure, axes = drawing.new_figure(height=1.2 + 0.75 * len(rounds))
    bars: list[tuple[str, float, str]] = []
    for number, mined in enumerate(rounds):
        prefix = f"round {number}: " if len(rounds) > 1 else ""
        share = mined.report.dropped / max(mined.report.scored, 1)
        bars.append((f"{prefix}candidates", share, PURPLE))
        if len(mined.positives):
            recognised = float(np.mean(mined.positives >= low))
            bars.append((f"{prefix}known positives", recognised, GREEN))
    labels, shares, colours = zip(*bars, strict=True)
    places = np.arange(len(bars))[::-1]
    axes.barh(places, shares, color=colours, height=0.6)
    for place, share in zip(places, shares, strict=True):
        axes.annotate(
            f"{share:.1%}", (1.025, place), xycoords=("axes fraction", "data"), va="center",
            fontsize=9, annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.supxlabel(
        f"too likely relevant to be negatives (probability {low:g} or more)", fontsize=10
    )
    return figure


def scores(by_step: Mapping[int, Scores], model: str) -> Figure:
    """Raw scores of one model on the same lists, before joint training and after it."""
    figure = Figure(figsize=(WIDTH, 1.0 + 1.4 * len(by_step)), layout="constrained")
    rows = np.atleast_1d(figure.subplots(len(by_step), 1, sharex=True, sharey=True))
    everything = [
        score
        for kinds in by_step.values()
        for of_kind in kinds[model].values()
        for score in of_kind
    ]
    edges = np.linspace(min(everything), max(everything) + 1e-6, BINS + 1)
    for axes, (step, kinds) in zip(rows, sorted(by_step.items()), strict=True):
        drawing.style(axes)
        for kind, (label, colour) in KINDS.items():
            if kinds[model].get(kind):
                drawing.outline(axes, np.array(kinds[model][kind]), edges, colour, label)
        axes.set_title("before" if step == 0 else f"after {step} steps", loc="left", fontsize=9)
        drawing.in_percent(axes, 3)
    rows[-1].set_xlabel(f"{NAMES[model]}'s score")
    figure.supylabel("share of each", fontsize=9)
    drawing.legend(figure, rows[0])
    return figure


def speed(timing: Columns) -> Figure:
    """Seconds per step and tokens per second, of every step."""
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    step, seconds = timing["step"], timing["seconds"]
    _speed_panel(top, step, seconds, "seconds per step")
    rate = timing["tokens"] / np.maximum(seconds, 1e-9)
    _speed_panel(bottom, step, rate, "tokens per second")
    bottom.set_xlabel("step")
    bottom.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _speed_panel(axes: Axes, step: np.ndarray, values: np.ndarray, label: str) -> None:
    drawing.style(axes)
    median, highest = float(np.nanmedian(values)), float(np.nanmax(values))
    axes.plot(*drawing.thinned(step, values), ".", color=BLUE, markersize=5, alpha=0.6)
    axes.axhline(median, color=GREY, linewidth=1)
    axes.set_ylim(0, min(highest, OFF_SCALE * median) * 1.08 if median else None)
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axes.annotate(
        f"median\n{median:,.3g}" if median < 1000 else f"median\n{median:,.0f}",
        (1.01, median), xycoords=("axes fraction", "data"), va="center", fontsize=8.5,
        color=GREY, annotation_clip=False,
    )  # fmt: skip
    beyond = int(np.sum(values > OFF_SCALE * median))
    if beyond:
        drawing.remark(axes, f"{beyond} off the scale")


def svg(figure: Figure) -> bytes:
    """The figure as SVG; drawn again, it is the same to the byte."""
    FigureCanvasAgg(figure)
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "rocketjax"}):  # or its ids are random
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def sheet(titled: Sequence[tuple[str, Figure]]) -> bytes:
    """Figures of one width in two columns, each under its title, as one PNG."""
    drawn: list[np.ndarray] = []
    for title, figure in titled:
        figure.suptitle(title, fontsize=10, fontweight="bold")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn.append(np.asarray(canvas.buffer_rgba())[..., :3])
    rows = [drawn[i : i + COLUMNS] for i in range(0, len(drawn), COLUMNS)]
    heights = [max(len(cell) for cell in row) for row in rows]
    width = drawn[0].shape[1]
    page = np.full((sum(heights), width * len(rows[0]), 3), 255, np.uint8)
    for row, bottom in zip(rows, np.cumsum(heights), strict=True):
        for column, cell in enumerate(row):
            top = bottom - max(map(len, row))
            page[top : top + len(cell), column * width : (column + 1) * width] = cell
    buffer = BytesIO()
    # Few colours are drawn: a palette makes a third of the size, and notebooks are kept in git.
    Image.fromarray(page).quantize(COLOURS_OF_SHEET).save(buffer, "png", optimize=True)
    return buffer.getvalue()
