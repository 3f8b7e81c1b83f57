"""python -m rocketjax.export: a trained pair as models of sentence-transformers."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rocketjax import cli


@dataclass(frozen=True)
class Export:
    """Writes a trained pair as folders that sentence-transformers loads, with model cards.

    OUTPUT/retriever is for SentenceTransformer (separate towers: OUTPUT/retriever/query and
    /passage), OUTPUT/reranker for CrossEncoder. Nothing is uploaded.

    Example: python -m rocketjax.export --model runs/demo --output exports/demo --license apache-2.0
    """

    model: str
    """Folder of a finished run."""
    output: str
    """Folder to write; it must not exist yet."""
    license: str = ""
    """Licence that the model cards name, as hubs spell it (apache-2.0); empty: none."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return cli.run(lambda: _export(cli.parse_options(Export, args, "rocketjax.export")))


def _export(options: Export) -> None:
    from rocketjax import report
    from rocketjax.config import load as load_config
    from rocketjax.errors import InputError
    from rocketjax.export_folder import export, losses
    from rocketjax.loading import load

    run, output = Path(options.model).expanduser(), Path(options.output).expanduser()
    model = load(run)
    for name in ("config.yaml", "report.json"):
        if not (run / name).is_file():
            raise InputError(f"{run / name}: missing; give the folder of a run that was evaluated")
    export(output, model, load_config(run / "config.yaml"), report.load(run), options.license)
    cli.say(f"{output}: retriever and reranker, for sentence-transformers and for rocketjax")
    for line in losses(model):
        cli.say(f"in sentence-transformers {line}")


if __name__ == "__main__":
    sys.exit(main())
