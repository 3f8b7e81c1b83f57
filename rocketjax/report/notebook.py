"""A run in a notebook's cell: one figure that grows while it is at work, and its report.

Pictures are PNG files and tables plain HTML, without frames, styles or scripts: Jupyter, Colab,
GitHub and the documentation show them alike.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rocketjax.evaluation.results import HEADS, SHOWN
from rocketjax.report.denoising import denoising_section
from rocketjax.report.distillation import distillation_section
from rocketjax.report.elements import Picture
from rocketjax.report.figures import sheet
from rocketjax.report.pictures import score_pictures, training_pictures
from rocketjax.report.record import read
from rocketjax.report.speed import speed_section, stage_times
from rocketjax.report.summary import skipped_steps, summary
from rocketjax.runtime.tables import html_table
from rocketjax.training.callbacks import Callback

EVERY = 10.0  # seconds between two drawings


class LivePictures(Callback):
    """Draws losses, KL and both models' measures as one figure in the cell, and again as it grows.

    Nothing is shown before the first step.
    """

    def __init__(self, folder: Path) -> None:
        """Of the run in `folder`."""
        self._folder, self._shown, self._next = folder, None, 0.0

    def on_step(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """Draws, unless it did so a moment ago."""
        del stage, metrics
        if time.monotonic() >= self._next:
            self.draw()

    def draw(self) -> None:
        """Draws the run as it is now."""
        from IPython.display import display  # only in a notebook

        data = _drawn(list(training_pictures(read(self._folder))))
        if self._shown is None:
            self._shown = display(data, raw=True, display_id=True)
        else:
            self._shown.update(data, raw=True)
        self._next = time.monotonic() + EVERY


def show(folder: Path) -> None:
    """Shows the report of the run in `folder` in the cell: summary, tables and pictures.

    Raises:
        InputError: no run here, or one of its files is damaged.
    """
    from IPython.display import Markdown, display

    record = read(folder)
    denoising, speed, times = denoising_section(record), speed_section(record), stage_times(record)
    distillation = distillation_section(record)
    display(Markdown(" ".join([summary(record), *skipped_steps(record)])))
    if record.report:
        rows = [row.cells() for row in record.report.rows if row.measure in SHOWN]
        _show_table(HEADS, rows)
    for title, pictures in (
        ("Training", list(training_pictures(record))),
        ("What distillation has to work with", distillation.pictures if distillation else []),
        ("Denoising", denoising.pictures if denoising else []),
        ("Scores of positives and negatives", score_pictures(record)),
    ):
        if pictures:
            display(Markdown(f"**{title}**"))
            display(_drawn(pictures), raw=True)
    tables = [distillation.table if distillation else None, speed.table if speed else None, times]
    for table in tables:
        if table:
            _show_table(table.heads, table.rows)


def _show_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from IPython.display import HTML, display

    display(HTML(html_table(heads, rows)))


def _drawn(pictures: Sequence[Picture]) -> dict[str, Any]:
    """What a cell shows: the pictures as one PNG, and what they are for who cannot see it."""
    if not pictures:
        return {"text/plain": ""}
    return {
        "image/png": sheet([(picture.title, picture.figure) for picture in pictures]),
        "text/plain": "\n".join(picture.alt for picture in pictures),
    }
