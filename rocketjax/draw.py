"""python -m rocketjax.draw: the report of a run, finished or not."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rocketjax.cli.command import parse_options, run_command, say


@dataclass(frozen=True)
class Draw:
    """Draws a run's report.html: losses, both models on the way, denoising, scores, speed.

    A finished run has one. A run that is at work, or was stopped, is drawn as far as it is.

    Example: python -m rocketjax.draw --run runs/demo
    """

    run: str
    """Folder of the run."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""

    def command() -> None:
        options = parse_options(Draw, args, "rocketjax.draw")
        from rocketjax.report import page

        say(str(page.write(Path(options.run))))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
