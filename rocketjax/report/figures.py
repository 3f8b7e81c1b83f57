"""A run in pictures. Each takes what it draws and gives a figure; global state stays as it is."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rocketjax.report.record import Columns, Mined, Scores

# Told apart by people who see colours differently: Okabe and Ito's, the orange darker, as text is
# written in it, too; the purple is Tol's.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#B84F00", "#009E73", "#AA4499"


BLACK, GREY = "#222222", "#666666"


COLOURS = {"retriever": BLUE, "reranker": ORANGE}


NAMES = {"retriever": "retriever", "reranker": "re-ranker"}


KINDS = {"positive": GREEN, "undenoised": "#E69F00", "denoised": BLUE}


WIDTH, HEIGHT = 5.0, 3.0  # inches, to be read on a phone


POINTS = 1_500  # drawn of a line: more than there are pixels


BINS = 24


NARROW = 0.06  # half the range of a measure: less would make much of little


End = tuple[float, str, str]  # where a line ends, its name and colour


# What is said of a line's end.
NUMBER, SHARE = "{:.3g}", "{:.0%}"


def losses(log: Columns, names: Mapping[str, tuple[str, str]], guess: float | None) -> Figure:
    """Losses over steps; `names`: label and colour of each; `guess`: what guessing costs."""
    figure, axes = _figure()
    ends = [_line(axes, log["step"], log[name], *names[name]) for name in names if name in log]
    if guess is not None:
        axes.axhline(guess, color=GREY, linewidth=0.9, linestyle=":")
        ends.append((guess, "guessing", GREY))
    _over_steps(axes, "nats", ends)
    return figure


def divergence(log: Columns) -> Figure:
    """KL of the two list distributions over steps."""
    figure, axes = _figure()
    end = _line(axes, log["step"], log["kl"], "KL", BLACK)
    axes.set_ylim(bottom=0)
    _over_steps(axes, "nats a list", [end])
    return figure


def accuracies(log: Columns) -> Figure:
    """Share of a step's lists whose positive each model puts first."""
    figure, axes = _figure()
    ends = [
        _line(axes, log["step"], log[f"{name}_accuracy"], NAMES[name], COLOURS[name])
        for name in COLOURS
        if f"{name}_accuracy" in log
    ]
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _over_steps(axes, "of the step's lists", ends, SHARE)
    return figure


def held_out(judged: Columns, measure: str) -> Figure:
    """A measure of both models on the pool, at the steps at which they were judged."""
    figure, axes = _figure()
    ends: list[End] = []
    for name, colour in COLOURS.items():
        values = judged[f"{name} {measure}"]
        axes.plot(judged["step"], values, "o-", color=colour, markersize=4, clip_on=False)
        ends.append((float(values[-1]), NAMES[name], colour))
    axes.set_xlim(0, max(1.0, float(np.nanmax(judged["step"]))))
    middle, half = np.mean(axes.get_ylim()), np.ptp(axes.get_ylim()) / 2
    axes.set_ylim(middle - max(half, NARROW), middle + max(half, NARROW))
    _over_steps(axes, measure, ends)
    return figure


def mined_anew(figure: Figure, steps: Sequence[int]) -> Figure:
    """Marks the steps before which lists were mined anew: what jumps there is about other lists."""
    axes = figure.axes[0]
    for step in steps:
        axes.axvline(step, color=GREY, linewidth=0.9, linestyle="--", zorder=0)
    if steps:
        axes.set_title("dashed: lists mined anew", loc="right", fontsize=8, color=GREY)
    return figure


def probabilities(mined: Mined, low: float) -> Figure:
    """What the re-ranker made of known positives and of candidates, and where denoising cuts."""
    figure, axes = _figure()
    edges = np.linspace(0, 1, BINS + 1)
    axes.axvspan(low, 1, color=GREY, alpha=0.12, linewidth=0)
    _outline(axes, mined.candidates, edges, PURPLE, "candidates")
    _outline(axes, mined.positives, edges, GREEN, "known positives")
    axes.axvline(low, color=GREY, linewidth=1, linestyle="--")
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability of being relevant, by the re-ranker")
    axes.set_ylabel("share of each")
    _in_percent(axes, 5)
    axes.set_title("grey: kept out of denoised lists", loc="right", fontsize=8, color=GREY)
    _legend(figure, axes)
    return figure


def dropped(mined: Sequence[Mined], low: float) -> Figure:
    """What denoising takes out, by round."""
    figure, axes = _figure(height=1.2 + 0.75 * len(mined))
    bars: list[tuple[str, float, str]] = []
    for number, round_ in enumerate(mined):
        prefix = f"round {number}: " if len(mined) > 1 else ""
        share = round_.report.dropped / max(round_.report.scored, 1)
        bars.append((f"{prefix}candidates", share, PURPLE))
        if len(round_.positives):
            recognised = float(np.mean(round_.positives >= low))
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
    figure.supxlabel(f"found too likely to be negatives (probability {low:g} or more)", fontsize=10)
    return figure


def scores(found: Mapping[int, Scores], model: str) -> Figure:
    """Raw scores of one model on the same lists, before joint training and after it."""
    figure = Figure(figsize=(WIDTH, 1.0 + 1.4 * len(found)), layout="constrained")
    rows = np.atleast_1d(figure.subplots(len(found), 1, sharex=True, sharey=True))
    everything = [v for kinds in found.values() for some in kinds[model].values() for v in some]
    edges = np.linspace(min(everything), max(everything) + 1e-6, BINS + 1)
    for axes, (step, kinds) in zip(rows, sorted(found.items()), strict=True):
        _dress(axes)
        for kind, colour in KINDS.items():
            if kinds[model].get(kind):
                label = f"{kind} negatives" if kind != "positive" else "positives"
                _outline(axes, np.array(kinds[model][kind]), edges, colour, label)
        axes.set_title("before" if step == 0 else f"after {step} steps", loc="left", fontsize=9)
        _in_percent(axes, 3)
    rows[-1].set_xlabel(f"{NAMES[model]}'s score")
    figure.supylabel("share of each", fontsize=9)
    _legend(figure, rows[0])
    return figure


def speed(timing: Columns) -> Figure:
    """Seconds and tokens a second of every step."""
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    step, seconds = timing["step"], timing["seconds"]
    for axes, values, label in (
        (top, seconds, "seconds a step"),
        (bottom, timing["tokens"] / np.maximum(seconds, 1e-9), "tokens a second"),
    ):
        _dress(axes)
        usual = float(np.nanmedian(values))
        axes.plot(*_thinned(step, values), ".", color=BLUE, markersize=5, alpha=0.6)
        axes.axhline(usual, color=GREY, linewidth=1)
        highest = float(np.nanmax(values))
        axes.set_ylim(0, min(highest, 4 * usual) * 1.08 if usual else None)
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.annotate(
            f"median\n{usual:,.3g}" if usual < 1000 else f"median\n{usual:,.0f}",
            (1.01, usual), xycoords=("axes fraction", "data"), va="center", fontsize=8.5,
            color=GREY, annotation_clip=False,
        )  # fmt: skip
        beyond = int(np.sum(values > 4 * usual))
        if beyond:
            axes.set_title(f"{beyond} beyond the top", loc="right", fontsize=8, color=GREY)
    bottom.set_xlabel("step")
    bottom.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as a file of its own; drawn anew it is the same file."""
    FigureCanvasAgg(figure)
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "rocketjax"}):  # or its ids are random
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean that looks back some 10 values, or a thirtieth of many; NaN is passed over."""
    keep = 1 - 1 / max(10, len(values) / 30)
    total = weight = 0.0
    result = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        if weight:
            result[i] = total / weight
    return result


def _figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _dress(axes)
    return figure, axes


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(labelsize=9, color="#999999")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _line(axes: Axes, step: np.ndarray, values: np.ndarray, label: str, colour: str) -> End:
    """The values, faint, and their running mean."""
    mean = smoothed(values)
    axes.plot(*_thinned(step, values), color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(*_thinned(step, mean), color=colour, linewidth=1.8)
    axes.margins(x=0.01)
    return float(mean[-1]), label, colour


def _thinned(step: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    stride = -(-len(step) // POINTS)
    return step[::stride], values[::stride]


def _over_steps(axes: Axes, ylabel: str, ends: Sequence[End], form: str = NUMBER) -> None:
    """Names the axes, and each line at its end, where none hides another."""
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    low, high = axes.get_ylim()
    ends = sorted(end for end in ends if np.isfinite(end[0]))
    places = _apart([(value - low) / (high - low) for value, _, _ in ends], 0.085)
    for place, (value, label, colour) in zip(places, ends, strict=True):
        axes.annotate(
            f"{label} {form.format(value)}", (1.025, place), xycoords="axes fraction", va="center",
            fontsize=9, color=colour, annotation_clip=False,
        )  # fmt: skip


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Rising places, moved as little as it takes to lie `gap` apart, within 0 and 1."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    top = 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], top)
        top = moved[i] - gap
    return moved


def _outline(axes: Axes, values: np.ndarray, edges: np.ndarray, colour: str, label: str) -> None:
    """A histogram whose columns add up to 1."""
    if not len(values):
        return
    share = np.histogram(values, edges)[0] / len(values)
    axes.stairs(share, edges, color=colour, linewidth=1.6, label=f"{label} ({len(values):,})")
    axes.stairs(share, edges, color=colour, fill=True, alpha=0.12)


def _in_percent(axes: Axes, ticks: int) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the axes, where no data are."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=min(len(labels), 2), frameon=False,
        fontsize=8.5, handlelength=1.2, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
