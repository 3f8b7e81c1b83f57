"""What training tells whoever wants to follow it: one's own tracking, plots, early decisions."""

from collections.abc import Mapping
from typing import Any


class Callback:
    """Called while a run is at work; override what you need. Of several processes, by the first.

    A callback that raises stops the run, which resumes where it was last saved.
    """

    def on_stage(self, stage: str) -> None:
        """A stage begins: start, warm-retriever, encode, ..., evaluate."""

    def on_step(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """A train step is done: its number ("step"), its losses and the gradient's norm.

        Of a step that was not finite, "bad" and "queries" stand in place of the metrics.
        """

    def on_judged(self, stage: str, step: int, measures: Mapping[str, float]) -> None:
        """Both models were judged on held-out queries after `step` updates."""
