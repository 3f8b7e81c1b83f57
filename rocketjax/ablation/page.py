"""The page of an ablation: a table and a picture, made of the ranks."""

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rocketjax.ablation.arms import BASE
from rocketjax.ablation.ranks import Hits, Ranks, ndcg, recall, reciprocal_ranks
from rocketjax.evaluation.metrics import confidence_interval
from rocketjax.report.figures import svg

MODELS = ("retriever", "re-ranker")
JOINT = "\N{NO-BREAK SPACE}"  # so that no line breaks within an interval
MARGIN = 1.15  # of a panel's width: leaves room between the furthest interval and the edge
GAIN, LOSS, UNCLEAR, MUTED = "#0072b2", "#d55e00", "#888888", "#666666"
NAN = float("nan")

MRR = "MRR@10"
MEASURES: dict[str, Callable[[Sequence[Hits]], np.ndarray]] = {
    MRR: reciprocal_ranks,
    "nDCG@10": ndcg,
    "recall@10": recall,
}


class Effect(NamedTuple):
    """One model of one arm, beside the same model of the arm it is compared with."""

    mean: float  # of the measure, over seeds and queries
    seeds: tuple[int, ...]
    spread: float  # standard deviation of the seeds' means; nan for a single seed
    gain: float  # over the other arm, with the seeds that both have; nan where there are none
    low: float  # 95 % interval of the gain, over queries
    high: float
    gains: tuple[float, ...]  # of each seed by itself: what another training run might show
    clear: tuple[bool, ...] = ()  # of each seed's gain: whether its own interval leaves out 0


def effects(
    ranks: Ranks, model: str, arms: Sequence[str], against: str = BASE, measure: str = MRR
) -> dict[str, Effect]:
    """For every arm that has been evaluated: its mean, and its gain over the arm `against`.

    A query's value is the mean over the seeds that both arms share; the interval is that of a
    paired bootstrap over queries, so it says whether other queries would show the same.
    """
    base = _by_seed(ranks, against, model, measure)
    by_seed = {arm: _by_seed(ranks, arm, model, measure) for arm in arms}
    return {arm: _effect(own, base) for arm, own in by_seed.items() if own}


def measures(ranks: Ranks) -> list[str]:
    """What the ranks can say: MRR alone where no query has several relevant passages.

    Nor can they say more where some were kept before recall was measured.
    """
    relevant = {tuple(hit.relevant for hit in by_query) for by_query in ranks.values()}
    several = any(number > 1 for numbers in relevant for number in numbers)
    return list(MEASURES) if several and len(relevant) == 1 else [MRR]


def _by_seed(ranks: Ranks, arm: str, model: str, measure: str) -> dict[int, np.ndarray]:
    """The measure's values [Q] of every seed."""
    return {
        seed: MEASURES[measure](by_query)
        for (name, seed, of_model), by_query in ranks.items()
        if (name, of_model) == (arm, model)
    }


def _effect(own: Mapping[int, np.ndarray], base: Mapping[int, np.ndarray]) -> Effect:
    means = [values.mean() for values in own.values()]
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else NAN
    mean, seeds = float(np.mean(means)), tuple(sorted(own))
    shared = sorted(own.keys() & base.keys())
    if not shared:
        return Effect(mean, seeds, spread, NAN, NAN, NAN, ())
    gains = tuple(float(own[seed].mean() - base[seed].mean()) for seed in shared)
    clear = tuple(_is_clear(*_interval(base[seed], own[seed])) for seed in shared)
    before, after = (np.mean([runs[seed] for seed in shared], axis=0) for runs in (base, own))
    gain = float(np.mean(gains))
    return Effect(mean, seeds, spread, gain, *_interval(before, after), gains, clear)


def _interval(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    return confidence_interval(dict(enumerate(before)), dict(enumerate(after)))  # pyright: ignore


def _is_clear(low: float, high: float) -> bool:
    return low > 0 or high < 0


def table(ranks: Ranks, arms: Mapping[str, str], against: str = BASE, measure: str = MRR) -> str:
    """A Markdown table with a row for each arm, `arms` being their names and descriptions.

    A gain has its interval, and where there are several seeds also the gain of each. If only one
    model of an arm has been evaluated, the other's cells are empty.
    """
    by_model = {model: effects(ranks, model, list(arms), against, measure) for model in MODELS}
    lines = [
        f"| arm | what differs | retriever {measure} | gain [95 %]; by seed | re-ranker {measure} "
        "| gain [95 %]; by seed | seeds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for arm, description in arms.items():
        both = [by_model[model].get(arm) for model in MODELS]
        if not any(both):
            continue
        seeds = max(len(effect.seeds) for effect in both if effect)
        cells = " | ".join(
            cell for effect in both for cell in _cells(effect, is_base=arm == against)
        )
        lines.append(f"| {arm} | {description} | {cells} | {seeds} |")
    return "\n".join([*lines, "", _legend(against)])


def _legend(against: str) -> str:
    return (
        f"Gain: over `{against}` with the same seeds (its own cells are the mean of all), with its "
        "95 % interval: a paired bootstrap over queries. \\*: the interval of that seed alone "
        "leaves out 0. ±: the standard deviation of the seeds."
    )


def _cells(effect: Effect | None, is_base: bool) -> tuple[str, str]:
    if effect is None:
        return "", ""
    spread = "" if np.isnan(effect.spread) else f"{JOINT}±{JOINT}{effect.spread:.3f}"
    mean = f"{effect.mean:.3f}{spread}"
    if is_base or np.isnan(effect.gain):
        return mean, ""
    gain = f"{effect.gain:+.3f}{JOINT}[{effect.low:+.3f},{JOINT}{effect.high:+.3f}]"
    by_seed = " ".join(
        f"{each:+.3f}" + ("\\*" if clear else "")
        for each, clear in zip(effect.gains, effect.clear, strict=True)
    )
    return mean, gain if len(effect.gains) < 2 else f"{gain}; {by_seed}"


def picture(ranks: Ranks, arms: Sequence[str], title: str, against: str = BASE) -> str:
    """SVG: each arm's gain in MRR@10 over another with its interval, in a panel for each model.

    Where there are several seeds, a tick marks the gain of each. The scale suits most arms; a gain
    beyond it is an arrow with a number.
    """
    evaluated = {arm for arm, _, _ in ranks}
    names = [arm for arm in arms if arm in evaluated and arm != against]
    figure = Figure(figsize=(9, 1.4 + 0.28 * len(names)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    by_model = [effects(ranks, model, names, against) for model in MODELS]
    for panel, model, shown in zip(panels, MODELS, by_model, strict=True):
        _draw(panel, shown, names)
        panel.set_title(model, fontsize=10)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(max(len(names), 1) - 0.5, -0.5)  # a base alone has an empty panel
    figure.suptitle(title, fontsize=8)
    several = any(len(effect.gains) > 1 for shown in by_model for effect in shown.values())
    ticks = "; | a seed's own" if several else ""
    over = "the base" if against == BASE else against
    figure.supxlabel(
        f"gain in MRR@10 over {over}, 95 % over queries; grey: 0 lies within{ticks}", fontsize=9
    )
    return svg(figure).decode()


def _draw(panel: Axes, by_arm: Mapping[str, Effect], names: Sequence[str]) -> None:
    shown = {arm: effect for arm, effect in by_arm.items() if not np.isnan(effect.gain)}
    if not shown:
        panel.text(0.5, 0.5, "not judged", transform=panel.transAxes, ha="center", color=MUTED)
        panel.tick_params(axis="x", bottom=False, labelbottom=False)
    edge = _edge(list(shown.values()))
    for arm, effect in shown.items():
        row, colour = names.index(arm), _colour(effect)
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


def _colour(effect: Effect) -> str:
    if not _is_clear(effect.low, effect.high):
        return UNCLEAR
    return GAIN if effect.gain > 0 else LOSS


def _edge(effects: Sequence[Effect]) -> float:
    """Where a panel ends: beyond four times the median reach, and all of what is drawn in full."""
    reaches = [
        max(abs(end) for end in (effect.low, effect.high, *effect.gains)) for effect in effects
    ]
    median = float(np.median(reaches)) if reaches else 0.0
    edge, wider = 0.0, MARGIN * (4 * median or max(reaches, default=0.0) or 1.0)
    while wider > edge:  # an arm that is drawn in full may bring others within the edge
        edge = wider
        within = (abs(effect.gain) <= edge for effect in effects)
        wider = MARGIN * (max(compress(reaches, within), default=0.0) or 1.0)  # never empty
    return wider


def _point_beyond(panel: Axes, edge: float, row: int, gain: float, colour: str) -> None:
    """An arrow at the panel's edge, and the gain as a number."""
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
