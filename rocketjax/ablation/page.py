"""The page of an ablation: a table and a picture, made of the ranks."""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rocketjax.ablation.arms import BASE
from rocketjax.ablation.ranks import Ranks, reciprocal
from rocketjax.evaluation.metrics import confidence_interval
from rocketjax.report.figures import svg

MODELS = ("retriever", "re-ranker")


JOINT = "\N{NO-BREAK SPACE}"  # so that a page breaks no line within an interval


ROOM = 1.15  # of a panel's width: what lies between the furthest interval and the edge


LEGEND = (
    "Gain: over `dynamic` with the same seeds (its own cells are the mean of all), with its 95 % "
    "interval: a paired bootstrap over queries. ±: the standard deviation of the seeds."
)


class Effect(NamedTuple):
    """One model of one arm, beside the same model of the base."""

    mrr: float  # mean over seeds and queries
    seeds: tuple[int, ...]
    spread: float  # standard deviation of the seeds' means; nan of one
    gain: float  # over the base, with the seeds that both have
    low: float  # 95 % interval of the gain, over queries
    high: float
    gains: tuple[float, ...]  # of every seed by itself: what another training run might show


def effects(ranks: Ranks, model: str, arms: Sequence[str]) -> dict[str, Effect]:
    """Of every arm that has been judged: its mean, and its gain over the base.

    A query's value is the mean over the seeds that arm and base share; the interval is that of a
    paired bootstrap over queries, so it says whether other queries would show the same.
    """
    found = {}
    for arm in arms:
        own = {seed: reciprocal(r) for (a, seed, m), r in ranks.items() if (a, m) == (arm, model)}
        if not own:
            continue
        base = {seed: reciprocal(r) for (a, seed, m), r in ranks.items() if (a, m) == (BASE, model)}
        means = [values.mean() for values in own.values()]
        shared = sorted(own.keys() & base.keys())
        gain, (low, high) = float("nan"), (float("nan"),) * 2
        gains = tuple(float(own[seed].mean() - base[seed].mean()) for seed in shared)
        if shared:
            before, after = (np.mean([x[seed] for seed in shared], axis=0) for x in (base, own))
            gain = float(np.mean(gains))
            low, high = confidence_interval(dict(enumerate(before)), dict(enumerate(after)))  # pyright: ignore
        spread = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
        mean = float(np.mean(means))
        found[arm] = Effect(mean, tuple(sorted(own)), spread, gain, low, high, gains)
    return found


def table(ranks: Ranks, arms: Mapping[str, str]) -> str:
    """Markdown: a row an arm, `arms` being their names and what they are.

    A gain stands with its interval, and where there are several seeds with each one's own. An arm
    of which only one model is judged leaves the other's cells empty.
    """
    by_model = {model: effects(ranks, model, list(arms)) for model in MODELS}
    lines = [
        "| arm | what differs | retriever MRR@10 | gain [95 %]; by seed | re-ranker MRR@10 "
        "| gain [95 %]; by seed | seeds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for arm, what in arms.items():
        cells = [by_model[model].get(arm) for model in MODELS]
        if not any(cells):
            continue
        seeds = max(len(cell.seeds) for cell in cells if cell)
        shown = " | ".join(text for cell in cells for text in _cells(arm, cell))
        lines.append(f"| {arm} | {what} | {shown} | {seeds} |")
    return "\n".join([*lines, "", LEGEND])


def _cells(arm: str, effect: Effect | None) -> tuple[str, str]:
    if effect is None:
        return "", ""
    spread = "" if np.isnan(effect.spread) else f"{JOINT}±{JOINT}{effect.spread:.3f}"
    mean = f"{effect.mrr:.3f}{spread}"
    if arm == BASE or np.isnan(effect.gain):
        return mean, ""
    gain = f"{effect.gain:+.3f}{JOINT}[{effect.low:+.3f},{JOINT}{effect.high:+.3f}]"
    by_seed = " ".join(f"{each:+.3f}" for each in effect.gains)
    return mean, gain if len(effect.gains) < 2 else f"{gain}; {by_seed}"


def picture(ranks: Ranks, arms: Sequence[str], title: str) -> str:
    """SVG: each judged arm's gain over the base with its interval, a panel a model.

    Where there are several seeds, a tick stands at the gain of each. The scale is that of most
    arms; what lies beyond is an arrow with a number.
    """
    judged = {arm for arm, _, _ in ranks}
    names = [arm for arm in arms if arm in judged and arm != BASE]
    figure = Figure(figsize=(9, 1.4 + 0.28 * len(names)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    found = [effects(ranks, model, names) for model in MODELS]
    for panel, model, shown in zip(panels, MODELS, found, strict=True):
        _draw(panel, shown, names)
        panel.set_title(model, fontsize=10)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(max(len(names), 1) - 0.5, -0.5)  # a base alone has an empty panel
    figure.suptitle(title, fontsize=8)
    several = any(len(effect.gains) > 1 for shown in found for effect in shown.values())
    ticks = "; | a seed's own" if several else ""
    figure.supxlabel(
        f"gain in MRR@10 over the base, 95 % over queries; grey: 0 lies within{ticks}", fontsize=9
    )
    return svg(figure).decode()


def _draw(panel: Axes, found: Mapping[str, Effect], names: Sequence[str]) -> None:
    shown = {arm: effect for arm, effect in found.items() if not np.isnan(effect.gain)}
    if not shown:
        panel.text(0.5, 0.5, "not judged", transform=panel.transAxes, ha="center", color="#666666")
        panel.tick_params(axis="x", bottom=False, labelbottom=False)
    edge = _edge(list(shown.values()))
    for arm, effect in shown.items():
        row = names.index(arm)
        clear = effect.low > 0 or effect.high < 0  # the interval leaves 0 out
        colour = ("#0072b2" if effect.gain > 0 else "#d55e00") if clear else "#888888"
        if abs(effect.gain) > edge:
            _point_beyond(panel, edge, row, effect.gain, colour)
            continue
        panel.plot([effect.low, effect.high], [row, row], linewidth=2, color=colour)
        panel.plot(effect.gain, row, "o", markersize=5, color=colour)
        if len(effect.gains) > 1:
            panel.plot(effect.gains, [row] * len(effect.gains), "|", markersize=10, color="black")
    panel.set_xlim(-edge, edge)
    panel.locator_params(axis="x", nbins=6)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.grid(axis="x", alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _edge(shown: Sequence[Effect]) -> float:
    """Where a panel ends: past four times the middle interval, and all of what is drawn whole."""
    furthest = [
        max(abs(end) for end in (effect.low, effect.high, *effect.gains)) for effect in shown
    ]
    middle = float(np.median(furthest)) if furthest else 0.0
    edge, wider = 0.0, ROOM * (4 * middle or max(furthest, default=0.0) or 1.0)
    while wider > edge:  # an arm that is drawn whole may bring others within
        edge = wider
        near = (abs(effect.gain) <= edge for effect in shown)
        wider = ROOM * (max(compress(furthest, near), default=0.0) or 1.0)  # some width
    return wider


def _point_beyond(panel: Axes, edge: float, row: int, gain: float, colour: str) -> None:
    """An arrow at the panel's edge, and the gain in numbers."""
    side, mark, align = (-1, "<", "left") if gain < 0 else (1, ">", "right")
    panel.plot(side * edge, row, mark, color=colour, clip_on=False)
    panel.annotate(
        f"{gain:+.3f}",
        (side * edge, row),
        (-8 * side, 0),
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=8,
    )
