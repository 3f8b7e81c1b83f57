"""Axes, lines and labels that the report's figures share; matplotlib's global state stays as is."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Colours that colour-blind readers can tell apart: Okabe and Ito's, the orange darker because text
# is written in it, too; the purple is Tol's.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#B84F00", "#009E73", "#AA4499"
YELLOW, BLACK, GREY = "#E69F00", "#222222", "#666666"
FRAME, GRID = "#999999", "#e6e6e6"

WIDTH, HEIGHT = 5.0, 3.0  # inches, to be read on a phone
MAX_POINTS = 1_500  # of a line: more than there are pixels
LABEL_GAP = 0.085  # between the labels of two lines, as a share of the axes' height
NUMBER, SHARE = "{:.3g}", "{:.0%}"  # how the value at a line's end is written

LineEnd = tuple[float, str, str]  # a line's last value, its name and its colour


def new_figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    style(axes)
    return figure, axes


def style(axes: Axes) -> None:
    """Plain axes: no box, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    axes.tick_params(labelsize=9, color=FRAME)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def line(axes: Axes, step: np.ndarray, values: np.ndarray, label: str, colour: str) -> LineEnd:
    """Draws the values, faint, and their running mean; returns where that ends."""
    mean = smoothed(values)
    axes.plot(*thinned(step, values), color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(*thinned(step, mean), color=colour, linewidth=1.8)
    axes.margins(x=0.01)
    return float(mean[-1]), label, colour


def smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over some 10 values, or a thirtieth of many; NaNs are passed over."""
    keep = 1 - 1 / max(10, len(values) / 30)
    total = weight = 0.0
    means = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        if weight:
            means[i] = total / weight
    return means


def thinned(step: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MAX_POINTS of the points, evenly spaced."""
    stride = -(-len(step) // MAX_POINTS)
    return step[::stride], values[::stride]


def label_over_steps(axes: Axes, ylabel: str, ends: Sequence[LineEnd], form: str = NUMBER) -> None:
    """Names the axes, and each line at its end, where no label covers another."""
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    low, high = axes.get_ylim()
    ends = sorted(end for end in ends if np.isfinite(end[0]))
    heights = spread([(value - low) / (high - low) for value, _, _ in ends], LABEL_GAP)
    for height, (value, label, colour) in zip(heights, ends, strict=True):
        axes.annotate(
            f"{label} {form.format(value)}", (1.025, height), xycoords="axes fraction",
            va="center", fontsize=9, color=colour, annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights, moved as little as it takes to be `gap` apart, within 0 and 1."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    top = 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], top)
        top = moved[i] - gap
    return moved


def outline(axes: Axes, values: np.ndarray, edges: np.ndarray, colour: str, label: str) -> None:
    """A histogram whose columns add up to 1."""
    if not len(values):
        return
    share = np.histogram(values, edges)[0] / len(values)
    axes.stairs(share, edges, color=colour, linewidth=1.6, label=f"{label} ({len(values):,})")
    axes.stairs(share, edges, color=colour, fill=True, alpha=0.12)


def in_percent(axes: Axes, ticks: int) -> None:
    """Writes the vertical axis in percent, with about `ticks` ticks."""
    axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def remark(axes: Axes, text: str) -> None:
    """Small and grey, above the axes at the right."""
    axes.set_title(text, loc="right", fontsize=8, color=GREY)


def legend(figure: Figure, axes: Axes) -> None:
    """Puts the legend above the axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=min(len(labels), 2), frameon=False,
        fontsize=8.5, handlelength=1.2, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
