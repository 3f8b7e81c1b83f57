"""How fast a run trains, and where its time went."""

from dataclasses import dataclass

import numpy as np

from rocketjax.report import figures
from rocketjax.report.elements import Picture, Table, captioned
from rocketjax.report.record import Columns, Record


@dataclass(frozen=True)
class Speed:
    """The page's section on speed: one stage drawn, all in a table."""

    picture: Picture
    table: Table


def speed_section(record: Record) -> Speed | None:
    """None before the first step. Draws joint training, or the last stage before it."""
    timing = record.timing
    if not timing:
        return None
    stage = "joint" if "joint" in timing else list(timing)[-1]
    note = "Wall-clock time from step to step, with saving and compiling, without mining."
    heads = ["stage", "steps", "median step", "tokens per step", "tokens per second"]
    rows = [[name, *_pace(columns)] for name, columns in timing.items()]
    return Speed(
        captioned(figures.speed(timing[stage]), f"Steps of {stage}", note), Table(heads, rows)
    )


def stage_times(record: Record) -> Table | None:
    """How long each finished stage took."""
    if not record.seconds:
        return None
    rows = [[stage, duration(seconds)] for stage, seconds in record.seconds.items()]
    return Table(["stage", "time"], rows)


def duration(seconds: float) -> str:
    """As 59 s, 12.5 min or 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _pace(timing: Columns) -> list[str]:
    seconds, tokens = float(np.median(timing["seconds"])), float(np.mean(timing["tokens"]))
    rate = float(np.median(timing["tokens"] / np.maximum(timing["seconds"], 1e-9)))
    return [f"{len(timing['step']):,}", f"{seconds:.3g} s", f"{tokens:,.0f}", f"{rate:,.0f}"]
