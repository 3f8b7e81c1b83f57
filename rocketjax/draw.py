"""python -m rocketjax.draw: the report of a run, finished or not."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rocketjax.cli.command import command, say
from rocketjax.config.fields import PathName


@dataclass(frozen=True)
class Draw:
    """Draws a run's report.html: losses, both models during training, denoising, scores, speed.

    A finished run has one. A run that is at work, or was stopped, is drawn up to where it is.

    Example: python -m rocketjax.draw --run runs/demo
    """

    run: PathName
    """Folder of the run."""


def _draw(options: Draw) -> None:
    from rocketjax.report import page  # matplotlib: not for --help
    from rocketjax.runtime.cloud import is_address
    from rocketjax.runtime.errors import InputError

    if is_address(options.run):
        raise InputError(
            f"{options.run}: its report.html lies there; to draw it anew, fetch the folder "
            f"(gcloud storage cp -r {options.run} .) and give that"
        )
    say(str(page.write(Path(options.run))))


main = command(Draw, _draw)

if __name__ == "__main__":
    sys.exit(main())
