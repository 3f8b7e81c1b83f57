"""The pictures of a run that is at work, in a notebook's cell."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocketjax.report.pictures import training_pictures
from rocketjax.report.record import read
from rocketjax.report.render import render
from rocketjax.training.callbacks import Callback

EVERY = 10.0  # seconds between two drawings


class LivePictures(Callback):
    """Draws losses, KL and both models' measures in the cell, and again as training goes on."""

    def __init__(self, folder: Path) -> None:
        """Of the run in `folder`; nothing is shown before its first step."""
        self._folder, self._shown, self._next = folder, None, 0.0

    def on_step(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """Draws, unless it did so a moment ago."""
        del stage, metrics
        if time.monotonic() >= self._next:
            self.draw()

    def draw(self) -> None:
        """Draws the run as it is now."""
        from IPython.display import HTML, display  # only in a notebook

        pictures = list(training_pictures(read(self._folder)))
        html = HTML(render("live.html", pictures=pictures))
        if self._shown is None:
            self._shown = display(html, display_id=True)
        else:
            self._shown.update(html)
        self._next = time.monotonic() + EVERY
